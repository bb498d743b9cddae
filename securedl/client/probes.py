"""What the owner knows about its probes: samples, and tolerances at every checkpoint."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.client.ledger import Ledger
from securedl.client.modular import ModularCheck, ModularProjections
from securedl.client.projected import Projected, ProjectionCheck
from securedl.client.recompute import RecomputeCheck
from securedl.client.threads import one_thread
from securedl.client.tolerances import Tolerance, exact_tolerances, sent_tiles, tolerances
from securedl.client.verifier import Probed, Verifier
from securedl.network.graph import Array
from securedl.plan.network import Inner, Network, of, under, within_headroom
from securedl.plan.outliers import Screened
from securedl.plan.plan import Plan
from securedl.plan.signature import Signature
from securedl.progress import SILENT, StageProgress, Steps
from securedl.verify.check import Check, Finding, Segment, ValueCheck
from securedl.verify.fingerprint import Fingerprint
from securedl.verify.placement import EMPTY

SEED_BITS = 62
#: Probes in a fingerprint: one ciphertext of them, but at least 16 and at most 128.
FEWEST, MOST = 16, 128
#: Honest values stay below the scheme's limit; noise and rounding may add this factor.
RANGE_SLACK = 1.1


@dataclass
class Verification(Verifier):
    """Of an owner: tolerances and probes, made when first needed, and what all calls so far have seen.

    Attributes:
        ledger: counts over all calls. seed: of the probes, a secret of each owner. secret: of the owner's
            key, for its tolerances (`tolerances`). projected: what every answer is checked by, of a client
            who is to do without weights. combined: what such a client's combinations of whole numbers are
            drawn from, for each call.
    """

    plan: Plan
    ledger: Ledger = field(default_factory=Ledger)
    seed: int = field(default_factory=lambda: secrets.randbits(SEED_BITS), repr=False)
    secret: Array | None = field(default=None, repr=False)
    projected: list[Projected | None] | None = field(default=None, repr=False)
    combined: ModularProjections | None = field(default=None, repr=False)
    _saved: Fingerprint | None = field(default=None, repr=False)
    _allowed: list[Tolerance] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._preparing = threading.Lock()

    @cached_property
    def network(self) -> Network:
        """To compute answers again."""
        return self.plan.network.quick()

    @property
    def signature(self) -> Signature:
        """See `Verifier`."""
        return self.plan.signature

    @property
    def reach(self) -> float:
        """See `Verifier`."""
        return self.plan.network.largest or self.plan.program.scheme.value_limit * RANGE_SLACK

    @property
    def neutral(self) -> Array:
        """See `Verifier`."""
        return self.plan.neutral

    def screened(self, x: Any, outliers: str) -> Screened:
        """See `Verifier`: exactly, sample by sample."""
        return self.plan.screened(x, outliers)

    def every(self) -> Callable[[], ValueCheck]:
        """See `Verifier`."""
        if self.combined is not None:
            return partial(ModularCheck, self.combined.drawn())
        if self.projected is not None:
            return partial(ProjectionCheck, self.projected)
        return self.recompute

    def recompute(self) -> RecomputeCheck:
        """What computes again all that a batch is answered."""
        return RecomputeCheck(self.plan, self.network, self.tolerances)

    @cached_property
    def tolerances(self) -> list[Tolerance]:
        """See `Verifier`."""
        return self._allowed or self._tolerances()

    def _tolerances(self, progress: Steps | None = None) -> list[Tolerance]:
        if self.plan.program.params.exact:
            return exact_tolerances(self.plan)
        return tolerances(self.plan, self.secret, progress)

    @cached_property
    def probes(self) -> Probed:
        """See `Verifier`: sensitive, natural and wide samples."""
        plan, fingerprint = self.plan, self._saved or self._make()
        network, points = plan.network, plan.signature.checkpoints
        exchanges = network.probed(fingerprint.samples, points, plan.program.scheme.value_limit)
        grown = []
        for number, (exchange, allowed) in enumerate(zip(exchanges, self.tolerances, strict=True)):
            *stages, _ = network.inside(number + 1, exchange.sent, points)
            grown.append(np.ones(0) if allowed.tiles else allowed.grown(stages))
        return Probed(fingerprint, tuple(exchanges), tuple(grown))

    @property
    def made(self) -> bool:
        """Whether there are probes, perhaps of an earlier process."""
        return self._saved is not None or "probes" in self.__dict__

    @property
    def ready(self) -> bool:
        """Whether nothing is left to prepare."""
        return "probes" in self.__dict__ and (self._allowed is not None or "tolerances" in self.__dict__)

    def prepare(self, told: StageProgress = SILENT, number: int = 0, of: int = 1) -> None:
        """Make tolerances and probes now rather than in the first query.

        Args:
            told: how far this is, as number `number` of `of`.
        """
        with self._preparing:  # of calls at once the first makes them
            if self._allowed is None and "tolerances" not in self.__dict__:
                self._allowed = self._tolerances(told.part(2 * number, 2 * of))
            if not self.made:
                self._saved = self._make(told.part(2 * number + 1, 2 * of))
            self.probes  # noqa: B018 - computed once, then kept

    def _make(self, progress: Steps | None = None) -> Fingerprint:
        from securedl.verify.probing import fingerprint, unguided

        plan, network = self.plan, self.plan.network
        low, high = plan.signature.box
        count = min(max(plan.batch, FEWEST), MOST)

        def overflows(x: Array) -> np.ndarray:
            return ~within_headroom(network, x, plan.program.scheme.value_limit)

        box: Any = {"low": low, "high": high, "seed": self.seed, "limit": overflows}
        with one_thread():
            if network.alone:
                return unguided(plan.reference, plan.samples, count, **box)
            return fingerprint(plan.graph, plan.samples, count, **box, progress=progress)

    def to_arrays(self) -> dict[str, Any]:
        """For the owner's file: the fingerprint (if there is one yet) and the ledger's counts."""
        made, allowed = (self.__dict__.get(name) for name in ("probes", "tolerances"))
        kept, tolerances = made.fingerprint if made else self._saved, allowed or self._allowed or ()
        arrays = {"ledger": self.ledger.to_array(), "seed": np.array(self.seed, dtype=np.int64)}
        if kept is not None:
            arrays |= under("probe", kept.to_arrays())
        for number, tolerance in enumerate(tolerances):
            arrays |= under(f"tolerance{number}", tolerance.to_arrays())
        return arrays

    @classmethod
    def from_arrays(cls, plan: Plan, arrays: Mapping[str, Any], secret: Array) -> Verification:
        """The inverse of `to_arrays`; what was made is not made again. secret: of the owner's key."""
        ledger, seed = Ledger.from_array(arrays["ledger"]), int(arrays["seed"])
        probes = of("probe", arrays)
        tiles = sent_tiles(plan)
        parts = [of(f"tolerance{number}", arrays) for number in range(len(tiles))]
        pairs = zip(parts, tiles, strict=True)
        allowed = [Tolerance.from_arrays(*pair) for pair in pairs] if parts[0] else None
        saved = Fingerprint.from_arrays(probes) if probes else None
        return cls(plan, ledger, seed, secret, _saved=saved, _allowed=allowed)


