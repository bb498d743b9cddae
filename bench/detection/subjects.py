"""The networks of the papers' tables, narrowed so that each is trained in minutes by one thread, and kept.

VerIDeep's Table II: VGG-16 on faces, six convolutions and a dense layer on traffic signs and on CIFAR-10, a
single layer on AT&T faces. Inputs are images in [0, 1], channels first. Batch norms of the training are
folded into the convolutions before them, as deployed networks have it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from securedl import datasets

RATE, WEIGHT_DECAY = 2e-3, 5e-4  # the largest of the cycle, AdamW


@dataclass(frozen=True, eq=False)
class Images:
    """Images float32 [samples, channels, rows, columns] in [0, 1], labels int64 [samples]."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


@dataclass(frozen=True)
class Subject:
    """A network that is tampered with.

    Attributes:
        data: name of `securedl.datasets`. halved: images of half the size.
        build: it, untrained.
        epochs, batch: of its training. moved: pixels by which images are moved at most in training.
        mirrored: half of them.
        paper: accuracy in VerIDeep's Table II, %.
        tuned: epochs of an attacker's training. behind: layers that a trojan retrains, or none of these.
    """

    data: str
    build: Callable[[], nn.Sequential]
    epochs: int
    batch: int
    moved: int
    paper: float
    halved: bool = False
    mirrored: bool = False
    tuned: int = 6
    behind: int = 0


def perceptron() -> nn.Sequential:
    """One dense layer: 112 x 92 pixels to 40 people."""
    return nn.Sequential(nn.Flatten(), nn.Linear(112 * 92, 40))


def six_convolutions(classes: int) -> nn.Sequential:
    """Six 3x3 convolutions, max pooling after every second, and a dense layer, for 32 x 32 colours."""
    return nn.Sequential(
        *_block(3, (12, 12)), *_block(12, (24, 24)), *_block(24, (48, 48)),
        nn.Flatten(), nn.Linear(48 * 16, classes),
    )  # fmt: skip


def vgg16() -> nn.Sequential:
    """VGG-16 (Simonyan and Zisserman, 2015), an eighth as wide, for 56 x 46 grey and 40 people."""
    blocks = [*_block(1, (8, 8)), *_block(8, (16, 16)), *_block(16, (32,) * 3), *_block(32, (64,) * 3),
              *_block(64, (64,) * 3, pool=False)]  # fmt: skip
    dense = [nn.Flatten(), nn.Linear(64 * 3 * 2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*blocks, *dense, nn.Linear(128, 40))


def _block(before: int, widths: Sequence[int], pool: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return [*layers, nn.MaxPool2d(2)] if pool else layers


SUBJECTS = {
    "faces, perceptron": Subject("orl_faces", perceptron, 60, 16, 0, 95.0),
    "faces, VGG-16": Subject("orl_faces", vgg16, 60, 16, 3, 74.8, halved=True, tuned=25, behind=6),
    "signs, CNN": Subject("gtsrb", lambda: six_convolutions(43), 30, 64, 3, 95.6, behind=3),
    "CIFAR-10, CNN": Subject(
        "cifar10", lambda: six_convolutions(10), 30, 64, 4, 87.6, mirrored=True, behind=3
    ),
}


def images(subject: Subject) -> Images:
    """The data of a subject, in its official parts."""
    x_train, y_train, x_test, y_test = datasets.load(subject.data, progress=False).split()

    def scaled(x: datasets.DataArray) -> Tensor:
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        found = torch.from_numpy(np.ascontiguousarray(x)).float() / 255
        return nn.functional.avg_pool2d(found, 2) if subject.halved else found

    return Images(scaled(x_train), torch.from_numpy(y_train), scaled(x_test), torch.from_numpy(y_test))


def trained(name: str, data: Images, epochs: int | None = None) -> nn.Sequential:
    """A network of `SUBJECTS`, trained once and kept."""
    subject = SUBJECTS[name]
    epochs = subject.epochs if epochs is None else epochs

    def weights() -> dict[str, Tensor]:
        model = subject.build()
        _train(model, data, epochs, subject)
        return model.state_dict()

    texts = [
        inspect.getsource(part) for part in (_train, _moved, _block, perceptron, six_convolutions, vgg16)
    ]
    settings = f"{RATE} {WEIGHT_DECAY} {epochs} {subject.batch} {subject.moved} {subject.mirrored}"
    model = subject.build()
    model.load_state_dict(kept(f"{name} {epochs}", [*texts, settings], weights))
    return folded(model.eval())


def kept(name: str, sources: Sequence[str], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of the user's cache folder, made once for these sources."""
    file = "".join(c if c.isalnum() else "-" for c in name)
    digest = hashlib.sha256("".join(sources).encode()).hexdigest()[:12]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = root / "securedl" / "detection" / f"{file}-{digest}.pt"
    if path.exists():
        found: dict[str, Tensor] = torch.load(path, weights_only=True)
        return found
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    torch.save(made, part)
    part.replace(path)
    return made


def told(text: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What takes long is said, and how long it took."""
    print(text, file=sys.stderr, flush=True)
    began = time.perf_counter()
    made = make()
    print(f"  {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return made


def sums(model: nn.Module) -> str:
    """Of its weights, to tell models apart."""
    return " ".join(str(float(p.double().sum())) for p in model.parameters())


def folded(model: nn.Sequential) -> nn.Sequential:
    """The network without batch norms: each folded into the convolution before it."""
    layers: list[nn.Module] = []
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.Conv2d)
            layer = fuse_conv_bn_eval(convolution, layer)
        layers.append(layer)
    found = nn.Sequential(*layers)
    return found.requires_grad_(False)


def _train(model: nn.Module, data: Images, epochs: int, subject: Subject) -> None:
    """AdamW, one cycle."""
    x, y = data.x_train, data.y_train
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(x) // subject.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(x)), subject.batch):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(_moved(x[chosen], subject)), y[chosen])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        if (epoch + 1) * 5 // epochs > epoch * 5 // epochs:  # a fifth of it is done
            note = f"  {subject.data}: epoch {epoch + 1} of {epochs}: loss {total / len(x):.4f}"
            print(note, file=sys.stderr, flush=True)


def _moved(x: Tensor, subject: Subject) -> Tensor:
    """Images, each batch cropped at random from a margin, some mirrored."""
    if not (moved := subject.moved):
        return x
    if subject.mirrored:
        x = torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)
    around = nn.functional.pad(x, (moved,) * 4, mode="replicate")
    down, across = (int(torch.randint(0, 2 * moved + 1, ())) for _ in range(2))
    return around[:, :, down : down + x.shape[2], across : across + x.shape[3]]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right labels."""
    return float((labels(model, x) == y).float().mean())


@torch.no_grad()
def labels(model: nn.Module, x: Tensor) -> Tensor:
    """Int64 [samples]."""
    return torch.cat([model(part).argmax(1) for part in x.split(256)])
