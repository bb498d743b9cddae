"""What forward and inverse transforms on 52-bit integers share: the table of one prime.

Rows hold doubles before and after a transform, and words between its passes.

Both directions read one table, so that those of five primes take 0.65 megabytes of the second-level cache.
psi^N = -1, and so the inverse of the twiddle of block i, at a level of m blocks, is minus that of block
m - 1 - i: the inverse subtracts the other way round and reads the table backwards, and within vectors has its
lanes reversed.
"""

from __future__ import annotations

from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.words import Words

#: How a forward transform keeps its values small.
NEVER, TWICE, OFTEN = -1, -2, -3
#: Most bits of a prime for each.
LARGEST_BITS = {NEVER: 46, TWICE: 48, OFTEN: 49}

#: Octets of the twiddles of a leading or middle block: 15 and their 15 quotients, each padded to 16.
RADIX_OCTETS = 256


def both(lanes: Lanes, a: Value, b: Value, masks: tuple[list[int], list[int]]) -> tuple[Value, Value]:
    return lanes.shuffle(a, b, masks[0]), lanes.shuffle(a, b, masks[1])


def closing_octets(depth: int) -> int:
    """Octets of the twiddles of a closing block: 2^depth vectors, `depth` levels across and three within.

    Twiddles across and their quotients (2^depth words each); then for every pair of vectors two twiddles and
    quotients of halves, four of quarters, eight of singles.
    """
    return 128 << depth


def inner_twiddles(words: Words, start: Value, depth: int, level: int, pair: int) -> tuple[Value, Value]:
    """Twiddles of a level within vectors (0: halves, 1: quarters, 2: singles), and their quotients."""
    count = 1 << depth
    before = (16 * count, 32 * count, 64 * count)[level]  # octets of what comes first
    size = 16 << level
    at = before + 2 * size * pair
    load = words.lanes.load_repeated
    return load(start, at, 2 << level), load(start, at + size, 2 << level)
