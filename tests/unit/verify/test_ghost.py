"""Ghost norms of ordinary torch modules against the Jacobian by torch.func."""

import time

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


@pytest.mark.parametrize("layers", ["all", "last"])
def test_the_slope_by_finite_differences(made, layers):
    model, x = made
    measure, step = Sensitivity(model, layers=layers), 1e-6
    towards = np.random.default_rng(1).normal(size=x.shape)
    _, slope = measure(x)
    up, down = (measure(x + sign * step * towards)[0] for sign in (1, -1))
    along = (slope * towards).reshape(len(x), -1).sum(1)
    np.testing.assert_allclose(along, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_softmax_at_the_end_is_not_taken_twice(made):
    model, x = made
    for ending in (nn.Softmax(1), nn.LogSoftmax(1)):
        ended = nn.Sequential(model, ending)
        np.testing.assert_allclose(Sensitivity(ended)(x)[0], Sensitivity(model)(x)[0], atol=1e-9)


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x):
        return torch.softmax(self.layer(x), 1)


def test_what_cannot_be_measured_is_refused():
    twice = nn.Linear(3, 3)
    for model, text in (
        (Hidden(), "answers probabilities"),
        (nn.Sequential(nn.ReLU()), "no Linear"),
        (nn.Sequential(twice, nn.ReLU(), twice), "twice"),
        (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Linear(3, 2)), "expected \\[samples, classes\\]"),
    ):
        with pytest.raises(InputError, match=text):
            Sensitivity(model)(np.zeros((2, 3)))
    with pytest.raises(InputError, match="must be 'last' or 'all'"):
        Sensitivity(twice, layers="first")


def test_ghost_norms_are_far_faster_than_a_loop():
    """Over samples and classes, of a small dense network; processor seconds, so that others do not count."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    x = np.random.default_rng(0).normal(size=(100, 64))
    measure = Sensitivity(model, dtype=torch.float32)
    measure(x)
    began = time.process_time()
    ghost = measure(x)[0]
    fast = (time.process_time() - began) / len(x)
    began, looped = time.process_time(), []
    for one in torch.tensor(x[:5], dtype=torch.float32, requires_grad=True):
        f = torch.softmax(model(one[None])[0], 0)
        slopes = [torch.autograd.grad(k, list(model.parameters()), create_graph=True) for k in f]
        height = torch.log(sum((part**2).sum() for row in slopes for part in row))
        torch.autograd.grad(height, one)
        looped.append(float(height.detach()))
    slow = (time.process_time() - began) / 5
    np.testing.assert_allclose(ghost[:5], looped, atol=1e-4)
    assert slow > 50 * fast
