"""The proved bound: never below a dense search, and hardly above it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyapprox
from polyapprox.certify import max_error

names = st.sampled_from(sorted(polyapprox.ACTIVATIONS))
domains = st.tuples(st.floats(-60, 60), st.floats(0.05, 100)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def dense(activation, series, domain):
    """The largest error at 40,001 even points and around the best of them, once more as finely."""
    lo, hi = domain
    x = np.union1d(np.linspace(lo, hi, 40_001), [k for k in activation.kinks if lo < k < hi])

    def error(x):
        u = (x - (lo + hi) / 2) / ((hi - lo) / 2)
        return np.abs(activation(x) - np.polynomial.chebyshev.chebval(u, series))

    best = x[error(x).argmax()]
    step = (hi - lo) / 40_000
    near = np.clip(np.linspace(best - step, best + step, 10_001), lo, hi)
    return max(error(x).max(), error(near).max())


@settings(max_examples=120, deadline=None)
@given(names, st.integers(0, 15), domains)
def test_fits_are_bounded_tightly(name, degree, domain):
    row = polyapprox.activation(name)
    fit = polyapprox.least_squares(name, degree, domain)
    seen = dense(row, fit.coefficients, domain)
    assert fit.certified
    assert seen <= fit.max_error
    assert fit.max_error <= seen * (1 + 1e-5) + 2e-9


@settings(max_examples=120, deadline=None)
@given(names, st.lists(st.floats(-3, 3), min_size=1, max_size=10).map(tuple), domains)
def test_any_polynomial_is_bounded(name, series, domain):
    row = polyapprox.activation(name)
    bound, certified = max_error(row, series, domain)
    seen = dense(row, series, domain)
    assert certified
    assert seen <= bound <= seen * (1 + 1e-5) + 2e-9


def test_a_narrow_bump_between_samples_is_found():
    """A bump of width 1e-6 that every grid misses: only the derivative bound can know of it."""
    centre, width = 0.3 + 1e-4 / 3, 1e-6

    def bump(x):
        return np.maximum(0.0, 1 - ((x - centre) / width) ** 2)

    row = polyapprox.Activation("bump", bump, (0, 1), lipschitz=2 / width)
    assert np.all(bump(np.linspace(0, 1, 20_001)) == 0)
    bound, certified = max_error(row, (0.0,), (0.0, 1.0))
    assert certified
    assert 1.0 <= bound < 1.001
    unknown = dataclasses.replace(row, lipschitz=None)
    assert max_error(unknown, (0.0,), (0.0, 1.0))[1] is False


@pytest.mark.parametrize("name", ["sigmoid", "relu", "gelu", "tanh"])
def test_lipschitz_constant_alone(name):
    row = dataclasses.replace(polyapprox.activation(name), second_derivative=None)
    fit = polyapprox.least_squares(row, 4, (-4, 3))
    seen = dense(row, fit.coefficients, fit.domain)
    assert fit.certified
    assert seen <= fit.max_error <= seen * (1 + 1e-3)


def test_callables_are_searched_not_certified():
    fit = polyapprox.least_squares(np.sin, 5, (-3, 4))
    seen = np.abs(np.sin(x := np.linspace(-3, 4, 100_001)) - fit(x)).max()
    assert not fit.certified
    assert fit.max_error == pytest.approx(seen, rel=1e-7)
    assert fit.max_error >= seen - 1e-12


def test_bounds_known_by_hand():
    """relu against 0 on [-1, 2]: 2. square against 1 on [-1, 1]: 1, at 0. sigmoid against 1/2: 1/2 - s(3)."""
    assert max_error(polyapprox.activation("relu"), (0.0,), (-1.0, 2.0))[0] == pytest.approx(2, rel=2e-6)
    assert max_error(polyapprox.activation("square"), (1.0,), (-1.0, 1.0))[0] == pytest.approx(1, rel=2e-6)
    expected = 1 / (1 + np.exp(-3)) - 0.5
    assert max_error(polyapprox.activation("sigmoid"), (0.5,), (-3.0, 3.0))[0] == pytest.approx(expected)


def test_exact_fits_have_a_bound_near_rounding():
    assert polyapprox.least_squares("square", 2, (-50, 50)).max_error < 1e-9
    assert polyapprox.least_squares("identity", 1, (1000, 1001)).max_error < 1e-9
