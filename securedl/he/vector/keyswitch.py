"""Key switching, as SEAL's `switch_key_inplace` does it.

1. `digits`: the inverse transform of the polynomial to switch; its canonical residue modulo each prime
   is one digit.
2. `switch`, modulo the special prime and then each other one: transform every digit, sum digit x key,
   and divide the two sums by the special prime. One prime is finished before the next, so that all but
   the key stays in the second-level cache; the key's rows are fetched into it during the transforms.

A rotation permutes NTT values. Rotation keys are stored permuted backwards, so that the sums are formed
before the permutation, which comes last and acts on the result only: digits and their transforms can then
be shared by all rotations of one ciphertext (hoisting). SEAL takes canonical digits of the *permuted*
polynomial; where the automorphism flips a sign that is x - q in place of x (`flip_digits`). With these
digits the result is SEAL's, bit for bit; without them it differs in the last bits of the noise.
"""

from __future__ import annotations

import numpy as np

from securedl.he.vector import arith
from securedl.he.vector.cache import kernel
from securedl.he.vector.dot import rows
from securedl.he.vector.ntt import forward, inverse
from securedl.he.vector.rescale import divide_row, divide_row_twice, remainder
from securedl.he.vector.rows import permute

#: What `switch` does with each prime.
TRANSFORM, SUM, DIVIDE = 1, 2, 4


@kernel(
    "void(int64,int64,int64,int64,int64,int64,int64[::1],float64[::1],float64[::1],float64[::1],int64[::1])"
)
def digits(source, out, n, signs, begin, end, back, shrink, q, q_inverse, methods):  # type: ignore[no-untyped-def]
    """Digits begin..end of the polynomial whose rows lie at `source`.

    signs: address of the automorphism's N signs, or 0 for none.
    """
    row = 8 * n
    for i in range(begin, end):
        inverse(source + i * row, out + i * row, back[i], n, shrink[i], q[i], q[i], q_inverse[i], methods[i])
        if signs != 0:
            for j in range(0, row, 64):
                arith.flip_digits(out + i * row + j, signs + j, q[i], q[i], q_inverse[i])


@kernel(
    "void(int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,int64,"
    "int64,int64,int64[::1],int64[::1],int64[::1],float64[::1],float64[::1],float64[::1],int64[::1],"
    "float64[::1],int64[::1],"
    "float64[::1],float64[::1],float64,float64,float64[::1])"
)
def switch(  # type: ignore[no-untyped-def]
    digit_rows, source, expanded, expanded_step, key, key_digits, begin, end, n, phases, out, added,
    added_too, remainders, scratch, signs, next_key, moves, counts, ahead, back, shrink, q, q_inverse,
    methods, starts, lengths, factors, residues, t, t_factor, dropping,
):  # fmt: skip
    """One polynomial of `count` = factors.size primes, switched; positions begin..end of count + 1 primes.

    Position 0 is the special prime, position k is prime k - 1. `phases` are added up: TRANSFORM the digits,
    SUM digit x key, DIVIDE by the special prime. Without DIVIDE the sums go to out [2, count + 1, N], the
    special prime last. With DIVIDE the quotients go to out [2, count, N], `added` and `added_too` (addresses
    of `count` rows, or 0) added to them, and position 0 must be done before all others.

    digit_rows: `count` rows of digits; source: the same polynomial's rows in NTT form, which serve as the
    transform of digit i modulo prime i. expanded: room for `count` transformed digits of each position,
    expanded_step octets from one to the next (0 to use the same room again). key: [primes, N/8,
    key_digits, 2, 8] residues, in the order in which they are read. remainders: four rows, shared by all
    positions. scratch: four rows. next_key: the key that this prime's digits meet next, or 0. moves, counts:
    the permutation that the quotients undergo, see `chain.Automorphism`; moves is 0 for none. dropping: if
    not empty, the inverses of the last prime modulo the others, by which the quotients are divided too (CKKS,
    both `added`, no permutation): out is [2, count - 1, N] and position `count` must be done second.
    """
    row = 8 * n
    count, last = factors.size, q.size - 1
    xs, ws = np.empty(count, np.int64), np.empty(count, np.int64)
    for position in range(begin, end):
        i = position - 1 if position else count
        prime = i if position else last
        room = expanded + position * expanded_step
        for j in range(count):
            ws[j] = source + j * row if j == i else room + j * row
            xs[j] = key + prime * 2 * key_digits * row + 128 * j
            if phases & 1 and j != i:
                soon = key + 2 * (prime * key_digits + j) * row
                first, second = (soon, soon + row) if phases & 2 else (0, 0)
                forward(
                    digit_rows + j * row, ws[j], ahead[prime], n, q[prime], q_inverse[prime], methods[prime],
                    first, second,
                )  # fmt: skip
        sums, step = (scratch, row) if phases & 4 else (out + i * row, (count + 1) * row)
        if phases & 2:
            rows(
                False, xs.ctypes.data, ws.ctypes.data, count, lengths[prime], 2 * key_digits, 64, 0, sums,
                step, 0, n, starts[prime], q[prime], q_inverse[prime],
            )  # fmt: skip
        if phases & 4:
            for p in range(2):
                if position == 0:
                    remainder(
                        sums + p * row, remainders + 2 * p * row, n, signs, back[last], shrink[last], q[last],
                        q_inverse[last], methods[last], t, t_factor,
                    )  # fmt: skip
                elif dropping.size and i == count - 1:
                    more = added_too if p else added
                    quotient = scratch + 3 * row
                    divide_row(
                        remainders + 2 * p * row, sums + p * row, more + i * row, quotient, scratch + 2 * row,
                        n, 0, ahead[i], q[i], q_inverse[i], methods[i], factors[i], residues[i], t, 0,
                    )  # fmt: skip
                    inverse(
                        quotient,
                        remainders + (2 * p + 1) * row,
                        back[i],
                        n,
                        shrink[i],
                        0.0,
                        q[i],
                        q_inverse[i],
                        methods[i],
                    )
                elif dropping.size:
                    more = added_too if p else added
                    divide_row_twice(
                        remainders + 2 * p * row, sums + p * row, more + i * row,
                        out + (p * (count - 1) + i) * row, scratch + 2 * row, n, ahead[i], q[i], q_inverse[i],
                        methods[i], factors[i], dropping[i],
                    )  # fmt: skip
                else:
                    more = added_too if p else added
                    target = out + (p * count + i) * row
                    quotient = target if moves == 0 else scratch + 3 * row
                    soon = 0
                    if next_key != 0:
                        soon = next_key + 2 * (prime * key_digits + p) * row
                    divide_row(
                        remainders + 2 * p * row, sums + p * row, more + i * row if more != 0 else 0,
                        quotient, scratch + 2 * row, n, signs, ahead[i], q[i],
                        q_inverse[i], methods[i], factors[i], residues[i], t, soon,
                    )  # fmt: skip
                    if moves != 0:
                        permute(quotient, target, 1, n, moves, counts)
