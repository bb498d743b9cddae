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

import numpy as np

from securedl.he.vector.kernels.arith import add_rows
from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.digits import (
    PRIME_DROPPING,
    PRIME_FACTOR,
    PRIME_RESIDUE,
    SUMS,
    TURN,
    call_sums,
    call_turn,
    digit,
    prime_of,
)
from securedl.he.vector.kernels.padding import padded_row
from securedl.he.vector.kernels.records import Dividend, Switch
from securedl.he.vector.kernels.rescale import divide_row, divide_row_twice, remainder, undo
from securedl.he.vector.kernels.team import DONE, OWN, done, draw, flag, signal, wait

#: Columns of an item, a polynomial to switch with one key: addresses of the key, of the result, of four
#: padded rows, of the moves and the scatter of an automorphism (0 for none); the polynomial's number, which
#: items of the same polynomial share; addresses of it, and of what is added to the result's polynomials.
ITEM_KEY, ITEM_OUT, ITEM_REMAINDERS, ITEM_MOVES, ITEM_SCATTER, ITEM_NUMBER = range(6)
ITEM_SOURCE, ITEM_ADDED, ITEM_ADDED_TOO = range(6, 9)
#: From so many polynomials of one prime on, each is finished by one thread before the next: the key is small,
#: and what one thread leaves reaches another slowly.
APART = 4
#: Padded rows that a thread needs beside its transformed digits, for each of the kernels.
SWITCH_ROWS, SUM_ROWS = 4, 6


@inner
def _position(entries, s, digit_rows, position, transformed, item, counts, whole, real, ready, xs, ws):  # type: ignore[no-untyped-def]
    """`switch` for one position and one item; `ready` is the flag of the item's remainders."""
    n, count, scratch = s.n, s.primes, s.scratch
    row, padded = 8 * n, padded_row(n)
    out, moves = item[ITEM_OUT], item[ITEM_MOVES]
    i = position - 1 if position else count
    number = i if position else whole.shape[0] - 1
    prime = prime_of(n, whole, real, number)
    call_sums(
        entries[SUMS], entries, digit_rows, item[ITEM_SOURCE], s.room, item[ITEM_KEY], s.key_digits, count,
        position, transformed, scratch, padded, n, 0, 0, 0, False, whole, real, xs, ws,
    )  # fmt: skip
    twice = s.dropping and i < count - 1
    if position > 0:
        wait(ready, 2 if twice else 1)
    for p in range(2):
        a, rest = scratch + p * padded, item[ITEM_REMAINDERS] + 2 * p * padded
        if position == 0:
            remainder(entries, a, rest, prime, s.signs, s.t, s.t_factor)
            continue
        target = out + (p * count + i) * row
        after = moves != 0 and prime.how >= 0
        if twice:
            target = out + (p * (count - 1) + i) * row
        elif s.dropping or after:
            target = scratch + 3 * padded
        added = item[ITEM_ADDED + p] + i * row if item[ITEM_ADDED + p] != 0 else 0
        dividend = Dividend(
            remainders=rest,
            rows=a,
            added=added,
            out=target,
            work=scratch + 2 * padded,
            transformed=target if target != added else scratch + 3 * padded,
            factor=real[number, PRIME_FACTOR],
            residue=real[number, PRIME_RESIDUE],
        )
        if twice:
            divide_row_twice(entries, prime, dividend, real[number, PRIME_DROPPING])
            continue
        divide_row(entries, prime, dividend, s.signs, s.t, item[ITEM_SCATTER], s.adding)
        if s.dropping:
            undo(entries, target, rest + padded, prime, 0.0, 0)
        elif after:
            done_row = out + (p * count + i) * row
            call_turn(entries[TURN], target, done_row, n, moves, counts, s.adding, prime.q, prime.q_inverse)
    if position == 0 or (s.dropping and i == count - 1):
        signal(ready)


