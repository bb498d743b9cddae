"""A network of whole numbers without a refresh: what it gives is known by residues modulo several primes.

From the query on nothing is rounded, so values grow to 80 bits and more, which no plain modulus holds. A
server computes them modulo each of some primes, a channel each; answers of less than half of the primes'
product in magnitude follow from their residues (`he.modular.integers`). That all are so small is a bound
(`bounds`): a theorem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from securedl.errors import CompileError
from securedl.he.modular import (
    Halved,
    Residues,
    centred_residues,
    integers,
    reduced,
    remainders,
    sums_of_products,
)
from securedl.network.graph import Array
from securedl.plan.diagonals import LayerValues
from securedl.plan.forms import NONE, Form
from securedl.plan.network import Checkpoint, Exchange, Inner
from securedl.plan.normalised import projection
from securedl.plan.projection import ModularProjection, Projection
from securedl.plan.quantised import Quantised
from securedl.program.program import Program
from securedl.program.steps import Values

#: Of a bound that is added up in doubles: all terms are positive, so each of fewer than 2^32 steps rounds off
#: one part in 2^53 at most.
ROUNDED = 1 + 2.0**-20


@dataclass(frozen=True, eq=False, repr=False)
class Congruent(Quantised):
    """See `Quantised`; the client rounds the query only, and weights are whole numbers of any size.

    Attributes:
        primes: the plain modulus of each channel. What a network of one of them gives are residues, at most
            (t - 1)/2 in magnitude.
    """

    primes: tuple[int, ...] = ()

    def modulo(self, t: int) -> Congruent:
        """The network of one channel, whose answers are residues."""
        size = len(self.output_scale)
        return replace(self, primes=(t,), output_scale=np.ones(size), output_offset=np.zeros(size))

    @property
    def _modulus(self) -> int:
        if len(self.primes) != 1:
            raise CompileError(f"values of {len(self.primes)} channels are no numbers: take those of one")
        return self.primes[0]

    @cached_property
    def _reduced(self) -> tuple[_Reduced, ...]:
        """The layers modulo the one prime."""
        t = self._modulus
        return tuple(
            _Reduced(
                tuple(_remainders(matrix, t) for matrix in layer.matrices), remainders(layer.bias, t),
                layer.form, t,
            )
            for layer in self.layers
        )  # fmt: skip

    def __call__(self, flat: Array) -> Array:
        """See `Quantised`."""
        sent = self.client.query(self.normalised(flat))
        residues = [self.modulo(t).answers(sent) for t in self.primes]
        received = integers(residues, self.primes).astype(np.float64)
        return np.asarray(received * self.output_scale + self.output_offset)

    def answers(self, sent: Array) -> Residues:
        """Residues [samples, outputs], 0 to t - 1, for whole numbers [samples, features]."""
        reads = [reduced(sent, self._modulus)]
        for layer in self._reduced:
            value = layer.affine(reads)
            reads = layer.form.residues(value, layer.t)
        return value

    def _parts(self, point: int, points: Sequence[Checkpoint]) -> list[tuple[int, int]]:
        """Layers in a segment, and whether it is the polynomial behind one's affine map: see `Checkpoint`."""
        values = range(points[point - 1].value, points[point].value)
        return [divmod(value, 2) for value in values]

    def inside(self, point: int, sent: Array, points: Sequence[Checkpoint]) -> Iterator[Inner]:
        """See `Network`; residues."""
        reads = [reduced(sent, self._modulus)]
        yield Inner(sent, 1)
        for number, polynomial in self._parts(point, points):
            layer = self._reduced[number]
            reads = layer.form.residues(reads[0], layer.t) if polynomial else [layer.affine(reads)]
            found = (centred_residues(read, layer.t).astype(np.float64) for read in reversed(reads))
            yield from (Inner(read, 1 - polynomial) for read in found)

    def exchanges(self, flat: Array, points: Sequence[Checkpoint]) -> list[Exchange]:
        """See `Network`."""
        found, sent = list[Exchange](), self.client.query(self.normalised(flat))
        for point in range(1, len(points)):
            *_, last = self.inside(point, sent, points)
            found.append(Exchange(sent, last.values))
            sent = last.values
        return found

    def probed(self, flat: Array, points: Sequence[Checkpoint], limit: float) -> list[Exchange]:
        """Those of the samples: nothing but the query is the client's."""
        return self.exchanges(flat, points)

    def projected_modulo(
        self, point: int, rows: Residues, bias: Residues, t: int, points: Sequence[Checkpoint]
    ) -> ModularProjection | None:
        """See `Network`; weights may be anything modulo t."""
        parts = self._parts(point, points)
        if [polynomial for _, polynomial in parts] not in ([0], [1, 0]):
            return None
        last, form = self._reduced[parts[-1][0]], NONE if len(parts) == 1 else self.layers[parts[0][0]].form
        columns = [-Halved(matrix.T.tocsr()).sums(rows, t) for matrix in last.matrices]
        offset = sums_of_products(bias, rows, t)[0]
        return ModularProjection(np.concatenate([rows, *columns], axis=1), offset, form, t)

    def projected(self, point: int, rows: Array, points: Sequence[Checkpoint]) -> Projection | None:
        """See `Network`."""
        values, layers = self._parts(point, points), self.layers
        parts = [layers[number].form if after else layers[number] for number, after in values]
        return projection(rows, parts)

    @property
    def bounds(self) -> list[Array]:
        """See `Quantised`: as if there were no modulus."""
        return [bound * ROUNDED ** (k + 1) for k, bound in enumerate(super().bounds)]

    def _reaches(self, form: Form, bound: Array) -> list[Array]:
        given = replace(form, constant=np.abs(form.constant))
        return [value[0] for value in given.values(bound[None])]

    @property
    def largest(self) -> float:
        """See `Network`: of residues."""
        return float(self._modulus // 2)

    def values(self, program: Program) -> Iterator[Values]:
        """See `Network`; residues of the whole numbers, of least magnitude."""
        t = self._modulus
        for layer, reduced_layer, place in zip(self.layers, self._reduced, self.places, strict=True):
            matrices, bias = reduced_layer.centred()
            yield LayerValues(matrices, bias, place.source, place.target)
            for constant in layer.form.constants:
                small = centred_residues(remainders(constant, t), t).astype(np.float64)
                yield LayerValues((), small, place.source, place.inner)

    @property
    def remarks(self) -> list[str]:
        """How fine whole numbers are, and what they are computed modulo."""
        count, bits = len(self.primes), max(t.bit_length() for t in self.primes)
        if count == 1:
            return super().remarks
        most, joined = self.client.input_limit, f"answers modulo {count} primes of {bits} bits"
        return [f"whole numbers: inputs -{most} to {most}; {joined}, joined by the client"]

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """See `Quantised`."""
        meta, arrays = super().to_parts()
        return {**meta, "primes": self.primes}, arrays

    @staticmethod
    def from_parts(
        meta: Any, arrays: Mapping[str, Any], ends: Sequence[Array], program: Program
    ) -> Congruent:
        """See `Quantised`."""
        found = Quantised.from_parts(meta, arrays, ends, program)
        return Congruent(**vars(found), primes=tuple(int(t) for t in meta["primes"]))


@dataclass(frozen=True, eq=False, repr=False)
class _Reduced:
    """A layer modulo t: CSR [out, in] of residues 0 to t - 1 for each source, and a bias [out]."""

    matrices: tuple[sparse.csr_matrix, ...]
    bias: Residues
    form: Form
    t: int

    @cached_property
    def _halved(self) -> tuple[Halved, ...]:
        return tuple(Halved(matrix) for matrix in self.matrices)

    def affine(self, sources: Sequence[Residues]) -> Residues:
        """The pre-activation [samples, out]."""
        total = np.broadcast_to(self.bias, (len(sources[0]), len(self.bias)))
        for matrix, source in zip(self._halved, sources, strict=True):
            total = total + matrix.sums(source, self.t)
        return np.asarray(total % self.t)

    def centred(self) -> tuple[tuple[sparse.csr_matrix, ...], Array]:
        """Matrices and bias in doubles, at most (t - 1)/2 in magnitude."""
        found = list[sparse.csr_matrix]()
        for matrix in self.matrices:
            small = matrix.astype(np.float64)
            small.data = centred_residues(matrix.data, self.t).astype(np.float64)
            found.append(small)
        return tuple(found), centred_residues(self.bias, self.t).astype(np.float64)


def _remainders(matrix: sparse.csr_matrix, t: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((remainders(matrix.data, t), matrix.indices, matrix.indptr), matrix.shape)
