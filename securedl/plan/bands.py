"""The coefficient form: how a convolution becomes a few products of polynomials.

A phase image (`Geometry`) is cut into bands of `height` x `width` results; a band's input has halos. Its
pixels stand in `area` places, a power of two, so that N / area *lanes* share a tile: coefficient = lane +
(N / area) · place. A band of a sample is a *unit*; a tile holds `lanes` of them, L. With C for `channels` and
M for `maps`, N / area = C · L · M:

    input tile (i, block)   channel i·C + c of unit block·L + l in lane c + C·l
    weight (i, o)           map o·M + j, tap (a, b), at C·L·j - c - (N / area)(a · row + b)
    answer (o, block)       pixels of map j and unit l in lane C·(l + L·j); all else is never read

C answers are merged into one (`Arithmetic.merge`): number k of a group stands k lanes further on, its bits
reversed. Multiplying polynomials for a convolution: Juvekar et al., "Gazelle" (2018); Huang et al., "Cheetah"
(2022), whose answers are not merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.network.geometry import Axis, Geometry
from securedl.network.graph import Array
from securedl.plan.layouts import NOTHING, Indices, Layout


@dataclass(frozen=True)
class Bands:
    """A convolution's layout; all of it follows from these numbers.

    Attributes:
        samples: of a query. ring: N. height, width: of a band's results. channels, lanes: powers of two.

    Raises:
        CompileError: bands that do not fit the ring, or numbers out of range.
    """

    geometry: Geometry
    samples: int
    ring: int
    height: int
    width: int
    channels: int
    lanes: int

    def __post_init__(self) -> None:
        _, rows, columns = self.geometry.output
        powers = all(n >= 1 and n & (n - 1) == 0 for n in (self.ring, self.channels, self.lanes))
        inside = 1 <= self.height <= rows and 1 <= self.width <= columns and self.samples >= 1
        if not powers or not inside or self.channels > self.ring // 4:
            raise CompileError(f"bands of {self.height} x {self.width} for {self.geometry}: out of range")
        if self.maps < 1:
            raise CompileError(f"bands of {self.height} x {self.width} do not fit a ring of {self.ring}")

    # --- sizes -----------------------------------------------------------------------------------

    @property
    def cuts(self) -> tuple[int, int]:
        """Bands of an image, down and across."""
        _, rows, columns = self.geometry.output
        return -(-rows // self.height), -(-columns // self.width)

    @property
    def margins(self) -> tuple[int, int]:
        """How many rows and columns of zeros neighbours share: those before an image are those after the last
        row, or after the row above. Only where that is all zeros and the image is one band.
        """
        down, across = self.cuts
        columns = _shared(self.geometry.columns) if across == 1 else 0
        rows = _shared(self.geometry.rows) if down == 1 and columns else 0
        return rows, columns

    @property
    def row(self) -> int:
        """Places from one row of a band to the next."""
        return self.width + self.geometry.columns.reach - 1 - self.margins[1]

    @property
    def area(self) -> int:
        """Places of a band, a power of two."""
        rows = self.height + self.geometry.rows.reach - 1 - self.margins[0]
        return 1 << (rows * self.row - 1).bit_length()

    @property
    def stride(self) -> int:
        """Lanes of a tile: coefficients from one place to the next."""
        return self.ring // self.area

    @property
    def maps(self) -> int:
        """Maps of an answer."""
        return self.stride // (self.channels * self.lanes)

    @property
    def blocks(self) -> int:
        """Tiles of one group of channels."""
        down, across = self.cuts
        return -(-self.samples * down * across // self.lanes)

    @property
    def inputs(self) -> int:
        """Groups of channels."""
        return -(-self.geometry.channels * self.geometry.phases // self.channels)

    @property
    def outputs(self) -> int:
        """Groups of maps."""
        return -(-self.geometry.maps // self.maps)

    @property
    def answers(self) -> int:
        """Ciphertexts that come back."""
        return -(-self.outputs * self.blocks // self.channels)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """For each group of maps, the first group of channels that it reads and the one after the last."""
        g = self.geometry
        each, channels = g.maps // g.groups, g.channels // g.groups * g.phases
        found = []
        for first in range(0, g.maps, self.maps):
            last = min(first + self.maps, g.maps) - 1
            start, stop = first // each * channels, (last // each + 1) * channels
            found.append((start // self.channels, -(-stop // self.channels)))
        return tuple(found)

    # --- values ----------------------------------------------------------------------------------

    @cached_property
    def sent(self) -> Placed:
        """Where the client puts [samples, features], features being the pixels of a sample's channels."""
        g, ring = self.geometry, self.ring
        (down, across), (above, left) = self.cuts, self.margins
        y, x = (
            _pixels(axis, size, number)
            for axis, size, number in ((g.rows, self.height, down), (g.columns, self.width, across))
        )
        # axes: sample, channel, band (down), phase, row, band (across), phase, column
        shape = (self.samples, g.channels, *y.shape, *x.shape)
        one, channel, p, a, i, q, b, j = np.ogrid[tuple(slice(n) for n in shape)]
        phase = (channel * y.shape[1] + a) * x.shape[1] + b
        number = (one * down + p) * across + q
        tile = number // self.lanes * self.inputs + phase // self.channels
        lane = phase % self.channels + self.channels * (number % self.lanes)
        place = (i - above) * self.row + j - left
        rows = y.reshape(1, 1, *y.shape, 1, 1, 1)
        columns = x.reshape((1,) * 5 + x.shape)
        there = (rows >= 0) & (columns >= 0)
        feature = (channel * g.rows.size + rows) * g.columns.size + columns
        index = one * (g.channels * g.rows.size * g.columns.size) + feature
        content = np.full((self.blocks * self.inputs, ring), NOTHING)
        at, index, there = np.broadcast_arrays(tile * ring + lane + self.stride * place, index, there)
        content.reshape(-1)[at[there]] = index[there]
        return Placed(content, self.samples, int(np.prod(g.image)))

    @cached_property
    def received(self) -> Read:
        """Where the client finds [samples, features], features being the pixels of a sample's maps."""
        maps, rows, columns = self.geometry.output
        down, across = self.cuts
        sample, m, y, x = np.ogrid[: self.samples, :maps, :rows, :columns]
        unit = (sample * down + y // self.height) * across + x // self.width
        number = unit // self.lanes * self.outputs + m // self.maps
        group, k = number // self.channels, number % self.channels
        lane = (
            self.channels * (unit % self.lanes + self.lanes * (m % self.maps)) + _reversed(self.channels)[k]
        )
        place = y % self.height * self.row + x % self.width
        at = group * self.ring + lane + self.stride * place
        return Read(at.reshape(self.samples, -1), self.answers, self.ring)

    def weights(self, kernel: Array) -> Iterator[Array]:
        """Coefficients [N] of each weight: for each group of maps, those of the channels in its span.

        Args:
            kernel: [maps, channels / groups, rows, columns], as `Geometry.kernel`.
        """
        g, (above, left) = self.geometry, self.margins
        m, c, y, x = np.ogrid[tuple(slice(n) for n in g.kernel)]
        (phase_y, tap_y), (phase_x, tap_x) = (_taps(axis) for axis in (g.rows, g.columns))
        channel = m // (g.maps // g.groups) * (g.channels // g.groups) + c
        phase = (channel * len(g.rows.phases) + phase_y[y]) * len(g.columns.phases) + phase_x[x]
        place = (tap_y[y] - above) * self.row + tap_x[x] - left
        exponent = self.channels * self.lanes * (m % self.maps) - phase % self.channels - self.stride * place
        exponent = exponent % (2 * self.ring)
        signs = np.where(exponent < self.ring, 1.0, -1.0)
        group = np.broadcast_to(phase // self.channels, kernel.shape)
        for output, (start, stop) in enumerate(self.spans):
            some = slice(output * self.maps, (output + 1) * self.maps)
            table = np.zeros((stop - start, self.ring))
            table[group[some] - start, exponent[some] % self.ring] = (kernel * signs)[some]
            yield from table


@dataclass(frozen=True, eq=False)
class Placed(Layout):
    """Values [samples, features] in coefficients.

    Attributes:
        content: int64 [tiles, N], which of the samples' values stands there, or NOTHING.
    """

    content: Indices
    samples: int
    features: int

    @property
    def tiles(self) -> int:
        """Ciphertexts."""
        return len(self.content)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and features."""
        return self.samples, self.features

    def pack(self, values: Array) -> Array:
        """[samples, features] to coefficients [tiles, N]; zero where nothing stands."""
        packed: Array = np.append(values.reshape(-1), 0.0)[self.content]  # NOTHING is the last one
        return packed

    def unpack(self, coefficients: Array) -> Array:
        """The inverse of `pack`; what stood nowhere is zero."""
        values = np.zeros(self.samples * self.features)
        here = self.content != NOTHING
        values[self.content[here]] = coefficients[here]
        return values.reshape(self.samples, self.features)


@dataclass(frozen=True, eq=False)
class Read(Layout):
    """Coefficients of answers that are values [samples, features].

    Attributes:
        at: int64 [samples, features], places in coefficients [tiles · N].
    """

    at: Indices
    count: int
    ring: int

    @property
    def tiles(self) -> int:
        """Ciphertexts."""
        return self.count

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and features."""
        samples, features = self.at.shape
        return samples, features

    def pack(self, values: Array) -> Array:
        """The inverse of `unpack`; zero where no value stands."""
        coefficients = np.zeros(self.count * self.ring)
        coefficients[self.at] = values
        return coefficients.reshape(self.count, self.ring)

    def unpack(self, coefficients: Array) -> Array:
        """Coefficients [tiles, N] to [samples, features]."""
        values: Array = coefficients.reshape(-1)[self.at]
        return values


def _shared(axis: Axis) -> int:
    """Zeros that one row can have in common with the next: the padding, where it is all that surrounds it."""
    whole = axis.stride == 1 and axis.span == 2 * axis.padding + 1
    return axis.padding if whole else 0


def _pixels(axis: Axis, band: int, cuts: int) -> Indices:
    """int64 [bands, phases, places]: the pixel at each place of a band's input, or -1 for zero."""
    cut, phase, place = np.ogrid[:cuts, : len(axis.phases), : band + axis.reach - 1]
    at = axis.stride * (cut * band + place) + np.array(axis.phases)[phase] - axis.padding
    # Beyond what the last results read may be pixels of the image; they are garbage for nobody.
    return np.where((at >= 0) & (at < axis.size), at, -1)


def _taps(axis: Axis) -> tuple[Indices, Indices]:
    """Of each tap: the place of its phase, and which tap of that phase it is."""
    phase, number = np.array([axis.tap(tap) for tap in range(axis.taps)]).T
    return phase, number


def _reversed(count: int) -> NDArray[np.int64]:
    """Bit reversal of 0 ... count - 1, a power of two."""
    found = np.zeros(1, dtype=np.int64)
    while len(found) < count:
        found = np.concatenate([2 * found, 2 * found + 1])
    return found
