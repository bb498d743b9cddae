"""Torch, the graph in numpy and the compiled program agree on what `approximate` returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.network.from_torch import import_torch
from securedl.network.graph import Polynomial

KINDS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU}


def norms(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and gains that are not the usual start."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in module.state_dict().values():
                if tensor.dtype.is_floating_point:
                    tensor.uniform_(0.4, 1.6, generator=generator)
    return model


def dense(kind: type[nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), kind(), nn.Linear(8, 3)), (6,)


def convolution(kind: type[nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), kind(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12, 3)), (1, 6, 6)


def two(kind: type[nn.Module]) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Linear(6, 8), kind(), nn.Linear(8, 5), kind(), nn.Linear(5, 3)), (6,)


def made(make, kind: str) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, shape = make(KINDS[kind])
    x = torch.randn(200, *shape, generator=torch.Generator().manual_seed(0))
    return norms(model), x


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("make", "kind", "degree"),
    [
        (dense, "relu", 2), (convolution, "relu", 2), (two, "relu", 2), (two, "sigmoid", 2), (two, "tanh", 2),
        (two, "tanh", 3), (convolution, "sigmoid", 2), (dense, "tanh", 3), (two, "gelu", 2), (two, "silu", 4),
    ],
)  # fmt: skip
def test_torch_graph_and_program_agree(make, kind, degree, per_channel):
    model, x = made(make, kind)
    poly = securedl.approximate(model, x, degree=degree, per_channel=per_channel)
    with torch.no_grad():
        want = poly(x).double().numpy()
    size = np.ptp(want)
    graph = import_torch(poly, tuple(x.shape[1:])).graph
    np.testing.assert_allclose(graph(x.numpy()), want, atol=1e-5 * size)
    plan = securedl.compile(poly, x, batch=16)
    np.testing.assert_allclose(plan.simulate(x[:32]), want[:32], atol=2**-10 * size)
    np.testing.assert_allclose(plan.simulate(x[:32], noise_seed=None), want[:32], atol=1e-5 * size)


def test_every_channel_has_its_own_coefficients():
    model, x = made(convolution, "relu")
    poly = securedl.approximate(model, x, per_channel=True)
    assert poly.replacements[0].channels == 3
    (node,) = [n for n in import_torch(poly, (1, 6, 6)).graph.nodes if isinstance(n, Polynomial)]
    table = node.coefficients.reshape(3, 3, 16)  # power, channel, place
    assert np.all(table == table[:, :, :1])
    assert len({tuple(c) for c in table[:, :, 0].T}) == 3


def test_one_polynomial_for_each_channel_fits_better():
    """Channels of unequal range and offset: what they are for."""
    model, x = made(dense, "relu")
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(-1, 1, 8)[:, None])
        model[0].bias.copy_(torch.linspace(-2, 2, 8))
    shared, own = (securedl.approximate(model, x, per_channel=p).replacements[0] for p in (False, True))
    assert own.rms_error < 0.9 * shared.rms_error
    assert (own.channels, shared.channels) == (8, 1)


@pytest.mark.parametrize("make", [dense, convolution])
def test_batch_norm_is_tuned_with_its_statistics_kept(make):
    model, x = made(make, "relu")
    model.train()
    y = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1))
    poly = securedl.approximate(model, x, y, epochs=3)
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(poly.get_submodule("1"), name), getattr(model[1], name))
    assert not torch.equal(poly.get_submodule("1").weight, model[1].weight)
    with torch.no_grad():
        want = poly(x[:32]).double().numpy()
    simulated = securedl.compile(poly, x, batch=16).simulate(x[:32])
    np.testing.assert_allclose(simulated, want, atol=2**-10 * np.ptp(want))


@pytest.mark.parametrize("offsets", [(0.0, 0.0, 0.0, 0.0), (0.0, 1.0, -2.0, 0.0)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quadratic_that_is_almost_linear(offsets, per_channel):
    """A sigmoid on an even interval has a2 of about 1e-17; with one polynomial a channel, some have it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor(offsets))
    half = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    x = torch.cat([half, -half])
    poly = securedl.approximate(model, x, per_channel=per_channel)
    leading = np.abs(poly.get_submodule("1").power()[2])
    assert (leading.min() < 1e-6) == (per_channel or not any(offsets))
    assert (leading.max() > 1e-3) == any(offsets)
    with torch.no_grad():
        want = poly(x[:32]).double().numpy()
    simulated = securedl.compile(poly, x, batch=16).simulate(x[:32])
    np.testing.assert_allclose(simulated, want, atol=2**-10 * np.ptp(want))
