"""Passes of the number-theoretic transform on doubles, right on every processor.

Bounds, with the product of `arith` (|x·w| <= (1/2 + |x|·2^-53)·q, inputs below 2^52):
forward values grow by at most that much a level. From any input below 2^50, primes of at most 48 bits
need no reduction in 15 levels (15.7 q < 16 q = 2^52). Larger primes are reduced between passes. At 49 bits
values are centred before the closing pass: from 2 q, eight levels have inputs of at most 7.3 q, and from q/2
five of at most 2.9 q, below the limit of 8 q. At 50 bits also before the middle pass: from q, four levels
have inputs of at most 3.2 q, from q/2 five of at most 3.3 q, below 4 q. Blocks of 64 and 128 are centred
before their last three levels.
Inverse sums double every level; `_Inverse` follows each register and centres it in time.
"""

from __future__ import annotations

from typing import Any

from securedl.he.vector.kernels.arith import FETCH_LINES, fetch_lines, store_coefficients, sweep
from securedl.he.vector.kernels.cache import inner
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel
from securedl.he.vector.kernels.padding import block_count, padded_gap, plain_gap, skipped

#: Primes of more bits are reduced between the passes of a forward transform.
NARROW_BITS = 48
FETCH_OCTETS = 64 * FETCH_LINES


# --- butterflies ---------------------------------------------------------------------------------


def _forward_pair(lanes: Lanes, x: Value, y: Value, w: Value) -> tuple[Value, Value]:
    product = lanes.product(y, w)
    return lanes.add(x, product), lanes.sub(x, product)


def _forward_networks(lanes: Lanes, networks: list[list[Value]], depth: int, twiddles: list[Value]) -> None:
    """`depth` levels on 2^depth vectors each, in place; twiddles are read level by level."""
    for level in range(depth):
        half = 1 << (depth - 1 - level)
        for x, table in zip(networks, twiddles, strict=True):
            for group in range(1 << level):
                w = lanes.load_splat(table, 8 * ((1 << level) - 1 + group))
                for a in range(2 * half * group, 2 * half * group + half):
                    x[a], x[a + half] = _forward_pair(lanes, x[a], x[a + half], w)


class _Inverse:
    """Registers of an inverse transform with the bound of each, in units of q.

    Primes have 50 bits at most, and sums reach 4.0000 q of the 4 that 2^52 is: products stay exact because
    such a prime is at most 2^50 - 8191, for it is 1 modulo 8192.
    """

    LIMIT = 4.0  # 2^52 / 2^50
    CENTRED = 0.5

    def __init__(self, lanes: Lanes, x: list[Value]) -> None:
        self.lanes = lanes
        self.x = x
        self.bound = [self.CENTRED] * len(x)

    def centre(self, index: int) -> None:
        if self.bound[index] > self.CENTRED:
            self.x[index] = self.lanes.reduce(self.x[index])
            self.bound[index] = self.CENTRED

    def product(self, value: Value, bound: float, w: Value) -> tuple[Value, float]:
        return self.lanes.product(value, w), 0.5 + bound / 8  # |x| <= bound·2^50

    def pair(self, a: int, b: int, w: Value, scale: Value | None = None) -> None:
        """(X, Y) -> (X + Y, (X - Y)·w), the sum times `scale` if there is one."""
        while self.bound[a] + self.bound[b] > self.LIMIT:
            self.centre(a if self.bound[a] >= self.bound[b] else b)
        bound = self.bound[a] + self.bound[b]
        total, difference = self.lanes.add(self.x[a], self.x[b]), self.lanes.sub(self.x[a], self.x[b])
        self.x[b], self.bound[b] = self.product(difference, bound, w)
        self.x[a], self.bound[a] = (total, bound) if scale is None else self.product(total, bound, scale)

    def network(self, depth: int, twiddles: Value, scale: Value | None = None, first: int = 0) -> None:
        """`depth` levels on 2^depth registers from `first`; `scale` multiplies the sums of the last."""
        for level in reversed(range(depth)):
            half = 1 << (depth - 1 - level)
            for group in range(1 << level):
                w = self.lanes.load_splat(twiddles, 8 * ((1 << level) - 1 + group))
                for a in range(first + 2 * half * group, first + 2 * half * group + half):
                    self.pair(a, a + half, w, scale if level == 0 else None)


# --- passes over registers -----------------------------------------------------------------------


def _forward_radix(depth: int) -> Any:
    @lane_kernel("iiiiidd")
    def forward(
        lanes: Lanes, source: Value, source_gap: Value, target: Value, target_gap: Value, twiddles: Value
    ) -> None:
        radix = 1 << depth
        x = [lanes.load(place) for place in lanes.apart(source, source_gap, radix)]
        _forward_networks(lanes, [x], depth, [twiddles])
        for value, place in zip(x, lanes.apart(target, target_gap, radix), strict=True):
            lanes.store(value, place)

    return forward


