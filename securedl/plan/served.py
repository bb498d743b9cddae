"""What a server computes of a script's layers, one by one, as the client must know it: no weight."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.network.script import LinearLayer, PolynomialLayer
from securedl.plan.bands import Bands
from securedl.plan.diagonals import LayerValues
from securedl.plan.forms import FORMS, Form
from securedl.plan.layouts import Interleaved, Layout
from securedl.plan.network import Exchange, Inner
from securedl.plan.projection import Projection
from securedl.plan.quantised import rounded
from securedl.program.steps import Values

#: What is sent to a linear layer counts as so many parts of what is received. At 128 times the limit of that
#: the noise of the weights makes an error of 2^-10 of the range of a result.
SENT_PART = 1 / 128


class Served(ABC):
    """One layer as the server computes it: between a query or refresh and the next.

    Attributes:
        sent_part: of the largest value sent, what counts as encrypted beside those received.
    """

    sent_part: ClassVar[float]

    @property
    def whole(self) -> int:
        """The largest whole number that is sent; 0 where values are not whole."""
        return 0

    @property
    @abstractmethod
    def affine(self) -> int:
        """How many affine maps of the network it computes."""

    @property
    @abstractmethod
    def sent(self) -> Layout:
        """Where the client puts normalised values [samples, features]."""

    @property
    @abstractmethod
    def received(self) -> Layout:
        """Where it finds what the layer gives."""

    @property
    def tapped(self) -> tuple[Layout, ...]:
        """Where it finds what it is shown on the way; nothing by default."""
        return ()

    @abstractmethod
    def normalised(self, values: Array) -> Array:
        """What the script sends [rows, ...], as it is encrypted."""

    @abstractmethod
    def result(self, received: Array) -> Array:
        """What the script gets, from normalised values [samples, features]."""

    @abstractmethod
    def apply(self, sent: Array, weights: Any) -> Array:
        """Normalised values [samples, features] through the layer, with its normalised weights."""

    @property
    def degree(self) -> int:
        """Of the polynomial that what is sent enters first; 1 where there is none."""
        return 1

    def exchanges(self, sent: Array, weights: Any) -> list[Exchange]:
        """What is sent, and received for it; of each piece between taps by itself."""
        found = list[Exchange]()
        for piece in range(1 + len(self.tapped)):
            *_, last = self.inside(sent, weights, piece)
            found.append(Exchange(sent, last.values))
            sent = last.values
        return found

    def inside(self, sent: Array, weights: Any, piece: int | None = None) -> Iterator[Inner]:
        """What is sent and all that is computed from it, the results last.

        Args:
            piece: between taps, which starts with what the one before it ended with; None for all of it.
        """
        yield Inner(sent, self.degree)
        yield Inner(self.apply(sent, weights), 0)

    @abstractmethod
    def projected(self, rows: Array, weights: Any, piece: int) -> Projection | None:
        """These combinations of the results of a piece (`Network.projected`)."""

    def in_single(self, weights: Any) -> Any:
        """The same weights in single precision, where honest errors are larger than what that changes."""
        return weights

    def drawn(self, random: np.random.Generator, shape: tuple[int, ...], weights: Any, limit: float) -> Array:
        """Random values [samples, features] that test it, as they are sent; results stay below a limit."""
        if self.whole:
            return random.integers(-self.whole, self.whole, shape, endpoint=True).astype(np.float64)
        sent = random.uniform(-1.0, 1.0, shape)
        peaks = self.peak(sent, weights)[:, None]
        return np.asarray(sent * np.minimum(1.0, limit / np.maximum(peaks, 1e-300)))

    def peak(self, sent: Array, weights: Any) -> Array:
        """The largest magnitude [samples] of what is computed from normalised values [samples, features]."""
        _, *found = self.inside(sent, weights)
        return np.asarray(np.max([np.abs(stage.values).max(axis=1) for stage in found], axis=0))

    @abstractmethod
    def values(self, weights: Any) -> Iterator[Values]:
        """What goes into the steps with weights that compute it."""

    @property
    @abstractmethod
    def row(self) -> str:
        """A line on it: name, sizes, and what it takes."""

    @abstractmethod
    def to_parts(self) -> tuple[Any, dict[str, Array]]:
        """Beside the layer itself, for a file."""

    def weight_arrays(self, weights: Any) -> dict[str, Any]:
        """Normalised weights, for a file."""
        return {"values": weights}

    def weights_from(self, arrays: Mapping[str, Any]) -> Any:
        """The inverse of `weight_arrays`."""
        return arrays["values"]


@dataclass(frozen=True, eq=False, repr=False)
class Ranges:
    """Normalisation of one linear layer: sent = (value - offset) / scale, result = received · gain + shift.

    Attributes:
        offset, scale: [channels]. gain: [maps]. shift: [maps, rows, columns] or [maps, 1, 1], what the layer
            makes of the offset.
        limit: where whole numbers are sent, the largest: values are rounded, and clipped; else 0.
    """

    offset: Array
    scale: Array
    gain: Array
    shift: Array
    limit: int = 0

    def bounds(self, kernel: Array) -> Array:
        """The largest magnitude of each map's results [maps], whatever whole numbers are sent."""
        return np.asarray(np.abs(kernel).sum(axis=(1, 2, 3)) * self.limit)

    def reaching(self, target: float) -> Ranges:
        """The same, results so many times as large."""
        return replace(self, gain=self.gain / target)


