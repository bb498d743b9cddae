"""The network on normalised values: what the compiler makes of it, and the limit of encrypted values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy import sparse

from securedl.network.graph import Array, matrix_arrays, matrix_from
from securedl.plan.diagonals import LayerValues
from securedl.plan.forms import FORMS, NONE, Form
from securedl.plan.layouts import Interleaved, described, descriptor
from securedl.plan.network import Checkpoint, Exchange, Inner, Network, of, under
from securedl.plan.projection import Projection
from securedl.program.program import Program
from securedl.program.steps import Values

#: Entries of a matrix that is used as an array where time counts.
WHOLE = 1 << 14


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One affine map and what follows it, on normalised values: |value| <= 1 on the calibration data.

    Attributes:
        matrices: CSR [out, in], one for each source (several after `powers`). bias: [out].
        form: of the polynomial that follows; `Straight` after the last.
        shape: of what it gives, for the compiler; () for a vector.
    """

    name: str
    matrices: tuple[sparse.csr_matrix, ...]
    bias: Array
    form: Form
    shape: tuple[int, ...] = ()

    @property
    def features(self) -> int:
        """Output features."""
        return len(self.bias)

    def affine(self, sources: list[Array]) -> Array:
        """Normalised pre-activation [samples, out]."""
        total = sum((m @ s.T).T for m, s in zip(self.matrices, sources, strict=True))
        return np.asarray(total + self.bias)


def along(sent: Array, chain: Sequence[Form | Layer]) -> Iterator[Inner]:
    """What is sent and all that is computed from it one after another, the result last."""
    reads, degrees = [sent], [one.degree if isinstance(one, Form) else 1 for one in chain[1:]]
    yield Inner(sent, chain[0].degree if isinstance(chain[0], Form) else 1)
    for one, degree in zip(chain, [*degrees, 1], strict=True):
        if isinstance(one, Form):
            reads = one.values(reads[0])
            yield from (Inner(read, 0) for read in reversed(reads))
        else:
            reads = [one.affine(reads)]
            yield Inner(reads[0], degree)


def projection(rows: Array, chain: Sequence[Form | Layer]) -> Projection | None:
    """Combinations [combinations, features] of what is computed one after another; None where a polynomial
    comes after an affine map, for then what comes back is no affine function of what a client knows.
    """
    form, rest = (chain[0], chain[1:]) if isinstance(chain[0], Form) else (NONE, chain)
    if not rest:
        return Projection.pointwise(rows, form)
    layer, *more = rest
    if more or not isinstance(layer, Layer):
        return None
    columns = tuple(np.asarray((matrix.T @ rows.T).T) for matrix in layer.matrices)
    return Projection(rows, columns, rows @ layer.bias, form)


class LayerPlaces(NamedTuple):
    """Where the values of a layer stand.

    Attributes:
        source: what it reads. target: its pre-activation as its matrix gives it. inner: what its polynomial
            reads, which is the client's to lay where it was refreshed before.
    """

    source: Interleaved
    target: Interleaved
    inner: Interleaved


