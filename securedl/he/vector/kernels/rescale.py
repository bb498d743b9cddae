"""Dividing a polynomial by one of its primes, as SEAL rounds.

CKKS (`divide_and_round_q_last_ntt_inplace`): with c the residue modulo the dropped prime p, centred,
every other residue becomes (x - c)/p. BGV (`mod_t_and_divide_q_last_ntt_inplace`): c is canonical and is
replaced by c + k·p with k = -c/p mod t in [0, t), so that the message modulo t survives.

Under an automorphism (`signs`) SEAL would see the permuted polynomial. Centring is symmetric, BGV's
canonical c is not: it is computed for the permuted coefficients, then carried back.
"""

from __future__ import annotations

from typing import Any

from securedl.he.vector.kernels import arith
from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel
from securedl.he.vector.kernels.ntt import FORWARD, INVERSE, START, call_forward, call_inverse, call_start
from securedl.he.vector.kernels.ntt_words_forward import close_words
from securedl.he.vector.kernels.padding import padded_gap, padded_row, plain_gap, skipped
from securedl.he.vector.kernels.team import DONE, OWN, done, draw, flag, signal, wait
from securedl.he.vector.kernels.words import OFFSET, Words


@inner
def remainder(entries, last, out, n, signs, back, shrink, p, p_inverse, how, t, t_factor):  # type: ignore[no-untyped-def]
    """Padded coefficients of c at `out` and, for BGV, of k one row further; `last` is the row modulo p."""
    row = padded_row(n)
    if t == 0.0:
        call_inverse(entries[INVERSE], last, out, back, n, shrink, 0.0, 0, p, p_inverse, how)
    else:
        call_inverse(entries[INVERSE], last, out, back, n, shrink, p, signs, p, p_inverse, how)
        t_inverse = 1.0 / t
        for j in range(0, row, 64):
            if signs != 0:
                arith.negate_where(out + j, signs + j // 64, p, p_inverse)
            arith.correction_digits(out + j, out + row + j, t_factor, t, t, t_inverse)


def _quotient(added: bool, turning: bool) -> Any:
    """out = (a - n)·w mod q, plus c if `added`: centred a, c, and n as a closing pass leaves it.

    |a - n| < 2^51 + q < 2^52, and the sum with c stays below 1.3 q. With `turning` the result goes to its
    place under an automorphism, see `Words.turned`.
    """

    @lane_kernel("iidiiiiidd", ifma=True)
    def divide(
        lanes: Lanes, a: Value, n: Value, w: Value, c: Value, constants: Value, out: Value, turn: Value,
        place: Value,
    ) -> None:  # fmt: skip
        words = Words(lanes)
        number = words.to_double(lanes.load_words(n), lanes.load_splat(constants, OFFSET))
        value = lanes.product(lanes.sub(lanes.load(a), number), lanes.splat(w))
        value = lanes.reduce(lanes.add(value, lanes.load(c)) if added else value)
        if turning:
            value, offset = words.turned(value, turn, place)
            out = lanes.plus(out, offset)
        lanes.store(value, out)

    return divide


_divide, _divide_add = _quotient(False, False), _quotient(True, False)
_divide_turn, _divide_add_turn = _quotient(False, True), _quotient(True, True)


@lane_kernel("iididiidd", ifma=True)
def _divide_twice_words(
    lanes: Lanes, a: Value, n: Value, u: Value, c: Value, w: Value, constants: Value, out: Value
) -> None:
    """out = (a·u + c - n)·w mod q, as `_quotient`: the bracket is below 2^51 + 1.1 q < 2^52."""
    number = Words(lanes).to_double(lanes.load_words(n), lanes.load_splat(constants, OFFSET))
    product = lanes.product(lanes.load(a), lanes.splat(u))
    difference = lanes.sub(lanes.add(product, lanes.load(c)), number)
    lanes.store(lanes.reduce(lanes.product(difference, lanes.splat(w))), out)


@inner
def divide_row(  # type: ignore[no-untyped-def]
    entries, remainders, rows, added, out, work, n, signs, ahead, q, q_inverse, how, factor, residue, t, turn
):  # fmt: skip
    """out = (row - c)/p + added modulo one prime; `added` may be 0 for none, work is one padded row.

    turn: on words, the automorphism that the result undergoes (the address of its `scatter`), or 0. On words
    each part of the row is divided as soon as its transform is done, while it is in the first-level cache.
    """
    row, padded, gap = 8 * n, padded_row(n), padded_gap(n)
    source = remainders
    if t > 0.0:
        source = work
        for j in range(0, padded, 64):
            arith.corrected_remainder(
                remainders + j, remainders + padded + j, residue, work + j, q, q_inverse
            )
            if signs != 0:
                arith.negate_where(work + j, signs + j // 64, q, q_inverse)
    if how < 0:
        call_start(entries[START], source, work, gap, ahead, n, q, q_inverse, how)
        for part in range(n // 128):
            skip = skipped(n, part, gap)
            close_words(work + 1024 * part + skip, part, ahead, n, q, q_inverse, how)
            for j in range(1024 * part, 1024 * (part + 1), 64):
                a, b, c, place = rows + j, work + j + skip, added + j, turn + 2048 + j // 8
                if turn != 0:
                    if added != 0:
                        _divide_add_turn(a, b, factor, c, ahead, out, turn, place, q, q_inverse)
                    else:
                        _divide_turn(a, b, factor, c, ahead, out, turn, place, q, q_inverse)
                elif added != 0:
                    _divide_add(a, b, factor, c, ahead, out + j, turn, place, q, q_inverse)
                else:
                    _divide(a, b, factor, c, ahead, out + j, turn, place, q, q_inverse)
        return
    call_forward(entries[FORWARD], source, out, plain_gap(n), ahead, n, q, q_inverse, how, 0, 0)
    if added != 0:
        for j in range(0, row, 64):
            arith.divide_add_rows(rows + j, out + j, factor, added + j, out + j, q, q_inverse)
    else:
        for j in range(0, row, 64):
            arith.divide_rows(rows + j, out + j, factor, out + j, q, q_inverse)


@inner
def divide_row_twice(  # type: ignore[no-untyped-def]
    entries, remainders, rows, added, out, work, n, ahead, q, q_inverse, how, factor, factor_too
):  # fmt: skip
    """out = ((row - c)/p + added - d)/p' modulo one prime, for CKKS: as two divisions, with one transform.

    c lies at `remainders`, one row further d, the centred remainder of the first quotient modulo p'. The
    factors are 1/p and 1/p'. With C and D the transforms of c and d, (row - C)/p + added - D is
    row/p + added - (C/p + D), and the bracket is the transform of c/p + d.
    """
    padded, gap = padded_row(n), padded_gap(n)
    for j in range(0, padded, 64):
        arith.corrected_remainder(remainders + padded + j, remainders + j, factor, work + j, q, q_inverse)
    if how < 0:
        call_start(entries[START], work, work, gap, ahead, n, q, q_inverse, how)
        for part in range(n // 128):
            skip = skipped(n, part, gap)
            close_words(work + 1024 * part + skip, part, ahead, n, q, q_inverse, how)
            for j in range(1024 * part, 1024 * (part + 1), 64):
                a, b = rows + j, work + j + skip
                _divide_twice_words(a, b, factor, added + j, factor_too, ahead, out + j, q, q_inverse)
        return
    call_forward(entries[FORWARD], work, out, plain_gap(n), ahead, n, q, q_inverse, how, 0, 0)
    for j in range(0, 8 * n, 64):
        arith.divide_twice_rows(rows + j, out + j, factor, added + j, factor_too, out + j, q, q_inverse)


#: Columns of a job of `divide`: addresses of the row modulo the dropped prime, of the others, of the result.
LAST, ROWS, OUT = range(3)


@kernel(
    "void(int64[::1],int64,int64[:,::1],int64,int64,int64,int64,float64,float64,float64,int64,int64[::1],"
    "float64[::1],float64[::1],int64[::1],float64[::1],float64[::1],float64,float64)"
)
def divide(  # type: ignore[no-untyped-def]
    entries, team, jobs, rests, work, n, back, shrink, p, p_inverse, how, ahead, q, q_inverse, methods,
    factors, residues, t, t_factor,
):  # fmt: skip
    """out = (rows - c)/p for one polynomial each job, all in NTT form; q.size rows.

    rests: two padded rows for each job; work: one that is the thread's own. t is BGV's plain modulus or 0.
    Flags: one for each job's remainders.
    """
    row, padded = 8 * n, padded_row(n)
    number, unit = draw(team), 0
    for k in range(len(jobs)):
        if unit == number:
            rest = rests + 2 * k * padded
            remainder(entries, jobs[k, LAST], rest, n, 0, back, shrink, p, p_inverse, how, t, t_factor)
            signal(flag(team, OWN + k))
            number = done(team, number)
        unit += 1
    for k in range(len(jobs)):
        for i in range(q.size):
            if unit == number:
                wait(flag(team, OWN + k), 1)
                divide_row(
                    entries, rests + 2 * k * padded, jobs[k, ROWS] + i * row, 0, jobs[k, OUT] + i * row, work,
                    n, 0, ahead[i], q[i], q_inverse[i], methods[i], factors[i], residues[i], t, 0,
                )  # fmt: skip
                number = done(team, number)
            unit += 1
    wait(flag(team, DONE), unit)
