"""What an owner's key has served, and what its probes have seen: kept with the owner from call to call."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import choice
from securedl.errors import AlarmError

#: Batches that one key may serve.
KEY_TERM = 1 << 20
#: From this part of them on there is a warning.
WARN_FROM = 0.9
#: What a call does after an alarm in an earlier one.
AFTER_ALARM = ("refuse", "continue")


@dataclass
class Ledger:
    """Counts of all calls so far.

    Attributes:
        checked: probe answers compared. alarmed: those in batches with an alarm. batches: ciphertext batches
            asked under this key. alarms: calls with an alarm.
    """

    checked: int = 0
    alarmed: int = 0
    batches: int = 0
    alarms: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def allow(self, after_alarm: str) -> None:
        """Stop at the first alarm, unless the caller wants to go on.

        Each time that a server sees whether its owner goes on it learns a bit of what it tried to find out;
        132 such reactions gave one slot of the key.

        Raises:
            AlarmError: there was one, and `after_alarm` is not "continue". InputError: it is no such word.
        """
        refuse = choice(after_alarm, "after_alarm", AFTER_ALARM) == "refuse"
        with self.turn(lasting=False):
            pass  # other processes' alarms count too
        if refuse and self.alarms:
            raise AlarmError(
                f"{self.alarms} earlier call(s) of this owner ended with an alarm: the server's answers were "
                "not the network's. Let the server see no reaction; make a new Owner of the plan for another "
                "one. after_alarm='continue' asks nevertheless"
            )

    def ask(self, batches: int, samples: int = 0, verify: str = "every", server: str = "") -> Entry:
        """Enter a call, before anything of it is sent, and count its batches against the key's fixed term.

        Args:
            samples: that are asked, probes not among them. verify: how they are checked. server: its address,
                if known.

        An owner who reacts to alarms leaks at most log2(Q + 1) bits over Q queries, and the term bounds Q:
        near its end, and beyond it, there is a warning.
        """
        with self.turn():
            self.batches += batches
            entry = Entry(self, self.enter(batches, samples, verify, server))
        if self.batches > WARN_FROM * KEY_TERM:
            warnings.warn(
                f"this key has served more than {100 * WARN_FROM:.0f} % of its term of {KEY_TERM:,} batches: "
                "Owner.rotate() makes an owner with another key; upload it, and exchange its kits",
                stacklevel=5,
            )
        return entry

    @contextmanager
    def turn(self, lasting: bool = True) -> Iterator[None]:
        """The time in which counts are read and changed: nobody else's counting comes between.

        Args:
            lasting: what was counted outlives a failure of power when the block ends.
        """
        with self._lock:
            yield

    def enter(self, batches: int, samples: int, verify: str, server: str) -> int:
        """Write that a call is asked, within a turn; the number of its entry."""
        return 0

    def note(self, number: int, alarm: bool) -> None:
        """Write that one more checkpoint of a call was seen, and whether there has been an alarm."""

    def conclude(
        self, number: int, seconds: float, probes: int, alarmed: int, recomputed: int, alarms: Sequence[str]
    ) -> None:
        """Write a call's verdict, within a turn."""

    def to_array(self) -> NDArray[np.int64]:
        """For the owner's file."""
        return np.array(astuple(self))

    @classmethod
    def from_array(cls, counts: NDArray[np.int64]) -> Ledger:
        """The inverse of `to_array`."""
        return cls(*(int(count) for count in counts))


class Entry:
    """One call in a ledger: that it was asked, what its checkpoints showed so far, and the verdict."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        self._ledger, self._number = ledger, number
        self._alarm, self._began = False, time.monotonic()

    def more(self, batches: int) -> None:
        """So many batches of the call are asked again, since the server went away."""
        if batches:
            with self._ledger.turn():
                self._ledger.batches += batches

    def see(self, alarm: bool) -> None:
        """One more checkpoint, and whether there has been an alarm: at once, for a call may never end.

        The same is done in either case: a server sees how long it takes.
        """
        first, counted = alarm and not self._alarm, False
        self._alarm = self._alarm or alarm
        try:
            with self._ledger.turn(lasting=False):
                self._ledger.alarms, counted = self._ledger.alarms + first, True
                self._ledger.note(self._number, self._alarm)
        finally:  # this process knows, even if it cannot write
            self._ledger.alarms += first and not counted

    def end(self, probes: int, alarmed: int, recomputed: int, alarms: Sequence[str]) -> None:
        """The verdict.

        Args:
            probes: answers of probes compared. alarmed: those in batches with an alarm. recomputed: answers
                compared with the network's own, in batches without an alarm. alarms: what differed and where.
        """
        seconds = time.monotonic() - self._began
        with self._ledger.turn():
            self._ledger.checked += probes
            self._ledger.alarmed += alarmed
            self._ledger.conclude(self._number, seconds, probes, alarmed, recomputed, alarms)
