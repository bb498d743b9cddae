"""What the owner knows about its probes: samples, and tolerances at every checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.client.ledger import Ledger
from securedl.network.graph import Array
from securedl.plan.network import Conversation, Exchange, within_headroom
from securedl.plan.plan import Plan
from securedl.verify.check import Check, Finding, Segment
from securedl.verify.comparison import calibrate, deviation
from securedl.verify.fingerprint import Fingerprint
from securedl.verify.placement import EMPTY

#: Simulated re-encryptions from which a tolerance is measured.
RUNS = 24
#: The same where segments are alike and normal, and how many of their deviations a tolerance is.
RUNS_ALONE, SIGMAS = 2, 12.0
#: Probes in a fingerprint: one ciphertext of them, but at least 16 and at most 128.
FEWEST, MOST = 16, 128


@dataclass(frozen=True, eq=False, repr=False)
class Probed:
    """A fingerprint with, for each checkpoint but the query, expected normalised values and tolerances.

    Attributes:
        exchanges: for each segment what a probe sends and must receive, float64 [probes, features].
        tolerances: for each segment that of every probe [probes] and the factor of every lane [batch].
    """

    fingerprint: Fingerprint
    exchanges: tuple[Exchange, ...]
    tolerances: tuple[tuple[Array, Array], ...]


@dataclass
class Verification:
    """Probes, made when first needed, and what all calls so far have seen.

    Attributes:
        ledger: counts over all calls.
    """

    plan: Plan
    ledger: Ledger = field(default_factory=Ledger)
    _saved: Fingerprint | None = field(default=None, repr=False)

    @cached_property
    def probes(self) -> Probed:
        """Sensitive, natural and wide samples, with tolerances that the owner measured by itself.

        Errors are measured in simulated re-encryptions with the noise of the plan's parameters, probes in
        random lanes; see `comparison.calibrate`. Never below 16 times the noise of a single rescale.
        """
        plan, fingerprint = self.plan, self._saved or self._make()
        limit, points = plan.program.scheme.value_limit, plan.signature.checkpoints
        exchanges = plan.network.probed(fingerprint.samples, points, limit)
        measured = self._measured_alone if plan.network.alone else self._measured
        tolerances = []
        for (own, factors), floor in zip(measured(exchanges), self._floors(), strict=True):
            tolerances.append((np.maximum(own, floor), factors))
        return Probed(fingerprint, tuple(exchanges), tuple(tolerances))

    def _measured(self, exchanges: Sequence[Exchange]) -> list[tuple[Array, Array]]:
        """Tolerances of probes and factors of lanes, for each segment."""
        count, batch = len(exchanges[0].sent), self.plan.batch
        random = np.random.default_rng(0)
        rounds = -(-count // batch)
        errors = np.zeros((len(exchanges), RUNS * rounds, batch))
        placed = np.zeros((RUNS * rounds, batch), dtype=np.int64)
        for run in range(RUNS):
            # All probes once, the lanes that remain filled with some of them again.
            order = np.concatenate([random.permutation(count) for _ in range(-(-rounds * batch // count))])
            lanes = order[: rounds * batch].reshape(rounds, batch)
            placed[run * rounds : (run + 1) * rounds] = lanes
            for number, found in enumerate(self._errors(exchanges, lanes, run)):
                for point, wrong in enumerate(found):
                    errors[point, run * rounds + number] = wrong.max(axis=1)
        return [calibrate(errors[point], placed, count=count) for point in range(len(exchanges))]

    def _measured_alone(self, exchanges: Sequence[Exchange]) -> list[tuple[Array, Array]]:
        """The same where a segment is one product with weights: its values' errors are alike, and normal."""
        count, batch = len(exchanges[0].sent), self.plan.batch
        rounds = -(-count // batch)
        lanes = (np.arange(rounds * batch) % count).reshape(rounds, batch)
        squares = [list[float]() for _ in exchanges]
        for run in range(RUNS_ALONE):
            for found in self._errors(exchanges, lanes, run):
                for point, wrong in enumerate(found):
                    squares[point] += (wrong**2).mean(axis=1).tolist()
        return [(np.full(count, SIGMAS * max(found) ** 0.5), np.ones(batch)) for found in squares]

    def _errors(
        self, exchanges: Sequence[Exchange], lanes: NDArray[np.int64], seed: int
    ) -> list[list[Array]]:
        """Absolute errors [batch, features] of each segment, for each row of `lanes`, in one simulated model.

        Each segment starts with exact values, as it does for the probes of a query.
        """

        def talk(row: NDArray[np.int64]) -> Conversation:
            for exchange in exchanges:
                yield exchange.sent[row]
            return np.zeros((len(row), 0))

        found = []
        runs = self.plan.simulate_talks([talk(row) for row in lanes], seed)
        for row, run in zip(lanes, runs, strict=True):
            pairs = zip(run.received, exchanges, strict=True)
            found.append([np.abs(values - exchange.received[row]) for values, exchange in pairs])
        return found

    def prepare(self) -> None:
        """Make the probes now rather than in the first query."""
        self.probes  # noqa: B018 - computed once, then kept

    def _floors(self) -> list[float]:
        """16 times the deviation that one rescaling leaves in a slot, for each checkpoint."""
        program = self.plan.program
        ports = [*(sent for sent, _ in program.refreshes), program.answer]
        return [16 * program.scheme.rounding(program.params, port.scale) for port in ports]

    def _make(self) -> Fingerprint:
        from securedl.verify.samples import fingerprint, unguided

        plan, network = self.plan, self.plan.network
        low, high = plan.signature.box
        count = min(max(plan.batch, FEWEST), MOST)

        def overflows(x: Array) -> np.ndarray:
            return ~within_headroom(network, x, plan.program.scheme.value_limit)

        box: Any = {"low": low, "high": high, "seed": 0, "limit": overflows, "anchor": plan.neutral}
        if network.alone:
            return unguided(plan.reference, plan.samples, count, **box)
        return fingerprint(plan.graph, plan.samples, count, **box)

    def compare(self, checkpoint: int, lanes: np.ndarray, probes: np.ndarray, values: Array) -> Array:
        """Deviation over tolerance of probe values [count, features] at a checkpoint (0: first refresh)."""
        known = self.probes
        own, factors = known.tolerances[checkpoint]
        expected = known.exchanges[checkpoint].received[probes]
        return deviation(values, expected, own[probes] * factors[lanes])

    def to_arrays(self) -> dict[str, Any]:
        """For the owner's file: the fingerprint (if there is one yet) and the ledger's counts."""
        made = self.__dict__.get("probes")
        kept = made.fingerprint if made else self._saved
        arrays = {} if kept is None else {f"probe.{k}": v for k, v in kept.to_arrays().items()}
        return {**arrays, "ledger": self.ledger.to_array()}

    @classmethod
    def from_arrays(cls, plan: Plan, arrays: Mapping[str, Any]) -> Verification:
        """The inverse of `to_arrays`; tolerances are measured again when needed."""
        names = ("samples", "kinds", "logits")
        ledger = Ledger.from_array(arrays["ledger"])
        if "probe.samples" not in arrays:
            return cls(plan, ledger)
        saved = Fingerprint.from_arrays({name: arrays[f"probe.{name}"] for name in names})
        return cls(plan, ledger, saved)


class ProbeCheck(Check):
    """The probes of one batch: compared at each checkpoint, then replaced by others.

    Args:
        lanes: int64 [batch], which probe each lane holds, or EMPTY.
    """

    name = "probes"

    def __init__(self, verification: Verification, lanes: NDArray[np.int64]) -> None:
        self._verification, self.lanes = verification, lanes.copy()

    def segment(self, segment: Segment) -> Finding:
        """Every probe lane, with the tolerance of its probe and its lane."""
        lanes = np.flatnonzero(self.lanes != EMPTY)
        if not len(lanes):
            return Finding()
        ratios = self._verification.compare(
            segment.point - 1, lanes, self.lanes[lanes], segment.received[lanes]
        )
        wrong = int((ratios > 1).sum())
        alarms = (f"{wrong} probe(s) differ at the {segment.where}",) if wrong else ()
        return Finding(len(lanes), float(ratios.max()), alarms)

    def refill(self, point: int, values: Array) -> None:
        """Each probe lane continues as another probe, so that every segment is verified by itself."""
        lanes = np.flatnonzero(self.lanes != EMPTY)
        if not len(lanes):
            return
        known = self._verification.probes
        random = secrets.SystemRandom()
        for lane in lanes:
            self.lanes[lane] = random.randrange(len(known.fingerprint))
            values[lane] = known.exchanges[point].sent[self.lanes[lane]]
