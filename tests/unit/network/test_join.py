"""Layers that become one give what both gave."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from securedl.network.join import join
from securedl.network.partition import Partitioned, partition
from securedl.network.script import LinearLayer

sys.path.insert(0, str(Path(__file__).parent))
from partition_nets import NETS, Block, Net, Written, parted, resnet20  # found by path, not by package


class Ecg(nn.Module):
    """A residual block of one direction, with biases and no norms."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 4, 5, stride, 2), nn.Conv1d(4, 4, 5, 1, 2)
        self.beside = nn.Conv1d(2, 4, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, 2, places]."""
        return torch.relu(self.second(torch.relu(self.first(x))) + self.beside(x))


def beside(padding: int, dilation: int = 1, groups: int = 1) -> Callable[[], nn.Module]:
    """A 3x3 convolution to 6 maps beside a 1x1 one, both on the same image of 3 channels."""
    return lambda: Written(
        lambda s, x: s.a(x) + s.b(x),
        a=nn.Conv2d(3, 6, 3, padding=padding, dilation=dilation, groups=groups),
        b=nn.Conv2d(3, 6, 1),
    )


#: Networks with the number of layers that are left.
JOINED: dict[str, tuple[Net, int]] = {
    "projection": (Net(lambda: Block(3, 6, 2), (3, 8, 8), 3), 2),
    "with biases": (Net(lambda: Block(3, 6, 2, bias=True), (3, 9, 7), 3), 2),
    "more channels": (Net(lambda: Block(3, 6, 1), (3, 5, 5), 3), 2),
    "stride 3": (Net(lambda: Block(3, 4, 3), (3, 10, 8), 3), 2),
    "conv1d": (Net(lambda: Ecg(2), (2, 11), 3), 2),
    "two dense": (
        Net(
            lambda: Written(lambda s, x: s.a(x) + s.b(x[:, 1:]), a=nn.Linear(4, 3), b=nn.Linear(3, 3)),
            (4,), 2,
        ), 1,
    ),
    "three": (
        Net(
            lambda: Written(
                lambda s, x: s.a(x) + s.b(x) + s.c(x),
                a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 1), c=nn.Conv2d(2, 3, 1),
            ), (2, 5, 5), 3,
        ), 1,
    ),
    "dilated": (Net(beside(padding=2, dilation=2), (3, 7, 7), 2), 1),
    "numbers between": (
        Net(
            lambda: Written(
                lambda s, x: (s.a(x) * 3 - s.v) / s.v + (2 + 0.5 * s.b(x)),
                a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 1),
                v=torch.tensor([1.0, -2, 3])[:, None, None],
            ), (2, 5, 5), 2,
        ), 1,
    ),
    "no projection": (NETS["residual"], 2),
    "an activation between": (
        Net(
            lambda: Written(lambda s, x: s.a(x).relu() + s.b(x), a=nn.Linear(4, 3), b=nn.Linear(4, 3)),
            (4,), 2,
        ), 2,
    ),
    "read elsewhere too": (
        Net(
            lambda: Written(
                lambda s, x: torch.cat([(y := s.a(x)) + s.b(x), y], 1), a=nn.Linear(4, 3), b=nn.Linear(4, 3)
            ), (4,), 2,
        ), 2,
    ),
    "groups": (Net(beside(padding=1, groups=3), (3, 5, 5), 2), 2),
    "strided": (
        Net(
            lambda: Written(
                lambda s, x: s.a(x) + s.b(x), a=nn.Conv2d(2, 3, 3, 2, 1), b=nn.Conv2d(2, 3, 1, 2)
            ), (2, 6, 6), 2,
        ), 2,
    ),
    "another size": (
        Net(
            lambda: Written(
                lambda s, x: s.a(x) + s.b(x[..., 1:-1, 1:-1]), a=nn.Conv2d(2, 3, 3), b=nn.Conv2d(2, 3, 1)
            ), (2, 6, 6), 2,
        ), 2,
    ),
    "scaled by place": (
        Net(
            lambda: Written(
                lambda s, x: s.a(x) * s.v + s.b(x),
                a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 1), v=torch.arange(5.0),
            ), (2, 5, 5), 2,
        ), 2,
    ),
    "sums that spread": (
        Net(
            lambda: Written(
                lambda s, x: s.a(x) + s.b(x[..., :1, :1]),
                a=nn.Conv2d(2, 3, 3, padding=1), b=nn.Conv2d(2, 3, 1),
            ), (2, 5, 5), 2,
        ), 2,
    ),
}  # fmt: skip


def check(model: nn.Module, shape: tuple[int, ...]) -> tuple[Partitioned, Partitioned]:
    """The network before and after, the latter compared with the model."""
    before = partition(model, shape)
    return before, compared(model, before, shape)


def compared(model: nn.Module, before: Partitioned, shape: tuple[int, ...]) -> Partitioned:
    """The network after, compared with the model."""
    after = join(before)
    double = copy.deepcopy(model).double().eval()
    for count in (1, 3, 5):
        x = np.random.default_rng(count).normal(size=(count, *shape))
        with torch.no_grad():
            want = double(torch.from_numpy(x)).numpy()
        found = after.head(after.script.logits(x, after.kernels))
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-9 * np.abs(want).max())
    return after


@pytest.mark.parametrize("name", JOINED)
def test_joined_layers_give_what_both_gave(name: str) -> None:
    net, left = JOINED[name]
    before, after = check(net.made(), net.shape)
    assert len(before.kernels) == net.layers
    assert len(after.kernels) == len(after.script.layers) == left
    if left == net.layers:
        assert after is before


def test_resnet_20_has_twenty_layers() -> None:
    made = Net(resnet20, (3, 32, 32), 22)
    before, after = check(made.made(), made.shape)
    assert (len(before.kernels), len(after.kernels)) == (22, 20)
    joined = [layer for layer in after.script.layers if "+" in layer.name]
    assert all(isinstance(layer, LinearLayer) for layer in joined)
    assert [layer.geometry.image for layer in joined if isinstance(layer, LinearLayer)] == [
        (48, 16, 16),
        (96, 8, 8),
    ]
    assert [layer.name for layer in joined] == [f"{k}.conv2 + {k}.downsample.0" for k in (6, 9)]


@pytest.mark.parametrize("name", NETS)
def test_every_network_stays_what_it_was(name: str) -> None:
    compared(*parted(name), NETS[name].shape)


def test_what_was_given_stays() -> None:
    net = JOINED["projection"][0]
    before = partition(net.made(), net.shape)
    kernels = [kernel.copy() for kernel in before.kernels]
    rows = before.script.instructions
    join(before)
    assert before.script.instructions is rows
    assert all(map(np.array_equal, before.kernels, kernels))


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_sizes(data: st.DataObject) -> None:
    number = lambda least, most: data.draw(st.integers(least, most))  # noqa: E731
    half, dilation, stride = number(0, 2), number(1, 2), number(1, 3)
    size = (number(3, 9), number(3, 9))
    bias = data.draw(st.booleans())

    def make() -> nn.Module:
        return Written(
            lambda s, x: s.c(x) + s.b(s.a(x)),
            a=nn.Conv2d(2, 3, 3, stride, 1),
            b=nn.Conv2d(3, 4, 2 * half + 1, 1, half * dilation, dilation),
            c=nn.Sequential(nn.Conv2d(2, 4, 1, stride, bias=bias), nn.BatchNorm2d(4)),
        )

    before, after = check(Net(make, (2, *size), 3).made(), (2, *size))
    assert (len(before.kernels), len(after.kernels)) == (3, 2)
