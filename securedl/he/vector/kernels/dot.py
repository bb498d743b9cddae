"""Sums of products, reduced once for many terms.

The products a·b are never reduced one by one. `high` starts at 1.5·2^(52+b) for primes of b bits, so its
last bit weighs 2^b; adding a·b to it with one fused operation rounds the product to a multiple of 2^b,
and what was lost is recovered exactly:

    new  = fma(a, b, high)
    low += fma(a, b, -(new - high))       |each| <= 2^(b-1)

Bounds for T terms of centred residues, |a·b| <= (q/2 + 1)^2 < 2^(2b-2): `high` keeps its exponent while
T·2^(2b-2) <= 2^(51+b), and |low| <= T·2^(b-1) + q/2 < 2^53. Both hold for T = 2^(53-b): 8 terms at 50
bits, 16 at 49. Packed weights are canonical, not centred, and allow half as many.

Weights come from memory, once a query, and memory is what bounds a layer: packed weights (`packed`) take
as many whole bytes a residue as the prime needs and are unpacked on the way into the registers. With IFMA
they are summed as words (`words.WordSum`): 16 µs a term, where doubles took 20, and 30 to 36 without packing
(64 terms, 4 primes of 39 to 46 bits, N = 8192, one core).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import IFMA, lane_kernel
from securedl.he.vector.kernels.packed import WIDTHS
from securedl.he.vector.kernels.records import Terms
from securedl.he.vector.kernels.team import DONE, done, draw, flag, wait
from securedl.he.vector.kernels.words import SMALL_OFFSET, Words, WordSum

#: Most terms between two reductions: with four there are more reductions, with sixteen more streams than the
#: prefetcher follows; both took a tenth longer.
LONGEST_GROUP = 8
#: Weights are asked for this many octets ahead.
WEIGHTS_AHEAD = 384
#: Positions handled before going on, so that the x stay in the second-level cache for all sums.
TILE = 2048


def group_length(bits: int) -> int:
    """Terms that may be summed before a reduction, for primes of `bits` bits and packed weights."""
    return int(min(LONGEST_GROUP, 1 << (52 - bits)))


def key_group_length(bits: int) -> int:
    """The same for centred residues of a switch key, whose digits lie together: all of them if they may."""
    return int(min(32, 1 << (53 - bits)))


def start_value(bits: int) -> float:
    """Where `high` starts."""
    return 1.5 * 2.0 ** (52 + bits)


def _sum(lanes: Lanes, pair: bool, width: int, t: Terms) -> None:
    """x and w of two polynomials each, or w of one (not `pair`)."""
    places = lanes.apart(t.out, t.out_step, 3 if pair else 2)
    kept, top = lanes.nonzero(t.keep), lanes.splat(t.start)
    sums = [lanes.sum(top, lanes.select(kept, lanes.load(place), lanes.zero)) for place in places]

    def weight(address: Value) -> Value:
        lanes.prefetch(address, WEIGHTS_AHEAD, 3)
        return lanes.load(address) if width == 8 else lanes.as_doubles(lanes.load_packed(address, width))

    def term(index: Value) -> None:
        x, w = _rows_of_term(lanes, t, index)
        x0, x1 = lanes.load(x), lanes.load(lanes.plus(x, t.x_step))
        w0 = weight(w)
        sums[0].add(x0, w0)
        sums[1].add(x1, w0)
        if pair:
            w1 = weight(lanes.plus(w, t.w_step))
            sums[1].add(x0, w1)
            sums[2].add(x1, w1)

    lanes.repeat(t.terms, term)
    for total, place in zip(sums, places, strict=True):
        lanes.store(total.value(), place)


def _rows_of_term(lanes: Lanes, t: Terms, index: Value) -> tuple[Value, Value]:
    """Addresses of a term's x and w."""
    slot = lanes.times(index, 8)
    x = lanes.plus(lanes.load_integer(lanes.plus(t.xs, slot)), t.x_at)
    return x, lanes.plus(lanes.load_integer(lanes.plus(t.ws, slot)), t.w_at)


