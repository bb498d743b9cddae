"""Key switching, as SEAL's `switch_key_inplace` does it.

1. `digits`: the inverse transform of the polynomial to switch; its canonical residue modulo each prime
   is one digit.
2. `switch`, modulo the special prime and then each other one: transform every digit, sum digit x key,
   and divide the two sums by the special prime. One prime is finished before the next, so that all but
   the key stays in the second-level cache.

A rotation permutes NTT values. Rotation keys are stored permuted backwards, so that the sums are formed
before the permutation, which comes last and acts on the result only: digits and their transforms can then
be shared by all rotations of one ciphertext (hoisting). SEAL takes canonical digits of the *permuted*
polynomial; where the automorphism flips a sign that is x - q in place of x (`ntt.inverse`). With these
digits the result is SEAL's, bit for bit; without them it differs in the last bits of the noise.
"""

from __future__ import annotations

import numpy as np

from securedl.he.vector.cache import inner, kernel
from securedl.he.vector.dot import rows
from securedl.he.vector.keysum import place_sums, sum_words
from securedl.he.vector.ntt import FORWARD, INVERSE, START, call_forward, call_inverse, call_start
from securedl.he.vector.ntt_words_forward import close_words, enter_words
from securedl.he.vector.padding import padded_gap, padded_row, plain_gap, skipped
from securedl.he.vector.rescale import divide_row, divide_row_twice, remainder
from securedl.he.vector.rows import add_permuted_row, permute

#: What `switch` does: the digits of all primes, and then with each prime.
DIGITS, TRANSFORM, SUM, DIVIDE = 8, 1, 2, 4
#: What a line of its items holds: addresses of a key, of the result, of four padded rows, and of the moves
#: and the scatter of an automorphism (0 for none).
KEY, OUT, REMAINDERS, MOVES, SCATTER = range(5)


@kernel(
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64[::1],float64[::1],float64[::1],float64[::1],"
    "int64[::1])"
)
def digits(entries, source, out, n, signs, begin, end, back, shrink, q, q_inverse, methods):  # type: ignore[no-untyped-def]
    """Digits begin..end of the polynomial whose rows lie at `source`.

    Digits are padded rows. signs: address of the automorphism's signs, or 0 for none.
    """
    for i in range(begin, end):
        a, b = source + 8 * n * i, out + padded_row(n) * i
        call_inverse(
            entries[INVERSE], a, b, back[i], n, shrink[i], q[i], signs, q[i], q_inverse[i], methods[i]
        )


#: Columns of a switch's constants, one line a prime: integers and doubles.
AHEAD, BACK, METHOD, GROUP, WIDTH = range(5)
Q, Q_INVERSE, SHRINK, BASE, FACTOR, RESIDUE, DROPPING = range(7)


