"""Ghost norms of ordinary torch modules against the Jacobian by torch.func."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from securedl.errors import InputError
from securedl.verify.sensitivity import Sensitivity


def log_norms(found, last=False):
    """log Σ_k ‖∂f_k/∂ω‖², [samples]."""
    kept = [[p for name, p in one.items() if not last or name.split(".")[0] == list(one)[-1].split(".")[0]]
            for one in found]  # fmt: skip
    return [float(torch.log(sum((part**2).sum() for part in one)).detach()) for one in kept]


@pytest.mark.parametrize("layers", ["all", "last"])
def test_the_norm_is_the_jacobians(made, jacobians, layers):
    model, x = made
    found, slope = Sensitivity(model, layers=layers)(x)
    np.testing.assert_allclose(found, log_norms(jacobians(model, x), layers == "last"), atol=1e-9)
    assert slope.shape == x.shape
    single, _ = Sensitivity(model, layers=layers, dtype=torch.float32)(x)
    np.testing.assert_allclose(single, found, atol=1e-3)


@pytest.mark.parametrize("outputs", ["all", "winner"])
def test_the_slope_by_finite_differences(made, outputs):
    model, x = made
    measure, step = Sensitivity(model, outputs=outputs), 1e-6
    towards = np.random.default_rng(1).normal(size=x.shape)
    _, slope = measure(x)
    up, down = (measure(x + sign * step * towards)[0] for sign in (1, -1))
    along = (slope * towards).reshape(len(x), -1).sum(1)
    np.testing.assert_allclose(along, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)


def test_the_winner_alone(made, jacobians):
    model, x = made
    expected = []
    for one, best in zip(
        jacobians(model, x), copy.deepcopy(model).double().eval()(torch.tensor(x)).argmax(1), strict=True
    ):
        expected.append(float(torch.log(sum((part[best] ** 2).sum() for part in one.values()))))
    np.testing.assert_allclose(Sensitivity(model, outputs="winner")(x)[0], expected, atol=1e-9)


def test_a_softmax_at_the_end_is_not_taken_twice(made):
    model, x = made
    for ending in (nn.Softmax(1), nn.LogSoftmax(1)):
        ended = nn.Sequential(model, ending)
        np.testing.assert_allclose(Sensitivity(ended)(x)[0], Sensitivity(model)(x)[0], atol=1e-9)


def test_what_cannot_be_measured_is_refused():
    twice = nn.Linear(3, 3)
    for model, text in (
        (nn.Sequential(nn.ReLU()), "no Linear"),
        (nn.Sequential(twice, nn.ReLU(), twice), "twice"),
        (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Linear(3, 2)), "expected \\[samples, classes\\]"),
    ):
        with pytest.raises(InputError, match=text):
            Sensitivity(model)(np.zeros((2, 3)))
    for options in ({"layers": "first"}, {"outputs": "loser"}):
        with pytest.raises(InputError, match="must be"):
            Sensitivity(twice, **options)
