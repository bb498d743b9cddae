"""The networks of the table and their training."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}
#: Degrees of the polynomials (SecureDL, section 5.1).
DEGREES = {"sigmoid": 2, "relu": 2, "tanh": 3}
#: Initial weights are Xavier's times the gain that keeps a signal's variance through each activation.
GAINS = {"sigmoid": 4.0, "relu": 2**0.5, "tanh": 5 / 3}
EPOCHS, TUNING_EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 100, 60, 32, 2e-3, 1e-3
#: Options of `securedl.approximate` that are not its defaults: those of the training.
TUNING = {"batch_size": BATCH, "learning_rate": LEARNING_RATE}


def cnn(features: int, classes: int, activation: str) -> nn.Module:
    """The paper's network in one dimension, [samples, 1, features] to [samples, classes].

    Convolutions of 20 and 50 maps, one average pooling, dense 256 and the classes (SecureDL, section 5.1;
    kernels of 3, which the paper does not give).
    """
    act = ACTIVATIONS[activation]
    return nn.Sequential(
        nn.Conv1d(1, 20, 3, padding=1),
        act(),
        nn.Conv1d(20, 50, 3, padding=1),
        act(),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(50 * (features // 2), 256),
        act(),
        nn.Linear(256, classes),
    )


def mlp(features: int, classes: int, activation: str) -> nn.Module:
    """A plain network with two hidden layers of 32, [samples, features] to [samples, classes]."""
    sizes = (features, 32, 32, classes)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


NETWORKS: dict[str, Callable[[int, int, str], nn.Module]] = {"cnn": cnn, "mlp": mlp}


def shaped(network: str, x: np.ndarray) -> np.ndarray:
    """Samples [samples, features] as the network takes them."""
    return x[:, None, :] if network == "cnn" else x


def train(
    network: str, activation: str, x: np.ndarray, y: np.ndarray, classes: int, seed: int, epochs: int = EPOCHS
) -> nn.Module:
    """A trained network: Adam, cosine schedule. x: float32 [samples, (1,) features], y: int64 [samples]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[network](x.shape[-1], classes, activation)
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                nn.init.xavier_uniform_(layer.weight, GAINS[activation])
        inputs, labels = torch.as_tensor(x), torch.as_tensor(y)
        optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        for _ in range(epochs):
            for chosen in torch.split(torch.randperm(len(inputs)), BATCH):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
                optimiser.step()
            schedule.step()
    return model.eval()


def logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Logits in double precision, [samples, classes]."""
    with torch.no_grad():
        values: np.ndarray = model.double()(torch.as_tensor(x, dtype=torch.float64)).numpy()
    model.float()
    return values
