"""One predict call of a plan with several channels: all are asked the same samples, answers are joined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from securedl.client.batch import Batch
from securedl.client.inference import Answer, AnswerPart, Inference, answer_of
from securedl.network.graph import Array
from securedl.plan.plan import Plan
from securedl.verify.report import Report


class JoinedInference:
    """See `Inference`.

    Args:
        plan: the whole. parts: a call of each channel, of the same samples.
    """

    def __init__(self, plan: Plan, parts: Sequence[Inference]) -> None:
        self._signature, self.parts = plan.signature, parts
        self._residues: list[dict[int, Array]] = [{} for _ in parts]
        self._alarms: dict[int, list[str]] = {}  # of samples that other channels have yet to answer

    @property
    def batches(self) -> list[Batch]:
        """Those of all channels."""
        return [batch for part in self.parts for batch in part.batches]

    @property
    def unanswered(self) -> list[int]:
        """Numbers of the batches without an answer of every channel."""
        return sorted({number for part in self.parts for number in part.unanswered})

    def again(self, numbers: Sequence[int]) -> list[list[Batch]]:
        """See `Inference`: of all channels."""
        return [line for part in self.parts for line in part.again(numbers)]

    def part(self, number: int) -> AnswerPart:
        """See `Inference`: samples that all channels have answered by now, joined; they stand in other
        batches of each, and each brings the alarms of all its batches.
        """
        alarms = list[str]()
        for known, part in zip(self._residues, self.parts, strict=True):
            found = part.part(number)
            alarms += () if len(found.samples) else found.alarms
            for sample in found.samples.tolist() if found.alarms else ():
                self._alarms.setdefault(sample, []).extend(found.alarms)
            known.update(
                zip(found.samples.tolist(), found.logits.reshape(len(found.logits), -1), strict=True)
            )
        ready = sorted(set.intersection(*(set(known) for known in self._residues)))
        for sample in ready:
            alarms += self._alarms.pop(sample, ())
        residues = [np.array([known.pop(k) for k in ready]) for known in self._residues]
        outputs = len(self._signature.output_scale)
        logits = self._signature.joined(residues) if ready else np.zeros((0, outputs))
        alarms = list(dict.fromkeys(alarms))
        return AnswerPart.of(self._signature.output, np.array(ready, np.int64), logits, alarms)

    def broken_off(self) -> str:
        """Of a call that ended too early: its first alarm, which its entries keep, or nothing."""
        return next(filter(None, [part.broken_off() for part in self.parts]), "")

    def answer(self, timings: dict[str, float], traffic: dict[str, int]) -> Answer:
        """The answer of a call all of whose batches are finished."""
        found = [part.answer(timings, traffic) for part in self.parts]
        logits = self._signature.joined([one.logits for one in found])
        return answer_of(
            self._signature.output, logits, worst_of([one.report for one in found]), timings, traffic
        )


def worst_of(reports: Sequence[Report]) -> Report:
    """What can be said of answers that are right where those of all channels are: each figure is the worst
    channel's, for a server may tamper with one alone.
    """
    first, *_ = reports
    blind = [one.blind for one in reports if one.blind is not None]
    alarms = [(number, alarm) for number, one in enumerate(reports, 1) for alarm in one.alarms]
    return Report(
        how=first.how,
        checked=min(one.checked for one in reports),
        points=first.points,
        open=first.open,
        blind=max(blind, key=lambda one: one.chance) if len(blind) == len(reports) else None,
        alterable=max(one.alterable for one in reports),
        passed=all(one.passed for one in reports),
        probes=min(one.probes for one in reports),
        checkpoints=min(one.checkpoints for one in reports),
        worst_ratio=float(np.max([one.worst_ratio for one in reports])),
        alarms=tuple(f"channel {number}: {alarm}" for number, alarm in alarms),
        detection={
            fraction: min(one.detection.get(fraction, 0.0) for one in reports) for fraction in first.detection
        },
        bound=max(one.bound for one in reports),
        skipped=first.skipped,
        clipped=first.clipped,
    )
