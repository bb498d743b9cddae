"""The coefficient form: which bands, lanes and merging make a layer cheapest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from securedl.compiler.cost import COEFFICIENT_PRICES, EXPECTED_QUERIES, CoefficientPrices, key_switch_ntts
from securedl.errors import CompileError
from securedl.he.params import Parameters
from securedl.he.record import packed_length
from securedl.he.schemes import scheme_of
from securedl.network.geometry import Geometry
from securedl.plan.bands import Bands
from securedl.plan.signature import Cost, Link
from securedl.program.steps import Port

#: Into how many bands an image is cut at most, down and across.
CUTS = (8, 3)
#: N of the prices; what they are of grows with N.
PRICED_RING = 4096


@dataclass(frozen=True)
class LayerCounts:
    """What one layer takes for a query.

    Attributes:
        sent, received: tiles. weights: of the model. products: of tiles and weights. answers: before merging.
    """

    sent: int
    received: int
    weights: int
    products: int
    answers: int

    @staticmethod
    def of(bands: Bands) -> LayerCounts:
        """Those of a layout."""
        weights = sum(stop - start for start, stop in bands.spans)
        answers = bands.outputs * bands.blocks
        return LayerCounts(
            bands.inputs * bands.blocks, bands.answers, weights, weights * bands.blocks, answers
        )


@dataclass(frozen=True)
class Conditions:
    """For what a layout is chosen."""

    params: Parameters
    encrypted: bool
    link: Link
    queries: int = EXPECTED_QUERIES
    prices: CoefficientPrices = COEFFICIENT_PRICES

    def cost(self, counted: LayerCounts) -> Cost:
        """Of one layer for one query: its round trip is not in it."""
        price, params, size = self.prices, self.params, self.params.ring / PRICED_RING
        level = self._port.level
        primes, switch = level + 1, key_switch_ntts(level) / key_switch_ntts(0)
        tiles = primes * (counted.sent * price.load + counted.products * price.product)
        tiles += switch * counted.answers * price.relinearise * self.encrypted
        tiles += switch * (counted.answers - counted.received) * price.merge + counted.received * price.dump
        server = price.layer + size * tiles
        ahead = primes * size * counted.sent * price.zero
        sent, read = primes * counted.sent * price.send, counted.received * price.read
        client = price.between + size * (sent + read) + ahead
        moved = counted.sent * packed_length(params, self._port.fresh)
        moved += counted.received * packed_length(params, self._port.sent)
        return Cost(server, client, self.link.ms(moved), moved, ahead)

    @property
    def _port(self) -> Port:
        """Of one tile that is sent."""
        level, scale, _ = scheme_of(self.params).coefficient_form
        return Port(1, level, scale, True, self.params.exact)

    def once(self, counted: LayerCounts) -> float:
        """Milliseconds of preparing and uploading its weights."""
        fresh = packed_length(self.params, self._port.fresh)
        size = (self._port.level + 1) * self.params.ring / PRICED_RING
        return counted.weights * (self.prices.prepare * size + self.link.ms(fresh))

    def total(self, counted: LayerCounts) -> float:
        """Milliseconds of a query with its share of what is paid once."""
        return self.cost(counted).total_ms + self.once(counted) / self.queries


def candidates(geometry: Geometry, samples: int, ring: int) -> Iterator[Bands]:
    """Layouts of a layer that may be the best."""
    _, rows, columns = geometry.output
    heights, widths = (
        sorted({-(-size // cut) for cut in range(1, most + 1)})
        for size, most in zip((rows, columns), CUTS, strict=True)
    )
    channels = _powers(min(geometry.channels * geometry.phases, ring // 4))
    for height, width in itertools.product(heights, widths):
        units = samples * -(-rows // height) * -(-columns // width)
        for merged, lanes in itertools.product(channels, _powers(units)):
            try:
                yield Bands(geometry, samples, ring, height, width, merged, lanes)
            except CompileError:  # does not fit the ring
                continue


def _powers(count: int) -> list[int]:
    """Powers of two up to the first that is not below count."""
    return [1 << k for k in range((count - 1).bit_length() + 1)]


def choose(geometry: Geometry, samples: int, conditions: Conditions, name: str) -> Bands:
    """The cheapest layout.

    Raises:
        CompileError: none fits the ring.
    """
    found = min(
        candidates(geometry, samples, conditions.params.ring),
        key=lambda bands: conditions.total(LayerCounts.of(bands)),
        default=None,
    )
    if found is None:
        raise CompileError(f"{name!r} ({geometry}): not even an eighth of its image fits a ciphertext")
    return found
