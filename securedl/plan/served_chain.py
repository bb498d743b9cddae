"""A chain of affine maps and polynomials in slots, as the client must know it: no weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from securedl.network.graph import Array, matrix_arrays, matrix_from
from securedl.network.script import ChainLayer
from securedl.plan.diagonals import LayerValues
from securedl.plan.forms import FORMS, Form
from securedl.plan.layouts import Layout, described, descriptor
from securedl.plan.network import Inner, of, under
from securedl.plan.normalised import Layer, LayerPlaces, along, projection
from securedl.plan.projection import Projection
from securedl.plan.served import Served
from securedl.program.program import Program
from securedl.program.steps import Values


@dataclass(frozen=True, eq=False, repr=False)
class ChainPart:
    """One affine map and the polynomial after it; of the first link perhaps the polynomial only.

    Attributes:
        name: of the affine map. sources: values that it reads; 0 where there is none.
        form: of the polynomial, without its constant, which is secret. places: of its values.
    """

    name: str
    sources: int
    form: Form
    places: LayerPlaces


@dataclass(frozen=True, eq=False, repr=False)
class ServedChain(Served):
    """In slots: sent is (value - offset) / scale; the result is received · gain + shift.

    Attributes:
        taps: whether the client is shown the pre-activations on the way.
        scale, offset: [features sent]. gain, shift: [features received].
    """

    layer: ChainLayer
    parts: tuple[ChainPart, ...]
    taps: bool
    scale: Array
    offset: Array
    gain: Array
    shift: Array

    sent_part: ClassVar[float] = 1.0

    @property
    def sent(self) -> Layout:
        """See `Served`."""
        first = self.parts[0]
        return first.places.source if first.sources else first.places.inner

    @property
    def received(self) -> Layout:
        """See `Served`."""
        return self.parts[-1].places.inner

    @property
    def tapped(self) -> tuple[Layout, ...]:
        """See `Served`."""
        return tuple(part.places.target for part in self.parts if self.taps_after(part))

    def taps_after(self, part: ChainPart) -> bool:
        """Whether what the affine map of a part gives is shown: where it is not the result."""
        last = part is self.parts[-1] and not part.form.levels
        return self.taps and part.sources > 0 and not last

    def normalised(self, values: Array) -> Array:
        """See `Served`; [samples, *shape]."""
        found: Array = (values.reshape(len(values), -1) - self.offset) / self.scale
        return found

    def result(self, received: Array) -> Array:
        """See `Served`; [samples, *output]."""
        found = received * self.gain + self.shift
        return np.asarray(found.reshape(-1, *self.layer.output))

    def apply(self, sent: Array, weights: Sequence[Layer]) -> Array:
        """See `Served`; weights are the parts' layers, the constants of their polynomials among them."""
        *_, last = self.inside(sent, weights)
        return last.values

    def inside(self, sent: Array, weights: Sequence[Layer], piece: int | None = None) -> Iterator[Inner]:
        """See `Served`."""
        pieces = self._pieces(weights)
        return along(sent, [*chain(*pieces)] if piece is None else pieces[piece])

    def projected(self, rows: Array, weights: Sequence[Layer], piece: int) -> Projection | None:
        """See `Served`."""
        return projection(rows, self._pieces(weights)[piece])

    def _pieces(self, weights: Sequence[Layer]) -> list[list[Form | Layer]]:
        """What is computed, from one tap to the next."""
        pieces: list[list[Form | Layer]] = [[]]
        for part, layer in zip(self.parts, weights, strict=True):
            pieces[-1] += [layer] if layer.matrices else []
            if self.taps_after(part):
                pieces.append([])
            pieces[-1] += [layer.form] if layer.form.degree > 1 else []
        return pieces

    def values(self, weights: Sequence[Layer]) -> Iterator[Values]:
        """See `Served`."""
        for part, layer in zip(self.parts, weights, strict=True):
            places = part.places
            if part.sources:
                yield LayerValues(layer.matrices, layer.bias, places.source, places.target)
            for constant in layer.form.constants:
                yield LayerValues((), constant, places.source, places.inner)

    @property
    def levels(self) -> int:
        """Levels that it spends."""
        return self.affine + sum(part.form.levels for part in self.parts)

    @property
    def affine(self) -> int:
        """How many affine maps it has."""
        return sum(part.sources > 0 for part in self.parts)

    @property
    def row(self) -> str:
        """See `Served`."""
        names = [name for part in self.parts for name in (part.name, str(part.form)) if name]
        sizes = f"{len(self.scale)} -> {len(self.gain)}"
        return f"{' then '.join(names)}: {sizes}, in slots without a refresh"

    def to_parts(self) -> tuple[Any, dict[str, Array]]:
        """See `Served`."""
        parts = [
            (part.name, part.sources, part.form.name, part.form.degree, *map(descriptor, part.places))
            for part in self.parts
        ]
        return {"parts": parts, "taps": self.taps}, {
            name: getattr(self, name) for name in ("scale", "offset", "gain", "shift")
        }

    def weight_arrays(self, weights: Sequence[Layer]) -> dict[str, Any]:
        """See `Served`."""
        found: dict[str, Any] = {}
        for i, layer in enumerate(weights):
            found |= {f"{i}.bias": layer.bias, f"{i}.constant": layer.form.constant}
            for j, matrix in enumerate(layer.matrices):
                found |= under(f"{i}.matrix{j}", matrix_arrays(matrix))
        return found

    def weights_from(self, arrays: Mapping[str, Any]) -> tuple[Layer, ...]:
        """See `Served`."""
        found = list[Layer]()
        for i, part in enumerate(self.parts):
            matrices = tuple(matrix_from(of(f"{i}.matrix{j}", arrays)) for j in range(part.sources))
            form = FORMS[part.form.name](part.form.degree, arrays[f"{i}.constant"])
            found.append(Layer(part.name, matrices, arrays[f"{i}.bias"], form))
        return tuple(found)


def chain_from(layer: ChainLayer, meta: Any, arrays: Mapping[str, Any], program: Program) -> ServedChain:
    """The inverse of `ServedChain.to_parts`; program: whose slots its values are in.

    Raises:
        InputError: not such parts.
    """
    parts = tuple(
        ChainPart(
            str(name),
            int(sources),
            FORMS[form](int(degree)),
            LayerPlaces(*(described(one, program) for one in where)),
        )
        for name, sources, form, degree, *where in meta["parts"]
    )
    return ServedChain(layer, parts, bool(meta["taps"]), **arrays)
