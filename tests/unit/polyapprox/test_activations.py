"""The table of activations: formulas against the standard library, constants against differences."""

import math

import numpy as np
import pytest

import polyapprox

PLAIN = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "square": lambda x: x * x,
    "identity": lambda x: x,
}


@pytest.mark.parametrize("name", PLAIN)
def test_formula(name):
    x = np.linspace(-12, 12, 97).reshape(1, 97)
    expected = np.vectorize(PLAIN[name])(x)
    np.testing.assert_allclose(polyapprox.activation(name)(x), expected, rtol=1e-13, atol=1e-15)


def test_the_table_holds_these_and_no_others():
    assert set(polyapprox.ACTIVATIONS) == set(PLAIN)
    assert all(row.name == name for name, row in polyapprox.ACTIVATIONS.items())
    with pytest.raises(TypeError):
        polyapprox.ACTIVATIONS["new"] = None


def test_torch_class_names_exist():
    torch = pytest.importorskip("torch")
    for row in polyapprox.ACTIVATIONS.values():
        if row.torch_class:
            module, _, name = row.torch_class.rpartition(".")
            assert module == "torch.nn"
            x = torch.linspace(-5, 5, 11, dtype=torch.float64)
            np.testing.assert_allclose(getattr(torch.nn, name)()(x).numpy(), row(x.numpy()), atol=1e-9)


@pytest.mark.parametrize("name", PLAIN)
def test_constants_hold_and_are_tight(name):
    """Central differences on a fine grid reach the constants but do not exceed them."""
    row = polyapprox.activation(name)
    step = 1e-3
    x = np.arange(-30, 30, step) + step / 2  # symmetric about the kink of relu, which no stencil crosses
    x = x[np.abs(x) > 3 * step] if row.kinks else x
    below, at, above = row(x - step), row(x), row(x + step)
    curvature = (above - 2 * at + below) / step**2
    low, high = row.second_derivative
    assert low - 2e-6 <= curvature.min() <= low + 1e-4
    assert high - 1e-4 <= curvature.max() <= high + 2e-6
    if row.lipschitz is not None:
        slope = np.abs(above - below).max() / (2 * step)
        assert row.lipschitz - 1e-4 <= slope <= row.lipschitz + 2e-6


def test_large_arguments_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        for row in polyapprox.ACTIVATIONS.values():
            assert np.all(np.isfinite(row(np.array([-1e4, 1e4]))))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        polyapprox.FitError, match="unknown activation 'swish'; expected one of sigmoid, tanh"
    ):
        polyapprox.activation("swish")


def test_functions_that_are_not_elementwise_or_finite_are_refused():
    with pytest.raises(polyapprox.FitError, match="one value per point"):
        polyapprox.least_squares(np.sum, 2, (-1, 1))
    with (
        np.errstate(divide="ignore"),
        pytest.raises(polyapprox.FitError, match="reciprocal is not finite at 0"),
    ):
        polyapprox.least_squares(np.reciprocal, 2, (0, 1), value_at=(0,))
    with pytest.raises(polyapprox.FitError, match="a callable on arrays, got 7"):
        polyapprox.least_squares(7, 2, (0, 1))
