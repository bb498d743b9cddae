"""Deviation and calibration: figures by hand, and false positives on modelled noise."""

import numpy as np
import pytest

from securedl.errors import InputError
from securedl.verify.comparison import MARGIN, calibrate, deviation


def test_by_hand():
    found = deviation([[1.0, 2.5], [0.0, 0.0]], [[1.0, 2.0], [0.0, -0.3]], [0.25, 0.3])
    np.testing.assert_allclose(found, [2.0, 1.0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_an_alarm(value):
    assert deviation([[value, 0.0]], [[0.0, 0.0]], 1.0)[0] == np.inf


@pytest.mark.parametrize(
    ("measured", "expected", "tolerance"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), 1.0),
        (np.zeros(3), np.zeros(3), 1.0),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), 1.0),
        (np.zeros((2, 3)), np.zeros((2, 3)), 0.0),
        (np.zeros((2, 3)), np.zeros((2, 3)), [1.0, np.nan]),
        (np.zeros((2, 3)), np.zeros((2, 3)), [1.0, 1.0, 1.0]),
    ],
)
def test_wrong_input(measured, expected, tolerance):
    with pytest.raises(InputError):
        deviation(measured, expected, tolerance)


def rounds(runs, count, lanes, rng):
    return np.array([rng.permutation(np.arange(lanes) % count) for _ in range(runs)])


def test_calibration_by_hand():
    """Probe 0 always errs by 1, probe 1 by 2; lane 3 triples every error."""
    rng = np.random.default_rng(0)
    probes = rounds(40, 2, 4, rng)
    errors = (1.0 + probes) * np.array([1.0, 1.0, 1.0, 3.0])
    own, factors = calibrate(errors, probes, count=2)
    np.testing.assert_allclose(own, [MARGIN, 2 * MARGIN])
    np.testing.assert_allclose(factors, [1.0, 1.0, 1.0, 3.0])


def test_no_false_positive_on_modelled_noise():
    """Noise over three decades, one lane a hundred times worse: 0 alarms in 1e5, and not by being loose."""
    rng = np.random.default_rng(0)
    sigma = 10.0 ** rng.uniform(-6, -3, 50)
    worse = np.where(np.arange(50) == 7, 100.0, 1.0)

    def errors(probes):
        return np.abs(rng.normal(size=(*probes.shape, 10))).max(axis=2) * sigma[probes] * worse

    probes = rounds(24, 50, 50, rng)
    own, factors = calibrate(errors(probes), probes, count=50)
    later = rounds(2000, 50, 50, rng)
    assert (errors(later) / (own[later] * factors)).max() < 1.0
    assert (own < 60 * sigma).all()
    assert (np.delete(factors, 7) < 5).all()
    assert 50 < factors[7] < 400


@pytest.mark.parametrize(
    ("errors", "probes"),
    [
        (np.ones((19, 2)), np.tile([0, 1], (19, 1))),
        (np.ones((20, 2)), np.tile([0, 0], (20, 1))),
        (np.ones((20, 2)), np.tile([0, 2], (20, 1))),
        (np.full((20, 2), np.nan), np.tile([0, 1], (20, 1))),
        (np.ones((20, 2)), np.tile([0, 1, 0], (20, 1))),
    ],
)
def test_calibration_refuses(errors, probes):
    with pytest.raises(InputError):
        calibrate(errors, probes, count=2)
