"""Whole numbers in slots to coefficients modulo t and back, as SEAL's BatchEncoder has them: by the server's
kernels, in a time that does not depend on the numbers. Slots are two rows, [2, N/2]; coefficients are [N].

Slot j of the first row is a polynomial's value at ψ^(3^j), and of the second at ψ^(-3^j), ψ the smallest
primitive 2N-th root of unity modulo t. SEAL's encoder takes lists of Python's integers, of which small ones
are made faster: a server would see from the time of a response that zeros were sent.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from securedl.client.coefficients import from_residues, to_residues
from securedl.he.modular import Residues, reduced, times
from securedl.he.params import SPECIAL_BITS, Parameters, ntt_primes
from securedl.he.roots import bit_reversal
from securedl.he.scheme import Slots


@lru_cache(maxsize=8)
def _transform(ring: int, t: int) -> Parameters:
    """A chain of t alone, whose transform is the one that is wanted."""
    special = next(q for q in ntt_primes(ring, t.bit_length() + SPECIAL_BITS + 1) if q >= 4 * t)
    return Parameters("ckks", ring, (t,), special)


@lru_cache(maxsize=8)
def _places(ring: int) -> Residues:
    """Where in a transform each slot stands, int64 [N]: value i belongs to ψ^(2 · bitrev(i) + 1)."""
    powers = np.array([pow(3, j, 2 * ring) for j in range(ring // 2)])
    exponents = np.concatenate([powers, 2 * ring - powers])
    return np.asarray(bit_reversal(ring.bit_length() - 1)[(exponents - 1) // 2])


def batched(slots: Slots | Residues, factor: int, ring: int, t: int) -> Slots:
    """Coefficients [N], at most (t - 1)/2 in magnitude, of the polynomial whose slots [2, N/2] are `factor`
    times these whole numbers modulo t.
    """
    residues = np.empty(ring, np.uint64)
    residues[_places(ring)] = times(reduced(slots.reshape(-1), t), factor, t).astype(np.uint64)
    return np.asarray(from_residues(_transform(ring, t), residues[None, None])[0])


def unbatched(coefficients: Slots, ring: int, t: int) -> Residues:
    """Slots [2, N/2], 0 to t - 1, of coefficients [N]."""
    residues = to_residues(_transform(ring, t), 0, coefficients[None])[0, 0]
    return np.asarray(residues[_places(ring)].astype(np.int64).reshape(2, -1))
