"""Random combinations of what a segment gives, as functions of what was sent (Freivalds, MFCS 1979): r·y for
y = W φ(u) + b is (rᵀW)·φ(u) + r·b, so whoever knows rᵀW and r·b tests y without W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from securedl.he.modular import Residues, reduced, sums_of_products
from securedl.network.graph import Array
from securedl.plan.forms import FORMS, NONE, Form


@dataclass(frozen=True, eq=False, repr=False)
class Projection:
    """Some combinations of one segment's values; as secret as a key.

    Attributes:
        rows: r, [combinations, features received]. columns: rᵀW, [combinations, features], one for each value
            that the affine map reads. offset: r·b, [combinations]. form: φ, of what was sent.
    """

    rows: Array
    columns: tuple[Array, ...]
    offset: Array
    form: Form = NONE

    def errors(self, sent: Array, received: Array) -> Array:
        """r·(y - what an honest server gives), [samples, combinations], for values [samples, features]."""
        total = received @ self.rows.T - self.offset
        for value, column in zip(self.form.values(sent), self.columns, strict=True):
            total -= value @ column.T
        return np.asarray(total)

    def to_parts(self) -> tuple[Any, dict[str, Array]]:
        """For a file: of the form what JSON can hold, and arrays."""
        columns = {f"columns{k}": column for k, column in enumerate(self.columns)}
        arrays = {"rows": self.rows, "offset": self.offset, "constant": self.form.constant}
        return (self.form.name, self.form.degree), arrays | columns

    @staticmethod
    def from_parts(form: Any, arrays: Mapping[str, Any]) -> Projection:
        """The inverse of `to_parts`."""
        found = _form(form, arrays)
        columns = tuple(arrays[f"columns{k}"] for k in range(found.registers))
        return Projection(arrays["rows"], columns, arrays["offset"], found)

    @staticmethod
    def pointwise(rows: Array, form: Form) -> Projection:
        """Where a polynomial is all that is computed."""
        return Projection(rows, (rows,), np.zeros(len(rows)), form)


@dataclass(frozen=True, eq=False, repr=False)
class ModularProjection:
    """The same of whole numbers modulo t, exactly.

    Attributes:
        factors: r, and then -c for each value that the affine map reads, [combinations, features].
        offset: d, [combinations]. form: φ, of what was sent. t: the plain modulus.
    """

    factors: Residues
    offset: Residues
    form: Form
    t: int

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """For a file: what JSON can hold, and arrays."""
        arrays = {"factors": self.factors, "offset": self.offset, "constant": self.form.constant}
        return (self.form.name, self.form.degree, self.t), arrays

    @staticmethod
    def from_parts(meta: Any, arrays: Mapping[str, Any]) -> ModularProjection:
        """The inverse of `to_parts`."""
        *form, t = meta
        return ModularProjection(arrays["factors"], arrays["offset"], _form(form, arrays), int(t))

    def errors(self, sent: Array, received: Array) -> Residues:
        """r·(y - what an honest server gives) modulo t, [samples, combinations], for whole numbers
        [samples, features] below 2^33 in magnitude.
        """
        read = self.form.residues(reduced(sent, self.t), self.t)
        values = np.concatenate([received.astype(np.int64), *read], axis=1)
        return np.asarray((sums_of_products(values, self.factors, self.t) - self.offset) % self.t)


def _form(parts: Any, arrays: Mapping[str, Any]) -> Form:
    name, degree = parts
    return FORMS[name](int(degree), arrays["constant"])
