"""The client's side of one predict call: samples and probes in batches, and the verdict on their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import choice
from securedl.client.batch import Batch
from securedl.client.display import answer_card
from securedl.client.keys import Keys
from securedl.client.probes import ProbeCheck
from securedl.client.recompute import RecomputeCheck
from securedl.client.verifier import Verifier
from securedl.display import Card
from securedl.errors import InputError, ProtocolError
from securedl.network.graph import Array
from securedl.network.outputs import Output
from securedl.verify.check import Check, RangeCheck, ValueCheck
from securedl.verify.placement import EMPTY, Placement, Probes, place
from securedl.verify.report import Report
from securedl.verify.statistics import FRACTIONS, alterable, detection_by_fraction, upper_bound_tampered

#: The label of a sample that was not asked.
SKIPPED = -1
#: Whose answers are compared: everybody's, the probes', nobody's.
VERIFY = ("every", "probes", "none")
#: How many probes travel with a query.
Wish: TypeAlias = int | Probes


@dataclass(frozen=True, eq=False)
class Answer:
    """What predict returns.

    Attributes:
        logits: float64 [samples, ...], in the shape of the network's answers, before a Softmax or Sigmoid at
            its end.
        labels: int64 [samples]: the largest class, or 1 where one logit is above 0; [samples, labels] for
            multilabel; None for regression. A sample that was skipped has NaN and -1.
        report: the verdict of the verification. timings: ms by stage. traffic: bytes by message kind.
        probabilities: float64 in the shape of the logits, by softmax or sigmoid; None for regression.
    """

    logits: Array
    labels: NDArray[np.int64] | None
    report: Report
    timings: dict[str, float]
    traffic: dict[str, int]
    probabilities: Array | None = None

    def __repr__(self) -> str:
        return self._card().text()

    def _repr_html_(self) -> str:
        return self._card().html()

    def _card(self) -> Card:
        return answer_card(self.logits, self.labels, self.report, self.timings, self.traffic)


@dataclass(frozen=True, eq=False)
class AnswerPart:
    """The answers of one ciphertext batch, verified.

    Attributes:
        samples: int64, which of the samples that were given these are. logits, labels, probabilities: as of
            an `Answer`, for them. alarms: what differed; with any, they are not the network's.
    """

    samples: NDArray[np.int64]
    logits: Array
    labels: NDArray[np.int64] | None
    probabilities: Array | None
    alarms: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """No alarm."""
        return not self.alarms

    @staticmethod
    def of(output: Output, samples: NDArray[np.int64], flat: Array, alarms: Sequence[str]) -> AnswerPart:
        """Of flat logits [samples, outputs]."""
        logits = output.shaped(flat)
        return AnswerPart(samples, logits, output.labels(logits), output.probabilities(logits), tuple(alarms))


def answer_of(
    output: Output, flat: Array, report: Report, timings: dict[str, float], traffic: dict[str, int]
) -> Answer:
    """An answer of flat logits [samples, outputs]."""
    logits, skipped = output.shaped(flat), list(report.skipped)
    labels = output.labels(logits)
    logits[skipped] = np.nan
    if labels is not None:
        labels[skipped] = SKIPPED
    return Answer(logits, labels, report, timings, traffic, output.probabilities(logits))


class Inference:
    """One predict call: samples and probes placed in batches.

    Args:
        x: [samples, ...]. probes: a number, or a Probes.
        checks: beside the probes and the range; each is made for a batch from its lanes (int64 [batch],
            which probe each holds, or EMPTY).
        outliers: what is done about samples that would overflow: "raise" refuses all, "skip" answers the
            others, "clip" moves them into the plan's range, and skips those that overflow there too. As many
            ciphertexts are sent in any case: a calibration sample takes the place of one that is skipped.
        verify: "every" compares every value of every answer with the network's own, probes among them;
            "probes" compares those only; with "none" there are no probes either.
        after_alarm: "refuse" stops at an owner's first alarm, "continue" asks nevertheless.
        server: its address, for the ledger. prepare: makes probes, once samples are known to be good.

    Raises:
        AlarmError: an earlier call ended with an alarm.
        InputError: bad samples, or with "raise" samples that would overflow; nothing has been encrypted then.
    """

    def __init__(
        self,
        keys: Keys,
        verifier: Verifier,
        x: Any,
        probes: Wish = 8,
        checks: Sequence[Callable[[NDArray[np.int64]], Check]] = (),
        outliers: str = "raise",
        verify: str = "every",
        after_alarm: str = "refuse",
        server: str = "",
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._verify = choice(verify, "verify", VERIFY)
        verifier.ledger.allow(after_alarm)
        signature = verifier.signature
        self._verifier, self._output = verifier, signature.output
        self._screened = verifier.screened(x, outliers)
        flat = self._screened.samples
        wish = self._wish(0 if verify == "none" else probes)
        if wish.count or wish.fill:
            prepare()
        known = verifier.probes if wish.count or wish.fill else None
        if known is None:
            wish = Probes(0, fill=False)
        natural = known.fingerprint.natural if known else ()
        self._placement: Placement = place(
            len(flat), signature.program.batch, wish, len(known.fingerprint) if known else 0, natural=natural
        )
        samples = known.fingerprint.samples if known else np.zeros((0, flat.shape[1]))
        values = self._placement.assemble(flat, samples, verifier.neutral)
        asked = len(flat) - len(self._screened.skipped)
        self._entry = verifier.ledger.ask(len(values), asked, verify, server)
        verifier.ledger.allow(after_alarm)  # of another process, meanwhile
        every = [verifier.every()] if verify == "every" else []
        makers: tuple[Callable[[NDArray[np.int64]], Check], ...] = (
            *([partial(ProbeCheck, known, verifier.tolerances)] if known else ()),
            lambda lanes: RangeCheck(verifier.reach),
            *(lambda lanes, make=make: make() for make in every),
            *checks,
        )

        def batch(number: int) -> Batch:
            lanes, checks = self._placement.probe[number], list[Check]()
            checks += [make(lanes) for make in makers]
            return Batch(keys, signature, values[number], number, checks, self._entry.see)

        self._batch = batch
        self.batches = [batch(number) for number in range(len(values))]

    @staticmethod
    def _wish(probes: Wish) -> Probes:
        if isinstance(probes, Probes):
            return probes
        if isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 0:
            raise InputError(f"probes must be a number from 0 or a Probes, got {probes!r}")
        return Probes(int(probes), fill=bool(probes > 0))

    @property
    def unanswered(self) -> list[int]:
        """Numbers of the batches without an answer."""
        return [number for number, batch in enumerate(self.batches) if batch.answer is None]

    def again(self, numbers: Sequence[int]) -> list[list[Batch]]:
        """These batches of each stream that is asked, from their beginning. Those that were begun are asked
        anew, encrypted afresh, and count as served once more: the same samples and probes in the same lanes.
        """
        begun = [number for number in numbers if self.batches[number].begun]
        self._entry.more(len(begun))
        for number in begun:
            self.batches[number] = self._batch(number)
        return [[self.batches[number] for number in numbers]]

    def part(self, number: int) -> AnswerPart:
        """What a batch that has its answer says of the samples in it."""
        batch, row = self.batches[number], self._placement.data[number]
        assert batch.answer is not None
        here = np.flatnonzero(row != EMPTY)
        here = here[np.isin(row[here], self._screened.skipped, invert=True)]
        return AnswerPart.of(self._output, row[here], batch.answer[here], batch.alarms)

    def broken_off(self) -> str:
        """Of a call that ended too early: its first alarm, which its entry keeps, or nothing."""
        alarms = [alarm for batch in self.batches for alarm in batch.alarms]
        if alarms:
            self._entry.end(0, 0, 0, alarms)
        return alarms[0] if alarms else ""

    def answer(self, timings: dict[str, float], traffic: dict[str, int]) -> Answer:
        """The answer of a call all of whose batches are finished."""
        answers = [batch.answer for batch in self.batches]
        if any(found is None for found in answers):
            raise ProtocolError("the server left a query without an answer")
        return answer_of(
            self._output, self._placement.collect(np.array(answers)), self._report(), timings, traffic
        )

    @property
    def _values(self) -> ValueCheck | None:
        """What compared all values: of all batches, the most blind."""
        checks = [check for batch in self.batches for check in batch.checks]
        found = [check for check in checks if isinstance(check, ValueCheck)]
        return max(found, key=lambda check: check.blind.change, default=None)

    @property
    def _checked(self) -> int:
        """Samples of batches without an alarm, after which values are compared no more."""
        pairs = zip(self._placement.data, self.batches, strict=True)
        quiet = [row for row, batch in pairs if not batch.alarms]
        held = np.concatenate([np.zeros(0, dtype=np.int64), *quiet])
        return int(np.isin(held[held != EMPTY], self._screened.skipped, invert=True).sum())

    def _report(self) -> Report:
        alarms = tuple(alarm for batch in self.batches for alarm in batch.alarms)
        compared = [batch.compared(ProbeCheck.name) for batch in self.batches]
        probes = sum(answers for _, answers in compared)
        ledger = self._verifier.ledger
        values, points = self._values, len(self._verifier.signature.checkpoints) - 1
        every = values is not None and values.points == points
        checked = self._checked if values and values.points else 0
        alarmed = sum(
            answers for (_, answers), batch in zip(compared, self.batches, strict=True) if batch.alarms
        )
        self._entry.end(probes, alarmed, checked if every else 0, alarms)
        lanes, forced = self._placement.data.size, min(self._placement.forced, probes)
        fractions = detection_by_fraction(lanes, probes, forced=forced) if probes else {}
        if values is not None and every:
            fractions = dict.fromkeys(fractions or FRACTIONS, 1.0 - values.blind.chance)
        return Report(
            how=values.name if values else RecomputeCheck.name,
            checked=checked,
            points=values.points if values else 0,
            open=points - values.points if values else 0,
            blind=values.blind if values and values.points else None,
            alterable=0 if every else alterable(lanes, probes, forced=forced),
            passed=not alarms,
            probes=probes,
            checkpoints=sum(refreshes for refreshes, _ in compared),
            worst_ratio=max((batch.worst for batch in self.batches), default=0.0),
            alarms=alarms,
            detection=fractions,
            bound=upper_bound_tampered(ledger.checked, ledger.alarmed) if ledger.checked else 1.0,
            skipped=tuple(self._screened.skipped.tolist()),
            clipped=tuple(self._screened.clipped.tolist()),
        )
