"""Kernels that go over whole polynomials: loading, dumping, adding, scaling."""

from __future__ import annotations

from securedl.he.vector.kernels import arith
from securedl.he.vector.kernels.cache import kernel
from securedl.he.vector.kernels.team import DONE, done, draw, flag, wait


@kernel("void(int64,int64,int64,int64,float64[::1],float64[::1])")
def from_words(source, out, rows, n, q, q_inverse):  # type: ignore[no-untyped-def]
    """Canonical unsigned 64-bit rows to centred doubles; row r is modulo prime r % q.size."""
    for r in range(rows):
        k = r % q.size
        for j in range(8 * n * r, 8 * n * (r + 1), 64):
            arith.words_to_residues(source + j, out + j, q[k], q_inverse[k])


@kernel("void(int64,int64,int64,int64,float64[::1],float64[::1])")
def to_words(source, out, rows, n, q, q_inverse):  # type: ignore[no-untyped-def]
    """Centred doubles to canonical unsigned 64-bit rows."""
    for r in range(rows):
        k = r % q.size
        for j in range(8 * n * r, 8 * n * (r + 1), 64):
            arith.residues_to_words(source + j, out + j, q[k], q[k], q_inverse[k])


@kernel("void(int64,int64,int64,int64,int64,float64[::1],float64[::1])")
def add(a, b, out, rows, n, q, q_inverse):  # type: ignore[no-untyped-def]
    """out = a + b."""
    for r in range(rows):
        k = r % q.size
        for j in range(8 * n * r, 8 * n * (r + 1), 64):
            arith.add_rows(a + j, b + j, out + j, q[k], q_inverse[k])


@kernel("void(int64,int64,int64,int64,float64[::1],float64[::1],float64[::1])")
def scale(a, out, rows, n, factors, q, q_inverse):  # type: ignore[no-untyped-def]
    """out = a times one centred constant for each prime."""
    for r in range(rows):
        k = r % q.size
        for j in range(8 * n * r, 8 * n * (r + 1), 64):
            arith.scale_row(a + j, factors[k], out + j, q[k], q_inverse[k])


@kernel("void(int64,int64,float64,float64)")
def scale_plain(data, n, factor, t):  # type: ignore[no-untyped-def]
    """Coefficients of a plaintext times `factor` modulo t, centred, in place."""
    for j in range(0, 8 * n, 64):
        arith.correction_digits(data + j, data + j, factor, 0.0, t, 1.0 / t)


@kernel("void(int64,int64,int64,int64,int64,float64[::1],float64[::1])")
def multiply(team, a, b, out, n, q, q_inverse):  # type: ignore[no-untyped-def]
    """The three polynomials of a product of ciphertexts, with fewer operations if a is b; a team's units are
    parts of a prime's rows.
    """
    step, part = 8 * n * q.size, 2 * n
    number = draw(team)
    for unit in range(4 * q.size):
        if unit == number:
            k, begin, end = unit // 4, part * unit, part * (unit + 1)
            if a == b:
                for j in range(begin, end, 64):
                    arith.square_rows(a + j, step, out + j, step, q[k], q_inverse[k])
            else:
                for j in range(begin, end, 64):
                    arith.multiply_rows(a + j, b + j, step, out + j, step, q[k], q_inverse[k])
            number = done(team, number)
    wait(flag(team, DONE), 4 * q.size)


@kernel("void(int64,int64,int64,int64,int64,float64[::1],float64[::1])")
def multiply_plain(a, b, out, polynomials, n, q, q_inverse):  # type: ignore[no-untyped-def]
    """Every polynomial of a times the plaintext b."""
    for p in range(polynomials):
        for k in range(q.size):
            start = 8 * n * (p * q.size + k)
            for j in range(0, 8 * n, 64):
                at = 8 * n * k + j
                arith.product_rows(a + start + j, b + at, out + start + j, q[k], q_inverse[k])


@kernel("void(int64,int64,int64,int64,int64,int64[::1])")
def permute(source, out, rows, n, moves, counts):  # type: ignore[no-untyped-def]
    """`rows` rows under an automorphism, given as `chain.automorphism` does."""
    for at in range(0, 8 * n * rows, 8 * n):
        done = 0
        for pattern in range(counts.size):
            if counts[pattern]:
                here = moves + 16 * done
                arith.move_blocks(pattern, source + at, out + at, here, counts[pattern], 1.0, 1.0)
                done += counts[pattern]


#: For kernels that call it by address.
TURN_SIGNATURE = "void(int64,int64,int64,int64,int64[::1],boolean,float64,float64)"


@kernel(TURN_SIGNATURE)
def turn_row(source, out, n, moves, counts, adding, q, q_inverse):  # type: ignore[no-untyped-def]
    """One row under an automorphism, added to what is at out if `adding`."""
    if not adding:
        permute(source, out, 1, n, moves, counts)
        return
    first = 0
    for pattern in range(counts.size):
        if counts[pattern]:
            arith.add_blocks(pattern, source, out, moves + 16 * first, counts[pattern], q, q_inverse)
            first += counts[pattern]


@kernel("void(int64,int64,int64)")
def copy(source, out, count):  # type: ignore[no-untyped-def]
    """`count` doubles, a multiple of eight."""
    for j in range(0, 8 * count, 64):
        arith.copy_lanes(source + j, out + j, 1.0, 1.0)