def _word_sum(lanes: Lanes, pair: bool, width: int, t: Terms) -> None:
    """`_sum` with packed weights on words, at twice eight positions.

    x is in [0, 2q), w < q < 2^48, and a sum has at most two products a term: within the bounds of `WordSum`.
    """
    words = Words(lanes)
    places = lanes.apart(t.out, t.out_step, 3 if pair else 2)
    sums = [[WordSum(words) for _ in places] for _ in range(2)]
    offset = lanes.load_splat(t.table, SMALL_OFFSET)

    def keeping() -> None:
        for k, some in enumerate(sums):
            for place, total in zip(places, some, strict=True):
                total.keep(words.from_double(lanes.load(place, 64 * k), offset))

    def term(index: Value) -> None:
        x, w = _rows_of_term(lanes, t, index)
        for k, some in enumerate(sums):
            both = x, lanes.plus(x, t.x_step)
            x0, x1 = (words.from_double(lanes.load(at, 64 * k), offset) for at in both)
            for p in range(len(places) - 1):
                at = lanes.offset(w, 8 * width * (k * (len(places) - 1) + p))
                lanes.prefetch(at, WEIGHTS_AHEAD, 3)
                weight = lanes.load_packed(at, width)
                some[p].add(x0, weight)
                some[p + 1].add(x1, weight)

    lanes.when(lanes.nonzero(t.keep), keeping)
    lanes.repeat(t.terms, term)
    for k, some in enumerate(sums):
        for place, total in zip(places, some, strict=True):
            lanes.store(total.value(t.table), place, 64 * k)


def _summing(pair: bool) -> Any:
    @lane_kernel(Terms)
    def sum_doubles(lanes: Lanes, t: Terms) -> None:
        _sum(lanes, pair, 8, t)

    return sum_doubles


def _summing_packed(pair: bool) -> Any:
    @lane_kernel(Terms)
    def sum_packed(lanes: Lanes, t: Terms) -> None:
        lanes.choose(t.width, {octets: partial(_sum, lanes, pair, octets, t) for octets in WIDTHS})

    return sum_packed


def _summing_words(pair: bool) -> Any:
    @lane_kernel(Terms, ifma=True)
    def sum_words(lanes: Lanes, t: Terms) -> None:
        lanes.choose(t.width, {octets: partial(_word_sum, lanes, pair, octets, t) for octets in WIDTHS})

    return sum_words


_pairs, _plain = _summing(True), _summing(False)
_packed_pairs, _packed_plain = _summing_packed(True), _summing_packed(False)
_word_pairs, _word_plain = _summing_words(True), _summing_words(False)


@inner
def _group(t, first, length, x_at, w_at, at):  # type: ignore[no-untyped-def]
    """At most `length` terms of a row from `first` on, at eight positions; `at` octets into the result."""
    return Terms(
        xs=t.xs + 8 * first,
        ws=t.ws + 8 * first,
        terms=min(length, t.terms - first),
        x_at=x_at,
        w_at=w_at,
        x_step=t.x_step,
        w_step=t.w_step,
        out=t.out + at,
        out_step=t.out_step,
        keep=first,
        width=t.width,
        start=t.start,
        table=t.table,
    )


@inner
def rows(pair, row, length, x_stride, begin, end, q, q_inverse):  # type: ignore[no-untyped-def]
    """Positions begin..end of one row of every output polynomial; `row` has the `Terms` of position 0.

    Eight values of x are followed by the next eight of the same row 64·x_stride octets later.
    """
    for first in range(0, row.terms, length):
        for j in range(8 * begin, 8 * end, 64):
            terms = _group(row, first, length, j * x_stride, j, j)
            if pair:
                _pairs(terms, q, q_inverse)
            else:
                _plain(terms, q, q_inverse)


