"""Whether misses that were counted are as rare as they should be."""

from __future__ import annotations

from scipy.stats import poisson


def within(missed: int, expected: float) -> bool:
    """In the interval that holds 99 % of what so rare events are counted as."""
    low, high = (float(poisson.ppf(part, expected)) for part in (0.005, 0.995))
    return bool(low <= missed <= high)
