"""The networks, written as their users write them: ReLU, max pooling, batch norms. One is quadratic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from securedl.network.polynomial import PolynomialActivation


def wine() -> nn.Module:
    """MLP 13-64-3."""
    return nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 3))


def digits() -> nn.Module:
    """MLP 64-128-64-10."""
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )  # fmt: skip


def cryptonets() -> nn.Module:
    """Convolution 5x5 with stride 2 to 5 maps, dense 100 and 10 (Gilad-Bachrach et al., CryptoNets, 2016)."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 14 * 14, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def lenet() -> nn.Module:
    """LeNet-5 with ReLU and max pooling."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def paper() -> nn.Module:
    """The paper's CNN: 5x5 of 20 and 50 maps, average pooling, dense 256 and 10 (SecureDL, section 5.1)."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(5000, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def ions() -> nn.Module:
    """A network over a row of 100 ion intensities: 1-D convolutions, max pooling."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 100)),
        nn.Conv1d(1, 16, 7, padding=3), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(800, 2),
    )  # fmt: skip


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity, or a projection where the sizes differ (He et al., 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[samples, before, rows, columns]."""
        inner = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(inner + self.shortcut(x))


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32 images."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width in (16, 32, 64):
        for number in range(3):
            layers.append(Block(before, width, 2 if width > 16 and number == 0 else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def quadratic() -> nn.Module:
    """x + x²/10: so near a line that nineteen of them, one after the other, can be trained."""
    end = 8.0  # x²/10 = (64 + 64 T2(x/8)) / 20
    return PolynomialActivation(np.array([3.2, end, 3.2]), (-end, end), name="quadratic")


class QuadraticBlock(nn.Module):
    """`Block` for quadratics, a batch norm before each (pre-activation; He et al., 2016): nothing of higher
    degree is on the way that is added to, or the values would outgrow every norm."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.act1, self.act2 = quadratic(), quadratic()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, before, rows, columns]."""
        inner = self.conv1(self.act1(self.norm1(x)))
        inner = self.conv2(self.act2(self.norm2(inner)))
        return inner + self.shortcut(x)


def quadratic_resnet20() -> nn.Module:
    """ResNet-20 for 32x32 images, to be trained with quadratics: after a training with ReLU, they diverge."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    before = 16
    for width in (16, 32, 64):
        for number in range(3):
            layers.append(QuadraticBlock(before, width, 2 if width > 16 and number == 0 else 1))
            before = width
    layers += [nn.BatchNorm2d(64), quadratic(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def vgg() -> nn.Module:
    """Six 3x3 convolutions with batch norms, max pooling after every second."""
    layers: list[nn.Module] = []
    before = 3
    for width in (32, 32, 64, 64, 128, 128):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        if width == before:
            layers.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, 10))


@dataclass(frozen=True)
class Network:
    """One row of the tables.

    Attributes:
        build: it, untrained. data: name of `securedl.datasets`. epochs: of its training.
        asked: test samples that are asked encrypted, and quickly.
        squares: epochs of fine-tuning with squares for activations, or of training `polynomial`; 0 where
            that is not done.
        moved: pixels by which images are moved at most in training. mirrored: half of them.
        polynomial: the network with polynomials for activations, untrained, where it cannot be tuned.
    """

    build: Callable[[], nn.Module]
    data: str
    epochs: int
    asked: tuple[int, int]
    images: bool = False
    squares: int = 0
    moved: int = 0
    mirrored: bool = False
    polynomial: Callable[[], nn.Module] | None = None


NETWORKS: dict[str, Network] = {
    "wine": Network(wine, "wine", 100, (36, 16), squares=100),
    "digits": Network(digits, "optdigits", 40, (1000, 16), squares=40),
    "cryptonets": Network(cryptonets, "mnist", 15, (1000, 16), images=True, squares=10, moved=1),
    "lenet": Network(lenet, "mnist", 8, (1000, 16), images=True, squares=5, moved=1),
    "paper": Network(paper, "mnist", 5, (1000, 8), images=True, squares=4, moved=1),
    "ions": Network(ions, "ovarian", 60, (43, 8), squares=60),
    "resnet20": Network(
        resnet20,
        "cifar10",
        epochs=20,
        asked=(50, 2),
        images=True,
        squares=30,
        moved=4,
        mirrored=True,
        polynomial=quadratic_resnet20,
    ),
    "vgg": Network(vgg, "cifar10", 15, (50, 2), images=True, moved=4, mirrored=True),
}
