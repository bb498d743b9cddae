"""The networks of `bench.models` as the peers can run them: squares for ReLU, means for maxima."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.models.networks import NETWORKS

#: Those of the comparison, and the shapes of their samples.
SHAPES: dict[str, tuple[int, ...]] = {
    "wine": (13,),
    "digits": (64,),
    "cryptonets": (1, 28, 28),
    "lenet": (1, 28, 28),
    "paper": (1, 28, 28),
}


class InexpressibleError(Exception):
    """A peer's API has no way for this network; says why."""


class Square(nn.Module):
    """x²."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x * x


@dataclass(frozen=True, eq=False)
class Squared:
    """A network with squares, one sample [...], and its logits in double precision [classes]."""

    name: str
    model: nn.Sequential
    x: NDArray[np.float64]
    logits: NDArray[np.float64]


def squared(name: str) -> Squared:
    """With random weights and a random sample: no peer's time depends on them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = NETWORKS[name].build()
        x = torch.randn(1, *SHAPES[name], dtype=torch.float64)
    assert isinstance(found, nn.Sequential)
    model = nn.Sequential(*map(_squared, found)).double().eval()
    with torch.no_grad():
        return Squared(name, model, x[0].numpy(), model(x)[0].numpy())


def _squared(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.ReLU):
        return Square()
    return nn.AvgPool2d(layer.kernel_size) if isinstance(layer, nn.MaxPool2d) else layer


@dataclass(frozen=True, eq=False)
class Linear:
    """Outputs Σ weight[o, t] · x[taken[o, t]] + bias[o]: a dense layer, or a convolution's windows.

    Attributes:
        weight: [outputs, terms]. bias: [outputs].
        taken: [outputs, terms], the place of each term's input in the flat sample, or -1 for its margin.
        kernels: of a convolution, [channels, rows, columns].
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    taken: NDArray[np.int64]
    kernels: NDArray[np.float64] | None = None
    stride: int = 1
    padding: int = 0


def linear_layers(network: Squared) -> list[Linear]:
    """Layers with squares between them.

    Raises:
        InexpressibleError: on a layer that is neither dense nor a convolution of the sample itself.
    """
    found: list[Linear] = []
    for layer in network.model:
        if isinstance(layer, nn.Linear):
            weight = layer.weight.detach().numpy()
            taken = np.broadcast_to(np.arange(weight.shape[1]), weight.shape)
            found.append(Linear(weight, layer.bias.detach().numpy(), taken))
        elif isinstance(layer, nn.Conv2d) and not found and layer.in_channels == 1:
            found.append(_convolution(layer, network.x.shape[1:]))
        elif not isinstance(layer, Square | nn.Flatten):
            raise InexpressibleError(f"a {type(layer).__name__} on what is encrypted already")
    return found


def _convolution(layer: nn.Conv2d, shape: tuple[int, ...]) -> Linear:
    size, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    places = np.pad(np.arange(np.prod(shape)).reshape(shape), padding, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(places, (size, size))[::stride, ::stride]
    windows = windows.reshape(-1, size * size)
    kernels = layer.weight.detach().numpy()[:, 0]
    assert layer.bias is not None
    weight = np.repeat(kernels.reshape(len(kernels), -1), len(windows), axis=0)
    bias = np.repeat(layer.bias.detach().numpy(), len(windows))
    return Linear(weight, bias, np.tile(windows, (len(kernels), 1)), kernels, stride, padding)
