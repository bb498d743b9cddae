"""What kernels hand to each other and to emitters, by name: compiled, a record is its fields in registers."""

from __future__ import annotations

from typing import NamedTuple


class Prime(NamedTuple):
    """What transforms of rows of N values modulo one prime need.

    Attributes:
        q, q_inverse: the prime and its inverse.
        how: its `ntt.method`.
        ahead, back: addresses of the tables of the forward and the inverse transform.
        shrink: 1/N modulo q.
    """

    n: int
    q: float
    q_inverse: float
    how: int
    ahead: int
    back: int
    shrink: float


class Terms(NamedTuple):
    """Eight positions of a sum of products Σ x·w: addresses, and octets from one thing to the next.

    Attributes:
        xs, ws: where the addresses of the terms' rows lie.
        terms: how many.
        x_at, w_at: of these positions in the rows.
        x_step, w_step, out_step: from one polynomial to the next.
        out: of the result.
        keep: what is there is added, unless this is 0.
        width: octets of a packed weight, 8 for centred doubles.
        start: where a sum of doubles starts, see `lanes.RunningSum`.
        table: the prime's, for sums on words.
    """

    xs: int
    ws: int
    terms: int
    x_at: int
    w_at: int
    x_step: int
    w_step: int
    out: int
    out_step: int
    keep: int
    width: int
    start: float
    table: int


class KeyTerms(NamedTuple):
    """Sixteen positions of Σ x·w for both polynomials of a key: addresses, and octets from one to the next.

    Attributes:
        xs: where the addresses of the digits' rows lie.
        terms: how many.
        x_at: octets to these positions in a row.
        key: address of the first term's residues; key_step octets further are those of the next positions.
        out, out_step: of the first polynomial's sum, and octets to the other's.
        keep: what is there is added, unless this is 0.
        width: octets of a residue.
        table: the prime's.
    """

    xs: int
    terms: int
    x_at: int
    key: int
    key_step: int
    out: int
    out_step: int
    keep: int
    width: int
    table: int


class Dividend(NamedTuple):
    """One row that is divided by a dropped prime p.

    Attributes:
        remainders: padded coefficients of c (see `remainder`).
        rows: the row.
        added: a row that is added to the quotient, or 0.
        out: the quotient. It may be where `added` is.
        work: one padded row of room.
        transformed: on doubles, room for a row; it may be `out` where that is not `added`.
        factor: 1/p modulo the row's prime.
        residue: p modulo it.
    """

    remainders: int
    rows: int
    added: int
    out: int
    work: int
    transformed: int
    factor: float
    residue: float


class Places(NamedTuple):
    """Eight positions of a division on words.

    Attributes:
        a: what is divided.
        n: the transform of the dropped prime's residue, as a closing pass leaves it.
        added: what is added to the quotient.
        out: the quotient; under an automorphism the row's.
        turn, place: addresses of the automorphism's `scatter`, and of these positions' entry in it.
        table: the prime's.
        factor, factor_too: what differences are multiplied by.
    """

    a: int
    n: int
    added: int
    out: int
    turn: int
    place: int
    table: int
    factor: float
    factor_too: float


class Switch(NamedTuple):
    """What all items of a switch share.

    Attributes:
        primes: of the polynomials.
        n: the ring.
        key_digits: see `keysum`.
        signs: of the automorphism that SEAL's digits undergo, or 0.
        t, t_factor: BGV's plain modulus and -1/p modulo it, or 0.
        dropping: whether the last prime goes too.
        adding: whether results are added to what is there.
        room, scratch: the thread's own, see `switch`.
    """

    primes: int
    n: int
    key_digits: int
    signs: int
    t: float
    t_factor: float
    dropping: bool
    adding: bool
    room: int
    scratch: int
