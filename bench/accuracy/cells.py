"""One cell of the table: a network and an activation on a data set, over folds and repetitions."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import securedl
from securedl import datasets
from securedl.demo.processes import running, serve_command

from . import encrypted, networks
from .encrypted import COUNTS, SECONDS
from .folds import FOLDS, accuracy, balanced, corrected_interval, folds

#: Samples in a ciphertext; fewer where the sets of 64 features and more make wide layers.
BATCH, WIDE_BATCH, WIDE_FEATURES = 32, 4, 64
STAGES = ("original", "swapped", "tuned")


@dataclass(frozen=True)
class Cell:
    """What is measured: network, data set and activation, by name."""

    network: str
    data: str
    activation: str


@dataclass(frozen=True)
class Job:
    """One repetition of a cell. encrypt: whether its test samples are also predicted under encryption."""

    cell: Cell
    repetition: int
    encrypt: bool
    epochs: int = networks.EPOCHS
    tuning_epochs: int = networks.TUNING_EPOCHS
    only_folds: int = FOLDS


def run(job: Job) -> list[dict[str, Any]]:
    """The folds of one repetition, in order; deterministic but for the encryption's randomness and times."""
    torch.set_num_threads(1)  # networks this small only wait for a second thread
    data = datasets.load(job.cell.data)
    if not job.encrypt:
        return [_fold(job, number, data, None) for number in range(job.only_folds)]
    with tempfile.TemporaryDirectory(prefix="sdl") as name:
        folder = Path(name)
        command = serve_command(folder / "store", f"unix:{folder / 's'}", "--threads", "1", "--quiet")
        with running(command, folder / "log") as server:
            return [_fold(job, number, data, server.address) for number in range(job.only_folds)]


def _fold(job: Job, number: int, data: datasets.Dataset, address: str | None) -> dict[str, Any]:
    cell, seed = job.cell, 100 * job.repetition + number
    fold = list(folds(data.x, data.y, job.repetition))[number]
    x_train, x_test = (networks.shaped(cell.network, x) for x in (fold.x_train, fold.x_test))
    classes = int(data.y.max()) + 1
    original = networks.train(cell.network, cell.activation, x_train, fold.y_train, classes, seed, job.epochs)
    degree = networks.DEGREES[cell.activation]
    common: dict[str, Any] = {"degree": degree, "seed": seed, "progress": False}
    tuning: dict[str, Any] = {"epochs": job.tuning_epochs} | networks.TUNING
    models = {
        "original": original,
        "swapped": securedl.approximate(original, x_train, **common),
        "tuned": securedl.approximate(original, x_train, fold.y_train, **common, **tuning),
    }
    found: dict[str, Any] = {"repetition": job.repetition, "fold": number, "test_samples": len(fold.y_test)}
    for stage in STAGES:
        labels = networks.logits(models[stage], x_test).argmax(axis=1)
        found[stage] = accuracy(labels, fold.y_test)
        found[f"balanced_{stage}"] = balanced(labels, fold.y_test)
    if address is not None:
        batch = BATCH if data.x.shape[1] < WIDE_FEATURES else WIDE_BATCH
        figures = encrypted.predict(models["tuned"], x_train, x_test, fold.y_test, batch, address)
        found["encrypted"] = asdict(figures)
    return found


def summary(cell: Cell, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over all folds, the paired differences, and the sums of the encrypted column."""
    row: dict[str, Any] = asdict(cell) | {"degree": networks.DEGREES[cell.activation], "folds": len(results)}
    for stage in STAGES:
        row[stage] = float(np.mean([r[stage] for r in results]))
        row[f"balanced_{stage}"] = float(np.mean([r[f"balanced_{stage}"] for r in results]))
    for prefix in ("", "balanced_"):
        paired = np.array([r[f"{prefix}tuned"] - r[f"{prefix}original"] for r in results])
        row[f"{prefix}difference"] = float(paired.mean())
        row[f"{prefix}interval"] = list(corrected_interval(paired, 1 / (FOLDS - 1)))
    sent = [r["encrypted"] for r in results if "encrypted" in r]
    if sent:
        total = {key: sum(e[key] for e in sent) for key in COUNTS}
        seconds = {key: sum(e[key] for e in sent) for key in SECONDS}
        row["encrypted"] = total | seconds | {
            "accuracy": 100 * total["right"] / total["samples"],
            "error": max(e["error"] / e["reach"] for e in sent),
            "refreshes": max(e["refreshes"] for e in sent),
        }  # fmt: skip
    return row
