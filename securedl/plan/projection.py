"""Random combinations of what a segment gives, as functions of what was sent (Freivalds, MFCS 1979): r·y for
y = W φ(u) + b is (rᵀW)·φ(u) + r·b, so whoever knows rᵀW and r·b tests y without W.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from securedl.he.modular import Residues, reduced, sums_of_products
from securedl.network.graph import Array
from securedl.plan.forms import NONE, Form


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

    def errors(self, sent: Array, received: Array) -> Residues:
        """r·(y - what an honest server gives) modulo t, [samples, combinations], for whole numbers
        [samples, features] below 2^33 in magnitude.
        """
        read = self.form.residues(reduced(sent, self.t), self.t)
        values = np.concatenate([received.astype(np.int64), *read], axis=1)
        return np.asarray((sums_of_products(values, self.factors, self.t) - self.offset) % self.t)
