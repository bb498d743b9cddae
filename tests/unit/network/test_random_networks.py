"""Random networks of convolutions, pools, paddings, views, assignments and branches against torch itself."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from securedl.network.from_torch import import_torch
from securedl.network.graph import Polynomial, Sum

Step = tuple[str, Callable[[Tensor], Tensor]]
pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same:UserWarning")
#: Networks of one test, and tests.
BLOCK, BLOCKS = 16, 20
#: Most features that a value may have: more would only take longer.
LARGEST = 1500


class Walk(nn.Module):
    """A network that draws its own steps, each one possible for the shape that the last one gave."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.layers = nn.ModuleList()
        self.steps: list[Step] = []
        axes = self.random.choice([0, 1, 2, 2])
        sizes = [self.random.randint(5, 9) for _ in range(axes)]
        self.shape = (self.random.randint(1, 4) if axes else self.random.randint(3, 9), *sizes)
        torch.manual_seed(seed)
        self.steps = self.draw(torch.randn(4, *self.shape, dtype=torch.float64), self.random.randint(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        for _, step in self.steps:
            x = step(x)
        return x

    def draw(self, x: Tensor, count: int) -> list[Step]:
        """So many steps from samples, which do not come out alike."""
        steps: list[Step] = []
        while len(steps) < count:
            name = self.random.choice(sorted(STEPS))
            step = STEPS[name](self, x)
            if step is None:
                continue
            with torch.no_grad():
                after = step(x)
            if 0 < after[0].numel() <= LARGEST and 0.03 < after.std(0).max() < 100:
                steps.append((name, step))
                x = after
        return steps

    def add(self, layer: nn.Module) -> nn.Module:
        """A layer of this network, with its statistics and gains moved."""
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor in layer.state_dict().values():
                if tensor.dtype.is_floating_point:
                    tensor.uniform_(0.3, 1.7)
        self.layers.append(layer.double().eval())
        return layer

    def one(self, *choices):
        return self.random.choice(choices)


def _axes(x: Tensor) -> int:
    return x.ndim - 2


def linear(net: Walk, x: Tensor):
    return net.add(nn.Linear(x.shape[-1], net.random.randint(1, 8), bias=net.one(True, False)))


def convolution(net: Walk, x: Tensor):
    if _axes(x) not in (1, 2, 3):
        return None
    groups = net.one(1, 1, x.shape[1])
    kernel, stride, dilation = net.one(1, 2, 3), net.one(1, 1, 2), net.one(1, 1, 2)
    padding = net.one(0, 1, "same" if stride == 1 else 0, "valid")
    mode: Any = net.one("zeros", "zeros", "circular", "replicate") if padding != "same" else "zeros"
    if (kernel - 1) * dilation + 1 > min(x.shape[2:]):
        return None
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[_axes(x) - 1]
    out = groups * net.one(1, 2)
    return net.add(
        kind(x.shape[1], out, kernel, stride, padding, dilation, groups, net.one(True, False), mode)
    )


def transposed(net: Walk, x: Tensor):
    if _axes(x) not in (1, 2):
        return None
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[_axes(x) - 1]
    stride = net.one(1, 2)
    groups = net.one(1, x.shape[1])
    return net.add(
        kind(x.shape[1], groups * net.one(1, 2), net.one(2, 3), stride, net.one(0, 1), stride - 1, groups)
    )


def pool(net: Walk, x: Tensor):
    if _axes(x) not in (1, 2) or min(x.shape[2:]) < 3:
        return None
    kernel, stride, padding = net.one(2, 3), net.one(None, 1, 2), net.one(0, 1)
    ceil, counted = net.one(True, False), net.one(True, False)
    function = (functional.avg_pool1d, functional.avg_pool2d)[_axes(x) - 1]
    return lambda x: function(x, kernel, stride, padding, ceil, counted)


def adaptive(net: Walk, x: Tensor):
    if _axes(x) not in (1, 2):
        return None
    kind = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)[_axes(x) - 1]
    return net.add(kind(net.random.randint(1, 3)))


def padding(net: Walk, x: Tensor):
    sizes = [net.random.randint(-1, 2) for _ in range(2 * net.random.randint(1, max(1, _axes(x))))]
    if min(x.shape[1:]) < 3:
        return None
    value = net.one(0.0, 0.0, 0.5)
    mode = net.one("constant", "reflect", "replicate", "circular")
    if mode == "constant" or _axes(x) not in (1, 2):
        return lambda x: functional.pad(x, sizes, "constant", value)
    sizes = [net.random.randint(0, 2) for _ in range(2 * _axes(x))]
    return lambda x: functional.pad(x, sizes, mode)


def batch_norm(net: Walk, x: Tensor):
    if _axes(x) not in (0, 1, 2):
        return None
    return net.add((nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[_axes(x)](x.shape[1]))


def permute(net: Walk, x: Tensor):
    order = list(range(1, x.ndim))
    net.random.shuffle(order)
    return lambda x: x.permute(0, *order)


def view(net: Walk, x: Tensor):
    size, axis = x.shape[-1], net.random.randint(1, x.ndim - 1)
    factors = [f for f in range(2, size) if size % f == 0]
    choices = [lambda x: x.flatten(axis), lambda x: x.reshape(len(x), -1), lambda x: torch.flatten(x, 1)]
    if factors and x.ndim < 5:
        factor = net.one(*factors)
        choices += [lambda x: x.reshape(*x.shape[:-1], -1, factor), lambda x: x.unflatten(-1, (factor, -1))]
    if x.ndim < 5:
        choices += [lambda x: x.unsqueeze(axis), lambda x: x[:, None]]
    return net.one(*choices)


def part(net: Walk, x: Tensor):
    axis = net.random.randint(1, x.ndim - 1)
    size = x.shape[axis]
    if size < 3:
        return None
    start, step = net.random.randint(0, 1), net.one(1, 1, 2)
    index = torch.tensor([net.random.randrange(size) for _ in range(size)])
    return net.one(
        lambda x: x.narrow(axis, start, size - 1 - start),
        lambda x: x.movedim(axis, -1)[..., start::step],
        lambda x: x.index_select(axis, index),
        lambda x: x.select(axis, start) if x.ndim > 2 else x[:, :-1],
        lambda x: x.roll(start + 1, axis).flip(axis),
        lambda x: torch.cat(x.chunk(2, axis)[::-1], axis),
        lambda x: torch.cat([*x.split([1, size - 1], axis), x.narrow(axis, 0, 1)], axis),
        lambda x: torch.stack([x, 2 * x], axis).sum(axis + 1, keepdim=True) if x.ndim < 5 else x,
    )


def assignment(net: Walk, x: Tensor):
    size = x.shape[-1]
    if size < 3:
        return None
    value, place = round(net.random.uniform(-1, 1), 2), net.random.randrange(size)

    def assign(x: Tensor) -> Tensor:
        y = x.clone()
        y[..., place] = 2 * x[..., 0] + value
        y[..., 1:2] += x[..., :1]
        y[:, 0] = value
        return y

    def shortcut(x: Tensor) -> Tensor:
        y = torch.zeros(x.shape[0], *x.shape[1:-1], size + 2, dtype=x.dtype)
        y[..., 1:-1] = x
        return y

    return net.one(assign, shortcut)


def constants(net: Walk, x: Tensor):
    each = torch.randn(x.shape[1:]).double()
    return net.one(
        lambda x: x / 255 * 200,
        lambda x: (x - 0.3) / 1.7,
        lambda x: 0.2 - x * each,
        lambda x: torch.where(each > 0, x, 0.3 * x),
        lambda x: x.masked_fill(each > 1, 0.1),
        lambda x: (x + each).mul(0.9).neg(),
    )


def polynomial(net: Walk, x: Tensor):
    a, b = round(net.random.uniform(-0.2, 0.2), 3), round(net.random.uniform(0.3, 0.8), 3)
    return net.one(
        lambda x: a * x * x + b * x + 0.1, lambda x: a * x**2 + x, lambda x: b * x + a * x.square() - 0.2
    )


def average(net: Walk, x: Tensor):
    axis, keep = net.random.randint(1, x.ndim - 1), net.one(True, False)
    keep = keep or x.ndim < 3
    return net.one(
        lambda x: x.mean(axis, keepdim=keep),
        lambda x: x.sum(axis, keepdim=keep) * 0.3,
        lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True) if x.ndim > 2 else x,
        lambda x: x - x.mean(axis, keepdim=True),
    )


def resampled(net: Walk, x: Tensor):
    if _axes(x) != 2 or x[0].numel() > LARGEST // 4:
        return None
    return net.one(
        lambda x: functional.interpolate(x, scale_factor=2, mode="nearest"),
        lambda x: functional.interpolate(x, size=(5, 4), mode="bilinear"),
        lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        lambda x: functional.pixel_unshuffle(functional.pad(x, [0, x.shape[3] % 2, 0, x.shape[2] % 2]), 2),
        lambda x: functional.unfold(x, 2, stride=2) if min(x.shape[2:]) > 1 else x,
    )


def nothing(net: Walk, x: Tensor):
    off = functools.partial(functional.dropout, p=0.3, training=False)
    return net.one(net.add(nn.Dropout(0.5)), net.add(nn.Identity()), lambda x: x.contiguous(), off)


def branch(net: Walk, x: Tensor):
    """Two ways through, joined."""
    ways = [net.draw(x, net.random.randint(0, 2)) for _ in range(2)]

    def run(x: Tensor, way: list[Step]) -> Tensor:
        for _, step in way:
            x = step(x)
        return x

    with torch.no_grad():
        shapes = [run(x, way).shape for way in ways]
    if shapes[0] == shapes[1]:
        scale = net.one(1.0, 0.5)
        axis = net.random.randint(1, len(shapes[0]) - 1)
        return net.one(
            lambda x: run(x, ways[0]) + scale * run(x, ways[1]),
            lambda x: run(x, ways[0]) - run(x, ways[1]),
            lambda x: torch.cat([run(x, ways[0]), run(x, ways[1])], axis),
        )
    return lambda x: torch.cat([run(x, ways[0]).flatten(1), run(x, ways[1]).flatten(1)], 1)


STEPS = {
    function.__name__: function
    for function in (
        linear, convolution, transposed, pool, adaptive, padding, batch_norm, permute, view, part, assignment,
        constants, polynomial, average, resampled, nothing, branch,
    )
}  # fmt: skip


@pytest.mark.parametrize(
    "block", [pytest.param(k, marks=[pytest.mark.slow] if k % 4 else []) for k in range(BLOCKS)]
)
def test_graphs_equal_torch(block):
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        network = Walk(seed).eval()
        x = torch.randn(4, *network.shape, dtype=torch.float64)
        found = import_torch(network, network.shape)
        with torch.no_grad():
            want = network(x).numpy()
        got = found.graph(x.numpy()).reshape(want.shape)
        names = [name for name, _ in network.steps]
        assert np.abs(got - want).max() <= 1e-6 * np.ptp(want), f"seed {seed}: {names}"
        assert found.output_shape == want.shape[1:]


@pytest.mark.slow
def test_the_networks_are_of_many_kinds():
    networks = [Walk(seed) for seed in range(BLOCK * BLOCKS)]
    assert len(networks) >= 300
    assert len({tuple(name for name, _ in one.steps) for one in networks}) > 250
    met = {name for one in networks for name, _ in one.steps}
    assert met == set(STEPS)
    graphs = [import_torch(one, one.shape).graph for one in networks[:40]]
    assert sum(any(isinstance(node, Sum) for node in one.nodes) for one in graphs) > 3
    assert sum(any(isinstance(node, Polynomial) for node in one.nodes) for one in graphs) > 3
    assert {math.prod(one.shape) > 50 for one in networks} == {True, False}
