"""What one call's checks found. The owner keeps it: nothing of it goes back to the server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN_ALARMS = 3
SHOWN_SAMPLES = 10


@dataclass(frozen=True)
class Report:
    """The verdict of one call.

    Attributes:
        passed: no alarm.
        probes: how many probe answers were compared. checkpoints: how many comparisons at refreshes.
        worst_ratio: largest deviation / tolerance of all; above 1 is an alarm.
        alarms: what differed and where, short.
        detection: fraction of answers tampered with -> chance that this call would have shown it.
        bound: at 95 % confidence, the fraction tampered with is at most this, after everything seen.
        skipped, clipped: samples that would have overflowed: not asked, or moved into the plan's range.
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

    def summary(self) -> str:
        """A few lines for a person."""
        verdict = "passed" if self.passed else f"FAILED, {_count(len(self.alarms), 'alarm')}"
        if not self.probes and not self.checkpoints and self.passed:
            verdict = "nothing was checked"
        lines = [
            f"verification: {verdict}",
            f"  {_count(self.probes, 'probe')} and {_count(self.checkpoints, 'checkpoint')} compared; "
            f"largest deviation {self.worst_ratio:.3g} x its tolerance",
        ]
        if self.alarms:
            more = len(self.alarms) - SHOWN_ALARMS
            lines.append(
                "  " + "; ".join(self.alarms[:SHOWN_ALARMS]) + (f"; and {more} more" if more > 0 else "")
            )
        chances = ", ".join(f"{f:.3g} -> {100 * p:.3g} %" for f, p in sorted(self.detection.items()))
        shown = f"tampered fraction -> chance to notice: {chances}; " if chances else ""
        lines.append(f"  {shown}at most {100 * self.bound:.2g} % tampered with (95 % confidence)")
        lines += [f"  {line}" for line in self.outliers]
        return "\n".join(lines)

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
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
