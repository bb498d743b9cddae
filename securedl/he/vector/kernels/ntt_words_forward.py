"""The forward transform on 52-bit integers.

Each level (X, Y) -> (X + s, X - s) with s = Y·w mod q, less q, in [-q, q): values move by at most q a level.
X + s is one sum of three products, X - s is 2X - (X + s). Values start with B = q·floor(2^51 / q) added, and
must stay within B of it, where B >= q·2^(51 - b) for a prime of b bits:

    bits    inputs |x|     reduced                                 largest distance from B
    <= 46   2^49           never                                   2^49 + 15 q < 2^51 - q
    47, 48  2^49           X on loading (to q) and before the      8 q <= B
                           last level of the middle pass
    49      2^49           X before the first and third level      4 q <= B
                           of each pass, and before the three
                           within vectors

N = 32768, whose closing pass has seven levels, does that pass at 47 and 48 bits as at 49.

A reduction gives [0, 2q) - q + B. Only X needs one: s is small whatever Y was. Primes of 50 bits go through
`ntt_doubles`.
"""

from __future__ import annotations

from typing import Any

from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel
from securedl.he.vector.kernels.ntt_words import (
    NEVER,
    OFTEN,
    RADIX_OCTETS,
    TWICE,
    both,
    closing_octets,
    inner_twiddles,
)
from securedl.he.vector.kernels.padding import block_count, padded_gap, plain_gap, skipped
from securedl.he.vector.kernels.words import HEADER_OCTETS, OFFSET, ONE, SMALL_OFFSET, Words

START_SIGNATURE = "void(int64,int64,int64,int64,int64,float64,float64,int64)"

# Pairs of vectors A, B = a0..a7, b0..b7 and the orders in which the last three levels see them, such that
# twiddles repeat and one load from memory spreads them.
_HALVES = ([0, 8, 1, 9, 2, 10, 3, 11], [4, 12, 5, 13, 6, 14, 7, 15])  # a0 b0 a1 b1.. | a4 b4 a5 b5..
_QUARTERS = ([0, 1, 8, 9, 2, 3, 10, 11], [4, 5, 12, 13, 6, 7, 14, 15])  # a0 b0 a4 b4 a1.. | a2 b2 a6 b6 a3..
_SINGLES = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])  # a0 b0 a4 b4 a2.. | a1 b1 a5 b5 a3..
_IN_ORDER = ([0, 8, 4, 12, 2, 10, 6, 14], [1, 9, 5, 13, 3, 11, 7, 15])  # A | B


class _Forward:
    """A forward pass under construction; `constants` is the address of the table."""

    def __init__(self, lanes: Lanes, constants: Value) -> None:
        self.words = Words(lanes)
        self.lanes = lanes
        self.constants = constants

    def offset(self) -> Value:
        return self.lanes.load_splat(self.constants, OFFSET)

    def reduce(self, x: list[Value], which: list[int]) -> None:
        """Registers back to within q of B."""
        words = self.words
        one = words.load_splat(self.constants, ONE)
        centre = words.sub(self.lanes.words_of(self.offset()), words.q)
        for k in which:
            x[k] = words.add(words.reduce(x[k], one), centre)

    def pair(self, x: Value, y: Value, w: Value, quotient: Value) -> tuple[Value, Value]:
        total = self.words.product_less(y, w, quotient, x)
        return total, self.words.sub(self.words.add(x, x), total)

    def network(
        self, x: list[Value], depth: int, twiddles: list[Value], gap: int, reduced: tuple[int, ...]
    ) -> None:
        """`depth` levels on 2^depth vectors for each of `twiddles`; quotients follow `gap` octets later.

        reduced: levels before which X is.
        """
        count = 1 << depth
        for level in range(depth):
            half = count >> (level + 1)
            pairs = [
                (first + half, table, group)
                for block, table in enumerate(twiddles)
                for group in range(1 << level)
                for first in range(count * block + 2 * half * group - half, count * block + 2 * half * group)
            ]
            if level in reduced:
                self.reduce(x, [a for a, _, _ in pairs])
            for a, table, group in pairs:
                at = 8 * ((1 << level) - 1 + group)
                w = self.words.load_splat(table, at)
                quotient = self.words.load_splat(table, at + gap)
                x[a], x[a + half] = self.pair(x[a], x[a + half], w, quotient)


