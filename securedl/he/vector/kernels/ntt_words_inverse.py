"""The inverse transform on 52-bit integers.

Each level (X, Y) -> (X + Y, (Y - X + D)·w) with D a multiple of q that is at least X: products are
in [0, 2q), sums double. `_Inverse` follows each register and reduces it in time.
"""

from __future__ import annotations

from typing import Any

from securedl.he.vector.kernels.arith import store_coefficients
from securedl.he.vector.kernels.cache import inner
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel
from securedl.he.vector.kernels.ntt_words import NEVER, RADIX_OCTETS, both, closing_octets, inner_twiddles
from securedl.he.vector.kernels.padding import block_count, padded_gap, plain_gap, skipped
from securedl.he.vector.kernels.words import (
    HEADER_OCTETS,
    LAST,
    LAST_QUOTIENT,
    ONE,
    SHRINK,
    SHRINK_QUOTIENT,
    SMALL_OFFSET,
    Words,
)

# The orders of `ntt_words_forward` backwards, from pairs of vectors A, B = a0..a7, b0..b7 to A, B, with the
# lanes reversed from the first step to the last.
_SINGLES_BACK = ([14, 6, 10, 2, 12, 4, 8, 0], [15, 7, 11, 3, 13, 5, 9, 1])
_QUARTERS_BACK = ([12, 13, 14, 15, 4, 5, 6, 7], [8, 9, 10, 11, 0, 1, 2, 3])
_HALVES_BACK = ([10, 11, 14, 15, 2, 3, 6, 7], [8, 9, 12, 13, 0, 1, 4, 5])
_IN_ORDER_BACK = ([7, 5, 3, 1, 15, 13, 11, 9], [6, 4, 2, 0, 14, 12, 10, 8])


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
    @lane_kernel("iiiiiddd" if last else "iiiidd", ifma=True)
    def inverse(
        lanes: Lanes, data: Value, gap: Value, twiddles: Value, constants: Value, *finish: Value
    ) -> None:
        words = Words(lanes)
        places = lanes.apart(data, gap, 1 << depth)
        x = [lanes.load_words(place) for place in places]
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
            store_coefficients(lanes, values, places, top, signs, gap)
        else:
            for value, place in zip(work.x, places, strict=True):
                lanes.store(value, place)

    return inverse


def _opening(depth: int, blocks: int, often: bool) -> Any:
    """Inverse levels on blocks of 8·2^depth values: three within vectors, `depth` across them.

    twiddles: of the blocks that mirror these.
    """

    @lane_kernel("iiiidd", ifma=True)
    def opening(lanes: Lanes, source: Value, target: Value, twiddles: Value, constants: Value) -> None:
        count = 1 << depth
        words = Words(lanes)
        offset = lanes.load_splat(constants, SMALL_OFFSET)
        x = [words.from_double(lanes.load(source, 64 * k), offset) for k in range(count * blocks)]
        starts = [lanes.offset(twiddles, closing_octets(depth) * b) for b in reversed(range(blocks))]
        work = _Inverse(lanes, constants, x, _Inverse.PRODUCT, often)
        firsts = range(0, count * blocks, 2)
        for level, masks in ((2, _SINGLES_BACK), (1, _QUARTERS_BACK), (0, _HALVES_BACK)):
            for k in firsts:
                x[k], x[k + 1] = both(lanes, x[k], x[k + 1], masks)
                work.bound[k] = work.bound[k + 1] = max(work.bound[k : k + 2])
                mirrored = count // 2 - 1 - k % count // 2
                twiddle = inner_twiddles(words, starts[k // count], depth, level, mirrored)
                work.pair(k, k + 1, *twiddle)
        for k in firsts:
            x[k], x[k + 1] = both(lanes, x[k], x[k + 1], _IN_ORDER_BACK)
            work.bound[k] = work.bound[k + 1] = max(work.bound[k : k + 2])
        work.network(depth, starts, 8 * count)
        for k in range(count * blocks):
            work.shrink(k, _stored(often))
            lanes.store(work.x[k], target, 64 * k)

    return opening


opening32, opening64, opening128 = (_opening(depth, 16 >> depth, False) for depth in (2, 3, 4))
opening32_often, opening64_often, opening128_often = (
    _opening(depth, 16 >> depth, True) for depth in (2, 3, 4)
)
back16, back16_often = _inverse_radix(4, False, False), _inverse_radix(4, False, True)
last8, last16 = _inverse_radix(3, True, False), _inverse_radix(4, True, False)
last8_often, last16_often = _inverse_radix(3, True, True), _inverse_radix(4, True, True)


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
