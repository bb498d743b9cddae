"""SecureDL's Algorithm 1: the degree returned reaches the bound, and no lower one does."""

import numpy as np
import pytest
from numpy.polynomial import legendre

import polyapprox
from polyapprox import FitError, least_squares, lowest_degree

GAUSS = legendre.leggauss(200)


def projection_error(name, degree, domain):
    """Largest error of the Legendre projection on a dense grid, by numpy alone; kinks in the middle."""
    lo, hi = domain
    points, weights = GAUSS
    u, w = np.concatenate([(points - 1) / 2, (points + 1) / 2]), np.concatenate([weights, weights]) / 2
    function = polyapprox.activation(name)
    table = legendre.legvander(u, degree)
    series = (np.arange(degree + 1) + 0.5) * (table.T @ (w * function((lo + hi) / 2 + (hi - lo) / 2 * u)))
    grid = np.linspace(-1, 1, 20_001)
    return np.abs(function((lo + hi) / 2 + (hi - lo) / 2 * grid) - legendre.legval(grid, series)).max()


@pytest.mark.parametrize(
    ("name", "bound", "domain"),
    [
        ("sigmoid", 0.05, (-8, 8)),
        ("sigmoid", 0.2, (-4, 4)),
        ("tanh", 0.01, (-3, 3)),
        ("relu", 0.1, (-2, 2)),
        ("gelu", 0.02, (-4, 5)),
        ("softplus", 1e-4, (-3, 3)),
        ("square", 1e-6, (-5, 9)),
        ("identity", 1e-9, (0, 1)),
        ("tanh", 2.0, (-3, 3)),
    ],
)
def test_minimality(name, bound, domain):
    fit = lowest_degree(name, bound, domain)
    assert fit.certified
    assert fit.max_error <= bound
    assert projection_error(name, fit.degree, domain) <= bound
    assert all(projection_error(name, lower, domain) > bound for lower in range(fit.degree))


def test_known_degrees():
    assert lowest_degree("square", 1e-6, (-5, 9)).degree == 2
    assert lowest_degree("identity", 1e-9, (0, 1)).degree == 1
    assert lowest_degree("tanh", 2.0, (-3, 3)).degree == 0
    assert lowest_degree("tanh", 2.0, (-3, 3), min_degree=2).degree == 2


def test_rms_norm_needs_no_higher_degree():
    rms = lowest_degree("relu", 0.05, (-4, 4), norm="rms")
    assert rms.rms_error <= 0.05 < rms.max_error
    assert least_squares("relu", rms.degree - 1, (-4, 4)).rms_error > 0.05
    assert rms.degree <= lowest_degree("relu", 0.2, (-4, 4)).degree


def test_options_reach_the_fit():
    samples = np.random.default_rng(0).normal(size=500)
    fit = lowest_degree("gelu", 0.1, samples=samples, value_at=(0,), slope_at=((0, 0.5),))
    assert fit(0.0) == pytest.approx(0, abs=1e-12)
    assert fit.derivative(0.0) == pytest.approx(0.5)
    assert fit.data_max_error <= fit.max_error <= 0.1
    odd = lowest_degree("tanh", 0.05, (-3, 3), parity="odd", value_at=(1, 2))
    assert odd.degree % 2 == 1
    assert odd.degree >= 3


def test_none_up_to_the_highest_degree():
    with pytest.raises(
        FitError, match=r"no degree up to 5 .* of relu within 0.001; the best is .* at degree [45]"
    ):
        lowest_degree("relu", 0.001, (-4, 4), max_degree=5)


def test_mistakes_are_explained():
    with pytest.raises(FitError, match="bound is 0"):
        lowest_degree("relu", 0)
    with pytest.raises(FitError, match="norm is 'l2'"):
        lowest_degree("relu", 0.1, norm="l2")
    with pytest.raises(FitError, match="max_degree is 1, but the constraints need degree 2"):
        lowest_degree("relu", 0.1, max_degree=1, value_at=(-1, 0, 1))
