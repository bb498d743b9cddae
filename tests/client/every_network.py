"""Networks of every kind of layer, for activations by the client; a batch to ask each with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside a projection."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after) for _ in range(2)])
        same = stride == 1 and before == after
        self.beside: nn.Module = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[1](self.second(torch.relu(self.norms[0](self.first(x)))))
        return torch.relu(inner + self.beside(x))


class Attention(nn.Module):
    """One head over seven tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(5, 4) for _ in range(3))
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.queries(x) @ self.keys(x).transpose(1, 2) / 2
        return self.out(torch.softmax(scores, -1) @ self.values(x)).mean(1)


class Functional(nn.Module):
    """Weights that are computed, a view by the number of samples, a gate."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 12))
        self.register_buffer("mask", (torch.arange(72) % 3 > 0).float().reshape(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x.view(x.shape[0], -1), self.weight * self.mask)
        return nn.functional.gelu(y) * torch.sigmoid(y)


class Tokens(nn.Module):
    """Samples and tokens in one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x.reshape(-1, 5))).reshape(x.shape[0], -1).sum(1, keepdim=True)


def conv(*sizes: Any, **options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*sizes, **options)


def row(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


RELU, FLAT = nn.ReLU, nn.Flatten
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "dense": (lambda: nn.Linear(13, 3), (13,), 1),
    "dense, batch": (lambda: nn.Linear(13, 3), (13,), 5),
    "wide dense": (lambda: nn.Linear(700, 130), (700,), 1),
    "dense, no bias": (lambda: nn.Linear(9, 20, bias=False), (9,), 3),
    "mlp": (row(lambda: nn.Linear(8, 30), RELU, lambda: nn.Linear(30, 4)), (8,), 1),
    "mlp, batch": (row(lambda: nn.Linear(8, 30), nn.GELU, lambda: nn.Linear(30, 4)), (8,), 7),
    "mlp, softmax inside": (
        row(lambda: nn.Linear(8, 6), lambda: nn.Softmax(1), lambda: nn.Linear(6, 4)), (8,), 2,
    ),
    "mlp, softmax at the end": (
        row(lambda: nn.Linear(8, 6), RELU, lambda: nn.Linear(6, 4), lambda: nn.Softmax(1)), (8,), 1,
    ),
    "norms around": (
        row(lambda: nn.BatchNorm1d(8), lambda: nn.Linear(8, 6), lambda: nn.BatchNorm1d(6), nn.SiLU), (8,), 1,
    ),
    "layer norm": (row(lambda: nn.Linear(8, 6), lambda: nn.LayerNorm(6), lambda: nn.Linear(6, 2)), (8,), 1),
    "conv 3x3": (conv(2, 4, 3, padding=1), (2, 9, 9), 1),
    "conv 3x3, batch": (conv(2, 4, 3, padding=1), (2, 9, 9), 3),
    "conv 5x5": (conv(3, 2, 5), (3, 11, 11), 1),
    "conv 5x5, padding 2": (conv(3, 2, 5, padding=2), (3, 8, 8), 1),
    "conv 1x1": (conv(6, 9, 1), (6, 7, 7), 1),
    "conv 1x1, stride 2": (conv(6, 9, 1, stride=2), (6, 7, 7), 2),
    "conv 7x7, stride 2": (conv(3, 4, 7, stride=2, padding=3), (3, 20, 20), 1),
    "conv 3x3, stride 3": (conv(2, 3, 3, stride=3), (2, 14, 14), 1),
    "conv stride over kernel": (conv(2, 3, 2, stride=4), (2, 15, 15), 1),
    "conv dilated": (conv(2, 3, 3, dilation=2, padding=2), (2, 10, 10), 1),
    "conv dilated, stride 2": (conv(2, 3, 3, dilation=3, stride=2, padding=1), (2, 13, 13), 1),
    "conv 3x5": (lambda: nn.Conv2d(2, 3, (3, 5), (1, 2), (0, 2)), (2, 8, 12), 1),
    "conv one row": (lambda: nn.Conv2d(2, 3, (1, 4)), (2, 1, 30), 1),
    "conv same": (conv(2, 3, 4, padding="same"), (2, 7, 7), 1),
    "conv odd size": (conv(1, 2, 3, stride=2), (1, 27, 27), 1),
    "grouped": (conv(6, 8, 3, groups=2, padding=1), (6, 6, 6), 1),
    "depthwise": (conv(5, 5, 3, groups=5, padding=1), (5, 6, 6), 1),
    "depthwise, two maps": (conv(4, 8, 3, groups=4, stride=2), (4, 9, 9), 2),
    "separable": (row(conv(4, 4, 3, groups=4, padding=1), RELU, conv(4, 6, 1)), (4, 6, 6), 1),
    "large image": (conv(1, 1, 3), (1, 70, 70), 1),
    "pair": (row(conv(1, 3, 3, padding=1), RELU, conv(3, 2, 3)), (1, 8, 8), 1),
    "max pooling": (
        row(conv(1, 3, 3), RELU, lambda: nn.MaxPool2d(2), FLAT, lambda: nn.Linear(48, 4)), (1, 10, 10), 1,
    ),
    "average pooling": (
        row(conv(1, 3, 3), RELU, lambda: nn.AvgPool2d(2), FLAT, lambda: nn.Linear(48, 4)), (1, 10, 10), 2,
    ),
    "global pooling": (
        row(conv(2, 5, 3), RELU, lambda: nn.AdaptiveAvgPool2d(1), FLAT, lambda: nn.Linear(5, 2)),
        (2, 9, 9), 1,
    ),
    "conv 1-D": (
        row(lambda: nn.Conv1d(2, 4, 5, padding=2), RELU, FLAT, lambda: nn.Linear(80, 3)), (2, 20), 1,
    ),
    "conv 1-D, stride": (lambda: nn.Conv1d(3, 4, 6, stride=2), (3, 40), 2),
    "transposed": (
        row(conv(2, 3, 3), lambda: nn.ConvTranspose2d(3, 2, 2, 2), FLAT, lambda: nn.Linear(128, 2)),
        (2, 6, 6), 1,
    ),
    "residual": (lambda: Residual(3, 3, 1), (3, 6, 6), 1),
    "residual, projection": (lambda: Residual(3, 5, 2), (3, 8, 8), 1),
    "residual, widened": (lambda: Residual(2, 4, 1), (2, 6, 6), 2),
    "residuals": (
        row(conv(1, 3, 3, padding=1), lambda: Residual(3, 3, 1), lambda: Residual(3, 6, 2)), (1, 8, 8), 1,
    ),
    "attention": (Attention, (7, 5), 1),
    "attention, batch": (Attention, (7, 5), 3),
    "functional": (Functional, (3, 4), 1),
    "tokens in one axis": (Tokens, (4, 5), 2),
    "random in training": (
        row(lambda: nn.Linear(6, 6), nn.RReLU, nn.Dropout, lambda: nn.Linear(6, 2)), (6,), 1,
    ),
    "clipped": (
        row(lambda: nn.Linear(6, 6), lambda: nn.Hardtanh(-0.5, 0.5), lambda: nn.Linear(6, 2)), (6,), 1,
    ),
}  # fmt: skip


def built(name: str) -> tuple[nn.Module, np.ndarray, int]:
    """A network with wild weights and norms, its samples, and a batch."""
    build, shape, batch = NETWORKS[name]
    torch.manual_seed(len(name))
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, 2)
            nn.init.uniform_(module.bias, -1, 1)
            module.running_mean = torch.randn_like(module.running_mean)  # type: ignore[arg-type]
            module.running_var = torch.rand_like(module.running_var) + 0.1  # type: ignore[arg-type]
    x = np.random.default_rng(len(name)).normal(size=(40, *shape))
    return model, x, batch


def original(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """In double precision."""
    with torch.no_grad():
        found = model.double()(torch.as_tensor(x)).numpy()
    model.float()
    return np.asarray(found)
