"""Integer coefficients to residues in NTT form, in SEAL's order, and back: by the kernels of the server."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from securedl.errors import InputError
from securedl.he.clear import embedding
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, chain
from securedl.he.vector.chain import chain_of
from securedl.he.vector.kernels import rows
from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.ntt import forward, inverse
from securedl.he.vector.kernels.padding import PAD, block_octets, padded_octets

#: The transforms take coefficients below this.
LARGEST = 2.0**49
#: Coefficients are below this, for they are reduced as words of 64 bits.
LARGEST_WORD = 2.0**62


def to_residues(params: Parameters, level: int, coefficients: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Residues uint64 [polynomials, level + 1, N] of polynomials.

    Args:
        coefficients: float64 [polynomials, N], integers below 2^49 in magnitude at level 0, 2^62 above it.
    """
    tables, n, count = chain_of(params), params.ring, len(coefficients)
    primes, block = len(chain(params, level)), block_octets(params.ring) // 8
    padded, line = np.zeros((n // block, block + PAD // 8)), np.empty(n)
    out = np.empty((count, primes, n), dtype=np.uint64)
    for polynomial, values in enumerate(coefficients):
        for prime in range(primes):
            small = values if level == 0 else _reduced(values, chain(params, level)[prime])
            padded[:, :block] = small.reshape(-1, block)
            q, q_inverse = tables.q[prime], tables.q_inverse[prime]
            table, how = int(tables.ahead[prime]), int(tables.methods[prime])
            forward(address(padded), address(line), 8 * block, table, n, q, q_inverse, how, 0, 0)
            one = slice(prime, prime + 1)
            constants = tables.q[one], tables.q_inverse[one]
            rows.to_words(address(line), address(out[polynomial, prime]), 1, n, *constants)
    return out


def _reduced(values: NDArray[np.float64], prime: int) -> NDArray[np.float64]:
    """Integers below 2^62 in magnitude, modulo a prime: half of it at most. It takes as long for all values,
    since a server sees how long encryption takes.
    """
    multiples = np.rint(values / prime).astype(np.int64) * prime
    remainders: NDArray[np.float64] = (values.astype(np.int64) - multiples).astype(np.float64)
    return remainders


def from_residues(params: Parameters, residues: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Centred coefficients float64 [polynomials, N] of residues [polynomials, 1, N]: those of level 0."""
    tables, n, block = chain_of(params), params.ring, block_octets(params.ring) // 8
    padded, line = np.empty(padded_octets(n) // 8), np.empty(n)
    words = np.ascontiguousarray(residues, dtype=np.uint64)
    out = np.empty((len(words), n))
    table, shrink, how = int(tables.back[0]), tables.shrink[0], int(tables.methods[0])
    q, q_inverse = tables.q[0], tables.q_inverse[0]
    for polynomial in range(len(words)):
        rows.from_words(address(words[polynomial]), address(line), 1, n, tables.q[:1], tables.q_inverse[:1])
        inverse(address(line), address(padded), table, n, shrink, 0.0, 0, q, q_inverse, how)
        out[polynomial] = padded.reshape(-1, block + PAD // 8)[:, :block].ravel()
    return out


def encoded(params: Parameters, values: NDArray[np.float64], shape: Shape) -> Record:
    """The plaintext of slots [n], or that whose coefficients are values [N], rounded at the shape's scale.

    Its slots are those of SEAL's encoder: the same formula, by another Fourier transform in doubles.

    Raises:
        InputError: values that are too large for the level, or not finite.
    """
    whole = len(values) == params.ring
    if not np.isfinite(largest := float(np.abs(values).max())):
        raise _misfit(largest, shape, "finite ones are expected")
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is said below
        coefficients = values if whole else embedding(params.ring).coefficients(values)
        scaled = np.rint(coefficients * shape.scale)
    room = math.prod(params.primes[: shape.level + 1]) / 2
    room = min(room, LARGEST if shape.level == 0 else LARGEST_WORD)
    if not np.abs(scaled).max() < room:
        what = "below" if whole else "with coefficients below"
        raise _misfit(largest, shape, f"{what} {room / shape.scale:.3g} are expected")
    residues = to_residues(params, shape.level, scaled[None])
    return Record(Shape(shape.level, 1, shape.scale), residues)


def _misfit(largest: float, shape: Shape, expected: str) -> InputError:
    return InputError(f"values up to {largest:.3g} do not fit scale and level {shape.level}: {expected}")
