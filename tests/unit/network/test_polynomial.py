"""The polynomial activation: the polynomial it says it is, for each channel, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from polyapprox import least_squares
from securedl.errors import InputError
from securedl.network.polynomial import PolynomialActivation


@given(st.integers(1, 7), st.integers(1, 4), st.sampled_from([(), (3,), (2, 3)]), st.integers(0, 1000))
def test_each_channel_has_its_own_polynomial(degree, channels, places, seed):
    random = np.random.default_rng(seed)
    table = random.normal(size=(degree + 1, channels))
    domain = np.stack([random.uniform(-3, -1, channels), random.uniform(1, 3, channels)], axis=1)
    x = random.uniform(-2, 2, (5, channels, *places))
    got = PolynomialActivation(table, domain)(torch.tensor(x)).numpy()
    for c, (lo, hi) in enumerate(domain):
        want = chebyshev.chebval((2 * x[:, c] - lo - hi) / (hi - lo), table[:, c])
        np.testing.assert_allclose(got[:, c], want, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 6), st.integers(1, 4), st.booleans(), st.integers(0, 1000))
def test_power_is_the_same_polynomial(degree, channels, one_domain, seed):
    random = np.random.default_rng(seed)
    domain = np.array([[-1.5, 2.0]] if one_domain else [[-1.0 - c, 2.0] for c in range(channels)])
    layer = PolynomialActivation(random.normal(size=(degree + 1, channels)), domain)
    x = random.uniform(-1, 2, (20, channels))
    powers = sum(c * x**k for k, c in enumerate(layer.power()))
    np.testing.assert_allclose(powers, layer(torch.tensor(x)).numpy(), rtol=1e-8, atol=1e-8)
    assert layer.degree == degree


def test_the_ends_of_the_interval_are_one():
    layer = PolynomialActivation(np.zeros((3, 2)), [(-1, 3), (10, 12)])
    ends = torch.tensor([[-1.0, 10.0], [1.0, 11.0], [3.0, 12.0]])
    assert layer.normalised(ends).tolist() == [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]


def test_fits_of_unequal_degrees_stand_together():
    fits = [least_squares("relu", 2, (-1, 1)), least_squares("relu", 4, (-3, 2))]
    layer = PolynomialActivation.of(fits, "relu")
    x = np.linspace(-1, 1, 9)
    got = layer(torch.tensor(np.stack([x, x], axis=1))).numpy()
    for column, fit in enumerate(fits):
        np.testing.assert_allclose(got[:, column], fit(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("trainable", [True, False])
def test_state_is_saved_either_way(trainable):
    layer = PolynomialActivation(np.arange(6.0).reshape(3, 2), [(-1, 1)], trainable)
    assert len(list(layer.parameters())) == trainable
    other = PolynomialActivation(np.zeros((3, 2)), [(0, 1)], trainable)
    other.load_state_dict(layer.state_dict())
    x = torch.linspace(-1, 1, 8).reshape(4, 2)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_its_name_degree_and_channels_are_printed():
    shown = repr(PolynomialActivation(np.zeros((5, 3)), [(-1, 2), (0, 4), (-3, -1)], name="gelu"))
    assert "gelu, degree=4, channels=3" in shown


@pytest.mark.parametrize(
    ("coefficients", "domain", "message"),
    [
        (np.zeros(3), (1.0, 1.0), "lo < hi"),
        (np.zeros(3), (2.0, 1.0), "lo < hi"),
        (np.zeros(3), (np.nan, 1.0), "lo < hi"),
        (np.zeros(1), (0.0, 1.0), "degree >= 1"),
        (np.zeros((3, 2, 2)), (0.0, 1.0), r"shape \[3, 2, 2\]"),
        (np.zeros((3, 4)), [(0, 1), (0, 1)], "each of its 4 channels, got 2"),
    ],
)
def test_bad_arguments(coefficients, domain, message):
    with pytest.raises(InputError, match=message):
        PolynomialActivation(coefficients, domain)