@dataclass(frozen=True, eq=False, repr=False)
class Normalised(Network):
    """A network whose polynomials are the server's too.

    Attributes:
        input_scale, input_offset: [features]; the query is (x - input_offset) / input_scale.
        layers: in order. output_scale, output_offset: [classes]; logits are value · output_scale +
        output_offset. places: of each layer, once they are known. input_shape: of a sample, for the compiler.
    """

    input_scale: Array
    input_offset: Array
    layers: tuple[Layer, ...]
    output_scale: Array
    output_offset: Array
    places: tuple[LayerPlaces, ...] = ()
    input_shape: tuple[int, ...] = ()

    alone: ClassVar[bool] = False

    def stages(self, x: Array) -> tuple[list[Array], list[list[Array]]]:
        """Pre-activations of every layer, and what every layer reads, for x [samples, features]."""
        reads, pre = [[(x - self.input_offset) / self.input_scale]], []
        for layer in self.layers:
            pre.append(layer.affine(reads[-1]))
            reads.append(layer.form.values(pre[-1]))
        return pre, reads

    def peaks(self, flat: Array) -> Array:
        """See `Network`."""
        pre, reads = self.stages(flat)
        worst = np.zeros(len(flat))
        with np.errstate(over="ignore", invalid="ignore"):
            for value in (*pre, *(v for group in reads for v in group)):
                worst = np.maximum(worst, np.nan_to_num(np.abs(value).max(axis=1), nan=np.inf))
        return worst

    def exchanges(self, flat: Array, points: Sequence[Checkpoint]) -> list[Exchange]:
        """See `Network`; a point names its value."""
        pre, reads = self.stages(flat)
        values = [value for read, after in zip(reads, pre, strict=False) for value in (read[0], after)]
        seen = [values[point.value] for point in points]
        return [Exchange(*pair) for pair in pairwise(seen)]

    def inside(self, point: int, sent: Array, points: Sequence[Checkpoint]) -> Iterator[Inner]:
        """See `Network`."""
        return along(sent, self._chain(point, points))

    def quick(self) -> Normalised:
        """See `Network`: small matrices whole, for a product of sparse ones takes tens of microseconds."""

        def whole(matrix: Any) -> Any:
            return matrix.toarray() if np.prod(matrix.shape) <= WHOLE else matrix

        layers = (replace(layer, matrices=tuple(map(whole, layer.matrices))) for layer in self.layers)
        return replace(self, layers=tuple(layers))

    def projected(self, point: int, rows: Array, points: Sequence[Checkpoint]) -> Projection | None:
        """See `Network`."""
        return projection(rows, self._chain(point, points))

    def _chain(self, point: int, points: Sequence[Checkpoint]) -> list[Form | Layer]:
        """What is computed in a segment: value 2k of the network is what layer k reads, 2k + 1 its
        pre-activation.
        """
        parts = [divmod(value, 2) for value in range(points[point - 1].value, points[point].value)]
        return [self.layers[k].form if after else self.layers[k] for k, after in parts]

    def probed(self, flat: Array, points: Sequence[Checkpoint], limit: float) -> list[Exchange]:
        """The same."""
        return self.exchanges(flat, points)

    def values(self, program: Program) -> Iterator[Values]:
        """See `Network`."""
        for layer, place in zip(self.layers, self.places, strict=True):
            yield LayerValues(layer.matrices, layer.bias, place.source, place.target)
            for constant in layer.form.constants:
                yield LayerValues((), constant, place.source, place.inner)

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Network`."""
        return self.layers[0].matrices[0].shape[1], self.layers[-1].features

    def rows(self, program: Program) -> list[str]:
        """See `Network`."""
        products = [step for step in program.steps if step.diagonals]
        found = []
        for number, (layer, step) in enumerate(zip(self.layers, products, strict=True)):
            form = f", {layer.form}" if str(layer.form) else ""
            sizes = f"{layer.matrices[0].shape[1]} -> {layer.features}"
            taken = f"{step.diagonals} diagonals, level {step.level}"
            found.append(f"{number + 1}. {layer.name}: {sizes}{form}; {taken}")
        return found

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """All but the scales of input and output, which the signature has too."""
        meta = [
            (la.name, la.form.name, la.form.degree, len(la.matrices), *map(descriptor, places))
            for la, places in zip(self.layers, self.places, strict=True)
        ]
        arrays: dict[str, Any] = {}
        for i, layer in enumerate(self.layers):
            arrays |= {f"layer{i}.bias": layer.bias, f"layer{i}.constant": layer.form.constant}
            for j, matrix in enumerate(layer.matrices):
                arrays |= under(f"layer{i}.matrix{j}", matrix_arrays(matrix))
        return meta, arrays

    @staticmethod
    def from_parts(
        meta: Any, arrays: Mapping[str, Any], ends: Sequence[Array], program: Program
    ) -> Normalised:
        """The inverse of `to_parts`. ends: scale and offset of input, then of output.

        Raises:
            InputError: a layout is not one of the program's slots.
        """
        layers, places = list[Layer](), list[LayerPlaces]()
        for i, (name, form, degree, stored, *where) in enumerate(meta):
            matrices = tuple(matrix_from(of(f"layer{i}.matrix{j}", arrays)) for j in range(stored))
            shape = FORMS[form](degree, arrays[f"layer{i}.constant"])
            layers.append(Layer(name, matrices, arrays[f"layer{i}.bias"], shape))
            places.append(LayerPlaces(*(described(one, program) for one in where)))
        return Normalised(ends[0], ends[1], tuple(layers), ends[2], ends[3], tuple(places))
