"""Polynomials modulo a plain modulus by their slots and back, in numpy: for the simulator, so that it shares
nothing with what encrypts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from securedl.he.modular import Residues, times
from securedl.he.roots import powers_of_root


class SlotsOfPolynomials:
    """Of N coefficients modulo t ≡ 1 (mod 2N). Slot j of the first row is the value at ψ^(3^j), and of the
    second at ψ^(-3^j), ψ the smallest primitive 2N-th root of unity.
    """

    def __init__(self, ring: int, t: int) -> None:
        self._ring, self._t = ring, t
        self._powers = powers_of_root(t, ring).astype(np.int64)  # of ψ, 2N of them
        turns = np.array([pow(3, j, 2 * ring) for j in range(ring // 2)])
        self._places = (np.concatenate([turns, 2 * ring - turns]) - 1) // 2

    def values(self, coefficients: Residues) -> Residues:
        """Slots [2, N/2] of coefficients [N]; residues 0 to t - 1."""
        twisted = times(coefficients, self._powers[: self._ring], self._t)
        found = self._summed(twisted, self._powers[::2])
        return np.asarray(found[self._places].reshape(2, -1))

    def coefficients(self, slots: Residues) -> Residues:
        """The inverse of `values`."""
        placed = np.empty(self._ring, np.int64)
        placed[self._places] = slots.reshape(-1)
        back = self._powers[(-np.arange(2 * self._ring)) % (2 * self._ring)]
        twisted = self._summed(placed, back[::2])
        share = times(back[: self._ring], pow(self._ring, -1, self._t), self._t)
        return times(twisted, share, self._t)

    def _summed(self, values: Residues, roots: Residues) -> Residues:
        """Σ values[i] · ω^(i k) for each k, by halves; roots: the powers of ω."""
        t, found = self._t, values.reshape(1, -1)
        while found.shape[1] > 1:
            even, odd = np.split(found, 2, axis=1)
            turn = roots[:: len(roots) // (2 * len(found))][: len(found), None]
            odd = times(odd, turn, t)
            found = np.concatenate([even + odd, even - odd]) % t
        return np.asarray(found[:, 0])


@lru_cache(maxsize=8)
def slots_of_polynomials(ring: int, t: int) -> SlotsOfPolynomials:
    """That of a ring and a plain modulus."""
    return SlotsOfPolynomials(ring, t)
