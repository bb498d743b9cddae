"""Passes of the number-theoretic transform on 52-bit integers; `ntt` puts them together.

Rows hold doubles before and after a transform, and words between its passes.

Forward, each level (X, Y) -> (X + s, X - s) with s = Y·w - q mod q in [-q, q): values move by at most q a
level. They start with B = q·floor(2^51 / q) added, and must stay within B of it, where B >= q·2^(51 - b) for
a prime of b bits:

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

Inverse, each level (X, Y) -> (X + Y, (Y - X + D)·w) with D a multiple of q that is at least X: products are
in [0, 2q), sums double. `_Inverse` follows each register and reduces it in time.

Both directions read one table, so that those of five primes take 0.65 megabytes of the second-level cache.
psi^N = -1, and so the inverse of the twiddle of block i, at a level of m blocks, is minus that of block
m - 1 - i: the inverse subtracts the other way round and reads the table backwards, and within vectors has its
lanes reversed.
"""

from __future__ import annotations

from typing import Any

from securedl.he.vector.arith import Lanes, Value, lane_kernel
from securedl.he.vector.cache import inner, kernel
from securedl.he.vector.padding import block_count, padded_gap, plain_gap, skipped
from securedl.he.vector.words import (
    HEADER_OCTETS,
    IFMA,
    LAST,
    LAST_QUOTIENT,
    OFFSET,
    ONE,
    SHRINK,
    SHRINK_QUOTIENT,
    SMALL_OFFSET,
    Words,
)

#: How a forward transform keeps its values small.
NEVER, TWICE, OFTEN = -1, -2, -3
#: Most bits of a prime for each.
LARGEST_BITS = {NEVER: 46, TWICE: 48, OFTEN: 49}

START_SIGNATURE = "void(int64,int64,int64,int64,int64,float64,float64,int64)"

#: Octets of the twiddles of a leading or middle block: 15 and their 15 quotients, each padded to 16.
RADIX_OCTETS = 256

# Pairs of vectors A, B = a0..a7, b0..b7 and the orders in which the last three levels see them, such that
# twiddles repeat and one load from memory spreads them.
_HALVES = ([0, 8, 1, 9, 2, 10, 3, 11], [4, 12, 5, 13, 6, 14, 7, 15])  # a0 b0 a1 b1.. | a4 b4 a5 b5..
_QUARTERS = ([0, 1, 8, 9, 2, 3, 10, 11], [4, 5, 12, 13, 6, 7, 14, 15])  # a0 b0 a4 b4 a1.. | a2 b2 a6 b6 a3..
_SINGLES = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])  # a0 b0 a4 b4 a2.. | a1 b1 a5 b5 a3..
_IN_ORDER = ([0, 8, 4, 12, 2, 10, 6, 14], [1, 9, 5, 13, 3, 11, 7, 15])  # A | B
# Back from A, B, with the lanes reversed from the first step to the last.
_SINGLES_BACK = ([14, 6, 10, 2, 12, 4, 8, 0], [15, 7, 11, 3, 13, 5, 9, 1])
_QUARTERS_BACK = ([12, 13, 14, 15, 4, 5, 6, 7], [8, 9, 10, 11, 0, 1, 2, 3])
_HALVES_BACK = ([10, 11, 14, 15, 2, 3, 6, 7], [8, 9, 12, 13, 0, 1, 4, 5])
_IN_ORDER_BACK = ([7, 5, 3, 1, 15, 13, 11, 9], [6, 4, 2, 0, 14, 12, 10, 8])


def _both(lanes: Lanes, a: Value, b: Value, masks: tuple[list[int], list[int]]) -> tuple[Value, Value]:
    return lanes.shuffle(a, b, masks[0]), lanes.shuffle(a, b, masks[1])


def closing_octets(depth: int) -> int:
    """Octets of the twiddles of a closing block: 2^depth vectors, `depth` levels across and three within.

    Twiddles across and their quotients (2^depth words each); then for every pair of vectors two twiddles and
    quotients of halves, four of quarters, eight of singles.
    """
    return 128 << depth


