"""Digits of a polynomial that is switched, and the sums of digit x key modulo one prime."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from securedl.he.vector.kernels.cache import caller, entry, inner, kernel
from securedl.he.vector.kernels.dot import rows
from securedl.he.vector.kernels.keysum import DOUBLE_BYTES, place_sums, sum_words
from securedl.he.vector.kernels.ntt import FORWARD, START, call_forward, call_start, transform_entries
from securedl.he.vector.kernels.ntt_words_forward import close_words, enter_words
from securedl.he.vector.kernels.padding import padded_gap, padded_row, plain_gap, skipped
from securedl.he.vector.kernels.records import KeyTerms, Prime, Terms
from securedl.he.vector.kernels.rescale import undo
from securedl.he.vector.kernels.rows import TURN_SIGNATURE, turn_row

#: Columns of a switch's constants, one line a prime: integers and doubles.
PRIME_AHEAD, PRIME_BACK, PRIME_METHOD, PRIME_GROUP, PRIME_WIDTH = range(5)
PRIME_Q, PRIME_Q_INVERSE, PRIME_SHRINK, PRIME_BASE, PRIME_FACTOR, PRIME_RESIDUE, PRIME_DROPPING = range(7)


@inner
def prime_of(n, whole, real, i):  # type: ignore[no-untyped-def]
    """The constants of prime i that transforms need."""
    return Prime(
        n=n,
        q=real[i, PRIME_Q],
        q_inverse=real[i, PRIME_Q_INVERSE],
        how=whole[i, PRIME_METHOD],
        ahead=whole[i, PRIME_AHEAD],
        back=whole[i, PRIME_BACK],
        shrink=real[i, PRIME_SHRINK],
    )


@inner
def digit(entries, source, digit_rows, i, prime, signs):  # type: ignore[no-untyped-def]
    """Digit i of the polynomial whose rows lie at `source`, to its padded row."""
    n = prime.n
    undo(entries, source + 8 * n * i, digit_rows + padded_row(n) * i, prime, prime.q, signs)


#: Places in `switch_entries`.
SUMS, TURN = START + 1, START + 2
_SUMS = (
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64,boolean,int64,int64,int64,int64,int64,int64,"
    "boolean,int64[:,::1],float64[:,::1],int64[::1],int64[::1])"
)
call_sums, call_turn = caller(_SUMS), caller(TURN_SIGNATURE)


@kernel(_SUMS)
def digit_sums(  # type: ignore[no-untyped-def]
    entries, digit_rows, source, room, key, key_digits, count, position, transformed, sums, step, n, turn,
    out, out_step, adding, whole, real, xs, ws,
):  # fmt: skip
    """Σ digit x key modulo one position's prime, for both polynomials of the key: rows at `sums`, `step`
    octets apart. The digits are transformed to `room`, unless they have been.

    xs, ws: room for `count` addresses each.
    turn, out, out_step: on words the sums then go to two rows at `out` under an automorphism, unless `turn`
    is 0; with `adding` they are added to what is there.

    On words the closing passes of all digits and the sum go through the row together, 128 values at a time:
    twiddles are read once for all digits, and what one step leaves is in the first-level cache for the next.
    """
    row, i = 8 * n, position - 1
    padded, gap = padded_row(n), padded_gap(n)
    prime = i if position else whole.shape[0] - 1
    q, q_inverse, how, table = (
        real[prime, PRIME_Q],
        real[prime, PRIME_Q_INVERSE],
        whole[prime, PRIME_METHOD],
        whole[prime, PRIME_AHEAD],
    )
    width, length = whole[prime, PRIME_WIDTH], whole[prime, PRIME_GROUP]
    for k in range(prime):
        key += 2 * key_digits * n * whole[k, PRIME_WIDTH]
    for j in range(count):
        ws[j] = room + j * padded
        if not transformed and j != i:
            source_row = digit_rows + j * padded
            if how < 0:
                call_start(entries[START], source_row, ws[j], gap, table, n, q, q_inverse, how)
            else:  # fetches two rows of the key meanwhile
                soon = key + 2 * j * row
                to = ws[j], plain_gap(n)
                call_forward(entries[FORWARD], source_row, *to, table, n, q, q_inverse, how, soon, soon + row)
    if how < 0:
        for part in range(n // 128):
            skip = skipped(n, part, gap)
            for j in range(count):
                at = ws[j] + 1024 * part + skip
                if not transformed and j != i:
                    close_words(at, part, table, n, q, q_inverse, how)
                elif not transformed:
                    for k in range(0, 1024, 64):
                        enter_words(source + j * row + 1024 * part + k, at + k, table, q, q_inverse)
            begin, end = 128 * part, 128 * (part + 1)
            terms = KeyTerms(
                xs=ws.ctypes.data,
                terms=count,
                x_at=0,
                key=key,
                key_step=16 * key_digits * width,
                out=sums,
                out_step=step,
                keep=0,
                width=width,
                table=table,
            )
            sum_words(terms, length, begin, end, skip, q, q_inverse)
            if turn != 0:
                place_sums(sums, step, out, out_step, begin, end, turn, adding, q, q_inverse)
    else:
        for j in range(count):
            xs[j] = key + 128 * j
            if j == i:
                ws[j] = source + j * row
        some = Terms(
            xs=xs.ctypes.data,
            ws=ws.ctypes.data,
            terms=count,
            x_at=0,
            w_at=0,
            x_step=64,
            w_step=0,
            out=sums,
            out_step=step,
            keep=0,
            width=DOUBLE_BYTES,
            start=real[prime, PRIME_BASE],
            table=0,
        )
        rows(False, some, length, 2 * key_digits, 0, n, q, q_inverse)


@lru_cache(maxsize=1)
def switch_entries() -> NDArray[np.int64]:
    """Addresses of the code of kernels that other kernels call: transforms, sums, automorphisms."""
    return np.append(transform_entries(), [entry(digit_sums), entry(turn_row)])
