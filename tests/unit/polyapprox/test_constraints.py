"""Values, slopes, parity and the leading coefficient: met, and best among those that meet them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial
from scipy.optimize import lsq_linear, minimize

import polyapprox
from polyapprox import FitError, least_squares

X = np.linspace(-3, 4, 141)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(polyapprox.ACTIVATIONS)),
    st.lists(st.integers(-3, 4), max_size=2, unique=True),
    st.lists(st.tuples(st.integers(-3, 4), st.floats(-2, 2)), max_size=2, unique_by=lambda pair: pair[0]),
    st.integers(4, 9),
)
def test_values_and_slopes_are_met(name, values, slopes, degree):
    fit = least_squares(name, degree, (-3, 4), value_at=values, slope_at=slopes)
    np.testing.assert_allclose(fit(values), polyapprox.activation(name)(np.array(values, float)), atol=1e-9)
    for x, slope in slopes:
        assert fit.derivative(x) == pytest.approx(slope, abs=1e-8)


def test_pairs_give_values_of_their_own():
    fit = least_squares("relu", 3, (-3, 4), value_at=[(0, 0.1), 2])
    np.testing.assert_allclose(fit([0, 2]), [0.1, 2.0], atol=1e-12)


def test_constrained_fit_solves_the_kkt_system():
    """Oracle: the KKT matrix of the power basis, solved directly."""
    values = polyapprox.activation("silu")(X)
    table = np.vander(X, 5, increasing=True)
    rows = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 2, 4, 8, 16]], float)
    right = np.array([0.0, 0.5, float(polyapprox.activation("silu")(2.0))])
    kkt = np.block([[table.T @ table, rows.T], [rows, np.zeros((3, 3))]])
    expected = np.linalg.solve(kkt, np.concatenate([table.T @ values, right]))[:5]
    fit = least_squares("silu", 4, samples=X, value_at=(0, 2), slope_at=((0, 0.5),))
    np.testing.assert_allclose(fit.power(), expected, atol=1e-10)


def test_as_many_constraints_as_coefficients_is_hermite_interpolation():
    fit = least_squares("tanh", 3, (-1, 2), value_at=(0, 1), slope_at=((0, 1), (1, 1 - np.tanh(1) ** 2)))
    t = np.tanh(1)
    slope = 1 - t**2
    np.testing.assert_allclose(fit.power(), [0, 1, 3 * t - 2 - slope, 1 + slope - 2 * t], atol=1e-12)


@pytest.mark.parametrize("domain", [(-4.0, 4.0), (-2.0, 5.0), (1.0, 3.0)])
@pytest.mark.parametrize("parity", ["odd", "even"])
def test_parity(parity, domain):
    fit = least_squares("gelu", 6, domain, parity=parity)
    power = fit.power()
    skipped = power[0::2] if parity == "odd" else power[1::2]
    assert fit.degree == (5 if parity == "odd" else 6)
    np.testing.assert_allclose(skipped, 0, atol=1e-9 * np.abs(power).max())
    x = np.linspace(*domain, 20_001)  # oracle: the same monomials by the trapezoidal rule
    w = np.sqrt(np.where((x == x[0]) | (x == x[-1]), 0.5, 1.0))
    kept = np.arange(int(parity == "odd"), 7, 2)
    table = (x[:, None] / domain[1]) ** kept
    solution = np.linalg.lstsq(table * w[:, None], polyapprox.activation("gelu")(x) * w, rcond=None)[0]
    np.testing.assert_allclose(fit(x), table @ solution, atol=1e-6)


def test_parity_of_an_odd_function_changes_nothing():
    free, odd = least_squares("tanh", 5), least_squares("tanh", 5, parity="odd")
    np.testing.assert_allclose(free.coefficients, odd.coefficients, atol=1e-14)
    assert odd.coefficients[::2] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("bound", [0.0, 0.01, 0.05, 10.0])
def test_leading_bound_against_lsq_linear(bound):
    values = polyapprox.activation("relu")(X)
    table = np.vander(X, 4, increasing=True)
    limit = np.array([np.inf, np.inf, np.inf, max(bound, 1e-300)])
    expected = lsq_linear(table, values, (-limit, limit), method="bvls", tol=1e-14).x
    fit = least_squares("relu", 3, samples=X, leading_bound=bound)
    assert abs(fit.power()[-1]) <= bound * (1 + 1e-12) + 1e-16
    np.testing.assert_allclose(fit.power(), expected, atol=1e-8)


def test_leading_bound_with_constraints_against_slsqp():
    target = polyapprox.activation("relu")(X)
    result = minimize(
        lambda c: np.mean((Polynomial(c)(X) - target) ** 2),
        np.array([0.0, 0.5, 0.01]),
        constraints=[
            {"type": "eq", "fun": lambda c: c[0]},
            {"type": "ineq", "fun": lambda c: 0.05 - c[2]},
        ],
        options={"ftol": 1e-15},
    )
    fit = least_squares("relu", 2, samples=X, value_at=(0,), leading_bound=0.05)
    np.testing.assert_allclose(fit.power(), result.x, atol=1e-5)
    assert fit.power()[0] == pytest.approx(0, abs=1e-13)
    assert fit.power()[2] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("degree", "options", "message"),
    [
        (1, {"value_at": (-1, 0, 1)}, "3 constraints cannot all be met by 2 coefficients"),
        (3, {"value_at": ((0, 1), (0, 2))}, "cannot all be met"),
        (3, {"value_at": ((0, 1),), "parity": "odd"}, "has value 1 at 0"),
        (2, {"slope_at": ((0, 1),), "parity": "even"}, "has slope 1 at 0"),
        (0, {"parity": "odd"}, "no odd polynomial of degree 0"),
        (2, {"parity": "both"}, "parity is 'both'"),
        (2, {"slope_at": (0,)}, r"slope_at holds 0; expected finite pairs \(x, slope\)"),
        (2, {"value_at": ((1, 2, 3),)}, r"expected finite numbers or pairs \(x, value\)"),
        (2, {"value_at": (float("nan"),)}, "value_at holds nan"),
        (2, {"leading_bound": -1}, "leading_bound is -1"),
    ],
)
def test_mistakes_are_explained(degree, options, message):
    with pytest.raises(FitError, match=message):
        least_squares("gelu", degree, (-2, 2), **options)


def test_an_odd_polynomial_is_zero_at_zero_anyway():
    fit = least_squares("tanh", 3, value_at=(0,), parity="odd")
    assert fit == least_squares("tanh", 3, parity="odd")
