"""Branches in slots: straightened networks whose images stand on grids are torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from securedl.compiler.compile import compile_graph
from securedl.compiler.straighten import straighten
from securedl.errors import CompileError
from securedl.network.from_torch import import_torch
from securedl.network.graph import Affine
from securedl.plan.plan import plan_from_bytes
from securedl.plan.signature import Link


class Residual(nn.Module):
    """x + conv(conv(x)²), then a stride, a pool and a dense layer: branches, and grids with gaps."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.down, self.pool = nn.Conv2d(2, 4, 3, stride=stride, padding=1), nn.AvgPool2d(2)
        self.dense = nn.Linear(4 * (3 if stride == 1 else 2) ** 2, 3)

    def forward(self, x):
        x = x + self.second(self.first(x) ** 2)
        return self.dense(torch.flatten(self.pool(self.down(x) ** 2), 1))


@pytest.mark.parametrize(
    ("stride", "batch", "ring", "refreshes"),
    [(1, 1, 8192, None), (2, 1, 8192, 3), (2, 8, 16384, None), (2, 1, 16384, 1), (1, 4, 32768, 0)],
)
def test_residual_blocks(stride, batch, ring, refreshes):
    torch.manual_seed(stride)
    net, x = Residual(stride).double(), np.random.default_rng(5).uniform(-1, 1, (16, 2, 7, 7))
    graph, flat = import_torch(net, (2, 7, 7)).graph, x.reshape(16, -1)
    plan = compile_graph(graph, flat, batch, True, Link(), ring, refreshes)
    found = plan.simulate(x, noise_seed=None)
    np.testing.assert_allclose(found, net(torch.from_numpy(x)).detach().numpy(), atol=1e-7)
    loaded = plan_from_bytes(plan.to_bytes())
    np.testing.assert_array_equal(loaded.simulate(x, noise_seed=None), found)
    places = plan.network.places
    assert any(place.source.grid or place.target.grid for place in places)
    assert [p.source for p in loaded.network.places] == [p.source for p in places]
    assert [node.shape for node in loaded.graph.nodes if isinstance(node, Affine)] == [
        node.shape for node in plan.graph.nodes if isinstance(node, Affine)
    ]


class Halved(nn.Module):
    """A block that leaves a quarter of the pixels: x is carried beside it, its phases as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.beside, self.dense = nn.Conv2d(2, 4, 1, 2), nn.Linear(4 * 9, 3)

    def forward(self, x):
        x = x**2
        inner = self.second(self.first(x) ** 2)
        return self.dense(torch.flatten((inner + self.beside(x)) ** 2, 1))


def test_what_is_carried_beside_fewer_pixels():
    torch.manual_seed(0)
    net, x = Halved().double(), np.random.default_rng(6).uniform(-1, 1, (16, 2, 6, 6))
    graph = straighten(import_torch(net, (2, 6, 6)).graph)
    np.testing.assert_allclose(graph(x), net(torch.from_numpy(x)).detach().numpy(), atol=1e-12)
    shapes = [node.shape for node in graph.nodes if isinstance(node, Affine)]
    assert (3 + 2 * 4, 3, 3) in shapes
    plan = compile_graph(graph, x.reshape(16, -1), 1, True, Link(), 8192, None)
    np.testing.assert_allclose(plan.simulate(x, noise_seed=None), graph(x), atol=1e-7)


def test_a_row_with_too_many_entries_is_refused_before_it_is_made() -> None:
    torch.manual_seed(0)
    graph = import_torch(Halved(), (2, 6, 6)).graph
    straight = straighten(graph)
    assert straighten(graph, straight.entries).entries == straight.entries
    with pytest.raises(CompileError, match="entries, more than 10"):
        straighten(graph, 10)