class ProbeCheck(Check):
    """The probes of one batch: compared at each checkpoint, then replaced by others.

    Args:
        lanes: int64 [batch], which probe each lane holds, or EMPTY.
    """

    name = "probes"

    def __init__(self, known: Probed, tolerances: list[Tolerance], lanes: NDArray[np.int64]) -> None:
        self._known, self._tolerances, self.lanes = known, tolerances, lanes.copy()

    def segment(self, segment: Segment) -> Finding:
        """Every probe lane. All others are compared too, with some probe and to no end: what a server sees
        of the time is the same whether there are any.
        """
        known, number = self._known, segment.point - 1
        if not known.exchanges[number].received.size:  # nobody knows what it should be
            return Finding()
        probed, which = self.lanes != EMPTY, np.maximum(self.lanes, 0)
        allowed = self._tolerances[number]
        grown = allowed.grown([Inner(segment.sent, 1)]) if allowed.tiles else known.grown[number][which]
        ratios = allowed.ratios(segment.received - known.exchanges[number].received[which], grown)
        wrong = int((ratios[probed] > 1).sum())
        alarms = (f"{wrong} probe(s) differ at the {segment.where}",) if wrong else ()
        return Finding(int(probed.sum()), float(ratios[probed].max(initial=0.0)), alarms)

    def refill(self, point: int, values: Array) -> None:
        """Each probe lane continues as another probe, so that every segment is verified by itself: a
        calibration sample as another one.
        """
        known, probed = self._known, self.lanes != EMPTY
        natural = np.array(known.fingerprint.natural, np.int64)
        alike, any_one = (_drawn(some, self.lanes) for some in (natural, np.arange(len(known.fingerprint))))
        drawn = np.where(np.isin(self.lanes, natural), alike, any_one)
        self.lanes = np.where(probed, drawn, EMPTY)
        values[:] = np.where(probed[:, None], known.exchanges[point].sent[drawn], values)


def _drawn(among: NDArray[np.int64], lanes: NDArray[np.int64]) -> NDArray[np.int64]:
    """One of them for each lane, from the operating system's randomness."""
    numbers = np.frombuffer(secrets.token_bytes(8 * len(lanes)), dtype=np.uint64)
    return among[(numbers % np.uint64(max(1, len(among)))).astype(np.int64)] if len(among) else lanes
