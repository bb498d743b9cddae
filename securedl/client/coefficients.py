"""Integer coefficients to residues in NTT form, in SEAL's order, and back: by the kernels of the server."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from securedl.errors import InputError
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, chain
from securedl.he.vector.chain import chain_of
from securedl.he.vector.kernels import rows
from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.ntt import forward, inverse
from securedl.he.vector.kernels.padding import PAD, block_octets, padded_octets

#: Coefficients are below this; the transforms take no larger ones.
LARGEST = 2.0**49


def to_residues(params: Parameters, level: int, coefficients: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Residues uint64 [polynomials, level + 1, N] of polynomials.

    Args:
        coefficients: float64 [polynomials, N], integers below 2^49 in magnitude.
    """
    tables, n, count = chain_of(params), params.ring, len(coefficients)
    primes, block = len(chain(params, level)), block_octets(params.ring) // 8
    padded, line = np.zeros((n // block, block + PAD // 8)), np.empty(n)
    out = np.empty((count, primes, n), dtype=np.uint64)
    for polynomial, values in enumerate(coefficients):
        padded[:, :block] = values.reshape(-1, block)
        for prime in range(primes):
            q, q_inverse = tables.q[prime], tables.q_inverse[prime]
            table, how = int(tables.ahead[prime]), int(tables.methods[prime])
            forward(address(padded), address(line), 8 * block, table, n, q, q_inverse, how, 0, 0)
            one = slice(prime, prime + 1)
            constants = tables.q[one], tables.q_inverse[one]
            rows.to_words(address(line), address(out[polynomial, prime]), 1, n, *constants)
    return out


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
    """The plaintext whose coefficients are round(values · scale), values being float64 [N].

    Raises:
        InputError: values that are too large for the level, or not finite.
    """
    largest = float(np.abs(values).max()) * shape.scale
    room = min(LARGEST, math.prod(params.primes[: shape.level + 1]) / 2)
    if not largest < room:
        raise InputError(
            f"values up to {largest / shape.scale:.3g} do not fit scale and level {shape.level}: below "
            f"{room / shape.scale:.3g} are expected"
        )
    residues = to_residues(params, shape.level, np.rint(values * shape.scale)[None])
    return Record(Shape(shape.level, 1, shape.scale), residues)
