"""Schedules: the right value by every method, depth and products as the literature has them."""

from math import ceil, log2, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyapprox
from polyapprox import FitError, Product, evaluate, schedule

METHODS = ("powers", "paterson-stockmeyer", "horner")


@pytest.mark.parametrize("method", METHODS)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=34))
def test_value(method, coefficients):
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    value = evaluate(schedule(len(coefficients) - 1, method), coefficients, x)
    expected = np.polynomial.polynomial.polyval(x, coefficients)
    assert value.shape == (2, 3)
    np.testing.assert_allclose(value, expected, atol=1e-12)


@pytest.mark.parametrize("degree", range(1, 65))
def test_costs(degree):
    least = ceil(log2(degree))
    powers, split, horner = (schedule(degree, method) for method in METHODS)
    assert (powers.depth, powers.products) == (least, degree - 1)
    assert (horner.depth, horner.products) == (degree - 1, degree - 1)
    assert split.depth == least
    assert split.products <= min(degree - 1, 2 * sqrt(degree) + log2(degree))


def test_known_costs():
    """A square, a cubic in two products, degree 7 in four: x², x⁴ and two joins."""
    assert schedule(2).products == 1
    assert schedule(3).products == 2
    assert schedule(7, "paterson-stockmeyer").products == 4
    assert schedule(15, "paterson-stockmeyer").products == 7
    assert schedule(0).depth == schedule(1).products == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("degree", range(20))
def test_steps_are_in_order_and_used(method, degree):
    plan = schedule(degree, method)
    known = {"1", "x"}
    used = set()
    for step in plan.steps:
        inputs = (
            {step.left, step.right}
            if isinstance(step, Product)
            else {value for _, value in step.terms} | set(step.plus)
        )
        assert inputs <= known
        assert step.target not in known
        known.add(step.target)
        used |= inputs
    assert plan.steps[-1].target == "result"
    assert known - used <= {"1", "x", "result"}
    indices = [index for step in plan.steps if not isinstance(step, Product) for index, _ in step.terms]
    assert sorted(indices) == list(range(degree + 1))


def test_with_a_fit():
    fit = polyapprox.least_squares("sigmoid", 7, (-8, 8))
    x = np.linspace(-8, 8, 50)
    plan = schedule(fit.degree, "paterson-stockmeyer")
    np.testing.assert_allclose(
        evaluate(plan, fit.scaled_power(), (x - fit.mid) / fit.half), fit(x), atol=1e-13
    )


def test_mistakes_are_explained():
    with pytest.raises(
        FitError, match="unknown evaluation method 'estrin'; expected one of powers, paterson"
    ):
        schedule(3, "estrin")
    with pytest.raises(FitError, match="degree is -1"):
        schedule(-1)
    with pytest.raises(FitError, match=r"shape \(2,\); a schedule of degree 3 takes \(4,\)"):
        evaluate(schedule(3), [1, 2], 0.5)
