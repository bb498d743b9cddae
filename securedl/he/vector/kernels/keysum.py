"""Switch keys at rest, and sums of transformed digits times them on words.

A key is, prime after prime, [N/8, digits, 2 polynomials, 8 residues] in the order in which it is read. For
primes that are transformed on words a residue takes `width` little-endian bytes, as few as it needs: a
switch reads the whole key, and 1.8 megabytes instead of 2.6 (4 digits, 5 primes, N = 8192) come sooner from
the third-level cache. For other primes residues are centred doubles. Sums ask for what they will read
`_AHEAD` octets later: the processor itself looks ahead only within pages of 4 kilobytes.

Sums are formed on words (`words.WordSum`): x < 2^52 and w < 2^b.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel
from securedl.he.vector.kernels.records import KeyTerms
from securedl.he.vector.kernels.words import SMALL_OFFSET, Words, WordSum

#: Bytes of a residue of a double, and of the residues that may be packed.
DOUBLE_BYTES = 8
#: Vectors of each polynomial that a sum forms at a time; 128 values, a part of a row, are a multiple of them.
_TOGETHER = 2
#: How far ahead of itself a sum fetches the key into the second-level cache.
_AHEAD = 6144


def word_group_length(bits: int) -> int:
    """Terms that may be summed before a reduction, for primes of `bits` bits."""
    return int(min(32, (1 << (52 - bits)) - 1))


#: Widths of residues that are summed on words.
_WIDTHS = range(3, 8)


def _sum(lanes: Lanes, width: int, t: KeyTerms) -> None:
    words = Words(lanes)
    both = (t.out, lanes.plus(t.out, t.out_step))
    places = [lanes.offset(start, 64 * k) for k in range(_TOGETHER) for start in both]
    keys = lanes.apart(t.key, t.key_step, _TOGETHER)
    sums = [WordSum(words) for _ in places]

    def keeping() -> None:
        offset = lanes.load_splat(t.table, SMALL_OFFSET)
        for place, total in zip(places, sums, strict=True):
            total.keep(words.from_double(lanes.load(place), offset))

    def term(index: Value) -> None:
        row = lanes.load_integer(lanes.plus(t.xs, lanes.times(index, 8)))
        first = lanes.times(index, 16 * width)
        for k, key_at in enumerate(keys):
            x = lanes.load_words(lanes.plus(row, t.x_at), 64 * k)
            start = lanes.plus(key_at, first)
            lanes.prefetch(start, _AHEAD, 2)  # beside the next one's, nearly every cache line
            for p in range(2):
                sums[2 * k + p].add(x, lanes.load_packed(lanes.offset(start, 8 * width * p), width))

    lanes.when(lanes.nonzero(t.keep), keeping)
    lanes.repeat(t.terms, term)
    for place, total in zip(places, sums, strict=True):
        lanes.store(total.value(t.table), place)


@lane_kernel(KeyTerms, ifma=True)
def _key_sum(lanes: Lanes, t: KeyTerms) -> None:
    lanes.choose(t.width, {octets: partial(_sum, lanes, octets, t) for octets in _WIDTHS})


@lane_kernel("iiidd")
def _squeeze(lanes: Lanes, width: Value, source: Value, target: Value) -> None:
    """Centred doubles to packed canonical residues, or to centred doubles of 8 octets."""
    canonical = lanes.as_words(lanes.lift(lanes.reduce(lanes.load(source)), lanes.q))
    lanes.choose(
        width,
        {octets: partial(lanes.store_packed, canonical, target, octets) for octets in _WIDTHS}
        | {DOUBLE_BYTES: lambda: lanes.store(lanes.reduce(lanes.load(source)), target)},
    )


@inner
def sum_words(row, length, begin, end, skip, q, q_inverse):  # type: ignore[no-untyped-def]
    """Positions begin..end of both sums modulo one prime; `row` has the `KeyTerms` of position 0.

    skip: octets of padding before these positions of the xs. The sums are centred doubles.
    """
    for j in range(8 * begin, 8 * end, 64 * _TOGETHER):
        for first in range(0, row.terms, length):
            terms = KeyTerms(
                xs=row.xs + 8 * first,
                terms=min(length, row.terms - first),
                x_at=j + skip,
                key=row.key + j // 64 * row.key_step + 16 * row.width * first,
                key_step=row.key_step,
                out=row.out + j,
                out_step=row.out_step,
                keep=first,
                width=row.width,
                table=row.table,
            )
            _key_sum(terms, q, q_inverse)


def _placing(adding: bool) -> Any:
    """Eight values to their place under an automorphism, added to what is there if `adding`."""

    @lane_kernel("iiiidd", ifma=True)
    def place_sum(lanes: Lanes, source: Value, out: Value, turn: Value, place: Value) -> None:
        value, offset = Words(lanes).turned(lanes.load(source), turn, place)
        target = lanes.plus(out, offset)
        lanes.store(lanes.reduce(lanes.add(lanes.load(target), value)) if adding else value, target)

    return place_sum


_place, _place_add = _placing(False), _placing(True)


@inner
def place_sums(source, step, out, out_step, begin, end, turn, adding, q, q_inverse):  # type: ignore[no-untyped-def]
    """Positions begin..end of both sums to their places in the result under an automorphism."""
    for p in range(2):
        for j in range(8 * begin, 8 * end, 64):
            a, to, place = source + p * step + j, out + p * out_step, turn + 2048 + j // 8
            if adding:
                _place_add(a, to, turn, place, q, q_inverse)
            else:
                _place(a, to, turn, place, q, q_inverse)


@kernel("void(int64,int64,int64,int64,int64,int64[::1],float64[::1],float64[::1])")
def pack_digit(source, out, digit, digits, n, widths, q, q_inverse):  # type: ignore[no-untyped-def]
    """One digit's two polynomials, centred doubles [2, primes, N], into the key at `out`."""
    for i in range(q.size):
        width = widths[i]
        for p in range(2):
            a = source + 8 * n * (p * q.size + i)
            b = out + 8 * width * (2 * digit + p)
            for _ in range(n // 8):
                _squeeze(width, a, b, q[i], q_inverse[i])
                a += 64
                b += 16 * width * digits
        out += 2 * n * width * digits
