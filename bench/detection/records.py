"""What anybody can do to ciphertexts of level 0: no key is needed, and none is near."""

from __future__ import annotations

import numpy as np

from securedl.client.coefficients import encoded
from securedl.he.params import Parameters
from securedl.he.record import CUT_BITS, Record, Shape
from securedl.network.graph import Array


def modulus(params: Parameters, shape: Shape) -> np.uint64:
    """What the residues of a record of level 0 are below."""
    return np.uint64(1 << CUT_BITS if shape.cut else params.primes[0])


def added(params: Parameters, record: Record, values: Array) -> Record:
    """A ciphertext plus slots [n] or coefficients [N]."""
    residues, shape = record.residues.copy(), record.shape
    if shape.cut:
        coefficients = np.rint(values * shape.scale * (2.0**CUT_BITS / params.primes[0]))
        more = (coefficients.astype(np.int64) % (1 << CUT_BITS)).astype(np.uint64)
    else:
        more = encoded(params, values, Shape(0, 1, shape.scale)).residues[0, 0]
    residues[0, 0] = (residues[0, 0] + more) % modulus(params, shape)
    return Record(shape, residues, record.seed)


def plus(params: Parameters, one: Record, other: Record) -> Record:
    """The sum of two ciphertexts of one shape."""
    return Record(one.shape, (one.residues + other.residues) % modulus(params, one.shape))


def times(params: Parameters, record: Record, factor: int) -> Record:
    """A ciphertext times an integer below 2^13 in magnitude."""
    q = modulus(params, record.shape)
    residues = record.residues * np.uint64(abs(factor)) % q
    return Record(record.shape, residues if factor >= 0 else (q - residues) % q)


def constant(params: Parameters, record: Record, first: int, second: int) -> Record:
    """Two polynomials whose every residue is `first` and `second`, of a record's shape."""
    residues, q = np.empty_like(record.residues), int(modulus(params, record.shape))
    residues[0], residues[1] = first % q, second % q
    return Record(record.shape, residues)
