"""Accuracy on UCI data: original, polynomial, and encrypted on a server process."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bench.accuracy.cells import Cell, Job, run
from bench.accuracy.encrypted import MARGIN
from bench.accuracy.folds import FOLDS
from securedl import datasets

pytestmark = pytest.mark.he

#: Accuracies in % that a trained network of this size reaches or passes; a coin reaches 33 to 50.
LEAST = {"iris": 90, "wdbc": 94, "wine": 94, "crabs": 90}


def needs(name: str) -> None:
    """scikit-learn has some of the sets; the others lie where SECUREDL_DATA says."""
    if not datasets.where(name):
        pytest.skip(f"{name} is not on this machine; SECUREDL_DATA is {os.environ.get('SECUREDL_DATA')}")


CELLS = [(data, activation, FOLDS) for data in LEAST for activation in ("sigmoid", "relu", "tanh")]
#: Each activation once, on tables that take less time, and fewer folds.
QUICK = [("iris", "tanh", 3), ("wine", "sigmoid", 3), ("crabs", "relu", 3)]


@pytest.mark.parametrize(
    ("data", "activation", "folds"),
    [*QUICK, *(pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS)],
)
def test_a_tuned_polynomial_keeps_the_accuracy(data: str, activation: str, folds: int) -> None:
    needs(data)
    found = run(Job(Cell("mlp", data, activation), repetition=0, encrypt=False, only_folds=folds))
    original, tuned = (float(np.mean([fold[s] for fold in found])) for s in ("original", "tuned"))
    assert original >= LEAST[data]
    assert tuned >= original - 2


@pytest.mark.parametrize(
    ("network", "data", "activation"),
    [
        ("mlp", "wine", "tanh"),
        pytest.param("cnn", "crabs", "relu", marks=pytest.mark.slow),
        ("mlp", "iris", "sigmoid"),
    ],
)
def test_encrypted_labels_are_the_polynomials(network: str, data: str, activation: str) -> None:
    needs(data)
    job = Job(Cell(network, data, activation), 0, encrypt=True, epochs=30, tuning_epochs=20, only_folds=1)
    figures = run(job)[0]["encrypted"]
    assert figures["refused"] == 0
    assert figures["outside"] >= 0.9 * figures["samples"] > 0
    assert figures["agree_outside"] == figures["outside"]
    assert figures["error"] <= MARGIN * figures["reach"]
    assert figures["alarms"] == 0
