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
from securedl.he.vector.kernels.records import Dividend, Places, Prime
from securedl.he.vector.kernels.team import DONE, OWN, done, draw, flag, signal, wait
from securedl.he.vector.kernels.words import OFFSET, Words


@inner
def transform(entries, source, out, prime):  # type: ignore[no-untyped-def]
    """A padded row to a plain one."""
    call_forward(
        entries[FORWARD], source, out, plain_gap(prime.n), prime.ahead, prime.n, prime.q, prime.q_inverse,
        prime.how, 0, 0,
    )  # fmt: skip


@inner
def undo(entries, source, out, prime, top, signs):  # type: ignore[no-untyped-def]
    """A plain row to a padded one, see `ntt.inverse`."""
    call_inverse(
        entries[INVERSE], source, out, prime.back, prime.n, prime.shrink, top, signs, prime.q,
        prime.q_inverse, prime.how,
    )  # fmt: skip


@inner
def remainder(entries, last, out, prime, signs, t, t_factor):  # type: ignore[no-untyped-def]
    """Padded coefficients of c at `out` and, for BGV, of k one row further; `last` is the row modulo p."""
    if t == 0.0:
        undo(entries, last, out, prime, 0.0, 0)
        return
    row, p = padded_row(prime.n), prime.q
    undo(entries, last, out, prime, p, signs)
    t_inverse = 1.0 / t
    for j in range(0, row, 64):
        if signs != 0:
            arith.negate_where(out + j, signs + j // 64, p, prime.q_inverse)
        arith.correction_digits(out + j, out + row + j, t_factor, t, t, t_inverse)


def _number(lanes: Lanes, p: Places) -> Value:
    return Words(lanes).to_double(lanes.load_words(p.n), lanes.load_splat(p.table, OFFSET))


def _quotient(added: bool, turning: bool, adding: bool = False) -> Any:
    """out = (a - n)·factor mod q, plus what is `added`, centred like a.

    |a - n| < 2^51 + q < 2^52, and the sum stays below 1.3 q. With `turning` the result goes to its place
    under an automorphism, see `Words.turned`, and with `adding` it is added to what is there.
    """

    @lane_kernel(Places, ifma=True)
    def divide(lanes: Lanes, p: Places) -> None:
        value = lanes.product(lanes.sub(lanes.load(p.a), _number(lanes, p)), lanes.splat(p.factor))
        value, out = lanes.reduce(lanes.add(value, lanes.load(p.added)) if added else value), p.out
        if turning:
            value, offset = Words(lanes).turned(value, p.turn, p.place)
            out = lanes.plus(out, offset)
        if adding:
            value = lanes.reduce(lanes.add(lanes.load(out), value))
        lanes.store(value, out)

    return divide


_divide, _divide_add = _quotient(False, False), _quotient(True, False)
_divide_turn, _divide_add_turn = _quotient(False, True), _quotient(True, True)
_gather_turn, _gather_add_turn = _quotient(False, True, True), _quotient(True, True, True)


@lane_kernel(Places, ifma=True)
def _divide_twice_words(lanes: Lanes, p: Places) -> None:
    """out = (a·factor + added - n)·factor_too mod q: the bracket is below 2^51 + 1.1 q < 2^52."""
    product = lanes.product(lanes.load(p.a), lanes.splat(p.factor))
    difference = lanes.sub(lanes.add(product, lanes.load(p.added)), _number(lanes, p))
    lanes.store(lanes.reduce(lanes.product(difference, lanes.splat(p.factor_too))), p.out)


@inner
def divide_row(entries, prime, d, signs, t, turn, adding):  # type: ignore[no-untyped-def]
    """out = (rows - c)/p + added modulo one prime, for CKKS (t = 0) or BGV.

    turn: on words, the automorphism that the result undergoes (the address of its `scatter`), or 0; with
    `adding` it is then added to what is there. On words each part of the row is divided as soon as its
    transform is done, while it is in the first-level cache.
    """
    n, q, q_inverse = prime.n, prime.q, prime.q_inverse
    row, padded, gap = 8 * n, padded_row(n), padded_gap(n)
    source = d.remainders
    if t > 0.0:
        source = d.work
        for j in range(0, padded, 64):
            arith.corrected_remainder(
                d.remainders + j, d.remainders + padded + j, d.residue, d.work + j, q, q_inverse
            )
            if signs != 0:
                arith.negate_where(d.work + j, signs + j // 64, q, q_inverse)
    if prime.how < 0:
        call_start(entries[START], source, d.work, gap, prime.ahead, n, q, q_inverse, prime.how)
        for part in range(n // 128):
            skip = skipped(n, part, gap)
            close_words(d.work + 1024 * part + skip, part, prime.ahead, n, q, q_inverse, prime.how)
            for j in range(1024 * part, 1024 * (part + 1), 64):
                places = Places(
                    a=d.rows + j,
                    n=d.work + j + skip,
                    added=d.added + j,
                    out=d.out if turn != 0 else d.out + j,
                    turn=turn,
                    place=turn + 2048 + j // 8,
                    table=prime.ahead,
                    factor=d.factor,
                    factor_too=0.0,
                )
                if turn != 0:
                    if adding and d.added != 0:
                        _gather_add_turn(places, q, q_inverse)
                    elif adding:
                        _gather_turn(places, q, q_inverse)
                    elif d.added != 0:
                        _divide_add_turn(places, q, q_inverse)
                    else:
                        _divide_turn(places, q, q_inverse)
                elif d.added != 0:
                    _divide_add(places, q, q_inverse)
                else:
                    _divide(places, q, q_inverse)
        return
    c = d.transformed
    transform(entries, source, c, prime)
    if d.added != 0:
        for j in range(0, row, 64):
            arith.divide_add_rows(d.rows + j, c + j, d.factor, d.added + j, d.out + j, q, q_inverse)
    else:
        for j in range(0, row, 64):
            arith.divide_rows(d.rows + j, c + j, d.factor, d.out + j, q, q_inverse)


@inner
def divide_row_twice(entries, prime, d, factor_too):  # type: ignore[no-untyped-def]
    """out = ((rows - c)/p + added - e)/p' modulo one prime, for CKKS: as two divisions, with one transform.

    c lies at `remainders`, one row further e, the centred remainder of the first quotient modulo p'. The
    factors are 1/p and 1/p'. With C and E the transforms of c and e, (row - C)/p + added - E is
    row/p + added - (C/p + E), and the bracket is the transform of c/p + e.
    """
    n, q, q_inverse = prime.n, prime.q, prime.q_inverse
    padded, gap = padded_row(n), padded_gap(n)
    for j in range(0, padded, 64):
        arith.corrected_remainder(
            d.remainders + padded + j, d.remainders + j, d.factor, d.work + j, q, q_inverse
        )
    if prime.how < 0:
        call_start(entries[START], d.work, d.work, gap, prime.ahead, n, q, q_inverse, prime.how)
        for part in range(n // 128):
            skip = skipped(n, part, gap)
            close_words(d.work + 1024 * part + skip, part, prime.ahead, n, q, q_inverse, prime.how)
            for j in range(1024 * part, 1024 * (part + 1), 64):
                places = Places(
                    a=d.rows + j,
                    n=d.work + j + skip,
                    added=d.added + j,
                    out=d.out + j,
                    turn=0,
                    place=0,
                    table=prime.ahead,
                    factor=d.factor,
                    factor_too=factor_too,
                )
                _divide_twice_words(places, q, q_inverse)
        return
    transform(entries, d.work, d.out, prime)
    for j in range(0, 8 * n, 64):
        arith.divide_twice_rows(
            d.rows + j, d.out + j, d.factor, d.added + j, factor_too, d.out + j, q, q_inverse
        )


#: Columns of a job of `divide`: addresses of the row modulo the dropped prime, of the others, of the result.
JOB_LAST, JOB_ROWS, JOB_OUT = range(3)


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
    dropped = Prime(n=n, q=p, q_inverse=p_inverse, how=how, ahead=0, back=back, shrink=shrink)
    number, unit = draw(team), 0
    for k in range(len(jobs)):
        if unit == number:
            remainder(entries, jobs[k, JOB_LAST], rests + 2 * k * padded, dropped, 0, t, t_factor)
            signal(flag(team, OWN + k))
            number = done(team, number)
        unit += 1
    for k in range(len(jobs)):
        for i in range(q.size):
            if unit == number:
                wait(flag(team, OWN + k), 1)
                prime = Prime(
                    n=n, q=q[i], q_inverse=q_inverse[i], how=methods[i], ahead=ahead[i], back=0, shrink=0.0
                )
                dividend = Dividend(
                    remainders=rests + 2 * k * padded,
                    rows=jobs[k, JOB_ROWS] + i * row,
                    added=0,
                    out=jobs[k, JOB_OUT] + i * row,
                    work=work,
                    transformed=jobs[k, JOB_OUT] + i * row,
                    factor=factors[i],
                    residue=residues[i],
                )
                divide_row(entries, prime, dividend, 0, t, 0, False)
                number = done(team, number)
            unit += 1
    wait(flag(team, DONE), unit)
