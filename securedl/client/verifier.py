"""What a client verifies answers by: an owner's knowledge of the weights, or what it was granted of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from securedl.client.ledger import Ledger
from securedl.client.tolerances import Tolerance
from securedl.network.graph import Array
from securedl.plan.network import Exchange, of, under
from securedl.plan.outliers import Screened
from securedl.plan.signature import Signature
from securedl.verify.check import ValueCheck
from securedl.verify.fingerprint import Fingerprint


@dataclass(frozen=True, eq=False, repr=False)
class Probed:
    """A fingerprint with what a probe is at each checkpoint.

    Attributes:
        exchanges: for each segment what a probe sends and must receive, float64 [probes, features]; or
            nothing, [0, 0], where that is not known.
        grown: for each segment how much larger its errors may be [probes], where lanes are apart
            (`Tolerance`).
    """

    fingerprint: Fingerprint
    exchanges: tuple[Exchange, ...]
    grown: tuple[Array, ...]

    def to_arrays(self) -> dict[str, Any]:
        """For a file."""
        found = under("sample", self.fingerprint.to_arrays())
        for number, ((sent, received), grown) in enumerate(zip(self.exchanges, self.grown, strict=True)):
            found |= {f"sent{number}": sent, f"received{number}": received, f"grown{number}": grown}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], segments: int) -> Probed:
        """The inverse of `to_arrays`."""
        exchanges = tuple(Exchange(arrays[f"sent{k}"], arrays[f"received{k}"]) for k in range(segments))
        grown = tuple(arrays[f"grown{k}"] for k in range(segments))
        return cls(Fingerprint.from_arrays(of("sample", arrays)), exchanges, grown)


class Verifier(ABC):
    """One side's knowledge of a model; what has been seen so far is in its ledger."""

    ledger: Ledger

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """Of the model."""

    @property
    @abstractmethod
    def tolerances(self) -> list[Tolerance]:
        """Of each segment."""

    @property
    @abstractmethod
    def probes(self) -> Probed | None:
        """Samples whose answers are known; None where there are none."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """What no honest value that is received exceeds."""

    @property
    @abstractmethod
    def neutral(self) -> Array:
        """A sample [features] that does not overflow."""

    @abstractmethod
    def screened(self, x: Any, outliers: str) -> Screened:
        """Samples [samples, ...] that can be encrypted; which were left out or clipped.

        Raises:
            InputError: wrong shape, NaN or infinite; with outliers="raise", a sample that would overflow.
        """

    @abstractmethod
    def every(self) -> Callable[[], ValueCheck]:
        """Makes what compares all values of a batch; what is drawn for it is drawn once, for the call."""
