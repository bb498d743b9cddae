"""Calibration keeps extremes exactly and a fair sample of the rest, and fits on what it kept."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyapprox import Activation, FitError, activation
from securedl.activations.observe import WIDEN, fit, observe


def normal(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def split(x: torch.Tensor, size: int):
    return [(part, len(part) / len(x)) for part in torch.split(x, size)]


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_extremes_are_exact_and_few_values_are_all_kept(samples, channels, size, per_channel, seed):
    x = torch.tensor(np.random.default_rng(seed).normal(size=(samples, channels, 2)))
    rows = observe(split(x, size), per_channel).values
    want = x.numpy().transpose(1, 0, 2).reshape(channels, -1) if per_channel else x.numpy().reshape(1, -1)
    assert len(rows) == len(want)
    for row, all_of_it in zip(rows, want, strict=True):
        assert (row.min(), row.max()) == (all_of_it.min(), all_of_it.max())
        np.testing.assert_array_equal(np.unique(row), np.unique(all_of_it))
    few = observe(split(x, size), per_channel, count=3).values
    assert few.shape[1] <= 3 + 2
    np.testing.assert_array_equal(few.min(axis=1), want.min(axis=1))
    np.testing.assert_array_equal(few.max(axis=1), want.max(axis=1))


def test_each_part_weighs_as_much_as_it_has_samples():
    x = torch.cat([torch.zeros(300, 50), torch.ones(700, 50)])
    values = observe([(x[:300], 0.3), (x[300:], 0.7)], False, count=1000).values[0]
    assert len(values) == 1002
    assert np.mean(values[:1000]) == 0.7


def test_the_sample_has_the_distribution_of_all():
    x = torch.tensor(np.sort(normal(200_000)).reshape(1000, 200))
    values = observe(split(x, 64), False, count=20_000).values[0]
    for q in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert np.mean(values < np.quantile(x, q)) == pytest.approx(q, abs=0.01)


def test_equal_parts_give_equal_samples():
    x = torch.tensor(normal(50_000).reshape(500, 100))
    np.testing.assert_array_equal(
        observe(split(x, 64), False, 999).values, observe(split(x, 64), False, 999).values
    )


def test_parts_are_let_go():
    """At most one earlier part is alive when the next one is asked for."""
    alive = []

    def parts():
        for _ in range(6):
            assert sum(r() is not None for r in alive) <= 1
            part = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0))
            alive.append(weakref.ref(part))
            yield part, 1 / 6

    observe(parts(), False, count=60)
    assert len(alive) == 6


def test_the_interval_is_the_observed_one_and_a_little_more():
    values = np.concatenate([normal(1000), [-9.0, 5.0]])
    assert fit(activation("relu"), values, 2, None, 0.0).domain == pytest.approx(
        (-2 - 7 * WIDEN, -2 + 7 * WIDEN)
    )


def test_a_quantile_leaves_outliers_out():
    values = np.concatenate([normal(10_000), [1000.0, -1000.0]])
    robust, exact = (fit(activation("relu"), values, 2, None, q) for q in (0.001, 0.0))
    assert exact.domain[1] > 1000
    assert robust.domain[1] < 5
    error = [np.abs(p(values[:-2]) - activation("relu")(values[:-2])).mean() for p in (robust, exact)]
    assert error[0] < 0.3 * error[1]


@given(st.floats(-1e6, 1e6))
def test_a_constant_has_an_interval(value):
    lo, hi = fit(activation("tanh"), np.full(20, value), 2, None, 0.0).domain
    assert lo < value < hi


def test_a_fit_follows_the_data():
    """Most of the values are positive, where ReLU is the identity: so is the fit there."""
    values = np.concatenate([np.linspace(2, 4, 5000), [-4.0]])
    assert np.abs(fit(activation("relu"), values, 2, None, 0.0)(values[:-1]) - values[:-1]).max() < 0.1


def test_a_bound_holds_on_the_whole_interval():
    p = fit(activation("sigmoid"), np.linspace(-6, 6, 100), 9, 0.02, 0.0)
    x = np.linspace(*p.domain, 10_001)
    assert np.abs(p(x) - activation("sigmoid")(x)).max() <= 0.02
    with pytest.raises(FitError, match="no degree up to 2"):
        fit(activation("sigmoid"), np.linspace(-6, 6, 100), 2, 1e-6, 0.0)


@pytest.mark.parametrize(
    ("function", "lowest"), [(np.sqrt, 0.0), (np.log1p, -0.5), (lambda x: np.log(x + 1), -0.5)]
)
def test_the_interval_ends_where_the_function_does(function, lowest):
    values = np.concatenate([np.linspace(lowest, 3, 500), [lowest]])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = fit(Activation("f", function, (-np.inf, np.inf)), values, 2, None, 0)
    assert found.domain[0] == pytest.approx(lowest if function is np.sqrt else lowest - 0.1 * (3 - lowest))
    assert found.domain[1] == pytest.approx(3 + 0.1 * (3 - lowest))


def test_a_function_without_a_value_on_the_data_is_refused():
    with np.errstate(invalid="ignore"), pytest.raises(FitError, match="no finite value somewhere between -1"):
        fit(Activation("√", np.sqrt, (0, 1)), np.linspace(-1, 1, 50), 2, None, 0)
