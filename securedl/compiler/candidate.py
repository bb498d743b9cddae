"""Plans before they are made, and which of them is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from securedl.compiler.cost import EXPECTED_QUERIES
from securedl.errors import CompileError, UnsupportedLayerError
from securedl.plan.plan import Plan
from securedl.plan.signature import Cost


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan that can be made.

    Attributes:
        name: for people. cost: of a query of `samples`. once: milliseconds of preparation and upload.
        make: the plan, checked; a CompileError where it is not precise enough.
    """

    name: str
    samples: int
    cost: Cost
    once: float
    make: Callable[[], Plan]

    @property
    def ms(self) -> float:
        """Of a sample, with its share of what is paid once."""
        return (self.cost.total_ms + self.once / EXPECTED_QUERIES) / self.samples


def cheapest(sources: Sequence[Callable[[], Candidate]]) -> Plan:
    """The plan of the cheapest candidate that can be made.

    Raises:
        CompileError, UnsupportedLayerError: none can; the reason of the first source.
    """
    found, reasons = list[Candidate](), list[CompileError | UnsupportedLayerError]()
    for source in sources:
        try:
            found.append(source())
        except (CompileError, UnsupportedLayerError) as reason:
            reasons.append(reason)
    for candidate in sorted(found, key=lambda one: one.ms):
        try:
            return candidate.make()
        except CompileError as reason:
            reasons.append(reason)
    raise reasons[0]
