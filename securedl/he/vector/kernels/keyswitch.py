"""Key switching, as SEAL's `switch_key_inplace` does it.

1. The inverse transform of the polynomial to switch; its canonical residue modulo each prime is one digit.
2. Modulo the special prime and then each other one: transform every digit, sum digit x key, and divide the
   two sums by the special prime. One prime is finished before the next, so that all but the key stays in
   the second-level cache.

A rotation permutes NTT values. Rotation keys are stored permuted backwards, so that the sums are formed
before the permutation, which comes last and acts on the result only: digits and their transforms can then
be shared by all rotations of one ciphertext (hoisting). SEAL takes canonical digits of the *permuted*
polynomial; where the automorphism flips a sign that is x - q in place of x (`ntt.inverse`). With these
digits the result is SEAL's, bit for bit; without them it differs in the last bits of the noise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from securedl.he.vector.kernels.arith import add_rows
from securedl.he.vector.kernels.cache import caller, entry, inner, kernel
from securedl.he.vector.kernels.dot import rows
from securedl.he.vector.kernels.keysum import place_sums, sum_words
from securedl.he.vector.kernels.ntt import FORWARD, INVERSE, START, call_forward, call_inverse, call_start
from securedl.he.vector.kernels.ntt import entries as transforms
from securedl.he.vector.kernels.ntt_words_forward import close_words, enter_words
from securedl.he.vector.kernels.padding import padded_gap, padded_row, plain_gap, skipped
from securedl.he.vector.kernels.rescale import divide_row, divide_row_twice, remainder
from securedl.he.vector.kernels.rows import TURN_SIGNATURE, turn_row
from securedl.he.vector.kernels.team import DONE, OWN, done, draw, flag, signal, wait

#: Columns of an item, a polynomial to switch with one key: addresses of the key, of the result, of four
#: padded rows, of the moves and the scatter of an automorphism (0 for none); the polynomial's number, which
#: items of the same polynomial share; addresses of it, and of what is added to the result's polynomials.
KEY, OUT, REMAINDERS, MOVES, SCATTER, NUMBER, SOURCE, ADDED, ADDED_TOO = range(9)
#: Columns of a switch's constants, one line a prime: integers and doubles.
AHEAD, BACK, METHOD, GROUP, WIDTH = range(5)
Q, Q_INVERSE, SHRINK, BASE, FACTOR, RESIDUE, DROPPING = range(7)
#: Padded rows that a thread needs beside its transformed digits, for each of the kernels.
SWITCH_ROWS, SUM_ROWS = 4, 6


@inner
def _digit(entries, source, digit_rows, i, n, signs, whole, real):  # type: ignore[no-untyped-def]
    """Digit i of the polynomial whose rows lie at `source`, to its padded row."""
    a, b, back = source + 8 * n * i, digit_rows + padded_row(n) * i, whole[i, BACK]
    q, q_inverse, how = real[i, Q], real[i, Q_INVERSE], whole[i, METHOD]
    call_inverse(entries[INVERSE], a, b, back, n, real[i, SHRINK], q, signs, q, q_inverse, how)


#: Places in `entries`.
SUMS, TURN = START + 1, START + 2
_SUMS = (
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64,boolean,int64,int64,int64,int64,int64,int64,"
    "boolean,int64[:,::1],float64[:,::1],int64[::1],int64[::1])"
)
_call_sums, _call_turn = caller(_SUMS), caller(TURN_SIGNATURE)


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
        real[prime, Q],
        real[prime, Q_INVERSE],
        whole[prime, METHOD],
        whole[prime, AHEAD],
    )
    width, length = whole[prime, WIDTH], whole[prime, GROUP]
    for k in range(prime):
        key += 2 * key_digits * n * whole[k, WIDTH]
    for j in range(count):
        ws[j] = room + j * padded
        if not transformed and j != i:
            digit = digit_rows + j * padded
            if how < 0:
                call_start(entries[START], digit, ws[j], gap, table, n, q, q_inverse, how)
            else:  # fetches two rows of the key meanwhile
                soon = key + 2 * j * row
                to = ws[j], plain_gap(n)
                call_forward(entries[FORWARD], digit, *to, table, n, q, q_inverse, how, soon, soon + row)
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
            sum_words(
                ws.ctypes.data, skip, count, length, key, 16 * key_digits * width, width, sums, step, begin,
                end, table, q, q_inverse,
            )  # fmt: skip
            if turn != 0:
                place_sums(sums, step, out, out_step, begin, end, turn, adding, q, q_inverse)
    else:
        for j in range(count):
            xs[j] = key + 128 * j
            if j == i:
                ws[j] = source + j * row
        rows(
            False, xs.ctypes.data, ws.ctypes.data, count, length, 2 * key_digits, 64, 0, sums, step, 0, n,
            real[prime, BASE], q, q_inverse,
        )  # fmt: skip


@lru_cache(maxsize=1)
def entries() -> NDArray[np.int64]:
    """Addresses of the code of kernels that other kernels call: transforms, sums, automorphisms."""
    return np.append(transforms(), [entry(digit_sums), entry(turn_row)])


@inner
def _position(  # type: ignore[no-untyped-def]
    entries, digit_rows, room, position, transformed, count, n, key_digits, scratch, signs, item, counts,
    whole, real, t, t_factor, dropping, ready, xs, ws,
):  # fmt: skip
    """`switch` for one position and one item; `ready` is the flag of the item's remainders."""
    row, padded = 8 * n, padded_row(n)
    out, moves, turn = item[OUT], item[MOVES], item[SCATTER]
    i = position - 1 if position else count
    prime = i if position else whole.shape[0] - 1
    q, q_inverse, how, ahead = (
        real[prime, Q],
        real[prime, Q_INVERSE],
        whole[prime, METHOD],
        whole[prime, AHEAD],
    )
    _call_sums(
        entries[SUMS], entries, digit_rows, item[SOURCE], room, item[KEY], key_digits, count, position,
        transformed, scratch, padded, n, 0, 0, 0, False, whole, real, xs, ws,
    )  # fmt: skip
    back, shrink, factor = whole[prime, BACK], real[prime, SHRINK], real[prime, FACTOR]
    if position > 0:
        wait(ready, 2 if dropping and i < count - 1 else 1)
    for p in range(2):
        a, rest, work = scratch + p * padded, item[REMAINDERS] + 2 * p * padded, scratch + 2 * padded
        more = item[ADDED + p]
        if position == 0:
            remainder(entries, a, rest, n, signs, back, shrink, q, q_inverse, how, t, t_factor)
            continue
        more = more + i * row if more != 0 else 0
        if dropping and i < count - 1:
            divide_row_twice(
                entries, rest, a, more, out + (p * (count - 1) + i) * row, work, n, ahead, q, q_inverse, how,
                factor, real[prime, DROPPING],
            )  # fmt: skip
            continue
        target = out + (p * count + i) * row
        after = moves != 0 and how >= 0
        quotient = scratch + 3 * padded if dropping or after else target
        divide_row(
            entries, rest, a, more, quotient, work, n, signs, ahead, q, q_inverse, how, factor,
            real[prime, RESIDUE], t, turn,
        )  # fmt: skip
        if dropping:
            call_inverse(
                entries[INVERSE], quotient, rest + padded, back, n, shrink, 0.0, 0, q, q_inverse, how
            )
        elif after:
            _call_turn(entries[TURN], quotient, target, n, moves, counts, False, q, q_inverse)
    if position == 0 or (dropping and i == count - 1):
        signal(ready)


