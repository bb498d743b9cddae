"""How far an honest server's answers may lie from the network's own: by the parameters, slot by slot.

A client knows what it sent at the checkpoint before, or what a tap showed it there. So what comes back is the
network's own value and an error, whose variance follows from the program, the weights and how large the
values are (`securedl.he.variance`). An owner computes it by itself: a server has no say in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from securedl.errors import FormatError
from securedl.he.variance import SIGMAS
from securedl.network.graph import Array
from securedl.plan.layouts import Layout
from securedl.plan.network import Conversation, Exchange, Inner
from securedl.plan.plan import Plan
from securedl.progress import Steps

#: A change by so many standard deviations more than are allowed is missed once in a million times.
MISSED_SIGMAS, MISS = 4.75, 1e-6
#: Calibration samples of which the sizes of values are known, in so many ciphertext batches at most; and
#: those of them whose errors are computed.
SIZED, BATCHES, PACKED = 128, 64, 4
#: Samples that go through the network in the clear at a time, at least.
SIZED_AT_ONCE = 16


@dataclass(frozen=True, eq=False, repr=False)
class Tolerance:
    """What honest errors in one segment may be.

    Attributes:
        deviations: standard deviations of values [batch, features] that are received, where the values that
            they come from are no larger than `sizes`.
        sizes: of what is sent, and of each value on the way that is not a polynomial's. Errors grow with
            these.
        tiles: layout of what is sent, where lanes share polynomials: its size is then the root of the sum of
            squares in a ciphertext, the largest. Else None, and a size is the largest magnitude in a lane.
    """

    deviations: Array
    sizes: Array
    tiles: Layout | None

    def grown(self, stages: Sequence[Inner]) -> Array:
        """How much larger errors may be in each lane [batch] for these values: those sent, and on the way."""
        batch = len(stages[0].values)
        if self.tiles is not None:
            return np.full(batch, max(1.0, energy(self._places, stages[0].values) / float(self.sizes[0])))
        entering = [stage for stage in stages if stage.degree]
        ratios = [peaks(stage.values) / size for stage, size in zip(entering, self.sizes, strict=True)]
        return growth(ratios, [stage.degree for stage in entering])

    def ratios(self, errors: Array, grown: Array) -> Array:
        """The largest of errors [batch, features] over its tolerance, of each lane; infinite if one is no
        number.
        """
        with np.errstate(all="ignore"):
            worst = (np.abs(errors) * self._inverse).max(axis=1) / grown
        worst[np.isnan(worst)] = np.inf
        return np.asarray(worst)

    @cached_property
    def _places(self) -> sparse.csr_matrix:
        assert self.tiles is not None
        return places(self.tiles)

    @cached_property
    def _inverse(self) -> Array:
        return 1.0 / (SIGMAS * self.deviations)

    @cached_property
    def widest(self) -> Array:
        """The largest standard deviation in each lane [batch]."""
        return np.asarray(self.deviations.max(axis=1))

    def to_arrays(self) -> dict[str, Any]:
        """For the owner's file; what is sent where is in the plan."""
        return {"deviations": self.deviations, "sizes": self.sizes}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], tiles: Layout | None) -> Tolerance:
        """The inverse of `to_arrays`.

        Raises:
            FormatError: not such arrays.
        """
        try:
            return cls(arrays["deviations"], arrays["sizes"], tiles)
        except KeyError as error:
            raise FormatError(f"not a tolerance: {error} is missing") from error


def peaks(values: Array) -> Array:
    """The largest magnitude in each lane [batch] of values [batch, features]."""
    return np.asarray(np.abs(values).max(axis=1))


def places(layout: Layout) -> sparse.csr_matrix:
    """How often each value [batch · features] stands in each ciphertext: [tiles, values]."""
    size = math.prod(layout.shape)
    packed = np.abs(layout.pack(np.arange(1.0, size + 1).reshape(layout.shape))).astype(np.int64)
    tiles, there = np.nonzero(packed)
    found = sparse.csr_matrix((np.ones(len(tiles)), (tiles, packed[tiles, there] - 1)), (len(packed), size))
    return found


def energy(standing: sparse.csr_matrix, values: Array) -> float:
    """The root of the sum of squares in a ciphertext of values [batch, features], the largest of all.

    Args:
        standing: their `places`.
    """
    return math.sqrt((standing @ np.square(values).reshape(-1)).max())


