"""Tails of errors, against their distributions' own integrals, and against a real key's slots."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from securedl.client.keys import Keys
from securedl.he.ckks import ckks_parameters
from securedl.he.record import Record, Shape, pack
from securedl.he.variance import SIGMAS, Error, Uncertain, VarianceEvaluator


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
    beyond = SIGMAS * np.sqrt(Error(1.0, key).normal)
    assert tail(1.0, key, beyond) < np.exp(-(SIGMAS**2) / 2)
    assert tail(1.0, key, beyond / 2) > np.exp(-(SIGMAS**2) / 2)  # and no wider than twice what is needed


def test_a_normal_error_s_own():
    assert Error(2.5).normal == pytest.approx(2.5)


def test_by_hand():
    one, two = Error(4.0, 2.0), Error(9.0, 1.0)
    assert one.beside(two) == (13.0, 2.0)  # of different switch keys
    assert one.with_kin(two) == pytest.approx((25.0, (2**0.5 + 1) ** 2))
    assert one.times(4.0) == (16.0, 8.0)
    variance, lump = Error(np.arange(4.0), 1.0).rolled(1)
    assert variance.tolist() == [1, 2, 3, 0]
    assert lump == 1.0


def test_behind_a_tap_by_hand():
    """Errors count against what was read, in slot 0 for slots 0 and 1: there none is left, in the copy both
    are. What comes later counts as ever; the next tap counts with errors from the start.
    """
    params = ckks_parameters(4096, 1)
    evaluator, slots = VarianceEvaluator(params), params.slots
    variances = np.full(slots, 4.0)
    variances[0], read = 9.0, np.arange(slots)
    read[1] = 0
    value = Uncertain(np.ones(slots), 1, 2.0**30, error=Error(variances))
    known = evaluator.known(value, read)
    assert evaluator.slots(known)[:3].tolist() == pytest.approx([0, 13, 0])
    more = Uncertain(np.ones(slots), 1, 2.0**30, error=Error(1.0))
    total = evaluator.add(known, more)
    assert evaluator.slots(total)[:3].tolist() == pytest.approx([1, 14, 1])
    assert evaluator.slots(evaluator._rolled(total, 1))[:2].tolist() == pytest.approx([14, 1])
    again = evaluator.known(total, read)
    assert evaluator.slots(again)[:3].tolist() == pytest.approx([0, 10 + 5, 0])


@pytest.mark.he
def test_a_key_s_own_slots():
    """Ternary coefficients, 2/3 of them not zero: known from SEAL, squared by numpy's own polynomials."""
    params = ckks_parameters(4096, 1)
    keys = Keys(params)
    squares, ring = keys.slot_squares, params.ring
    assert squares.shape == (ring // 2,)
    assert squares.mean() == pytest.approx(2 * ring / 3, rel=0.1)  # Parseval: how many are not 0
    assert np.quantile(squares, 0.9) == pytest.approx(2 * ring / 3 * np.log(10), rel=0.1)  # exponential
    record = Record(Shape(0, 2, 1.0), np.zeros((2, 1, ring), np.uint64))
    record.residues[1] = 1
    secret = keys.decrypt(pack(params, record), record.shape, coefficients=True)
    assert set(np.rint(secret)) <= {-1, 0, 1}
    root = np.exp(1j * np.pi * 3 / ring)  # of slot 1
    assert abs(np.polynomial.polynomial.polyval(root, secret)) ** 2 == pytest.approx(squares[1], rel=1e-6)
