"""What an owner's key has served, and what its probes have seen: kept with the owner from call to call."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from securedl.arguments import choice
from securedl.errors import AlarmError, InputError

#: Batches that one key may serve.
KEY_TERM = 1 << 20
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

    def allow(self, after_alarm: str) -> None:
        """Stop at the first alarm, unless the caller wants to go on.

        Each time that a server sees whether its owner goes on it learns a bit of what it tried to find out;
        132 such reactions gave one slot of the key.

        Raises:
            AlarmError: there was one, and `after_alarm` is not "continue". InputError: it is no such word.
        """
        if choice(after_alarm, "after_alarm", AFTER_ALARM) == "refuse" and self.alarms:
            raise AlarmError(
                f"{self.alarms} earlier call(s) of this owner ended with an alarm: the server's answers were "
                "not the network's. Let the server see no reaction; make a new Owner of the plan for another "
                "one. after_alarm='continue' asks nevertheless"
            )

    def ask(self, batches: int) -> None:
        """Count batches against the key's fixed term.

        Raises:
            InputError: the key has served its term; an owner who reacts to alarms leaks at most
                log2(Q + 1) bits over Q queries, and the term bounds Q.
        """
        if self.batches + batches > KEY_TERM:
            raise InputError(
                f"this key has served {self.batches} of {KEY_TERM} batches and cannot serve {batches} more: "
                "make a new Owner of the same plan and upload it"
            )
        self.batches += batches

    def to_array(self) -> NDArray[np.int64]:
        """For the owner's file."""
        return np.array(astuple(self))

    @classmethod
    def from_array(cls, counts: NDArray[np.int64]) -> Ledger:
        """The inverse of `to_array`."""
        return cls(*(int(count) for count in counts))