def growth(ratios: Sequence[Any], degrees: Sequence[int]) -> Array:
    """How much errors grow where values are so many times as large (at least 1) as those they are known for:
    those sent, and the results of each affine map on the way; and then enter polynomials of these degrees.

    An affine map passes the error of what it reads on, and adds one of its weights that grows with its size.
    A polynomial of degree d multiplies errors by its slope, which grows with the power d - 1.
    """
    grown, read = np.ones(np.shape(ratios[0])), np.ones(np.shape(ratios[0]))
    for ratio, degree in zip(ratios, degrees, strict=True):
        above = np.maximum(1.0, ratio)
        grown = np.maximum(grown, read) * above ** (degree - 1)
        read = above**degree
    return np.asarray(np.maximum(grown, read))


def sent_tiles(plan: Plan) -> list[Layout | None]:
    """Of each segment, the layout of what is sent where it stands in coefficients."""
    points = plan.signature.checkpoints
    return [
        point.back if port is not None and port.coefficients else None
        for point, port in zip(points, plan.signature.back, strict=False)
    ]


def exact_tolerances(plan: Plan) -> list[Tolerance]:
    """Of whole numbers: less than one half, whatever is sent."""
    found, points = list[Tolerance](), plan.signature.checkpoints
    for number, exchange in enumerate(plan.network.exchanges(plan.samples[:1], points), 1):
        *stages, _ = plan.network.inside(number, exchange.sent, points)
        sizes = np.full(sum(stage.degree > 0 for stage in stages), np.inf)
        shape = plan.batch, exchange.received.shape[1]
        found.append(Tolerance(np.full(shape, 0.5 / SIGMAS), sizes, None))
    return found


def tolerances(plan: Plan, secret: Array | None = None, progress: Steps | None = None) -> list[Tolerance]:
    """Of each segment, without any server: for values as large as the calibration samples have them.

    Args:
        secret: |s|² of the secret key in each slot, [n] (`Keys.slot_squares`); else the mean of all keys.
        progress: called with batches done and batches in all.
    """
    layouts = sent_tiles(plan)
    batches = plan.batches(plan.samples[:SIZED])[:BATCHES]
    sized = [_Sizes(tiles) for tiles in layouts]
    packed = list[list[Exchange]]()
    each = max(1, SIZED_AT_ONCE // plan.batch)
    for part in (batches[at : at + each] for at in range(0, len(batches), each)):
        exchanges = plan.network.exchanges(np.concatenate(part), plan.signature.checkpoints)
        for number, exchange in enumerate(exchanges):
            sized[number].see(plan, number + 1, exchange.sent)
        for k in range(min(len(part), PACKED - len(packed))):
            rows = slice(k * plan.batch, (k + 1) * plan.batch)
            packed.append([Exchange(one.sent[rows], one.received[rows]) for one in exchanges])
    variances = plan.variances(_as_they_are(plan, packed, progress), secret)
    found = []
    for number, (tiles, sizes) in enumerate(zip(layouts, sized, strict=True)):
        tiny = np.finfo(np.float64).tiny
        largest, seen = (
            np.maximum(np.max(some, axis=0), tiny) for some in (sizes.found, sizes.found[: len(packed)])
        )
        deviations = np.sqrt(np.max([one[number] for one in variances], axis=0))
        deviations = np.maximum(deviations, tiny) * growth(list(largest / seen), sizes.degrees)
        if tiles is not None:
            deviations = np.full_like(deviations, deviations.max())
        found.append(Tolerance(deviations, largest, tiles))
    return found


class _Sizes:
    """Those of one segment's values.

    Attributes:
        found: of each ciphertext batch, as of a `Tolerance`. degrees: of the polynomials that they enter.
    """

    def __init__(self, tiles: Layout | None) -> None:
        self._tiles, self.degrees = tiles, [1]
        self.found = list[list[float]]()

    def see(self, plan: Plan, point: int, sent: Array) -> None:
        """Some batches, sent before a point: values [batches · batch, features]."""
        if self._tiles is not None:
            standing = places(self._tiles)
            self.found += [[energy(standing, rows)] for rows in np.split(sent, len(sent) // plan.batch)]
            return
        *stages, _ = plan.network.inside(point, sent, plan.signature.checkpoints)
        entering = [stage for stage in stages if stage.degree]
        self.degrees = [stage.degree for stage in entering]
        by_batch = [peaks(stage.values).reshape(-1, plan.batch).max(axis=1) for stage in entering]
        self.found += np.array(by_batch).T.tolist()


def _as_they_are(plan: Plan, packed: list[list[Exchange]], progress: Steps | None) -> Iterator[Conversation]:
    """Of each batch, every segment with exact values, whatever came back from the one before."""

    def talk(exchanges: list[Exchange]) -> Conversation:
        for point, exchange in zip(plan.signature.checkpoints, exchanges, strict=False):
            if point.back is not None:
                yield exchange.sent
        return np.zeros((len(exchanges[0].sent), 0))

    for number, exchanges in enumerate(packed, 1):
        yield talk(exchanges)
        if progress is not None:
            progress(number, len(packed))
