"""What one call's checks found. The owner keeps it: nothing of it goes back to the server."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SHOWN_ALARMS = 3
SHOWN_SAMPLES = 10


@dataclass(frozen=True)
class Blind:
    """The largest change of one value that a comparison may miss.

    Attributes:
        change: in parts of what the value reaches on the calibration data; 0 where values are whole numbers
            and any change counts. chance: of a miss. where: the least exact segment; elsewhere smaller
            changes are seen. Where change is 0, what the chance is that of.
    """

    change: float
    chance: float
    where: str


@dataclass(frozen=True)
class Report:
    """The verdict of one call.

    Attributes:
        passed: no alarm.
        probes: how many probe answers were compared. checkpoints: how many comparisons at refreshes.
        worst_ratio: largest deviation / tolerance of all; above 1 is an alarm.
        alarms: what differed and where, short.
        detection: fraction of answers tampered with -> chance that this call would have shown it, of changes
            that are larger than `blind` says, or that show on a probe.
        bound: at 95 % confidence, the fraction tampered with is at most this, after everything seen.
        skipped, clipped: samples that would have overflowed: not asked, or moved into the plan's range.
        checked: answers of which every value was compared with the network's own. how: each by itself
            ("recomputed"), or all in secret random combinations ("projected"). points: checkpoints at which
            they were, the answer among them. open: those at which they could not be. blind: what such a
            comparison may miss.
        alterable: where only probes are compared, so many answers could be altered before it were noticed
            with 95 %.
    """

    passed: bool
    probes: int
    checkpoints: int
    worst_ratio: float
    alarms: tuple[str, ...] = ()
    detection: Mapping[float, float] = field(default_factory=dict)
    bound: float = 1.0
    skipped: tuple[int, ...] = ()
    clipped: tuple[int, ...] = ()
    checked: int = 0
    how: str = "recomputed"
    points: int = 0
    open: int = 0
    blind: Blind | None = None
    alterable: int = 0

    def summary(self) -> str:
        """A few lines for a person."""
        verdict = "passed" if self.passed else f"FAILED, {_count(len(self.alarms), 'alarm')}"
        if not self.probes and not self.checkpoints and not self.checked and self.passed:
            verdict = "nothing was checked"
        probes = f"{_count(self.probes, 'probe')} and {_count(self.checkpoints, 'checkpoint')} compared"
        exact = self.blind is not None and not self.blind.change
        largest = "" if exact else f"; largest deviation {self.worst_ratio:.3g} x its tolerance"
        lines = [f"verification: {verdict}"]
        if self.blind is not None and self.checked:
            answers = "the one answer" if self.checked == 1 else f"{self.checked} answers"
            answers = f"all {answers}" if self.passed and self.checked > 1 else answers
            at = f"at {_count(self.points, 'checkpoint')}"
            lines.append(f"  {answers} {self.how}, every value {at}{largest}")
        else:
            lines.append(f"  {probes}{largest}")
        if self.alarms:
            more = len(self.alarms) - SHOWN_ALARMS
            lines.append(
                "  " + "; ".join(self.alarms[:SHOWN_ALARMS]) + (f"; and {more} more" if more > 0 else "")
            )
        if self.checked:
            lines += [f"  {line}" for line in self._not_seen]
        if self.blind is None or self.open:
            lines += [f"  {line}" for line in self._chances]
        lines += [f"  {line}" for line in self.outliers]
        return "\n".join(lines)

    @property
    def _not_seen(self) -> list[str]:
        """Of a call all of whose answers were compared."""
        assert self.blind is not None
        missing = f"what is done before {_count(self.open, 'other checkpoint')}, " if self.open else ""
        if not self.blind.change:
            exact = "compared exactly: no wrong value passes"
            chance = f"a wrong value passes with a chance of {self.blind.chance:.1e} ({self.blind.where})"
            broken = "broken encryption, and " if self.blind.chance else ""
            return [
                chance if self.blind.chance else exact,
                f"not covered: {missing}{broken}what a server learns from how you react",
            ]
        change, chance = f"{self.blind.change:.2g}", f"1 in {1 / self.blind.chance:,.0f}"
        return [
            f"a change of more than {change} of a value's reach is missed with a chance below {chance} "
            f"(worst: {self.blind.where})",
            f"not covered: {missing}smaller changes, and what a server learns from how you react",
        ]

    @property
    def _chances(self) -> list[str]:
        """Of a call whose probes were compared alone."""
        chances = ", ".join(f"{f:.3g} -> {100 * p:.3g} %" for f, p in sorted(self.detection.items()))
        shown = f"tampered fraction -> chance to notice: {chances}; " if chances else ""
        lines = [f"{shown}at most {100 * self.bound:.2g} % tampered with (95 % confidence)"]
        if self.alterable:
            lines.append(f"{_count(self.alterable, 'answer')} could be altered before 95 % notice it")
        return lines

    @property
    def outliers(self) -> list[str]:
        """What was done about samples that would have overflowed, for a person."""
        lines = []
        for done, samples in (("skipped", self.skipped), ("clipped", self.clipped)):
            if samples:
                more = ", ..." if len(samples) > SHOWN_SAMPLES else ""
                first = ", ".join(str(sample) for sample in samples[:SHOWN_SAMPLES])
                lines.append(f"{_count(len(samples), 'sample')} {done}, out of range: {first}{more}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """For JSON: fractions as text, and null for a ratio that is not finite."""
        return {
            "passed": self.passed,
            "probes": self.probes,
            "checkpoints": self.checkpoints,
            "worst_ratio": self.worst_ratio if math.isfinite(self.worst_ratio) else None,
            "alarms": list(self.alarms),
            "detection": {f"{f:g}": p for f, p in sorted(self.detection.items())},
            "bound": self.bound,
            "skipped": list(self.skipped),
            "clipped": list(self.clipped),
            "checked": self.checked,
            "how": self.how,
            "points": self.points,
            "open": self.open,
            "blind": None if self.blind is None else _finite(asdict(self.blind)),
            "alterable": self.alterable,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Report:
        """The inverse of `to_dict`."""
        blind = found["blind"]
        return cls(**{
            **found,
            "worst_ratio": _number(found["worst_ratio"]),
            "alarms": tuple(found["alarms"]),
            "detection": {float(f): p for f, p in found["detection"].items()},
            "skipped": tuple(found["skipped"]),
            "clipped": tuple(found["clipped"]),
            "blind": None if blind is None else Blind(**{**blind, "change": _number(blind["change"])}),
        })  # fmt: skip


def together(reports: Sequence[Report], firsts: Sequence[int], bound: float) -> Report:
    """Of a job that was asked in several calls of one owner.

    Of a fraction of all answers that is tampered with, some call has that fraction at least: its chance to
    show it is not below the least of all calls. Who stays unnoticed in the job is so in each call.

    Args:
        reports: one of each call. firsts: which sample of the job is the first of each. bound: after all.
    """
    first, *_ = reports
    blind = [one.blind for one in reports if one.blind is not None]
    pairs = list(zip(firsts, reports, strict=True))
    return Report(
        passed=all(one.passed for one in reports),
        probes=sum(one.probes for one in reports),
        checkpoints=sum(one.checkpoints for one in reports),
        worst_ratio=max(one.worst_ratio for one in reports),
        alarms=tuple(f"from sample {start} on: {alarm}" for start, one in pairs for alarm in one.alarms),
        detection={
            fraction: min(one.detection.get(fraction, 0.0) for one in reports) for fraction in first.detection
        },
        bound=bound,
        skipped=tuple(start + k for start, one in pairs for k in one.skipped),
        clipped=tuple(start + k for start, one in pairs for k in one.clipped),
        checked=sum(one.checked for one in reports),
        how=first.how,
        points=max(one.points for one in reports),
        open=max(one.open for one in reports),
        blind=max(blind, key=lambda one: (one.change, one.chance), default=None),
        alterable=sum(one.alterable for one in reports),
    )


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value == math.inf else value for key, value in fields.items()}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