def _inverse_radix(depth: int, last: bool) -> Any:
    @lane_kernel("iiiidddd" if last else "iiidd")
    def inverse(lanes: Lanes, data: Value, gap: Value, twiddles: Value, *finish: Value) -> None:
        places = lanes.apart(data, gap, 1 << depth)
        registers = _Inverse(lanes, [lanes.load(place) for place in places])
        registers.network(depth, twiddles, lanes.splat(finish[1]) if last else None)
        for k in range(len(places)):
            registers.centre(k)
        if last:
            signs, _, top = finish
            store_coefficients(lanes, registers.x, places, top, signs, gap)
        else:
            for value, place in zip(registers.x, places, strict=True):
                lanes.store(value, place)

    return inverse


# Pairs of vectors A, B = a0..a7, b0..b7 and the orders in which the last three levels see them.
_HALVES = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])  # a0-3 b0-3 | a4-7 b4-7
_QUARTERS = ([0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15])  # a01 b01 a45 b45 | a23 b23 a67 b67
_EVEN_ODD = ([0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15])
_QUARTERS_BACK = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])  # to A | B
_FROM_PAIR = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])  # A, B to quarters
_QUARTERS_TO_HALVES = ([0, 1, 8, 9, 2, 3, 10, 11], [4, 5, 12, 13, 6, 7, 14, 15])


def _both(lanes: Lanes, a: Value, b: Value, masks: tuple[list[int], list[int]]) -> tuple[Value, Value]:
    return lanes.shuffle(a, b, masks[0]), lanes.shuffle(a, b, masks[1])


