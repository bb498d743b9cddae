"""The demonstration's tables and networks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from securedl.errors import InputError
from securedl.network.graph import Array

#: Hidden layers of the network for each table.
HIDDEN = {"wine": (16, 16), "digits": (32, 32), "breast_cancer": (16, 16)}
#: The same tables in the catalogue, all in scikit-learn's copies: no network is needed.
VARIANTS = {
    "wine": ("wine", "wine"), "digits": ("optdigits", "digits"), "breast_cancer": ("wdbc", "wdbc"),
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Standardised training and test samples [samples, features] with labels [samples]."""

    x_train: Array
    y_train: np.ndarray
    x_test: Array
    y_test: np.ndarray


def load_split(name: str, seed: int = 0) -> Split:
    """One of the embedded UCI tables, split 80/20 with all classes in both parts."""
    from sklearn.model_selection import train_test_split

    from securedl import datasets

    if name not in HIDDEN:
        raise InputError(f"data {name!r} is not embedded: use one of {', '.join(HIDDEN)}")
    source, variant = VARIANTS[name]
    table = datasets.load(source, variant=variant)
    x_train, x_test, y_train, y_test = train_test_split(
        table.x, table.y, test_size=0.2, stratify=table.y, random_state=seed
    )
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    # A pixel that is almost always the same must not become huge when it is not.
    deviation = np.maximum(deviation, 0.05 * deviation.max() if name == "digits" else 1e-12)
    return Split((x_train - mean) / deviation, y_train, (x_test - mean) / deviation, y_test)


def train_network(split: Split, hidden: tuple[int, ...], seed: int = 0, epochs: int = 60) -> nn.Module:
    """A ReLU network on the training part."""
    torch.manual_seed(seed)
    sizes = (split.x_train.shape[1], *hidden, int(split.y_train.max()) + 1)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-3)
    x, y = torch.tensor(split.x_train, dtype=torch.float32), torch.tensor(split.y_train)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), 32):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(x[chosen]), y[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()
