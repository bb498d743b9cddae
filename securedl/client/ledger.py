"""What an owner's key has served, and what its probes have seen: kept with the owner from call to call."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from securedl.errors import InputError

#: Batches that one key may serve.
KEY_TERM = 1 << 20


@dataclass
class Ledger:
    """Counts of all calls so far.

    Attributes:
        checked: probe answers compared. alarmed: those in batches with an alarm. batches: ciphertext batches
            asked under this key.
    """

    checked: int = 0
    alarmed: int = 0
    batches: int = 0

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