def splats(depth: int) -> int:
    """Doubles that the splat twiddles of a closing block take, padded to whole vectors."""
    return -(-((1 << depth) - 1) // 8) * 8


def _closing(depth: int, blocks: int) -> Any:
    """Forward levels on blocks of 8·2^depth values: `depth` across vectors, three within them.

    Instructions go level by level over several blocks, so that enough of them are independent.
    """

    @lane_kernel("iidd")
    def closing(lanes: Lanes, data: Value, twiddles: Value) -> None:
        count = 1 << depth
        octets = 8 * (splats(depth) + 12 * count)  # of one block's twiddles
        x = [lanes.load(data, 64 * k) for k in range(count * blocks)]
        networks = [x[count * b : count * (b + 1)] for b in range(blocks)]
        starts = [lanes.offset(twiddles, octets * b) for b in range(blocks)]
        _forward_networks(lanes, networks, depth, starts)
        pairs = [
            (network[k], network[k + 1], lanes.offset(start, 8 * splats(depth) + 96 * k))
            for network, start in zip(networks, starts, strict=True)
            for k in range(0, count, 2)
        ]
        if depth > 2:
            pairs = [(lanes.reduce(a), lanes.reduce(b), table) for a, b, table in pairs]
        for level, masks in enumerate((_HALVES, _QUARTERS, _EVEN_ODD)):
            pairs = [(*_both(lanes, a, b, masks), table) for a, b, table in pairs]
            pairs = [
                (*_forward_pair(lanes, a, b, lanes.load(table, 64 * level)), table) for a, b, table in pairs
            ]
        for k, (a, b, _) in enumerate(pairs):
            a, b = _both(lanes, *_both(lanes, a, b, _EVEN_ODD_BACK), _QUARTERS_BACK)
            lanes.store(lanes.reduce(a), data, 128 * k)
            lanes.store(lanes.reduce(b), data, 128 * k + 64)

    return closing


_EVEN_ODD_BACK = ([0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15])


def _opening(depth: int, blocks: int) -> Any:
    """Inverse levels on blocks of 8·2^depth values: three within vectors, `depth` across them."""

    @lane_kernel("iiidd")
    def opening(lanes: Lanes, source: Value, target: Value, twiddles: Value) -> None:
        count = 1 << depth
        octets = 8 * (splats(depth) + 12 * count)
        x = [lanes.load(source, 64 * k) for k in range(count * blocks)]
        starts = [lanes.offset(twiddles, octets * (k // count)) for k in range(0, count * blocks, count)]
        registers = _Inverse(lanes, x)
        pairs = range(0, count * blocks, 2)
        for level, masks in ((2, _EVEN_ODD), (1, _EVEN_ODD_BACK), (0, _QUARTERS_TO_HALVES)):
            for k in pairs:
                if level == 2:
                    x[k], x[k + 1] = _both(lanes, x[k], x[k + 1], _FROM_PAIR)
                x[k], x[k + 1] = _both(lanes, x[k], x[k + 1], masks)
            for k in pairs:
                table = 8 * splats(depth) + 96 * (k % count) + 64 * level
                registers.pair(k, k + 1, lanes.load(starts[k // count], table))
                mixed = max(registers.bound[k : k + 2])  # the next shuffle mixes the two
                registers.bound[k] = registers.bound[k + 1] = mixed
        for k in pairs:
            x[k], x[k + 1] = _both(lanes, x[k], x[k + 1], _HALVES)
            registers.centre(k)
            registers.centre(k + 1)
        for b, start in enumerate(starts):
            registers.network(depth, start, first=count * b)
        for k in range(count * blocks):
            registers.centre(k)
            lanes.store(x[k], target, 64 * k)

    return opening


_forward8, _forward16 = _forward_radix(3), _forward_radix(4)
_inverse16, _inverse8_last, _inverse16_last = (
    _inverse_radix(4, False),
    _inverse_radix(3, True),
    _inverse_radix(4, True),
)
_closing32, _closing64, _closing128 = _closing(2, 4), _closing(3, 2), _closing(4, 1)
_opening32, _opening64, _opening128 = _opening(2, 4), _opening(3, 2), _opening(4, 1)

# --- whole transforms ----------------------------------------------------------------------------


@inner
def _forward_pass(  # type: ignore[no-untyped-def]
    source, source_gap, target, target_gap, length, blocks, block_gap, radix, twiddles, first, second, q,
    q_inverse,
):  # fmt: skip
    """Blocks of `radix` times `length` octets, `block_gap` octets apart."""
    for block in range(blocks):
        start, here = block_gap * block, twiddles + 128 * block
        for j in range(0, length, 64):
            if first != 0:
                fetch_lines(first, second, (length * block + j) // 64 * FETCH_OCTETS, q, q_inverse)
            a, b = source + start + j, target + start + j
            if radix == 16:
                _forward16(a, source_gap, b, target_gap, here, q, q_inverse)
            else:
                _forward8(a, source_gap, b, target_gap, here, q, q_inverse)


@inner
def _sweep_pass(data, octets, q, q_inverse):  # type: ignore[no-untyped-def]
    for j in range(0, octets, 64):
        sweep(data + j, data + j, q, q_inverse)


@inner
def _closing_pass(data, gap, twiddles, n, q, q_inverse, first, second):  # type: ignore[no-untyped-def]
    for part in range(n // 128):
        here = data + 1024 * part + skipped(n, part, gap)
        if first != 0:
            fetch_lines(first, second, part * FETCH_OCTETS, q, q_inverse)
        if n <= 8192:
            _closing32(here, twiddles + 1792 * part, q, q_inverse)
        elif n == 16384:
            _closing64(here, twiddles + 1664 * part, q, q_inverse)
        else:
            _closing128(here, twiddles + 1664 * part, q, q_inverse)


@inner
def _opening_pass(source, target, twiddles, n, q, q_inverse):  # type: ignore[no-untyped-def]
    for part in range(n // 128):
        a, b = source + 1024 * part, target + 1024 * part + skipped(n, part, padded_gap(n))
        if n <= 8192:
            _opening32(a, b, twiddles + 1792 * part, q, q_inverse)
        elif n == 16384:
            _opening64(a, b, twiddles + 1664 * part, q, q_inverse)
        else:
            _opening128(a, b, twiddles + 1664 * part, q, q_inverse)


@inner
def forward_doubles(source, target, gap, table, n, q, q_inverse, wide, first, second):  # type: ignore[no-untyped-def]
    """`ntt.forward`, values reduced `wide` times between passes."""
    radix, length = block_count(n), plain_gap(n)
    third = n // 128 * FETCH_OCTETS
    _forward_pass(source, padded_gap(n), target, gap, length, 1, 0, radix, table, first, second, q, q_inverse)
    if wide > 1:
        _sweep_pass(target, radix * gap, q, q_inverse)
    if first != 0:
        first, second = first + third, second + third
    inside = length // 16
    _forward_pass(
        target, inside, target, inside, inside, radix, gap, 16, table + 128, first, second, q, q_inverse
    )
    if wide > 0:
        _sweep_pass(target, radix * gap, q, q_inverse)
    if first != 0:
        first, second = first + third, second + third
    _closing_pass(target, gap, table + 128 + 128 * radix, n, q, q_inverse, first, second)


@inner
def inverse_doubles(source, target, table, n, n_inverse, top, signs, q, q_inverse):  # type: ignore[no-untyped-def]
    """`ntt.inverse`."""
    radix, length, gap = block_count(n), plain_gap(n), padded_gap(n)
    inside = length // 16
    _opening_pass(source, target, table + 128 + 128 * radix, n, q, q_inverse)
    for block in range(radix):
        here = table + 128 + 128 * block
        for j in range(0, inside, 64):
            _inverse16(target + gap * block + j, inside, here, q, q_inverse)
    for j in range(0, length, 64):
        a, s = target + j, signs + j // 64 if signs != 0 else 0
        if radix == 16:
            _inverse16_last(a, gap, table, s, n_inverse, top, q, q_inverse)
        else:
            _inverse8_last(a, gap, table, s, n_inverse, top, q, q_inverse)
