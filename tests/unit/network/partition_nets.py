"""Small networks with every way to have a layer, and every thing that stands between layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from securedl.network.partition import Partitioned, partition


class Net(NamedTuple):
    """How to make it, the shape of one sample, and how many layers a server computes."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layers: int

    def made(self) -> nn.Module:
        """The same at each call; its batch norms have statistics of their own."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = self.make()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for tensor in module.state_dict().values():
                        if tensor.dtype.is_floating_point:
                            tensor.uniform_(0.3, 2.0)
        return model.eval()


class Written(nn.Module):
    """A network written as one function of itself and its samples."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        """As the function says."""
        return self.function(self, x)


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity or a projection (He et al., 2016); a bias if asked for."""

    def __init__(self, before: int, after: int, stride: int, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=bias)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if stride > 1 or before != after:
            one = nn.Conv2d(before, after, 1, stride, bias=bias)
            self.downsample = nn.Sequential(one, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[samples, before, rows, columns]."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return functional.relu(out, inplace=True)


def resnet20(width: int = 16) -> nn.Module:
    """22 convolutions and dense layers with its two projections."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    before = width
    for after in (width, 2 * width, 4 * width):
        for number in range(3):
            layers.append(Block(before, after, 2 if after > width and number == 0 else 1))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class Attention(nn.Module):
    """One head, scores and softmax by hand."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, tokens, width]."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[-1] ** 0.5
        return self.norm(x + self.out(scores.softmax(-1) @ self.value(x)))


class Heads(nn.Module):
    """torch's own attention, several heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, tokens, width]."""
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


def matrix(*shape: int) -> Tensor:
    """A constant."""
    return torch.randn(*shape)


NETS: dict[str, Net] = {
    "turned": Net(
        lambda: Written(lambda self, x: self.fc(x.mT).relu().mT.flatten(1), fc=nn.Linear(3, 4)), (3, 5), 1
    ),
    "mlp": Net(lambda: nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 3)), (7,), 2),
    "lenet": Net(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 5), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 5), nn.Softmax(1),
        ), (1, 16, 16), 4,
    ),
    "residual": Net(lambda: Block(4, 4, 1), (4, 6, 6), 2),
    "projection": Net(lambda: Block(3, 6, 2, bias=True), (3, 9, 9), 3),
    "resnet": Net(lambda: resnet20(2), (3, 16, 16), 22),
    "gelu": Net(lambda: nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 4)), (5,), 2),
    "gelu, tanh": Net(lambda: nn.Sequential(nn.Linear(5, 6), nn.GELU("tanh"), nn.Linear(6, 4)), (5,), 2),
    "silu": Net(lambda: nn.Sequential(nn.Linear(5, 6), nn.SiLU(), nn.Linear(6, 1), nn.Sigmoid()), (5,), 2),
    "softmax inside": Net(lambda: nn.Sequential(nn.Linear(5, 6), nn.Softmax(1), nn.Linear(6, 4)), (5,), 2),
    "attention": Net(Attention, (5, 6), 4),
    "heads": Net(Heads, (5, 8), 3),
    "transformer": Net(
        lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu"), (4, 8), 4
    ),
    "batch norm before": Net(
        lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.ReLU()), (2, 6, 6), 1
    ),
    "batch norm after": Net(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()), (2, 6, 6), 1
    ),
    "group norm": Net(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), (2, 6, 6), 1),
    "conv1d": Net(
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 5, 2, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 2)
        ), (2, 15), 2,
    ),
    "transposed": Net(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(3, 2, 3, 2, 1, 1)),
        (1, 8, 8), 2,
    ),
    "transposed, 1d": Net(
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 2, 4, 3, 2, 1, 2)),
        (2, 9), 2,
    ),
    "depthwise": Net(
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU6(), nn.Conv2d(4, 6, 1)),
        (4, 5, 5), 2,
    ),
    "grouped": Net(lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2), (6, 5, 7), 1),
    "dilated": Net(lambda: nn.Conv2d(2, 3, 3, dilation=(2, 3), padding=(2, 0)), (2, 9, 9), 1),
    "7x7/2": Net(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (3, 23, 19), 1
    ),
    "odd sizes": Net(lambda: nn.Conv2d(2, 3, (3, 2), (2, 3), (0, 1)), (2, 11, 7), 1),
    "same": Net(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, (4, 3), padding="same"), nn.ReLU(), nn.Conv2d(3, 2, 2, padding="valid")
        ),
        (2, 6, 7), 2,
    ),
    "circular": Net(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6), 1),
    "shape[0]": Net(
        lambda: Written(
            lambda self, x: self.fc(torch.relu(self.conv(x)).view(x.shape[0], -1)),
            conv=nn.Conv2d(1, 2, 3), fc=nn.Linear(32, 3),
        ), (1, 6, 6), 2,
    ),
    "len": Net(
        lambda: Written(lambda self, x: self.fc(x.reshape(len(x), 12)), fc=nn.Linear(12, 3)), (3, 4), 1
    ),
    "tokens joined with samples": Net(
        lambda: Written(
            lambda self, x: torch.relu(self.fc(x.reshape(x.shape[0] * 3, 4))).reshape(x.shape[0], 3, 5),
            fc=nn.Linear(4, 5),
        ), (3, 4), 1,
    ),
    "masked weight": Net(
        lambda: Written(
            lambda self, x: functional.linear(x, self.weight * self.mask, self.bias).tanh(),
            weight=nn.Parameter(matrix(4, 6)), mask=(matrix(4, 6) > 0).float(), bias=matrix(4),
        ), (6,), 1,
    ),
    "weight norm": Net(
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU()), (4,), 1
    ),
    "addmm": Net(
        lambda: Written(lambda s, x: torch.addmm(s.b, x, s.w), b=matrix(3), w=matrix(5, 3)), (5,), 1
    ),
    "matmul": Net(
        lambda: Written(lambda s, x: (x @ s.w).relu() + s.b, b=matrix(3), w=matrix(5, 3)), (2, 5), 1
    ),
    "matmul of a vector": Net(
        lambda: Written(lambda s, x: s.fc(x) @ s.v, fc=nn.Linear(5, 4), v=matrix(4)), (5,), 1
    ),
    "product of two values": Net(
        lambda: Written(lambda s, x: s.a(x) * torch.sigmoid(s.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3)),
        (4,), 2,
    ),
    "one layer twice": Net(lambda: Written(lambda s, x: s.fc(s.fc(x).relu()), fc=nn.Linear(4, 4)), (4,), 2),
    "split and joined": Net(
        lambda: Written(
            lambda s, x: torch.cat([part.relu() for part in s.fc(x).chunk(2, 1)][::-1], 1), fc=nn.Linear(4, 6)
        ), (4,), 1,
    ),
    "cast": Net(
        lambda: Written(
            lambda s, x: s.fc(x).to(s.fc.weight.dtype) + torch.ones(3, dtype=x.dtype), fc=nn.Linear(4, 3)
        ),
        (4,), 1,
    ),
    "upsampled": Net(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2, mode="bilinear")), (1, 6, 6), 1
    ),
    "attention of a mixer": Net(
        lambda: Written(lambda s, x: x + s.a(x.transpose(1, 2)).relu().transpose(1, 2), a=nn.Linear(5, 5)),
        (5, 3), 1,
    ),
    "matrix on the left": Net(lambda: Written(lambda s, x: torch.relu(s.a @ x), a=matrix(4, 5)), (5, 3), 1),
    "einsum": Net(
        lambda: Written(
            lambda s, x: torch.einsum("bnc,dc->bnd", s.fc(x), s.w), fc=nn.Linear(3, 4), w=matrix(2, 4)
        ),
        (5, 3), 2,
    ),
}  # fmt: skip


@functools.cache
def parted(name: str) -> tuple[nn.Module, Partitioned]:
    """One of `NETS` and its parts, for all tests, which change neither."""
    net = NETS[name]
    model = net.made()
    return model, partition(model, net.shape)
