"""A network of whole numbers, for exact encrypted inference: weights, what is sent, and what comes back.

What layer k reads is a polynomial φ of whole numbers u, at most U in magnitude, and its pre-activation is
Ŵ φ(u) + b̂. The client asks for it before every polynomial and requantises: u = clip(round(v · factor), ±U).
Since it clips, the bound of each row (`Quantised.bounds`) holds for whatever is asked: a theorem, not a
measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from securedl.network.graph import Array, matrix_arrays, matrix_from
from securedl.plan.diagonals import LayerValues
from securedl.plan.forms import FORMS, NONE, Form
from securedl.plan.layouts import described, descriptor
from securedl.plan.network import Checkpoint, Conversation, Exchange, Inner, Network, of, under
from securedl.plan.normalised import Layer, LayerPlaces, along
from securedl.plan.projection import Projection
from securedl.program.program import Program
from securedl.program.steps import Values


def rounded(values: Array, factor: Array | float, limit: int) -> Array:
    """Whole numbers clip(round(values · factor), ±limit), halves to the even one."""
    return np.asarray(np.clip(np.rint(values * factor), -limit, limit))


@dataclass(frozen=True, eq=False, repr=False)
class Requantised:
    """What the client does between the segments; no weight.

    Attributes:
        input_factor, input_limit: of the query, whose normalised values are 1 on the calibration data.
        factors: of each refresh, [features]. limit: U, of all refreshes.
    """

    input_factor: float
    input_limit: int
    factors: tuple[Array, ...]
    limit: int

    def query(self, normalised: Array) -> Array:
        """Whole numbers of normalised samples [samples, features]."""
        return rounded(normalised, self.input_factor, self.input_limit)

    def back(self, refresh: int, received: Array) -> Array:
        """What is sent back at a refresh, counted from 0."""
        return rounded(received, self.factors[refresh], self.limit)

    def converse(self, normalised: Array) -> Conversation:
        """See `network.Conversation`; returns the whole numbers of the answer."""
        received = yield self.query(normalised)
        for refresh in range(len(self.factors)):
            received = yield self.back(refresh, received)
        return received


@dataclass(frozen=True, eq=False, repr=False)
class Quantised(Network):
    """The weights, secret.

    Attributes:
        input_scale, input_offset: [features], of the normalised query.
        client: what is done at refreshes. layers: in order, whole numbers in all of them; the form of each is
            that of the polynomial that follows. places: of each layer, once they are known.
        output_scale, output_offset: [outputs]: logits are the answer · output_scale + output_offset.
    """

    input_scale: Array
    input_offset: Array
    client: Requantised
    layers: tuple[Layer, ...]
    output_scale: Array
    output_offset: Array
    places: tuple[LayerPlaces, ...] = ()

    alone: ClassVar[bool] = True

    def _chain(self, point: int) -> list[Form | Layer]:
        """What is computed in the segment that ends at a point."""
        layer = self.layers[point - 1]
        return [layer] if point == 1 else [self.layers[point - 2].form, layer]

    def normalised(self, flat: Array) -> Array:
        """Samples [samples, features] in units of the calibration data."""
        return np.asarray((flat - self.input_offset) / self.input_scale)

    def exchanges(self, flat: Array, points: Sequence[Checkpoint]) -> list[Exchange]:
        """See `Network`."""
        found, sent = list[Exchange](), self.client.query(self.normalised(flat))
        for point in range(1, len(self.layers) + 1):
            *_, last = along(sent, self._chain(point))
            found.append(Exchange(sent, last.values))
            if point < len(self.layers):
                sent = self.client.back(point - 1, last.values)
        return found

    def __call__(self, flat: Array) -> Array:
        """Logits [samples, outputs] of samples [samples, features]: what a server's answer gives, exactly."""
        received = self.exchanges(flat, ())[-1].received
        return np.asarray(received * self.output_scale + self.output_offset)

    @property
    def bounds(self) -> list[Array]:
        """The largest magnitude of every value of each pre-activation [features], whatever is sent."""
        found, sizes = list[Array](), [np.array(float(self.client.input_limit))]
        for layer in self.layers:
            pairs = zip(layer.matrices, sizes, strict=True)
            rows = [abs(m) @ np.broadcast_to(size, m.shape[1]) for m, size in pairs]
            found.append(np.sum(rows, axis=0) + np.abs(layer.bias))
            sizes = self._reaches(layer.form, found[-1])
        return found

    @property
    def largest(self) -> float:
        """See `Network`."""
        return max(float(bound.max()) for bound in self.bounds)

    def _reaches(self, form: Form, bound: Array) -> list[Array]:
        """Largest magnitudes of what the next layer reads, behind a pre-activation of this bound [features]:
        those of the form for whole numbers up to U.
        """
        size = np.full((1, max(1, len(form.constant))), float(self.client.limit))
        given = replace(form, constant=np.abs(form.constant))
        return [value.max() for value in given.values(size)]

    def inside(self, point: int, sent: Array, points: Sequence[Checkpoint]) -> Iterator[Inner]:
        """See `Network`."""
        return along(sent, self._chain(point))

    def projected(self, point: int, rows: Array, points: Sequence[Checkpoint]) -> Projection | None:
        """See `Network`. Whole numbers have combinations modulo t (`client.modular`)."""
        layer, form = self.layers[point - 1], NONE if point == 1 else self.layers[point - 2].form
        columns = tuple(np.asarray((matrix.T @ rows.T).T) for matrix in layer.matrices)
        return Projection(rows, columns, rows @ layer.bias, form)

    def probed(self, flat: Array, points: Sequence[Checkpoint], limit: float) -> list[Exchange]:
        """The first layer as the samples [samples, features] have it, all others with random numbers."""
        random, found = np.random.default_rng(), self.exchanges(flat, points)
        for number in range(1, len(found)):
            sent = self.random_sent(random, found[number].sent.shape)
            *_, last = along(sent, self._chain(number + 1))
            found[number] = Exchange(sent, last.values)
        return found

    def random_sent(self, random: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """See `Network`."""
        most = self.client.limit
        return random.integers(-most, most, shape, endpoint=True).astype(np.float64)

    def values(self, program: Program) -> Iterator[Values]:
        """See `Network`."""
        for layer, place in zip(self.layers, self.places, strict=True):
            yield LayerValues(layer.matrices, layer.bias, place.source, place.target)
            for constant in layer.form.constants:
                yield LayerValues((), constant, place.source, place.inner)

    def peaks(self, flat: Array) -> Array:
        """See `Network`: of a sample's own values, in parts of those that are clipped; no other can be."""
        reach = self.client.input_limit / self.client.input_factor
        return np.asarray(np.abs(self.normalised(flat)).max(axis=1) / reach)

    @property
    def remarks(self) -> list[str]:
        """How fine whole numbers are."""
        client = self.client
        ends = f"inputs -{client.input_limit} to {client.input_limit}"
        between = f", refreshed values -{client.limit} to {client.limit}" if client.factors else ""
        return [f"whole numbers: {ends}{between}; the client rounds and clips"]

    @property
    def sizes(self) -> tuple[int, int]:
        """See `Network`."""
        return self.layers[0].matrices[0].shape[1], self.layers[-1].features

    def rows(self, program: Program) -> list[str]:
        """See `Network`."""
        products = [step for step in program.steps if step.diagonals]
        found = []
        for number, (layer, step, bound) in enumerate(
            zip(self.layers, products, self.bounds, strict=True), 1
        ):
            form = f", {layer.form}" if str(layer.form) else ""
            sizes = f"{layer.matrices[0].shape[1]} -> {layer.features}"
            bits = f"values below 2^{np.log2(bound.max()):.1f}"
            found.append(f"{number}. {layer.name}: {sizes}{form}, {bits}; {step.diagonals} diagonals")
        return found

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """All but the scales of input and output, which the signature has too."""
        client = self.client
        layers = [
            (la.name, la.form.name, la.form.degree, len(la.matrices), *map(descriptor, places))
            for la, places in zip(self.layers, self.places, strict=True)
        ]
        meta = {
            "layers": layers,
            "input_factor": client.input_factor,
            "input_limit": client.input_limit,
            "limit": client.limit,
        }
        arrays: dict[str, Any] = {f"factor{k}": factor for k, factor in enumerate(client.factors)}
        for i, layer in enumerate(self.layers):
            arrays |= {f"layer{i}.bias": layer.bias, f"layer{i}.constant": layer.form.constant}
            for j, matrix in enumerate(layer.matrices):
                arrays |= under(f"layer{i}.matrix{j}", matrix_arrays(matrix))
        return meta, arrays

    @staticmethod
    def from_parts(
        meta: Any, arrays: Mapping[str, Any], ends: Sequence[Array], program: Program
    ) -> Quantised:
        """The inverse of `to_parts`. ends: scale and offset of input, then of output.

        Raises:
            InputError: a layout is not one of the program's slots.
        """
        layers, places = list[Layer](), list[LayerPlaces]()
        for i, (name, form, degree, stored, *where) in enumerate(meta["layers"]):
            matrices = tuple(matrix_from(of(f"layer{i}.matrix{j}", arrays)) for j in range(stored))
            shape = FORMS[form](degree, arrays[f"layer{i}.constant"])
            layers.append(Layer(name, matrices, arrays[f"layer{i}.bias"], shape))
            places.append(LayerPlaces(*(described(one, program) for one in where)))
        refreshes = 0 if "primes" in meta else len(layers) - 1  # none of `Congruent`
        factors = tuple(arrays[f"factor{k}"] for k in range(refreshes))
        client = Requantised(
            float(meta["input_factor"]), int(meta["input_limit"]), factors, int(meta["limit"])
        )
        return Quantised(ends[0], ends[1], client, tuple(layers), ends[2], ends[3], tuple(places))