@kernel(
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64,int64,int64[:,::1],int64[:,::1],"
    "int64[:,::1],float64[:,::1],float64,float64,boolean,boolean)"
)
def switch(  # type: ignore[no-untyped-def]
    entries, team, digit_rows, room, scratch, key_digits, count, n, signs, items, counts, whole, real, t,
    t_factor, dropping, adding,
):  # fmt: skip
    """Polynomials of `count` primes, switched; items of the same polynomial share its digits.

    A polynomial's row i is the transform of its digit i modulo prime i. An item's result is [2, count, N] at
    ITEM_OUT, with what lies at ITEM_ADDED and ITEM_ADDED_TOO (`count` rows, or 0) added to it. Position 0 is
    the special prime, position k is prime k - 1; a position is done for all items before the next: its part
    of the key and the transformed digits are then at hand for the next item. Flags: one for each
    polynomial's digits, one for each item's remainders.

    Args:
        entries: see `switch_entries`.
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
        adding: to what is at ITEM_OUT (rotations only).
    """
    padded = padded_row(n)
    xs, ws = np.empty(count, np.int64), np.empty(count, np.int64)
    shared = Switch(
        primes=count,
        n=n,
        key_digits=key_digits,
        signs=signs,
        t=t,
        t_factor=t_factor,
        dropping=dropping,
        adding=adding,
        room=room,
        scratch=scratch,
    )
    number, unit = draw(team), 0
    if count == 1 and len(items) >= APART and items[-1, ITEM_NUMBER] == len(items) - 1:
        for k in range(len(items)):
            if unit == number:
                to, ready = digit_rows + k * padded, flag(team, OWN + len(items) + k)
                digit(entries, items[k, ITEM_SOURCE], to, 0, prime_of(n, whole, real, 0), signs)
                for position in range(2):
                    _position(
                        entries, shared, to, position, False, items[k], counts[k], whole, real, ready, xs, ws
                    )
                number = done(team, number)
            unit += 1
        wait(flag(team, DONE), unit)
        return
    polynomials = 0
    for k in range(len(items)):
        if items[k, ITEM_NUMBER] < polynomials:
            continue
        for i in range(count):
            if unit == number:
                to = digit_rows + polynomials * count * padded
                digit(entries, items[k, ITEM_SOURCE], to, i, prime_of(n, whole, real, i), signs)
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
                which = items[k, ITEM_NUMBER]
                wait(flag(team, OWN + which), count)
                transformed = which == held and position == held_position
                _position(
                    entries, shared, digit_rows + which * count * padded, position, transformed, items[k],
                    counts[k], whole, real, flag(team, OWN + polynomials + k), xs, ws,
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
    the item's automorphism and are added up, and so are the first polynomials, at the items' ITEM_ADDED.
    `still` is the address of a ciphertext that is added unrotated, or 0. The result is [2, count, N] at
    `out`.

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
                digit(entries, items[k, ITEM_SOURCE], to, i, prime_of(n, whole, real, i), 0)
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
        which = i if position else whole.shape[0] - 1
        prime = prime_of(n, whole, real, which)
        for k in range(len(items)):
            item, moves, adding = items[k], items[k, ITEM_MOVES], k > 0
            call_sums(
                entries[SUMS], entries, digit_rows + k * count * padded, item[ITEM_SOURCE], room,
                item[ITEM_KEY], key_digits, count, position, False, sums, padded, n, item[ITEM_SCATTER],
                total, padded, adding, whole, real, xs, ws,
            )  # fmt: skip
            if prime.how >= 0:
                for p in range(2):
                    a, b = sums + p * padded, total + p * padded
                    call_turn(entries[TURN], a, b, n, moves, counts[k], adding, prime.q, prime.q_inverse)
            if position > 0:
                a = item[ITEM_ADDED] + i * row
                call_turn(entries[TURN], a, main, n, moves, counts[k], adding, prime.q, prime.q_inverse)
        if position == 0:
            for p in range(2):
                remainder(entries, total + p * padded, rests + 2 * p * padded, prime, 0, t, t_factor)
            signal(ready)
        else:
            more = 0
            if still != 0:
                more = still + (count + i) * row
                for j in range(0, row, 64):
                    add_rows(main + j, still + i * row + j, main + j, prime.q, prime.q_inverse)
            wait(ready, 1)
            for p in range(2):
                dividend = Dividend(
                    remainders=rests + 2 * p * padded,
                    rows=total + p * padded,
                    added=more if p else main,
                    out=out + (p * count + i) * row,
                    work=work,
                    transformed=out + (p * count + i) * row,
                    factor=real[which, PRIME_FACTOR],
                    residue=real[which, PRIME_RESIDUE],
                )
                divide_row(entries, prime, dividend, 0, t, 0, False)
        number = done(team, number)
        unit += 1
    wait(flag(team, DONE), unit)
