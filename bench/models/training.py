"""Training, with the weights kept in the user's cache folder: nothing of it belongs to the project."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import securedl
from bench.models import networks
from bench.models.networks import Network
from securedl import datasets

BATCH, WEIGHT_DECAY = 64, 5e-4
RATE = 2e-3  # the largest of the cycle, Adam


@dataclass(frozen=True, eq=False)
class Task:
    """Standardised samples float32 [samples, ...] and labels int64 [samples]."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def task(network: Network) -> Task:
    """The data of a network; a fifth of a table that has no official split is for testing."""
    found = datasets.load(network.data, progress=False)
    if found.train_rows is None:
        order = np.random.default_rng(0).permutation(len(found.x))
        cut = len(order) - len(order) // 5
        x, y = found.x[order].astype(np.float64), found.y[order]
    else:
        cut, x, y = found.train_rows, found.x, found.y
    if network.images:
        x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
        values = x.astype(np.float32) / 255
        axes: Any = (0, 2, 3)
        middle, spread = (f(values[:cut], axis=axes, keepdims=True) for f in (np.mean, np.std))
    else:
        values = x.astype(np.float32)
        middle, spread = (f(values[:cut], axis=0, keepdims=True) for f in (np.mean, np.std))
        spread = np.where(spread > 0, spread, 1)
    values = ((values - middle) / spread).astype(np.float32)
    return Task(values[:cut], y[:cut].astype(np.int64), values[cut:], y[cut:].astype(np.int64))


def _kept(name: str) -> Path:
    """Where the weights of this definition of a network are."""
    network = networks.NETWORKS[name.partition("-")[0]]
    parts: list[Any] = [task, _train, _moved, network.build, networks.Block]
    if "-polynomial-" in name:
        parts[3:] = [network.polynomial, networks.QuadraticBlock, networks.quadratic]
    if "-squares-" in name:
        parts.append(with_squares)
    text = "".join(inspect.getsource(part) for part in parts)
    text += f"{BATCH} {WEIGHT_DECAY} {RATE} {network.moved} {network.mirrored}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "securedl" / "models"
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"


def trained(name: str, data: Task, epochs: int | None = None) -> nn.Module:
    """A network of `networks.NETWORKS`, trained once and kept."""
    network = networks.NETWORKS[name]
    epochs = network.epochs if epochs is None else epochs
    return _once(f"{name}-{epochs}", network.build, data, epochs, network)


def polynomial(name: str, data: Task, epochs: int | None = None, before: int | None = None) -> nn.Module:
    """A network with polynomials for activations, made once and kept: trained as such where it has to be,
    otherwise the trained one with squares.

    Args:
        epochs: of its training or tuning. before: of that of the network it is made from.
    """
    network = networks.NETWORKS[name]
    if network.polynomial is None:
        return with_squares(name, trained(name, data, before), data, epochs)
    epochs = network.squares if epochs is None else epochs
    return _once(f"{name}-polynomial-{epochs}", network.polynomial, data, epochs, network)


def _once(name: str, build: Callable[[], nn.Module], data: Task, epochs: int, network: Network) -> nn.Module:
    """Trained, or read if that has been done."""
    path = _kept(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            print(f"training {name}", flush=True)
            _train(model, data, epochs, network)
            _keep(model, path)
    return model.eval()


def with_squares(name: str, model: nn.Module, data: Task, epochs: int | None = None) -> nn.Module:
    """The network with squares for activations, fine-tuned once on every image, each also moved, and kept."""
    network = networks.NETWORKS[name]
    epochs = network.squares if epochs is None else epochs
    path = _kept(f"{name}-squares-{epochs}")
    if path.exists():
        print(f"{name}: reading its squares", flush=True)
        found = securedl.approximate(model, data.x_train, degree=2, progress=False)
        found.load_state_dict(torch.load(path, weights_only=True))
        return found
    print(f"{name}: tuning its squares", flush=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = torch.from_numpy(data.x_train).split(BATCH)
        moved = torch.cat([_moved(part, network) for part in parts]).numpy()
    x, y = data.x_train, data.y_train
    if network.moved:
        x, y = np.concatenate([x, moved]), np.tile(y, 2)
    found = securedl.approximate(model, x, y, degree=2, epochs=epochs, progress=False)
    _keep(found, path)
    return found


def _keep(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    torch.save(model.state_dict(), part)
    part.replace(path)


def _train(model: nn.Module, data: Task, epochs: int, network: Network) -> None:
    """Adam, one cycle."""
    x, y = torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(x)), BATCH):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(_moved(x[chosen], network)), y[chosen])
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        if (epoch + 1) * 5 // epochs > epoch * 5 // epochs:  # a fifth of it is done
            print(f"  epoch {epoch + 1} of {epochs}: loss {total / len(x):.4f}", flush=True)


def _moved(x: Tensor, network: Network) -> Tensor:
    """Images [samples, channels, rows, columns] cropped at random from a margin, and some mirrored."""
    if not (moved := network.moved):
        return x
    if network.mirrored:
        x = torch.where((torch.rand(len(x)) < 0.5)[:, None, None, None], x.flip(3), x)
    around = nn.functional.pad(x, (moved,) * 4)
    down, across = (int(torch.randint(0, 2 * moved + 1, ())) for _ in range(2))
    return around[:, :, down : down + x.shape[2], across : across + x.shape[3]]


def accuracy(model: nn.Module, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    """Share of right labels."""
    right = 0
    with torch.no_grad():
        for at in range(0, len(x), 256):
            found = model(torch.from_numpy(x[at : at + 256])).argmax(1).numpy()
            right += int((found == y[at : at + 256]).sum())
    return right / len(x)
