"""A program shows shapes: other weights and other data of the same shapes give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import securedl
from securedl.errors import CompileError, InputError
from securedl.network.join import join
from securedl.network.partition import partition


class Residual(nn.Module):
    """A convolution beside a projection: with fine numbers the two are one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.beside, self.out = nn.Conv2d(2, 4, 1, 2), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x))) + self.beside(x)
        return self.out(torch.relu(y).flatten(1))


class Attention(nn.Module):
    """Softmax of products of values."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(8, 6) for _ in range(3))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        scores = self.queries(x) @ self.keys(x).transpose(1, 2)
        return self.out(torch.softmax(scores, -1) @ self.values(x)).mean(1)


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=2), nn.GELU(), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(128, 90), nn.LayerNorm(90), nn.Sigmoid(), nn.Linear(90, 3), nn.Softmax(1)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv": conv, "dense": dense, "attention": Attention, "residual": Residual,
}  # fmt: skip


def weights(kind: str) -> Callable[[nn.Module], None]:
    """Gives a network other ones."""

    def change(model: nn.Module) -> None:
        for parameter in model.parameters():
            kept = torch.rand(parameter.shape) < (0.1 if kind == "sparse" else 1.0)
            factor = {"large": 30.0, "small": 1e-3}.get(kind, 1.0)
            with torch.no_grad():
                parameter.mul_(kept * factor)
                if kind == "one map":
                    parameter[1:] = 0.0

    return change


def data(kind: str) -> np.ndarray:
    """Calibration samples."""
    x = np.random.default_rng(len(kind)).normal(size=(24, 2, 8, 8))
    if kind == "far":
        return 100 * np.abs(x) + 2000
    if kind == "thin":
        return x * (np.random.default_rng(1).random(x.shape[1:]) < 0.2)
    return x


CASES = [
    ("other", "normal"), ("sparse", "normal"), ("large", "thin"), ("small", "far"), ("one map", "normal"),
]  # fmt: skip


def program(name: str, seed: int, kind: str, samples: str, **options: Any) -> bytes:
    torch.manual_seed(seed)
    model = NETWORKS[name]().eval()
    weights(kind)(model)
    plan = securedl.compile(model, data(samples), activations="client", task="regression", **options)
    return plan.program.to_json()


def several(name: str, cases: list[tuple[str, str]], **options: Any) -> Iterator[bytes]:
    """Programs of networks of one shape, as far as there are any."""
    for seed, (kind, samples) in enumerate(cases):
        try:
            yield program(name, seed, kind, samples, **options)
        except (CompileError, InputError):
            continue


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_other_values_give_the_same_program(name: str) -> None:
    found = list(several(name, [("other", "normal"), ("large", "thin")], batch=2))
    assert len(found) == 2
    assert len(set(found)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "dense", "attention"])
@pytest.mark.parametrize("options", [{}, {"batch": 3}, {"weights": "plain"}])
def test_wild_values_give_the_same_program(name: str, options: dict[str, Any]) -> None:
    found = list(several(name, CASES, **options))
    assert len(found) >= 3
    assert len(set(found)) == 1


@pytest.mark.slow
def test_two_programs_of_a_network_with_sums() -> None:
    """Two layers that are added up are one where that is precise. So a program may show whether it is, and
    nothing else.
    """
    torch.manual_seed(0)
    plain = partition(Residual().eval(), (2, 8, 8))
    sizes = {len(plain.script.layers), len(join(plain).script.layers)}
    assert sizes == {3, 4}
    found = set(several("residual", [("other", "normal"), *CASES]))
    convolutions = {text.count(b'"convolve"') for text in found}
    assert convolutions <= sizes
    assert len(found) == len(convolutions)