@kernel(
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64,int64,int64[:,::1],int64[:,::1],"
    "int64[:,::1],float64[:,::1],float64,float64,boolean)"
)
def switch(  # type: ignore[no-untyped-def]
    entries, team, digit_rows, room, scratch, key_digits, count, n, signs, items, counts, whole, real, t,
    t_factor, dropping,
):  # fmt: skip
    """Polynomials of `count` primes, switched; items of the same polynomial share its digits.

    A polynomial's row i is the transform of its digit i modulo prime i. An item's result is [2, count, N] at
    its OUT, with what lies at ADDED and ADDED_TOO (`count` rows, or 0) added to it. Position 0 is the special
    prime, position k is prime k - 1; a position is done for all items before the next: its part of the key
    and the transformed digits are then at hand for the next item. Flags: one for each polynomial's digits,
    one for each item's remainders.

    Args:
        entries: see `entries`.
        team: of threads, see `team`.
        digit_rows: `count` padded rows for each polynomial.
        room: the thread's own, `count` padded rows.
        scratch: the thread's own, SWITCH_ROWS padded rows.
        key_digits: see `keysum`.
        signs: of the automorphism that SEAL's digits undergo (see `ntt.inverse`), or 0.
        items, counts: lines of the columns above, and beside each its automorphism's counts: the result
            undergoes it.
        whole, real: constants of every prime, in the columns above.
        dropping: divide by the last of the `count` primes too (CKKS, both added, no automorphism): out is
            [2, count - 1, N], and the last prime's position is done second.
    """
    padded = padded_row(n)
    xs, ws = np.empty(count, np.int64), np.empty(count, np.int64)
    number, unit = draw(team), 0
    polynomials = 0
    for k in range(len(items)):
        if items[k, NUMBER] < polynomials:
            continue
        for i in range(count):
            if unit == number:
                to = digit_rows + polynomials * count * padded
                _digit(entries, items[k, SOURCE], to, i, n, signs, whole, real)
                signal(flag(team, OWN + polynomials))
                number = done(team, number)
            unit += 1
        polynomials += 1
    held, held_position = -1, -1  # what `room` holds
    for order in range(count + 1):
        position = order
        if dropping and order > 0:
            position = count if order == 1 else order - 1
        for k in range(len(items)):
            if unit == number:
                which = items[k, NUMBER]
                wait(flag(team, OWN + which), count)
                _position(
                    entries, digit_rows + which * count * padded, room, position,
                    which == held and position == held_position, count, n, key_digits, scratch, signs,
                    items[k], counts[k], whole, real, t, t_factor, dropping,
                    flag(team, OWN + polynomials + k), xs, ws,
                )  # fmt: skip
                held, held_position = which, position
                number = done(team, number)
            unit += 1
    wait(flag(team, DONE), unit)


