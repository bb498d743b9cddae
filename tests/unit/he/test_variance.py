"""Tails of errors, against their distributions' own integrals, and against a real key's slots."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from securedl.he.variance import SIGMAS, Error


def tail(variance: float, key: float, beyond: float) -> float:
    """P(|e| > beyond) of a normal error and one of variance `key`, times an exponential for the square of a
    key's polynomial in a slot: variances given that slot, over all.
    """

    def density(square: float) -> float:
        deviation = np.sqrt(variance - key + key * square)
        return float(np.exp(-square) * 2 * stats.norm.sf(beyond / deviation))

    return float(integrate.quad(density, 1e-12, 200, points=[1, 8, 20, 40], limit=500)[0])


@pytest.mark.parametrize("key", [0.01, 0.1, 0.3, 0.7, 0.999])
def test_tails_are_as_rare_as_a_normal_error_s(key):
    beyond = SIGMAS * np.sqrt(Error(1.0, here=key).normal)
    assert tail(1.0, key, beyond) < np.exp(-(SIGMAS**2) / 2)
    assert tail(1.0, key, beyond / 2) > np.exp(-(SIGMAS**2) / 2)  # and no wider than twice what is needed


def test_a_normal_error_s_own():
    assert Error(2.5).normal == pytest.approx(2.5)


def test_by_hand():
    one, two = Error(4.0, 1.0, 2.0), Error(9.0, 4.0, 1.0)
    assert one.beside(two) == (13.0, 5.0, 2.0)  # one slot of the secret key; else different polynomials
    assert one.with_kin(two) == pytest.approx((25.0, 9.0, (2**0.5 + 1) ** 2))
    assert one.times(4.0) == (16.0, 4.0, 8.0)
    variance, here, there = Error(np.arange(4.0), np.array([0.0, 3.0, 0.0, 0.0]), 1.0).rolled(1)
    assert variance.tolist() == [1, 2, 3, 0]
    assert (here, there.tolist()) == (0.0, [3, 1, 1, 1])
