"""Networks as torch exports them, by both of its exporters, for one number of samples and for any."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import securedl

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import close, exported, newly_exported, random, run, seeded  # found by path, not by package

SHAPE = (3, 8, 8)


class Made(nn.Module):
    """Zeros for each sample, and channels of zeros around."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, torch.zeros(x.size(0), 2, *x.shape[2:], dtype=x.dtype)], 1)
        return functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)).mean((2, 3))


class Scaled(nn.Module):
    """A learned row for each sample, images that are scaled, and a sum over channels by name."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.layer = nn.Parameter(torch.randn(1, 3, 1, 8)), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, self.row.expand(x.shape[0], -1, -1, -1)], 2)
        y = functional.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = functional.interpolate(y, size=(5, 7), mode="bicubic")
        y = functional.interpolate(self.layer(y), scale_factor=(2, 3))
        return torch.einsum("bchw,c->bhw", y, torch.arange(4.0, dtype=x.dtype)).flatten(1)


class Moved(nn.Module):
    """Pixels to channels and back, choices, repetitions, turns, running sums and maxima."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.pixel_unshuffle(functional.pixel_shuffle(torch.cat([x] * 4, 1), 2), 2)
        y = y @ torch.tril(torch.ones(8, 8, dtype=x.dtype))
        y = torch.where(y > 0, y, 0.5 * y).clamp(min=-1).repeat(1, 1, 2, 1)
        y = torch.roll(y, 1, 2) + torch.flip(y, [3]) + y.cumsum(2)
        y = torch.maximum(y, torch.tensor(0.25, dtype=x.dtype)).unflatten(1, (2, 6))
        return y.chunk(2, 1)[0].amax((2, 3)).flatten(1)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("opset", [13, 17, 20, None])
@pytest.mark.parametrize("make", [Made, Scaled, Moved])
def test_exports(make, opset, dynamic):
    """opset: None for the newer exporter."""
    model = seeded(make)
    for samples in (1, 2) if opset and not dynamic else (2,):
        if opset is None:
            found = newly_exported(model, samples, *SHAPE, dynamic=dynamic)
        else:
            found = exported(model, samples, *SHAPE, opset=opset, dynamic=dynamic)
        network = securedl.from_onnx(found)
        for count in (1, 2, 5):
            x = random(count, *SHAPE)
            close(run(network, x), run(model, x), 1e-9 if opset else 1e-6)