@dataclass(frozen=True, eq=False, repr=False)
class LayerWeights(Values):
    """The weights of one linear layer (`steps.Values`)."""

    bands: Bands
    kernel: Array

    def diagonals(self, step: Any) -> Iterator[Array]:
        """None."""
        return iter(())

    def vector(self) -> Iterator[Array]:
        """None."""
        return iter(())

    def polynomials(self) -> Iterator[Array]:
        """Coefficients [N] of every weight."""
        return self.bands.weights(self.kernel)


@dataclass(frozen=True, eq=False, repr=False)
class ServedLinear(Served):
    """In the coefficient form."""

    layer: LinearLayer
    ranges: Ranges
    bands: Bands

    sent_part: ClassVar[float] = SENT_PART
    affine: ClassVar[int] = 1

    @property
    def sent(self) -> Layout:
        """See `Served`."""
        return self.bands.sent

    @property
    def received(self) -> Layout:
        """See `Served`."""
        return self.bands.received

    @property
    def whole(self) -> int:
        """See `Served`."""
        return self.ranges.limit

    def reach(self, values: Array) -> Array:
        """The largest magnitude [images] of whole numbers before they are clipped, in parts of the limit."""
        return np.asarray(np.abs(np.rint(self._in_range(values))).max(axis=(1, 2, 3)) / self.whole)

    def _in_range(self, values: Array) -> Array:
        ranges = self.ranges
        found: Array = (values - ranges.offset[:, None, None]) / ranges.scale[:, None, None]
        return found

    def normalised(self, values: Array) -> Array:
        """See `Served`; [images, channels, rows, columns]."""
        found = self._in_range(values)
        return rounded(found, 1.0, self.whole) if self.whole else found

    def result(self, received: Array) -> Array:
        """See `Served`; [images, maps, rows, columns]."""
        images = received.reshape(-1, *self.layer.geometry.output)
        return images * self.ranges.gain[:, None, None] + self.ranges.shift

    def apply(self, sent: Array, weights: Array) -> Array:
        """See `Served`."""
        images = sent.reshape(-1, *self.layer.geometry.image)
        return self.layer.apply(images, weights).reshape(len(sent), -1)

    def projected(self, rows: Array, weights: Array, piece: int) -> Projection | None:
        """See `Served`."""
        back = self.layer.geometry.back(rows.reshape(-1, *self.layer.geometry.output), weights)
        return Projection(rows, (back.reshape(len(rows), -1),), np.zeros(len(rows)))

    def in_single(self, weights: Array) -> Array:
        """See `Served`: errors of the coefficient form are some 10^-5 of the values, or none."""
        return weights if self.whole else weights.astype(np.float32)

    def values(self, weights: Array) -> Iterator[Values]:
        """See `Served`."""
        yield LayerWeights(self.bands, weights)

    @property
    def row(self) -> str:
        """See `Served`."""
        bands, weights = self.bands, sum(stop - start for start, stop in self.bands.spans)
        taken = f"{weights} weights, {bands.sent.tiles} tiles sent, {bands.answers} received"
        return f"{self.layer.name}: {self.layer.geometry}; {taken}"

    def to_parts(self) -> tuple[Any, dict[str, Array]]:
        """See `Served`."""
        b, arrays = self.bands, dict(vars(self.ranges))
        limit = arrays.pop("limit")
        return (b.samples, b.ring, b.height, b.width, b.channels, b.lanes, limit), arrays


