"""The smallest modulus chain of BGV in which the noise of a program fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice, permutations

from securedl.he.params import MAX_PRIME_BITS, SPECIAL_BITS, ntt_primes

#: Bits of a prime above those of t from which the search starts, and the least.
MOST_ABOVE, LEAST_ABOVE = 24, 1
#: The largest prime beside which there is a special one.
LARGEST_PRIME_BITS = MAX_PRIME_BITS - SPECIAL_BITS


def chain_bits(bits: Sequence[int]) -> int:
    """Of all primes and the special one."""
    return sum(bits) + max(bits) + SPECIAL_BITS


def smallest_chain(fits: Callable[[Sequence[int]], bool], plain_bits: int, primes: int) -> list[int] | None:
    """Bits of each prime, the last to remain first; None where noise does not fit the largest ones.

    All shrink in turn, a bit at a time, as long as noise fits; then one grows by a bit where more can be
    spared for it. Of a cubic and a matrix it is the smallest of all chains; growing the prime of the level at
    which noise does not fit took 13 bits more.

    Args:
        fits: whether noise does. plain_bits: of t.
    """
    least = plain_bits + LEAST_ABOVE
    bits = [min(LARGEST_PRIME_BITS, plain_bits + MOST_ABOVE)] * primes
    if min(bits) < least or not fits(bits):
        return None
    shrinking = True
    while shrinking:
        shrinking = False
        for level in reversed(range(primes)):
            smaller = _moved(bits, {level: -1})
            if smaller[level] >= least and fits(smaller):
                bits, shrinking = smaller, True
    while (better := _traded(bits, fits, least)) is not None:
        bits = better
    return bits


def enough(ring: int, t: int, bits: Sequence[int]) -> bool:
    """Whether there are primes of these sizes above t, and one to spare."""
    return all(_above(ring, t, size, number + 1) for size, number in Counter(bits).items())


@lru_cache(maxsize=1024)
def _above(ring: int, t: int, size: int, number: int) -> bool:
    found = list(islice(ntt_primes(ring, size), number))
    return len(found) == number and min(found) > t


def _moved(bits: Sequence[int], by: dict[int, int]) -> list[int]:
    return [size + by.get(level, 0) for level, size in enumerate(bits)]


def _traded(bits: list[int], fits: Callable[[Sequence[int]], bool], least: int) -> list[int] | None:
    """A smaller chain next to this one."""
    levels = range(len(bits))
    trades = [{up: 1, down: -by} for up, down in permutations(levels, 2) for by in (2, 1)]
    trades += [{up: 1, one: -1, two: -1} for up, one, two in permutations(levels, 3) if one < two]
    for trade in trades:
        found = _moved(bits, trade)
        fair = (
            chain_bits(found) < chain_bits(bits) and max(found) <= LARGEST_PRIME_BITS and min(found) >= least
        )
        if fair and fits(found):
            return found
    return None
