"""Remez against best approximations known in closed form, and against linear programming."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import polyapprox
from polyapprox import FitError, least_squares, remez

BERNSTEIN = 0.2801694990238691  # lim n E_n(|x|); Varga and Carpenter, Constr. Approx. 1 (1985)


def test_absolute_value():
    """Best of degree 2 and 3 on [-1, 1]: x² + 1/8, error 1/8 (f - p is 1/8 in size at 0, ±1/2, ±1)."""
    for degree in (2, 3):
        fit = remez(np.abs, degree, (-1, 1))
        assert fit.max_error == pytest.approx(1 / 8, abs=1e-12)
        np.testing.assert_allclose(fit.power()[:3], [1 / 8, 0, 1], atol=1e-9)
    assert remez(np.abs, 1, (-1, 1)).max_error == pytest.approx(1 / 2, abs=1e-12)


def test_absolute_value_tends_to_bernsteins_constant():
    scaled = [n * remez(np.abs, n, (-1, 1)).max_error for n in (2, 4, 8, 16, 32)]
    assert all(a < b < BERNSTEIN for a, b in itertools.pairwise(scaled))
    assert scaled[-1] == pytest.approx(BERNSTEIN, rel=1e-3)


def test_relu_is_half_of_the_absolute_value():
    fit = remez("relu", 2, (-3, 3))
    assert fit.certified
    assert fit.max_error == pytest.approx(3 / 16, rel=2e-6)
    np.testing.assert_allclose(fit.power(), [3 / 16, 1 / 2, 1 / 6], atol=1e-9)


def test_exponential_degree_1():
    """Slope b = sinh 1, error (1/e + b ln b)/2 = 0.2788 (Powell, Approximation Theory and Methods, ch. 8)."""
    slope = np.sinh(1)
    fit = remez(np.exp, 1, (-1, 1))
    assert fit.max_error == pytest.approx((np.exp(-1) + slope * np.log(slope)) / 2, rel=1e-9)
    assert fit.max_error == pytest.approx(0.2788, abs=1e-4)
    assert fit.power()[1] == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("n", range(1, 12))
def test_monomials(n):
    """x^n by degree n - 1: what is left is T_n / 2^(n-1) (Chebyshev)."""
    fit = remez(lambda x: x**n, n - 1, (-1, 1))
    assert fit.max_error == pytest.approx(2.0 ** (1 - n), rel=1e-9)


@pytest.mark.parametrize("degree", range(1, 9))
def test_a_pole(degree):
    """1/(x - a), a > 1: E_n = (a - sqrt(a² - 1))^n / (a² - 1) (Achieser, Theory of Approximation, §32)."""
    a = 1.5
    expected = (a - np.sqrt(a * a - 1)) ** degree / (a * a - 1)
    assert remez(lambda x: 1 / (x - a), degree, (-1, 1)).max_error == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", polyapprox.ACTIVATIONS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("domain", [(-4.0, 4.0), (-3.0, 5.0), (-50.0, 0.01)])
def test_linear_programming(name, degree, domain):
    """Minimise t with |f - p| <= t on a grid: no grid error can exceed the best of all."""
    row = polyapprox.activation(name)
    lo, hi = domain
    u = np.cos(np.linspace(0, np.pi, 401))
    x = np.union1d((lo + hi) / 2 + (hi - lo) / 2 * u, [0.0])
    table = np.polynomial.chebyshev.chebvander((x - (lo + hi) / 2) / ((hi - lo) / 2), degree)
    ones = np.ones((x.size, 1))
    solved = linprog(
        np.append(np.zeros(degree + 1), 1.0),
        A_ub=np.block([[table, -ones], [-table, -ones]]),
        b_ub=np.concatenate([row(x), -row(x)]),
        bounds=[(None, None)] * (degree + 2),
    )
    fit = remez(name, degree, domain)
    assert solved.fun - 1e-7 <= fit.max_error <= solved.fun * 1.01 + 1e-7


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(polyapprox.ACTIVATIONS)),
    st.integers(0, 15),
    st.floats(-60, 60),
    st.floats(0.5, 100),
)
def test_no_worse_than_least_squares(name, degree, lo, width):
    domain = (lo, lo + width)
    assert remez(name, degree, domain).max_error <= (
        least_squares(name, degree, domain).max_error * (1 + 1e-5) + 3e-9
    )


def test_error_alternates():
    fit = remez("sigmoid", 5, (-6, 9))
    x = np.linspace(-6, 9, 200_001)
    error = polyapprox.activation("sigmoid")(x) - fit(x)
    high = error[np.abs(error) > fit.max_error * (1 - 1e-6)]
    assert np.count_nonzero(np.diff(np.sign(high))) + 1 >= 7


def test_even_function_whose_first_level_is_zero():
    """cosh of degree 2: Chebyshev's 4 points are symmetric, so the level starts at 0."""
    x = np.linspace(-1, 1, 10_001)
    fit = remez(np.cosh, 2, (-1, 1))
    # By evenness it is the best of degree 1 in y = x² on [0, 1]: secant slope, error by the tangent.
    slope = np.cosh(1) - 1
    gap = np.cosh(x) - 1 - slope * x**2
    assert fit.max_error == pytest.approx(-gap.min() / 2, rel=1e-6)


def test_own_polynomial_is_found_at_once():
    started = time.perf_counter()
    assert remez("square", 4, (-3, 2)).max_error < 1e-9
    assert remez(lambda x: 0 * x, 4, (0, 1)).max_error == 0.0
    assert time.perf_counter() - started < 2


def test_mistakes_are_explained():
    with pytest.raises(FitError, match="the lower first"):
        remez("relu", 2, (1, -1))
    with pytest.raises(FitError, match="degree is -2"):
        remez("relu", -2)
    with pytest.raises(FitError, match="no usual interval"):
        remez(np.exp, 2)