@inner
def _sums(  # type: ignore[no-untyped-def]
    entries, digit_rows, source, room, key, key_digits, count, position, phases, sums, step, n, turn, out,
    adding, whole, real,
):  # fmt: skip
    """TRANSFORM and SUM of one position; on words the sums then go to `out` under an automorphism, unless
    `turn` is 0.

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
    xs, ws = np.empty(count, np.int64), np.empty(count, np.int64)
    for j in range(count):
        ws[j] = room + j * padded
        if phases & 1 and j != i:
            digit = digit_rows + j * padded
            if how < 0:
                call_start(entries[START], digit, ws[j], gap, table, n, q, q_inverse, how)
            else:  # fetches two rows of the key meanwhile
                soon = key + 2 * j * row if phases & 2 else 0
                to = ws[j], plain_gap(n)
                call_forward(entries[FORWARD], digit, *to, table, n, q, q_inverse, how, soon, soon + row)
    if how < 0:
        for part in range(n // 128):
            skip = skipped(n, part, gap)
            for j in range(count):
                at = ws[j] + 1024 * part + skip
                if phases & 1 and j != i:
                    close_words(at, part, table, n, q, q_inverse, how)
                elif phases & 1:
                    for k in range(0, 1024, 64):
                        enter_words(source + j * row + 1024 * part + k, at + k, table, q, q_inverse)
            if phases & 2:
                sum_words(
                    ws.ctypes.data, skip, count, length, key, 16 * key_digits * width, width, sums, step,
                    128 * part, 128 * (part + 1), table, q, q_inverse,
                )  # fmt: skip
                if turn != 0:
                    out_step = (count + 1) * row
                    place_sums(
                        sums, step, out, out_step, 128 * part, 128 * (part + 1), turn, adding, q, q_inverse
                    )
    elif phases & 2:
        for j in range(count):
            xs[j] = key + 128 * j
            if j == i:
                ws[j] = source + j * row
        rows(
            False, xs.ctypes.data, ws.ctypes.data, count, length, 2 * key_digits, 64, 0, sums, step, 0, n,
            real[prime, BASE], q, q_inverse,
        )  # fmt: skip


@inner
def _position(  # type: ignore[no-untyped-def]
    entries, digit_rows, source, room, position, count, n, phases, key_digits, added, added_too, scratch,
    signs, item, counts, adding, whole, real, t, t_factor, dropping,
):  # fmt: skip
    """`switch` for one position and one item."""
    row, padded = 8 * n, padded_row(n)
    out, moves, turn = item[OUT], item[MOVES], item[SCATTER]
    i = position - 1 if position else count
    prime = i if position else whole.shape[0] - 1
    total = out + i * row
    sums, step = (scratch, padded) if phases & 4 or moves != 0 else (total, (count + 1) * row)
    q, q_inverse, how, ahead = (
        real[prime, Q],
        real[prime, Q_INVERSE],
        whole[prime, METHOD],
        whole[prime, AHEAD],
    )
    if phases & 3:
        _sums(
            entries, digit_rows, source, room, item[KEY], key_digits, count, position, phases, sums, step, n,
            0 if phases & 4 else turn, total, adding, whole, real,
        )  # fmt: skip
        if phases & 2 and not phases & 4 and moves != 0 and how >= 0:
            for p in range(2):
                target = total + p * (count + 1) * row
                if adding:
                    add_permuted_row(sums + p * step, target, moves, counts, q, q_inverse)
                else:
                    permute(sums + p * step, target, 1, n, moves, counts)
    if not phases & 4:
        return
    back, shrink, factor = whole[prime, BACK], real[prime, SHRINK], real[prime, FACTOR]
    for p in range(2):
        a, rest, work = sums + p * step, item[REMAINDERS] + 2 * p * padded, scratch + 2 * padded
        more = added_too if p else added
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
            permute(quotient, target, 1, n, moves, counts)


@kernel(
    "void(int64[::1],int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,"
    "int64[:,::1],int64[:,::1],boolean,int64[:,::1],float64[:,::1],float64,float64,boolean)"
)
def switch(  # type: ignore[no-untyped-def]
    entries, digit_rows, source, expanded, expanded_step, key_digits, count, begin, end, n, phases, added,
    added_too, scratch, signs, items, counts, adding, whole, real, t, t_factor, dropping,
):  # fmt: skip
    """One polynomial of `count` primes, switched with every item's key; positions begin..end of count + 1.

    Position 0 is the special prime, position k is prime k - 1. `phases` are added up: DIGITS of the
    polynomial, TRANSFORM the digits, SUM digit x key, DIVIDE by the special prime. Without DIVIDE the sums
    go to an item's out [2, count + 1, N], the special prime last. With DIVIDE the quotients go to out
    [2, count, N], `added` and `added_too` (addresses of `count` rows, or 0) added to them, and position 0
    must be done before all others.

    One call does as much as it can: another thread may hold the interpreter's lock between two.

    Args:
        entries: see `ntt.entries`.
        digit_rows: `count` padded rows of digits.
        source: the same polynomial's rows in NTT form: row i is the transform of digit i modulo prime i.
        expanded: room for `count` transformed digits of each position, padded rows.
        expanded_step: octets from one position's room to the next, 0 to use the same again.
        key_digits: see `keysum`.
        scratch: four padded rows.
        signs: of the automorphism that SEAL's digits undergo (see `digits`), or 0.
        items, counts: lines of the columns above, and beside each its automorphism's counts: the quotients
            undergo it, without DIVIDE the sums.
        adding: without DIVIDE, add the sums to what is at `out`.
        whole, real: constants of every prime, in the columns above.
        dropping: divide the quotients by the last of the `count` primes too (CKKS, both `added`, no
            automorphism): out is [2, count - 1, N], and its position is done second.
    """
    if phases & 8:
        for i in range(count):
            a, b, back = source + 8 * n * i, digit_rows + padded_row(n) * i, whole[i, BACK]
            q, q_inverse, how = real[i, Q], real[i, Q_INVERSE], whole[i, METHOD]
            call_inverse(entries[INVERSE], a, b, back, n, real[i, SHRINK], q, signs, q, q_inverse, how)
    for number in range(begin, end):
        position = number
        if dropping and number > 0:
            position = count if number == 1 else number - 1
        for k in range(len(items)):
            some = phases if k == 0 else phases & 6  # digits are transformed for all items at once
            _position(
                entries, digit_rows, source, expanded + position * expanded_step, position, count, n, some,
                key_digits, added, added_too, scratch, signs, items[k], counts[k], adding, whole, real, t,
                t_factor, dropping,
            )  # fmt: skip
