"""Emitters that go over rows: eight values of each polynomial at a time.

A residue is a centred double, see `lanes`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from securedl.he.vector.kernels.lanes import LANES, Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel

#: Cache lines of each stream that one `fetch_lines` asks for.
FETCH_LINES = 6


def store_coefficients(
    lanes: Lanes, values: list[Value], places: list[Value], top: Value, signs: Value, gap: Value
) -> None:
    """What an inverse transform leaves, from values in [-q, q): canonical, or centred if `top` is 0.

    signs: 0, or the address of an octet of signs for the first vector (for others gap/64 later). Where
    they are set, x - q is stored in place of every x but 0.
    """

    def canonical() -> None:
        lifted = [lanes.lift(x, lanes.q) for x in values]

        def turned() -> None:
            octets = lanes.apart(signs, lanes.shifted(gap, 6), len(values))
            for x, place, octet in zip(lifted, places, octets, strict=True):
                some = lanes.both(lanes.load_mask(octet), lanes.less(lanes.zero, x))
                lanes.store(lanes.select(some, lanes.sub(x, lanes.q), x), place)

        def plain() -> None:
            for x, place in zip(lifted, places, strict=True):
                lanes.store(x, place)

        lanes.when(lanes.nonzero(signs), turned, plain)

    def centred() -> None:
        for x, place in zip(values, places, strict=True):
            lanes.store(lanes.reduce(x), place)

    lanes.when(lanes.nonzero(top), canonical, centred)


@lane_kernel("iidd")
def sweep(lanes: Lanes, source: Value, target: Value) -> None:
    """target = source, centred."""
    lanes.store(lanes.reduce(lanes.load(source)), target)


@lane_kernel("iidd")
def copy_lanes(lanes: Lanes, source: Value, target: Value) -> None:
    """target = source."""
    lanes.store(lanes.load(source), target)


@lane_kernel("iiidd")
def add_rows(lanes: Lanes, a: Value, b: Value, out: Value) -> None:
    """out = a + b of centred operands, centred."""
    lanes.look_ahead([a, b], [out])
    lanes.store(lanes.reduce(lanes.add(lanes.load(a), lanes.load(b))), out)


@lane_kernel("ididd")
def scale_row(lanes: Lanes, a: Value, w: Value, out: Value) -> None:
    """out = a·w mod q for a constant |w| <= q/2."""
    lanes.store(lanes.reduce(lanes.product(lanes.load(a), lanes.splat(w))), out)


@lane_kernel("iiiidd")
def square_rows(lanes: Lanes, a: Value, a_step: Value, out: Value, out_step: Value) -> None:
    """(a0 + a1 s)^2, centred, for a centred pair a_step octets apart."""
    (first, second), places = lanes.apart(a, a_step, 2), lanes.apart(out, out_step, 3)
    lanes.look_ahead([first, second], places)
    a0, a1 = lanes.load(first), lanes.load(second)
    cross = lanes.product(a0, a1)
    products = lanes.product(a0, a0), lanes.add(cross, cross), lanes.product(a1, a1)
    for value, place in zip(products, places, strict=True):
        lanes.store(lanes.reduce(value), place)


@lane_kernel("iiiiidd")
def multiply_rows(lanes: Lanes, a: Value, b: Value, step: Value, out: Value, out_step: Value) -> None:
    """(a0 + a1 s)(b0 + b1 s), centred.

    The cross terms are (a0 + a1)(b0 + b1) - a0 b0 - a1 b1, below 2 q. Both factors are at most q + 2, and
    data primes below 2^48: the quotient is off by at most 1/2 + 2^-4, and the first product is below 0.6 q.
    """
    sources, places = [*lanes.apart(a, step, 2), *lanes.apart(b, step, 2)], lanes.apart(out, out_step, 3)
    lanes.look_ahead(sources, places)
    a0, a1, b0, b1 = (lanes.load(source) for source in sources)
    low, high = lanes.product(a0, b0), lanes.product(a1, b1)
    cross = lanes.product(lanes.add(a0, a1), lanes.add(b0, b1))
    cross = lanes.sub(lanes.sub(cross, low), high)
    for value, place in zip((low, cross, high), places, strict=True):
        lanes.store(lanes.reduce(value), place)


@lane_kernel("iiidd")
def product_rows(lanes: Lanes, a: Value, b: Value, out: Value) -> None:
    """out = a·b, centred."""
    lanes.look_ahead([a, b], [out])
    lanes.store(lanes.reduce(lanes.product(lanes.load(a), lanes.load(b))), out)


@lane_kernel("iididd")
def divide_rows(lanes: Lanes, a: Value, n: Value, w: Value, out: Value) -> None:
    """out = (a - n)·w mod q for centred a, n: |a - n| <= q + 2."""
    difference = lanes.sub(lanes.load(a), lanes.load(n))
    lanes.store(lanes.reduce(lanes.product(difference, lanes.splat(w))), out)


@lane_kernel("iidiidd")
def divide_add_rows(lanes: Lanes, a: Value, n: Value, w: Value, c: Value, out: Value) -> None:
    """out = c + (a - n)·w mod q for centred a, n, c."""
    difference = lanes.sub(lanes.load(a), lanes.load(n))
    product = lanes.product(difference, lanes.splat(w))
    lanes.store(lanes.reduce(lanes.add(product, lanes.load(c))), out)


@lane_kernel("iidididd")
def divide_twice_rows(lanes: Lanes, a: Value, n: Value, u: Value, c: Value, w: Value, out: Value) -> None:
    """out = (a·u + c - n)·w mod q for centred a, n, c; the bracket is below 1.6 q."""
    product = lanes.product(lanes.load(a), lanes.splat(u))
    difference = lanes.sub(lanes.add(product, lanes.load(c)), lanes.load(n))
    lanes.store(lanes.reduce(lanes.product(difference, lanes.splat(w))), out)


@lane_kernel("iidd")
def words_to_residues(lanes: Lanes, source: Value, target: Value) -> None:
    """Canonical unsigned 64-bit residues to centred doubles."""
    lanes.store(lanes.reduce(lanes.as_doubles(lanes.load_words(source))), target)


@lane_kernel("iiddd")
def residues_to_words(lanes: Lanes, source: Value, target: Value, top: Value) -> None:
    """Centred doubles to canonical unsigned 64-bit residues; `top` is q."""
    canonical = lanes.lift(lanes.reduce(lanes.load(source)), lanes.splat(top))
    lanes.store(lanes.as_words(canonical), target)


@lane_kernel("iidddd")
def correction_digits(lanes: Lanes, source: Value, target: Value, factor: Value, top: Value) -> None:
    """target = (source mod t)·factor mod t, canonical; here q is the plain modulus t, `top` again t."""
    product = lanes.product(lanes.reduce(lanes.load(source)), lanes.splat(factor))
    lanes.store(lanes.lift(lanes.reduce(product), lanes.splat(top)), target)


@lane_kernel("iididd")
def corrected_remainder(lanes: Lanes, r: Value, k: Value, dropped: Value, out: Value) -> None:
    """out = r + k·dropped mod q, centred, for |r|, |k| < 2^50 and the centred `dropped` prime."""
    product = lanes.product(lanes.load(k), lanes.splat(dropped))
    lanes.store(lanes.reduce(lanes.add(lanes.load(r), product)), out)


@lane_kernel("iidd")
def negate_where(lanes: Lanes, data: Value, signs: Value) -> None:
    """The negative of data in the lanes whose bits are set in the octet at `signs`, in place."""
    x = lanes.load(data)
    lanes.store(lanes.select(lanes.load_mask(signs), lanes.negate(x), x), data)


def _lane_order(pattern: int) -> list[int]:
    """Where eight lanes come from: bitrev(g·bitrev(lane) + c mod 8), for pattern = 8·(g // 2) + c."""
    reverse = [0, 4, 2, 6, 1, 5, 3, 7]
    g, c = 2 * (pattern // 8) + 1, pattern % 8
    return [reverse[(g * reverse[lane] + c) % 8] for lane in range(LANES)]


LANE_ORDERS = [_lane_order(pattern) for pattern in range(32)]


def _block_mover(adding: bool) -> Any:
    @lane_kernel("iiiiidd")
    def move(lanes: Lanes, pattern: Value, source: Value, out: Value, moves: Value, count: Value) -> None:
        def block(order: list[int], index: Value) -> None:
            entry = lanes.plus(moves, lanes.times(index, 16))
            value = lanes.load(lanes.plus(source, lanes.load_integer(entry)))
            value = lanes.shuffle(value, value, order)
            target = lanes.plus(out, lanes.load_integer(lanes.offset(entry, 8)))
            if adding:
                value = lanes.reduce(lanes.add(lanes.load(target), value))
            lanes.store(value, target)

        lanes.choose(
            pattern,
            {
                number: partial(lanes.repeat, count, partial(block, order))
                for number, order in enumerate(LANE_ORDERS)
            },
        )

    return move


#: `count` blocks of eight values, reordered within by LANE_ORDERS[pattern]. moves: the octet offsets of
#: each block, in the source and in the result.
move_blocks = _block_mover(adding=False)
#: The same, added to what the result holds, centred.
add_blocks = _block_mover(adding=True)


@lane_kernel("iiidd")
def fetch_lines(lanes: Lanes, first: Value, second: Value, octets: Value) -> None:
    """Ask for six cache lines at `octets` of each of two streams, into the second-level cache."""
    for stream in (first, second):
        for line in range(FETCH_LINES):
            lanes.prefetch(lanes.plus(stream, octets), 64 * line, 2)