@dataclass(frozen=True, eq=False, repr=False)
class ServedPolynomial(Served):
    """In slots: a form of v = (value + shift) / reach; the result is gain times it, plus offset.

    Attributes:
        form: without its constant, which is secret.
        shift, reach, gain, offset: [channels], or [1] for all.
        place: of the values [samples, features].
    """

    layer: PolynomialLayer
    form: Form
    shift: Array
    reach: Array
    gain: Array
    offset: Array
    place: Interleaved

    sent_part: ClassVar[float] = 1.0
    affine: ClassVar[int] = 0

    @property
    def sent(self) -> Layout:
        """See `Served`."""
        return self.place

    @property
    def received(self) -> Layout:
        """See `Served`."""
        return self.place

    def _along(self, values: Array) -> Array:
        return values.reshape(-1, *[1] * (len(self.layer.shape) - 1))

    def normalised(self, values: Array) -> Array:
        """See `Served`; [rows, *shape]."""
        found: Array = (values + self._along(self.shift)) / self._along(self.reach)
        return found

    def result(self, received: Array) -> Array:
        """See `Served`; [rows, *shape]."""
        found = received.reshape(-1, *self.layer.shape) * self._along(self.gain) + self._along(self.offset)
        return np.asarray(found)

    def apply(self, sent: Array, weights: Array) -> Array:
        """See `Served`; weights are the form's constant, [features] or none."""
        (found,) = replace(self.form, constant=weights).values(sent)
        return found

    def projected(self, rows: Array, weights: Array, piece: int) -> Projection | None:
        """See `Served`."""
        return Projection.pointwise(rows, replace(self.form, constant=weights))

    @property
    def degree(self) -> int:
        """See `Served`."""
        return self.form.degree

    def values(self, weights: Array) -> Iterator[Values]:
        """See `Served`."""
        for constant in replace(self.form, constant=weights).constants:
            yield LayerValues((), constant, self.place, self.place)

    @property
    def row(self) -> str:
        """See `Served`."""
        count = self.layer.repeat * math.prod(self.layer.shape)
        products = self.place.tiles * self.form.products
        return (
            f"{self.layer.name}: {self.form} of {count} values; "
            f"{products} products in slots, {self.place.tiles} tiles sent, {self.place.tiles} received"
        )

    def to_parts(self) -> tuple[Any, dict[str, Array]]:
        """See `Served`."""
        arrays = {name: getattr(self, name) for name in ("shift", "reach", "gain", "offset")}
        return (self.form.name, self.place.features, self.place.width, self.place.batch), arrays


def served_from(layer: LinearLayer | PolynomialLayer, meta: Any, arrays: Mapping[str, Any]) -> Served:
    """The inverse of `Served.to_parts`.

    Raises:
        InputError: not such parts.
    """
    if isinstance(layer, LinearLayer):
        *sizes, limit = map(int, meta)
        return ServedLinear(layer, Ranges(**arrays, limit=limit), Bands(layer.geometry, *sizes))
    name, *sizes = meta
    if name not in ("square", "cubic"):
        raise InputError(f"a polynomial in slots has the form square or cubic, got {name!r}")
    features, width, batch = map(int, sizes)
    place = Interleaved(features, width, batch)
    return ServedPolynomial(layer, FORMS[name](layer.degree), place=place, **arrays)