# --- forward -------------------------------------------------------------------------------------


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
        centre = words.sub(self.lanes.builder.bitcast(self.offset(), words.q.type), words.q)
        for k in which:
            x[k] = words.add(words.reduce(x[k], one), centre)

    def pair(self, x: Value, y: Value, w: Value, quotient: Value) -> tuple[Value, Value]:
        words = self.words
        k = words.high(words.unity, y, quotient)  # one more than the quotient: s >= -q
        total = words.low(words.low(x, y, w), k, words.minus_q)
        return total, words.sub(words.add(x, x), total)

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
    @lane_kernel("iiiiiidd")
    def forward(
        lanes: Lanes, source: Value, source_gap: Value, target: Value, target_gap: Value, twiddles: Value,
        constants: Value,
    ) -> None:  # fmt: skip
        if not IFMA:
            return
        radix = 1 << depth
        work = _Forward(lanes, constants)
        places = lanes.apart(source, source_gap, radix)
        if from_doubles:
            offset = work.offset()
            x = [work.words.from_double(lanes.load(place), offset) for place in places]
        else:
            x = [work.words.load(place) for place in places]
        work.network(x, depth, [twiddles], RADIX_OCTETS // 2, reduced)
        for value, place in zip(x, lanes.apart(target, target_gap, radix), strict=True):
            lanes.store(value, place)

    return forward


def _closing(depth: int, blocks: int, often: bool) -> Any:
    """Forward levels on blocks of 8·2^depth values: `depth` across vectors, three within them."""

    @lane_kernel("iiidd")
    def closing(lanes: Lanes, data: Value, twiddles: Value, constants: Value) -> None:
        if not IFMA:
            return
        count = 1 << depth
        work = _Forward(lanes, constants)
        words = work.words
        x = [words.load(data, 64 * k) for k in range(count * blocks)]
        starts = [lanes.offset(twiddles, closing_octets(depth) * b) for b in range(blocks)]
        work.network(x, depth, starts, 8 * count, _EVERY_SECOND if often else ())
        firsts = range(0, count * blocks, 2)
        if often:
            for k in firsts:
                x[k], x[k + 1] = _both(lanes, x[k], x[k + 1], _HALVES)
            work.reduce(x, list(firsts))
        for level, masks in enumerate((_HALVES, _QUARTERS, _SINGLES)):
            for k in firsts:
                a, b = (x[k], x[k + 1]) if often and level == 0 else _both(lanes, x[k], x[k + 1], masks)
                w, quotient = _inner_twiddles(words, starts[k // count], depth, level, k % count // 2)
                x[k], x[k + 1] = work.pair(a, b, w, quotient)
        for k in firsts:
            a, b = _both(lanes, x[k], x[k + 1], _IN_ORDER)
            lanes.store(a, data, 64 * k)
            lanes.store(b, data, 64 * k + 64)

    return closing


def _inner_twiddles(words: Words, start: Value, depth: int, level: int, pair: int) -> tuple[Value, Value]:
    """Twiddles of a level within vectors (0: halves, 1: quarters, 2: singles), and their quotients."""
    count = 1 << depth
    before = (16 * count, 32 * count, 64 * count)[level]  # octets of what comes first
    size = 16 << level
    at = before + 2 * size * pair
    return words.load_repeated(start, at, 2 << level), words.load_repeated(start, at + size, 2 << level)


# --- inverse -------------------------------------------------------------------------------------


class _Inverse:
    """Registers of an inverse pass, each with its bound in multiples of q."""

    PRODUCT = 2  # bound of a product and of what is loaded from doubles

    def __init__(
        self, lanes: Lanes, constants: Value, x: list[Value], bound: int, often: bool, least: int = 0
    ) -> None:
        self.words = Words(lanes)
        self.lanes = lanes
        self.constants = constants
        self.x = x
        self.bound = [bound] * len(x)
        #: 2^52 / q.
        self.limit = 8 if often else 64
        #: Least D in multiples of q: with one for all levels one register holds it.
        self.least = least

    def shrink(self, index: int, most: int) -> None:
        """Reduce a register unless its bound is `most` or less."""
        if self.bound[index] > most:
            one = self.words.load_splat(self.constants, ONE)
            self.x[index] = self.words.reduce(self.x[index], one)
            self.bound[index] = self.PRODUCT

    def pair(
        self, a: int, b: int, w: Value, quotient: Value, scale: tuple[Value, Value] | None = None
    ) -> None:
        """(X, Y) -> (X + Y, (Y - X)·w), the sum times `scale` if there is one."""
        words, x, bound = self.words, self.x, self.bound
        while bound[a] + bound[b] > self.limit:
            self.shrink(a if bound[a] >= bound[b] else b, self.PRODUCT)
        total = words.add(x[a], x[b])
        enough = max(bound[a], self.least)
        if bound[b] + enough > self.limit:
            enough = bound[a]
        difference = words.sub(words.add(x[b], words.multiple(enough)), x[a])
        x[a] = total if scale is None else words.product(total, *scale)
        x[b] = words.product(difference, w, quotient)
        bound[a] = bound[a] + bound[b] if scale is None else self.PRODUCT
        bound[b] = self.PRODUCT

    def network(
        self, depth: int, twiddles: list[Value], gap: int, ends: list[tuple[Value, Value]] | None = None
    ) -> None:
        """`depth` levels on 2^depth registers for each of `twiddles`, the mirrored blocks of a table; `ends`
        are the factors of the last sums and of the last differences.
        """
        count = 1 << depth
        for level in reversed(range(depth)):
            half = count >> (level + 1)
            for block, table in enumerate(twiddles):
                for group in range(1 << level):
                    at = 8 * (2 * (1 << level) - 2 - group)
                    if ends is not None and level == 0:
                        scale, (w, quotient) = ends
                    else:
                        scale = None
                        w, quotient = (self.words.load_splat(table, at + k) for k in (0, gap))
                    first = count * block + 2 * half * group
                    for a in range(first, first + half):
                        self.pair(a, a + half, w, quotient, scale)


def _stored(often: bool) -> int:
    """Bound of words between the passes of an inverse transform."""
    return 2 if often else 4


def _inverse_radix(depth: int, last: bool, often: bool) -> Any:
    @lane_kernel("iiiiiddd" if last else "iiiidd")
    def inverse(
        lanes: Lanes, data: Value, gap: Value, twiddles: Value, constants: Value, *finish: Value
    ) -> None:
        if not IFMA:
            return
        words = Words(lanes)
        places = lanes.apart(data, gap, 1 << depth)
        x = [words.load(place) for place in places]
        work = _Inverse(lanes, constants, x, _stored(often), often, 4 if often else 32)
        ends = None
        if last:
            ends = [
                (words.load_splat(constants, w), words.load_splat(constants, quotient))
                for w, quotient in ((SHRINK, SHRINK_QUOTIENT), (LAST, LAST_QUOTIENT))
            ]
        work.network(depth, [twiddles], RADIX_OCTETS // 2, ends)
        for k in range(1 << depth):
            work.shrink(k, _stored(often))
        if last:
            signs, top = finish
            offset = lanes.load_splat(constants, SMALL_OFFSET)
            values = [words.to_double(value, offset) for value in work.x]  # all are products: in [-q, q)
            lanes.store_coefficients(values, places, top, signs, gap)
        else:
            for value, place in zip(work.x, places, strict=True):
                lanes.store(value, place)

    return inverse


def _opening(depth: int, blocks: int, often: bool) -> Any:
    """Inverse levels on blocks of 8·2^depth values: three within vectors, `depth` across them.

    twiddles: of the blocks that mirror these.
    """

    @lane_kernel("iiiidd")
    def opening(lanes: Lanes, source: Value, target: Value, twiddles: Value, constants: Value) -> None:
        if not IFMA:
            return
        count = 1 << depth
        words = Words(lanes)
        offset = lanes.load_splat(constants, SMALL_OFFSET)
        x = [words.from_double(lanes.load(source, 64 * k), offset) for k in range(count * blocks)]
        starts = [lanes.offset(twiddles, closing_octets(depth) * b) for b in reversed(range(blocks))]
        work = _Inverse(lanes, constants, x, _Inverse.PRODUCT, often)
        firsts = range(0, count * blocks, 2)
        for level, masks in ((2, _SINGLES_BACK), (1, _QUARTERS_BACK), (0, _HALVES_BACK)):
            for k in firsts:
                x[k], x[k + 1] = _both(lanes, x[k], x[k + 1], masks)
                work.bound[k] = work.bound[k + 1] = max(work.bound[k : k + 2])
                mirrored = count // 2 - 1 - k % count // 2
                twiddle = _inner_twiddles(words, starts[k // count], depth, level, mirrored)
                work.pair(k, k + 1, *twiddle)
        for k in firsts:
            x[k], x[k + 1] = _both(lanes, x[k], x[k + 1], _IN_ORDER_BACK)
            work.bound[k] = work.bound[k + 1] = max(work.bound[k : k + 2])
        work.network(depth, starts, 8 * count)
        for k in range(count * blocks):
            work.shrink(k, _stored(often))
            lanes.store(work.x[k], target, 64 * k)

    return opening


# --- whole transforms ----------------------------------------------------------------------------

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

opening32, opening64, opening128 = (_opening(depth, 16 >> depth, False) for depth in (2, 3, 4))
opening32_often, opening64_often, opening128_often = (
    _opening(depth, 16 >> depth, True) for depth in (2, 3, 4)
)
back16, back16_often = _inverse_radix(4, False, False), _inverse_radix(4, False, True)
last8, last16 = _inverse_radix(3, True, False), _inverse_radix(4, True, False)
last8_often, last16_often = _inverse_radix(3, True, True), _inverse_radix(4, True, True)


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


@lane_kernel("iidd")
def leave_words(lanes: Lanes, data: Value, constants: Value) -> None:
    """What the closing pass left, as centred doubles."""
    if IFMA:
        words = Words(lanes)
        offset = lanes.load_splat(constants, OFFSET)
        lanes.store(lanes.reduce(words.to_double(words.load(data), offset)), data)


@lane_kernel("iiidd")
def enter_words(lanes: Lanes, source: Value, target: Value, constants: Value) -> None:
    """Centred doubles as words."""
    if IFMA:
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


@inner
def _opening_pass(source, target, twiddles, table, n, often, q, q_inverse):  # type: ignore[no-untyped-def]
    for part in range(n // 128):
        a, here = source + 1024 * part, twiddles + 2048 * (n // 128 - 1 - part)
        b = target + 1024 * part + skipped(n, part, padded_gap(n))
        if n <= 8192:
            if often:
                opening32_often(a, b, here, table, q, q_inverse)
            else:
                opening32(a, b, here, table, q, q_inverse)
        elif n == 16384:
            if often:
                opening64_often(a, b, here, table, q, q_inverse)
            else:
                opening64(a, b, here, table, q, q_inverse)
        elif often:
            opening128_often(a, b, here, table, q, q_inverse)
        else:
            opening128(a, b, here, table, q, q_inverse)


@inner
def _back_pass(data, twiddles, table, n, often, q, q_inverse):  # type: ignore[no-untyped-def]
    inside, radix = plain_gap(n) // 16, block_count(n)
    for block in range(radix):
        here = twiddles + RADIX_OCTETS * (radix - 1 - block)
        first = data + padded_gap(n) * block
        for a in range(first, first + inside, 64):
            if often:
                back16_often(a, inside, here, table, q, q_inverse)
            else:
                back16(a, inside, here, table, q, q_inverse)


@inner
def _last_pass(data, twiddles, table, n, top, signs, often, q, q_inverse):  # type: ignore[no-untyped-def]
    gap = padded_gap(n)
    for j in range(0, plain_gap(n), 64):
        a, s = data + j, signs + j // 64 if signs != 0 else 0
        if n == 4096:
            if often:
                last8_often(a, gap, twiddles, table, s, top, q, q_inverse)
            else:
                last8(a, gap, twiddles, table, s, top, q, q_inverse)
        elif often:
            last16_often(a, gap, twiddles, table, s, top, q, q_inverse)
        else:
            last16(a, gap, twiddles, table, s, top, q, q_inverse)


@inner
def inverse_words(source, target, table, n, top, signs, q, q_inverse, how):  # type: ignore[no-untyped-def]
    """`ntt.inverse`."""
    often = how != NEVER
    leading = table + HEADER_OCTETS
    middle = leading + RADIX_OCTETS
    _opening_pass(source, target, middle + RADIX_OCTETS * block_count(n), table, n, often, q, q_inverse)
    _back_pass(target, middle, table, n, often, q, q_inverse)
    _last_pass(target, leading, table, n, top, signs, often, q, q_inverse)