#: Levels of a pass before which OFTEN reduces X.
_EVERY_SECOND = (0, 2)


def _forward_radix(depth: int, from_doubles: bool, *reduced: int) -> Any:
    @lane_kernel("iiiiiidd", ifma=True)
    def forward(
        lanes: Lanes, source: Value, source_gap: Value, target: Value, target_gap: Value, twiddles: Value,
        constants: Value,
    ) -> None:  # fmt: skip
        radix = 1 << depth
        work = _Forward(lanes, constants)
        places = lanes.apart(source, source_gap, radix)
        if from_doubles:
            offset = work.offset()
            x = [work.words.from_double(lanes.load(place), offset) for place in places]
        else:
            x = [lanes.load_words(place) for place in places]
        work.network(x, depth, [twiddles], RADIX_OCTETS // 2, reduced)
        for value, place in zip(x, lanes.apart(target, target_gap, radix), strict=True):
            lanes.store(value, place)

    return forward


def _closing(depth: int, blocks: int, often: bool) -> Any:
    """Forward levels on blocks of 8·2^depth values: `depth` across vectors, three within them."""

    @lane_kernel("iiidd", ifma=True)
    def closing(lanes: Lanes, data: Value, twiddles: Value, constants: Value) -> None:
        count = 1 << depth
        work = _Forward(lanes, constants)
        words = work.words
        x = [lanes.load_words(data, 64 * k) for k in range(count * blocks)]
        starts = [lanes.offset(twiddles, closing_octets(depth) * b) for b in range(blocks)]
        work.network(x, depth, starts, 8 * count, _EVERY_SECOND if often else ())
        firsts = range(0, count * blocks, 2)
        if often:
            for k in firsts:
                x[k], x[k + 1] = both(lanes, x[k], x[k + 1], _HALVES)
            work.reduce(x, list(firsts))
        for level, masks in enumerate((_HALVES, _QUARTERS, _SINGLES)):
            for k in firsts:
                a, b = (x[k], x[k + 1]) if often and level == 0 else both(lanes, x[k], x[k + 1], masks)
                w, quotient = inner_twiddles(words, starts[k // count], depth, level, k % count // 2)
                x[k], x[k + 1] = work.pair(a, b, w, quotient)
        for k in firsts:
            a, b = both(lanes, x[k], x[k + 1], _IN_ORDER)
            lanes.store(a, data, 64 * k)
            lanes.store(b, data, 64 * k + 64)

    return closing


# A leading pass of radix 8 (N = 4096) or 16, a middle pass, a closing pass for each ring.
leading8, leading16 = _forward_radix(3, True), _forward_radix(4, True)
leading8_twice, leading16_twice = _forward_radix(3, True, 0), _forward_radix(4, True, 0)
leading8_often, leading16_often = (_forward_radix(depth, True, *_EVERY_SECOND) for depth in (3, 4))
middle16, middle16_twice = _forward_radix(4, False), _forward_radix(4, False, 3)
middle16_often = _forward_radix(4, False, *_EVERY_SECOND)
closing32, closing64, closing128 = (_closing(depth, 16 >> depth, False) for depth in (2, 3, 4))
closing32_often, closing64_often, closing128_often = (
    _closing(depth, 16 >> depth, True) for depth in (2, 3, 4)
)


@inner
def _leading_pass(source, target, gap, twiddles, table, n, how, q, q_inverse):  # type: ignore[no-untyped-def]
    from_gap = padded_gap(n)
    for j in range(0, plain_gap(n), 64):
        a, b = source + j, target + j
        if n == 4096:
            if how == NEVER:
                leading8(a, from_gap, b, gap, twiddles, table, q, q_inverse)
            elif how == TWICE:
                leading8_twice(a, from_gap, b, gap, twiddles, table, q, q_inverse)
            else:
                leading8_often(a, from_gap, b, gap, twiddles, table, q, q_inverse)
        elif how == NEVER:
            leading16(a, from_gap, b, gap, twiddles, table, q, q_inverse)
        elif how == TWICE:
            leading16_twice(a, from_gap, b, gap, twiddles, table, q, q_inverse)
        else:
            leading16_often(a, from_gap, b, gap, twiddles, table, q, q_inverse)


@inner
def _middle_pass(data, gap, twiddles, table, n, how, q, q_inverse):  # type: ignore[no-untyped-def]
    inside = plain_gap(n) // 16
    for block in range(block_count(n)):
        here = twiddles + RADIX_OCTETS * block
        for j in range(0, inside, 64):
            a = data + gap * block + j
            if how == OFTEN:
                middle16_often(a, inside, a, inside, here, table, q, q_inverse)
            elif how == TWICE:
                middle16_twice(a, inside, a, inside, here, table, q, q_inverse)
            else:
                middle16(a, inside, a, inside, here, table, q, q_inverse)


@kernel(START_SIGNATURE)
def start_words(source, target, gap, table, n, q, q_inverse, how):  # type: ignore[no-untyped-def]
    """The leading and the middle pass of a forward transform; `ntt.forward` but for the closing pass."""
    leading = table + HEADER_OCTETS
    _leading_pass(source, target, gap, leading, table, n, how, q, q_inverse)
    _middle_pass(target, gap, leading + RADIX_OCTETS, table, n, how, q, q_inverse)


@inner
def close_words(data, part, table, n, q, q_inverse, how):  # type: ignore[no-untyped-def]
    """The closing pass on values 128·part and on, at `data`: words that are within B of B.

    The twiddles of these 16 vectors take 2 kilobytes.
    """
    here = table + HEADER_OCTETS + RADIX_OCTETS * (1 + block_count(n)) + 2048 * part
    if n <= 8192:
        if how == OFTEN:
            closing32_often(data, here, table, q, q_inverse)
        else:
            closing32(data, here, table, q, q_inverse)
    elif n == 16384:
        if how == OFTEN:
            closing64_often(data, here, table, q, q_inverse)
        else:
            closing64(data, here, table, q, q_inverse)
    elif how != NEVER:
        closing128_often(data, here, table, q, q_inverse)
    else:
        closing128(data, here, table, q, q_inverse)


@lane_kernel("iidd", ifma=True)
def leave_words(lanes: Lanes, data: Value, constants: Value) -> None:
    """What the closing pass left, as centred doubles."""
    value = Words(lanes).to_double(lanes.load_words(data), lanes.load_splat(constants, OFFSET))
    lanes.store(lanes.reduce(value), data)


@lane_kernel("iiidd", ifma=True)
def enter_words(lanes: Lanes, source: Value, target: Value, constants: Value) -> None:
    """Centred doubles as words."""
    offset = lanes.load_splat(constants, SMALL_OFFSET)
    lanes.store(Words(lanes).from_double(lanes.load(source), offset), target)


@inner
def forward_words(source, target, gap, table, n, q, q_inverse, how):  # type: ignore[no-untyped-def]
    """`ntt.forward`."""
    start_words(source, target, gap, table, n, q, q_inverse, how)
    for part in range(n // 128):
        here = target + 1024 * part + skipped(n, part, gap)
        close_words(here, part, table, n, q, q_inverse, how)
        for j in range(here, here + 1024, 64):
            leave_words(j, table, q, q_inverse)
