"""Plans before they are made, which of them is made, and what the others would have cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from securedl.compiler.cost import EXPECTED_QUERIES, CoefficientPrices, SlotsCost
from securedl.errors import CompileError, UnsupportedLayerError
from securedl.plan.plan import Plan
from securedl.plan.signature import Cost, Link
from securedl.plan.summary import shown_ms
from securedl.progress import SILENT, Steps

#: Runners-up that a plan tells of.
TOLD = 3


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan as it would be.

    Attributes:
        name: for people. cost: of a query of `samples`. once: milliseconds of preparation and upload, which
            `queries` share.
        make: the plan, checked; a CompileError where it is not precise enough. None for what was not asked
            for, which is only told.
    """

    name: str
    samples: int
    cost: Cost
    once: float
    queries: int = EXPECTED_QUERIES
    make: Callable[[], Plan] | None = None

    @property
    def ms(self) -> float:
        """Of a sample, with its share of what is paid once."""
        return (self.cost.total_ms + self.once / self.queries) / self.samples

    @property
    def line(self) -> str:
        """What it would cost, in words."""
        cost = self.cost
        parts = (("server", cost.server_ms), ("client", cost.client_ms), ("link", cost.link_ms))
        stages = ", ".join(f"{who} {shown_ms(ms)}" for who, ms in parts)
        return f"{self.name}: {shown_ms(self.ms)} ms a sample ({stages} ms for {self.samples})"


def cheapest(sources: Sequence[Callable[[], Sequence[Candidate]]], steps: Steps = SILENT) -> Plan:
    """The plan of the cheapest candidate that can be made; the others are its runners-up.

    Args:
        steps: is told after each source, and after the plan was made.

    Raises:
        CompileError, UnsupportedLayerError: none can; the reason of the first source.
    """
    found, reasons = list[Candidate](), list[CompileError | UnsupportedLayerError]()
    for number, source in enumerate(sources):
        steps(number, len(sources) + 1)
        try:
            found += source()
        except (CompileError, UnsupportedLayerError) as reason:
            reasons.append(reason)
    steps(len(sources), len(sources) + 1)
    for one in sorted(found, key=lambda one: one.ms):
        if one.make is None:
            continue
        try:
            return told(one.make(), [other for other in found if other is not one])
        except CompileError as reason:
            reasons.append(reason)
            found.remove(one)
    raise reasons[0]


def with_price_of_taps(plan: Plan, link: Link, prices: CoefficientPrices) -> Plan:
    """The plan with a line on what it would cost to show the client the results of all matrices."""
    cost = plan.signature.cost
    for program in plan.signature.channels:
        price = SlotsCost(program.params, link, prices)
        cost = sum((price.transfer(port.tiles, 0, fresh=False) for port in program.hidden), cost)
    if cost == plan.signature.cost:
        return plan
    same = Candidate("the same with taps (checked_by='client')", plan.batch, cost, 0.0)
    return plan.with_runners_up([same.line, *plan.runners_up])


def told(plan: Plan, others: Sequence[Candidate]) -> Plan:
    """The plan with its runners-up, the cheapest first."""
    best = sorted(others, key=lambda one: one.ms)[:TOLD]
    return plan.with_runners_up(one.line for one in best)
