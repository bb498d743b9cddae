"""Queries of two plans in turns, in one process."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from bench.models.measure import Together
from securedl.plan.plan import Plan


def in_turns(plans: tuple[Plan, Plan], x: NDArray[Any], queries: int) -> list[dict[str, float]]:
    """Median milliseconds of each one's queries, by who works."""
    together = [Together(plan) for plan in plans]
    batches = [plan.batches(plan.signature.clipped(plan.signature.flat(x))) for plan in plans]
    for number in range(queries):
        for one, some in zip(together, batches, strict=True):
            one.ask(some[number % len(some)])
    return [one.stages.medians() for one in together]