@kernel(
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64[:,::1],"
    "int64[:,::1],int64[:,::1],float64[:,::1],float64,float64)"
)
def switch_sum(  # type: ignore[no-untyped-def]
    entries, team, digit_rows, room, scratch, rests, out, still, key_digits, count, n, items, counts, whole,
    real, t, t_factor,
):  # fmt: skip
    """The sum of rotated ciphertexts, with one division by the special prime for all.

    The items' polynomials are the second ones, each with digits of its own: the sums of digit x key undergo
    the item's automorphism and are added up, and so are the first polynomials, at the items' ADDED. `still`
    is the address of a ciphertext that is added unrotated, or 0. The result is [2, count, N] at `out`.

    Flags: one for all digits, one for the remainders. Positions and other arguments are `switch`'s;
    scratch has SUM_ROWS padded rows, and four padded rows at `rests` belong to all threads.
    """
    row, padded = 8 * n, padded_row(n)
    digits, ready = flag(team, OWN), flag(team, OWN + 1)
    xs, ws = np.empty(count, np.int64), np.empty(count, np.int64)
    number, unit = draw(team), 0
    for k in range(len(items)):
        for i in range(count):
            if unit == number:
                to = digit_rows + k * count * padded
                _digit(entries, items[k, SOURCE], to, i, n, 0, whole, real)
                signal(digits)
                number = done(team, number)
            unit += 1
    sums, total, main, work = scratch, scratch + 2 * padded, scratch + 4 * padded, scratch + 5 * padded
    for position in range(count + 1):
        if unit != number:
            unit += 1
            continue
        wait(digits, len(items) * count)
        i = position - 1
        prime = i if position else whole.shape[0] - 1
        q, q_inverse, how = real[prime, Q], real[prime, Q_INVERSE], whole[prime, METHOD]
        for k in range(len(items)):
            item, moves, adding = items[k], items[k, MOVES], k > 0
            _call_sums(
                entries[SUMS], entries, digit_rows + k * count * padded, item[SOURCE], room, item[KEY],
                key_digits, count, position, False, sums, padded, n, item[SCATTER], total, padded, adding,
                whole, real, xs, ws,
            )  # fmt: skip
            if how >= 0:
                for p in range(2):
                    a, b = sums + p * padded, total + p * padded
                    _call_turn(entries[TURN], a, b, n, moves, counts[k], adding, q, q_inverse)
            if position > 0:
                a = item[ADDED] + i * row
                _call_turn(entries[TURN], a, main, n, moves, counts[k], adding, q, q_inverse)
        if position == 0:
            for p in range(2):
                a, rest, back = total + p * padded, rests + 2 * p * padded, whole[prime, BACK]
                remainder(entries, a, rest, n, 0, back, real[prime, SHRINK], q, q_inverse, how, t, t_factor)
            signal(ready)
        else:
            more = 0
            if still != 0:
                more = still + (count + i) * row
                for j in range(0, row, 64):
                    add_rows(main + j, still + i * row + j, main + j, q, q_inverse)
            wait(ready, 1)
            for p in range(2):
                divide_row(
                    entries, rests + 2 * p * padded, total + p * padded, more if p else main,
                    out + (p * count + i) * row, work, n, 0, whole[prime, AHEAD], q, q_inverse, how,
                    real[prime, FACTOR], real[prime, RESIDUE], t, 0,
                )  # fmt: skip
        number = done(team, number)
        unit += 1
    wait(flag(team, DONE), unit)
