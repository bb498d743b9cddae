"""A check of answers sees, for every lane, what was sent and what came back, and says what is wrong.

A batch has one object of each kind of check, which may keep what it needs from one checkpoint to the next.
Verdicts stay with the client: nothing that the server sees may depend on one, but for the zeros that all
later refreshes of a batch with an alarm carry (see `securedl.client.batch`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from securedl.network.graph import Array
from securedl.verify.report import Blind


@dataclass(frozen=True, eq=False)
class Segment:
    """What the server ran between two checkpoints, for every lane.

    Attributes:
        point: number of the checkpoint at its end; 0 is the query, so from 1.
        sent: normalised values [batch, features] that were encrypted at the checkpoint before, or that were
            decrypted there where it is a tap.
        received: normalised values [batch, features] that were decrypted at this one.
        where: the checkpoint, for people.
    """

    point: int
    sent: Array
    received: Array
    where: str


@dataclass(frozen=True)
class Finding:
    """What one check found in one segment.

    Attributes:
        compared: lanes compared with what they had to be.
        worst: largest deviation over its tolerance; above 1 is an alarm.
        alarms: what is wrong and where, short.
    """

    compared: int = 0
    worst: float = 0.0
    alarms: tuple[str, ...] = ()


class Check(ABC):
    """One way to check the answers of one batch.

    Attributes:
        name: what the batch keeps its findings under; no two checks of a batch have one name.
        later: whether it looks at a segment while the server works on the next one, so that nobody waits for
            it. What it finds takes effect one refresh later, and before the answer is given.
    """

    name: ClassVar[str]
    later: ClassVar[bool] = False

    @abstractmethod
    def segment(self, segment: Segment) -> Finding:
        """Look at a segment, in the order in which they run; its values cannot be written. What this raises
        becomes an alarm, and so does a `worst` that is not at most 1.
        """

    def refill(self, point: int, values: Array) -> None:  # noqa: B027 - most checks change nothing
        """Change, in place, the values [batch, features] that start the next segment; nothing by default."""


class ValueCheck(Check):
    """Compares all values of every lane, one way or another.

    Attributes:
        points: how many checkpoints it compares them at. blind: the largest change of a value that it may
            have missed so far.
    """

    points: int
    blind: Blind

    def _blinder(self, change: float, segment: Segment) -> None:
        if change > self.blind.change:
            self.blind = Blind(change, self.blind.chance, f"the {segment.where}")

    @staticmethod
    def _found(ratios: Array, segment: Segment) -> Finding:
        """From the largest deviation of each lane over its tolerance [batch]."""
        wrong = int((ratios > 1).sum())
        alarms = (f"{wrong} lane(s) differ from the network's at the {segment.where}",) if wrong else ()
        return Finding(len(ratios), float(ratios.max()), alarms)


class RangeCheck(Check):
    """No honest value leaves the range that the scheme decrypts.

    Args:
        limit: largest magnitude.
    """

    name = "range"

    def __init__(self, limit: float) -> None:
        self._limit = limit

    def segment(self, segment: Segment) -> Finding:
        """Every value of every lane; NaN is out of range."""
        reach = float(np.abs(segment.received).max())
        if reach <= self._limit:
            return Finding()
        return Finding(alarms=(f"a value of {reach:.3g} at the {segment.where} is out of range",))
