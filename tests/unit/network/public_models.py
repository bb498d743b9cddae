"""Networks in the styles in which people publish them, in our own words, as small as the style allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Public(NamedTuple):
    """A way to make a network, the shape of one sample, and the shape of one answer."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    answer: tuple[int, ...]
    #: Whether today's slots hold it with a batch of 4.
    encrypted: bool = True


class LeNet5(nn.Module):
    """Layers as attributes, functional forward with view(-1, ...)."""

    def __init__(self, size: int = 28) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.flat = 16 * (size // 4 - 2) ** 2
        self.fc1, self.fc2, self.fc3 = nn.Linear(self.flat, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = functional.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = functional.avg_pool2d(torch.tanh(self.conv2(x)), kernel_size=2, stride=2)
        x = x.view(-1, self.flat)
        x = torch.tanh(self.fc1(x))
        return self.fc3(torch.tanh(self.fc2(x)))


class MnistExample(nn.Module):
    """Functional pooling, flatten, dropout and log_softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, 1), nn.Conv2d(4, 6, 3, 1)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(6 * 16, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = functional.relu(self.conv1(x))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(self.dropout1(x), 1)
        x = self.dropout2(functional.relu(self.fc1(x)))
        return functional.log_softmax(self.fc2(x), dim=1)


class Lola(nn.Module):
    """Squares written as products."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 5, stride=2, padding=2)
        self.hidden, self.out = nn.Linear(5 * 49, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = self.conv(x)
        x = (x * x).reshape(x.size(0), -1)
        x = self.hidden(x)
        return self.out(x**2)


class Shortcut(nn.Module):
    """A function in a module, as residual networks of the CIFAR kind have it."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or inputs != outputs:
            if option == "A":
                more = (0, 0, 0, 0, outputs // 4, outputs // 4)
                self.shortcut = Shortcut(lambda x: functional.pad(x[:, :, ::2, ::2], more, "constant", 0))
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
                )

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class ResNet(nn.Module):
    """With identity shortcuts ("A") or projections ("B")."""

    def __init__(self, option: str, blocks: int = 1, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._stage(width, blocks, 1, option)
        self.layer2 = self._stage(2 * width, blocks, 2, option)
        self.layer3 = self._stage(4 * width, blocks, 2, option)
        self.linear = nn.Linear(4 * width, 10)

    def _stage(self, outputs: int, blocks: int, stride: int, option: str) -> nn.Sequential:
        layers = []
        for step in [stride] + [1] * (blocks - 1):
            layers.append(BasicBlock(self.width, outputs, step, option))
            self.width = outputs
        return nn.Sequential(*layers)

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = functional.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


class Vgg(nn.Module):
    """Features by a list of numbers, then a classifier."""

    def __init__(self, plan=(4, "M", 6, "M")) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in plan:
            if step == "M":
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            else:
                layers += [
                    nn.Conv2d(channels, step, 3, padding=1),
                    nn.BatchNorm2d(step),
                    nn.ReLU(inplace=True),
                ]
                channels = step
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Sequential(
            nn.Linear(channels, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10)
        )

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class Ecg(nn.Module):
    """1-D convolutions with pooling, one probability at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(1, 4, 7, padding=3), nn.LeakyReLU(), nn.MaxPool1d(2),
            nn.Conv1d(4, 8, 5, padding=2), nn.LeakyReLU(), nn.MaxPool1d(2),
        )  # fmt: skip
        self.linear = nn.Sequential(nn.Linear(8 * 16, 16), nn.LeakyReLU(), nn.Linear(16, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        x = x.view(x.shape[0], x.shape[1] * x.shape[2])
        return self.linear(x)


class Activity(nn.Module):
    """Samples [time, channels], permuted; mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv1d(6, 8, 5, padding="same"),
            nn.Conv1d(8, 8, 5, padding="same", dilation=2),
        )
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x):
        x = x.permute(0, 2, 1)
        x = functional.elu(self.first(x))
        x = functional.elu(self.norm(self.second(x)))
        return self.head(x.mean(dim=-1))


def tabular() -> nn.Module:
    """Names in an ordered dictionary."""
    return nn.Sequential(
        OrderedDict(
            bn0=nn.BatchNorm1d(12), fc1=nn.Linear(12, 24), act1=nn.ReLU(), bn1=nn.BatchNorm1d(24),
            drop1=nn.Dropout(0.3), fc2=nn.Linear(24, 12), act2=nn.SELU(), drop2=nn.AlphaDropout(0.1),
            out=nn.Linear(12, 3),
        )
    )  # fmt: skip


class Autoencoder(nn.Module):
    """Encoder and decoder, with transposed convolutions; the answer is an image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1, output_padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return self.decoder(self.encoder(x))


class TiedAutoencoder(nn.Module):
    """The decoder's weights are the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(16, 6)
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x):
        return functional.linear(torch.sigmoid(self.encoder(x)), self.encoder.weight.t(), self.bias)


class TwoHeads(nn.Module):
    """Two answers from one body, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 16), nn.Tanh())
        self.age, self.kind = nn.Linear(16, 1), nn.Linear(16, 4)

    def forward(self, x):
        x = self.body(x)
        return torch.cat((self.age(x), self.kind(x)), dim=1)


class Separable(nn.Module):
    """Depthwise and pointwise convolutions with ReLU6."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs),
                nn.ReLU6(inplace=True), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
                nn.ReLU6(inplace=True),
            )  # fmt: skip

        self.model = nn.Sequential(block(3, 4, 1), block(4, 6, 2), nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.model(x).view(-1, 6))


class DenseBlock(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(2 + 2 * k, 2, 3, padding=1) for k in range(2)])
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(torch.sigmoid(layer(torch.cat(features, 1))))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Inception(nn.Module):
    """Branches of several kernels, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.pool = nn.Conv2d(2, 2, 1)
        self.fc = nn.Linear(7 * 16, 4)

    def forward(self, x):
        pooled = self.pool(functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        outputs = [self.one(x), self.three(x), pooled]
        return self.fc(functional.softplus(torch.cat(outputs, 1)).flatten(1))


class SmallUNet(nn.Module):
    """Down, up, and a skip; a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.out = nn.Conv2d(7, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        first = torch.tanh(self.down(x))
        deep = torch.tanh(self.deep(functional.avg_pool2d(first, 2)))
        wide = functional.interpolate(deep, scale_factor=2, mode="nearest")
        return self.out(torch.tanh(self.up(torch.cat([wide, first], dim=1))))


class Causal(nn.Module):
    """Temporal blocks with padding on the left, chomped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 4, 3, padding=2))
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, padding=4, dilation=2))
        self.match, self.head = nn.Conv1d(2, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        out = functional.gelu(self.first(x)[:, :, :-2])
        out = functional.gelu(self.second(out)[:, :, :-4].contiguous())
        return self.head((out + self.match(x))[:, :, -1])


class GraphNet(nn.Module):
    """Convolutions over a fixed graph: a constant adjacency times features times weights."""

    def __init__(self) -> None:
        super().__init__()
        adjacency = torch.eye(5) + torch.diag(torch.ones(4), 1) + torch.diag(torch.ones(4), -1)
        self.register_buffer("adjacency", adjacency / adjacency.sum(1, keepdim=True))
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = functional.silu(torch.matmul(self.adjacency, self.first(x)))
        return torch.matmul(self.adjacency, self.second(x)).sum(dim=1)


class Mixer(nn.Module):
    """Linear layers over tokens and over channels in turn, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 6, 4, stride=4)
        self.tokens, self.channels = nn.Linear(4, 4), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + functional.gelu(self.tokens(x.transpose(1, 2))).transpose(1, 2)
        x = x + functional.gelu(self.channels(x))
        return self.head(x.mean(1))


class WideAndDeep(nn.Module):
    """A linear path beside a deep one, one logit, squeezed."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 1)
        self.deep = nn.Sequential(nn.Linear(8, 12), nn.Hardswish(), nn.Linear(12, 1))

    def forward(self, x):
        return torch.sigmoid(self.wide(x) + self.deep(x)).squeeze(-1)


class Normalising(nn.Module):
    """Pixels of 0 to 255, normalised inside; a home-made activation and global average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.48, 0.45, 0.4]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).view(1, 3, 1, 1))
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Linear(4, 3)

    def forward(self, x):
        x = (x / 255 - self.mean) / self.std
        x = self.conv(x)
        x = x * torch.sigmoid(1.702 * x)
        return self.fc(functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


MODELS = {
    "LeNet-5": Public(LeNet5, (1, 28, 28), (10,), encrypted=False),
    "LeNet-5, small": Public(lambda: LeNet5(12), (1, 12, 12), (10,)),
    "MNIST example": Public(MnistExample, (1, 12, 12), (10,)),
    "LoLA": Public(Lola, (1, 14, 14), (10,)),
    "ResNet, identity": Public(lambda: ResNet("A"), (3, 8, 8), (10,)),
    "ResNet, projection": Public(lambda: ResNet("B"), (3, 8, 8), (10,)),
    "VGG": Public(Vgg, (3, 8, 8), (10,)),
    "ECG": Public(Ecg, (1, 64), (1,)),
    "activity": Public(Activity, (20, 6), (5,)),
    "tabular": Public(tabular, (12,), (3,)),
    "autoencoder": Public(Autoencoder, (1, 8, 8), (1, 8, 8)),
    "tied autoencoder": Public(TiedAutoencoder, (16,), (16,)),
    "two heads": Public(TwoHeads, (10,), (5,)),
    "separable": Public(Separable, (3, 8, 8), (5,)),
    "dense block": Public(DenseBlock, (2, 6, 6), (3,)),
    "inception": Public(Inception, (2, 4, 4), (4,)),
    "U-Net": Public(SmallUNet, (1, 8, 8), (2, 8, 8)),
    "causal": Public(Causal, (2, 12), (2,)),
    "graph": Public(GraphNet, (5, 3), (4,)),
    "mixer": Public(Mixer, (1, 8, 8), (3,)),
    "wide and deep": Public(WideAndDeep, (8,), ()),
    "normalising": Public(Normalising, (3, 8, 8), (3,)),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network with statistics of its own, and samples."""
    public = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        model = public.make()
        x = torch.randn(96, *public.shape)
        if name == "normalising":
            x = torch.randint(0, 256, x.shape).float()
        model.train()
        with torch.no_grad():
            for part in x.split(32):
                model(part)
    return model, x