@kernel(
    "void(boolean,int64,int64[::1],int64[:,::1],int64[::1],int64,int64[::1],float64[::1],float64[::1],"
    "float64[::1])"
)
def dot(pair, team, xs, ws, outs, n, lengths, starts, q, q_inverse):  # type: ignore[no-untyped-def]
    """outs[k] = Σ (x0 + x1 s)·w[k] modulo every prime, with w = w0 + w1 s if `pair`.

    All are addresses of float64 [polynomials, primes, N]. TILE positions of all sums are done before the
    next, so that the x are read from memory once for all of them; they are the units of a `team`.
    """
    primes, terms = q.size, xs.size
    step = 8 * n * primes
    x_rows, w_rows = np.empty(terms, np.int64), np.empty(terms, np.int64)
    number, unit = draw(team), 0
    for prime in range(primes):
        row = 8 * n * prime
        for tile in range(0, n, TILE):
            if unit == number:
                for k in range(outs.size):
                    for j in range(terms):
                        x_rows[j] = xs[j] + row
                        w_rows[j] = ws[k, j] + row
                    some = Terms(
                        xs=x_rows.ctypes.data,
                        ws=w_rows.ctypes.data,
                        terms=terms,
                        x_at=0,
                        w_at=0,
                        x_step=step,
                        w_step=step,
                        out=outs[k] + row,
                        out_step=step,
                        keep=0,
                        width=8,
                        start=starts[prime],
                        table=0,
                    )
                    rows(pair, some, lengths[prime], 1, tile, tile + TILE, q[prime], q_inverse[prime])
                number = done(team, number)
            unit += 1
    wait(flag(team, DONE), unit)


@inner
def _packed_rows(pair, row, length, begin, end, q, q_inverse):  # type: ignore[no-untyped-def]
    """`rows` with packed weights."""
    together = 2 if IFMA else 1  # vectors that a sum forms at a time
    polynomials = 2 if pair else 1
    for first in range(0, row.terms, length):
        for k in range(begin // 8, end // 8, together):
            terms = _group(row, first, length, 64 * k, polynomials * row.w_step * k, 64 * k)
            if IFMA:
                if pair:
                    _word_pairs(terms, q, q_inverse)
                else:
                    _word_plain(terms, q, q_inverse)
            elif pair:
                _packed_pairs(terms, q, q_inverse)
            else:
                _packed_plain(terms, q, q_inverse)


@kernel(
    "void(boolean,int64,int64[::1],int64[:,::1],int64[::1],int64,int64[::1],int64[::1],int64[::1],"
    "float64[::1],float64[::1],float64[::1])"
)
def dot_packed(pair, team, xs, ws, outs, n, widths, lengths, tables, starts, q, q_inverse):  # type: ignore[no-untyped-def]
    """`dot` with packed weights; widths are the bytes of each prime's residues, tables `chain.ahead`."""
    primes, terms = q.size, xs.size
    step = 8 * n * primes
    x_rows, w_rows = np.empty(terms, np.int64), np.empty(terms, np.int64)
    offset = 0
    number, unit = draw(team), 0
    for prime in range(primes):
        row = 8 * n * prime
        for tile in range(0, n, TILE):
            if unit == number:
                for k in range(outs.size):
                    for j in range(terms):
                        x_rows[j] = xs[j] + row
                        w_rows[j] = ws[k, j] + offset
                    some = Terms(
                        xs=x_rows.ctypes.data,
                        ws=w_rows.ctypes.data,
                        terms=terms,
                        x_at=0,
                        w_at=0,
                        x_step=step,
                        w_step=8 * widths[prime],
                        out=outs[k] + row,
                        out_step=step,
                        keep=0,
                        width=widths[prime],
                        start=starts[prime],
                        table=tables[prime],
                    )
                    _packed_rows(pair, some, lengths[prime], tile, tile + TILE, q[prime], q_inverse[prime])
                number = done(team, number)
            unit += 1
        offset += (2 if pair else 1) * n * widths[prime]
    wait(flag(team, DONE), unit)
