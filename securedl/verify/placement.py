"""Where probes hide among data samples.

Places come from the operating system's randomness: a server that could predict them would answer those
honestly. Every choice is made before anything is sent.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import boolean, count
from securedl.errors import InputError
from securedl.network.graph import Array

EMPTY = -1


@dataclass(frozen=True)
class Probes:
    """How many probes a call carries.

    Attributes:
        count: at least this many in one call. fill: lanes left free carry more, at no cost.
    """

    count: int = 8
    fill: bool = True

    def __post_init__(self) -> None:
        count(self.count, "the number of probes", least=0)
        boolean(self.fill, "fill of Probes")


@dataclass(frozen=True, eq=False)
class Placement:
    """What each lane of each batch holds; EMPTY (-1) in both arrays is a lane without either.

    Attributes:
        data: int64 [batches, batch], index of the data sample.
        probe: int64 [batches, batch], index into the fingerprint.
        forced: probes placed one in each batch, for `statistics.detection_probability`.
    """

    data: NDArray[np.int64]
    probe: NDArray[np.int64]
    forced: int

    @property
    def probes(self) -> int:
        """Number of probe lanes."""
        return int(np.count_nonzero(self.probe != EMPTY))

    def assemble(self, data: Array, fingerprint: Array, empty: Array | float = 0.0) -> Array:
        """Inputs as they are encrypted: float64 [batches, batch, features]; empty: for lanes without any."""
        features = data.shape[1] if len(data) else fingerprint.shape[1]
        lanes = np.broadcast_to(empty, (*self.data.shape, features)).astype(np.float64)
        lanes[self.data != EMPTY] = data[self.data[self.data != EMPTY]]
        lanes[self.probe != EMPTY] = fingerprint[self.probe[self.probe != EMPTY]]
        return lanes

    def collect(self, values: Array) -> Array:
        """From [batches, batch, ...], the rows of the data samples in their order: [samples, ...]."""
        held = self.data != EMPTY
        rows: Array = values[held][np.argsort(self.data[held])]
        return rows

    def probed(self, values: Array) -> tuple[NDArray[np.int64], Array]:
        """From [batches, batch, ...], fingerprint indices [probes] and their rows [probes, ...]."""
        held = self.probe != EMPTY
        return self.probe[held], values[held]


def place(
    samples: int,
    batch: int,
    probes: Probes,
    fingerprint: int,
    rng: random.Random | None = None,
    natural: Sequence[int] = (),
) -> Placement:
    """The fewest batches that hold every sample once and the probes, at random places.

    With a batch above 1 and probes.count > 0 each batch holds one probe at a uniform lane, so that no batch
    can be tampered with whole unseen; the others are uniform over the lanes that remain, so every lane
    is as likely as any other. With batch 1 a probe is a query of its own. No fingerprint sample comes twice
    before all came once, among those that each batch holds and among the others.

    Args:
        samples: data samples. batch: lanes of a batch. fingerprint: samples to draw probes from.
        rng: the operating system's randomness unless a test passes its own.
        natural: of the fingerprint, those that each batch's one is drawn from, for tampering by content finds
            nothing unlike data in it; all by default.
    """
    if samples < 0 or batch < 1:
        raise InputError(f"{samples} samples in batches of {batch}; expected 0 or more, and 1 or more")
    if probes.count and fingerprint < 1:
        raise InputError(f"{probes.count} probes were asked for and the fingerprint is empty")
    source: random.Random = secrets.SystemRandom() if rng is None else rng
    batches = batches_of(samples, batch, probes.count)
    lanes = batches * batch
    forced = batches if probes.count and batch > 1 else 0
    wanted = max(probes.count, forced)
    if probes.fill and fingerprint > 0:
        wanted = lanes - samples
    chosen = [at * batch + source.randrange(batch) for at in range(forced)]
    taken = set(chosen)
    free = [lane for lane in range(lanes) if lane not in taken]
    chosen += source.sample(free, wanted - forced)
    probe = np.full(lanes, EMPTY, dtype=np.int64)
    like_data = [natural[at] for at in _draws(len(natural), forced, source)] if len(natural) else []
    probe[chosen] = [*like_data, *_draws(fingerprint, wanted - len(like_data), source)]
    data = np.full(lanes, EMPTY, dtype=np.int64)
    open_lanes: list[Any] = np.flatnonzero(probe == EMPTY).tolist()
    data[sorted(source.sample(open_lanes, samples))] = np.arange(samples)
    return Placement(data.reshape(batches, batch), probe.reshape(batches, batch), forced)


def batches_of(samples: int, batch: int, count: int) -> int:
    """The fewest that hold samples and count probes, with one probe in each where batches have room."""
    fewest = -(-(samples + count) // batch)
    if count and batch > 1:
        fewest = max(fewest, -(-samples // (batch - 1)))
    return fewest


def _draws(fingerprint: int, wanted: int, source: random.Random) -> list[int]:
    """`wanted` fingerprint indices: random orders of all of them, one after another."""
    found: list[int] = []
    while len(found) < wanted:
        found += source.sample(range(fingerprint), min(fingerprint, wanted - len(found)))
    return found
