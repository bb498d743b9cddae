"""Roots of unity as SEAL chooses and orders them, and monomials in NTT form."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, chain


def minimal_root(prime: int, ring: int) -> int:
    """The smallest primitive 2N-th root of unity modulo `prime`, as SEAL chooses it."""
    order = 2 * ring
    root = next(
        r for r in (pow(g, (prime - 1) // order, prime) for g in range(2, prime)) if pow(r, ring, prime) != 1
    )
    square, power, best = root * root % prime, root, root
    for _ in range(ring - 1):
        power = power * square % prime
        best = min(best, power)
    return best


def bit_reversal(bits: int) -> NDArray[np.int64]:
    """The bit-reversing permutation of 2^bits indices."""
    result = np.zeros(1, dtype=np.int64)
    for _ in range(bits):
        result = np.concatenate([2 * result, 2 * result + 1])
    return result


@lru_cache(maxsize=8)
def powers_of_root(prime: int, ring: int) -> NDArray[np.uint64]:
    """ψ^k modulo the prime, for k < 2N."""
    root, powers = minimal_root(prime, ring), [1]
    for _ in range(2 * ring - 1):
        powers.append(powers[-1] * root % prime)
    return np.array(powers, dtype=np.uint64)


@lru_cache(maxsize=64)
def monomial(params: Parameters, level: int, power: int, divisor: int = 1) -> Record:
    """The plaintext X^power, times the inverse of `divisor` modulo every prime; its scale is 1, X^N is -1.

    Value i of an NTT belongs to the root ψ^(2 · bitrev(i) + 1).
    """
    ring = params.ring
    at = (2 * bit_reversal(ring.bit_length() - 1) + 1) * power % (2 * ring)
    rows = []
    for prime in chain(params, level):
        factor, powers = pow(divisor, -1, prime), powers_of_root(prime, ring)[at]
        if factor != 1:
            powers = np.array([int(value) * factor % prime for value in powers], dtype=np.uint64)
        rows.append(powers)
    return Record(Shape(level, 1, 1.0), np.stack(rows)[None])
