"""What a network is to answer: its task, targets of a right form, and how well answers match them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.network.outputs import Head, Output, check_task, task_of
from securedl.network.samples import numbers_of


def found_task(task: str | None, y: Any, shape: tuple[int, ...], head: Head, what: str = "y_train") -> str:
    """The task that was given, or the one that targets and answers tell.

    One output: binary for targets of 0 and 1, else regression. Several: classes for a whole number a sample,
    or for one 1 a sample in the shape of the answers; multilabel for other 0 and 1 in that shape, regression
    for other numbers in it.

    Args:
        y: targets, or None. shape: of one sample's answer, before its head.

    Raises:
        InputError: a task that the answers cannot have.
    """
    if task is not None:
        check_task(task, shape, head)
        return task
    if y is None or head.kind == "softmax" or head.kind == "log_softmax":
        return task_of(shape, head)
    values = numbers_of(y, what)
    switches = values.size > 0 and bool(np.isin(values, (0, 1)).all())
    if math.prod(shape) == 1:
        if not switches and not head.kind:
            _check_two(values, what)
        return "binary" if switches or head.kind == "sigmoid" else "regression"
    if _one_hot(values, shape) and head.kind != "sigmoid":
        return "classes"
    if values.ndim > 1 and values.shape[1:] == shape:
        return "multilabel" if head.kind == "sigmoid" or switches else "regression"
    return task_of(shape, head)


def _check_two(values: Array, what: str) -> None:
    """Refuse two whole numbers, which may be classes or not."""
    different = np.unique(values)
    if len(different) == 2 and np.array_equal(different, np.round(different)):
        low, high = different
        raise InputError(
            f"{what} holds two whole numbers, {low:g} and {high:g}: give 0 and 1 for two classes, or pass "
            "task='regression' to learn the numbers"
        )


def _one_hot(values: Array, shape: tuple[int, ...]) -> bool:
    """Whether each row has a single 1 among zeros, in a row as wide as the answers."""
    wide = len(shape) == 1 and values.ndim == 2 and values.shape[1:] == shape
    return wide and bool(np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all())


def as_targets(y: Any, logits: Tensor, task: str, what: str) -> Tensor:
    """Targets as the loss takes them: class numbers int64 [samples], or float64 in the shape of the logits.

    Raises:
        InputError: other numbers or another shape than the task has; what the network gives is said too.
    """
    values, samples, shape = numbers_of(y, what), len(logits), tuple(logits.shape[1:])
    if not np.isfinite(values).all():
        raise InputError(f"{what} has NaN or infinite values: clean the data first")
    if task == "classes":
        if logits.ndim != 2:
            raise InputError(
                "fine-tuning on classes needs a network that gives logits [samples, classes], not "
                f"{list(logits.shape)}"
            )
        return _classes(values, samples, shape[0], what)
    fits = values.shape == (samples, *shape) or (math.prod(shape) == 1 and values.size == samples)
    if not fits or values.shape[:1] != (samples,):
        raise InputError(
            f"{what} must be [samples{''.join(f', {size}' for size in shape)}] = {[samples, *shape]} for "
            f"the task {task!r}, got {list(values.shape)}"
        )
    if task in ("binary", "multilabel") and (values.min() < 0 or values.max() > 1):
        raise InputError(
            f"{what} must be 0 or 1 for the task {task!r}, got {values.min():g} to {values.max():g}"
        )
    return torch.as_tensor(values.reshape(samples, *shape))


def _classes(values: Array, samples: int, classes: int, what: str) -> Tensor:
    """Class numbers, also in one column, or as a 1 among zeros."""
    if values.shape[:1] == (samples,) and _one_hot(values, (classes,)):
        return torch.as_tensor(np.argmax(values, axis=1))
    shape = list(values.shape)
    if values.shape == (samples, 1):
        values = values[:, 0]
    if values.shape != (samples,):
        raise InputError(
            f"{what} must be {samples} class numbers (integers from 0), or a row of one 1 and zeros for each "
            f"sample, got the shape {list(values.shape)}"
        )
    if (values != np.round(values)).any() or values.min() < 0:
        raise InputError(
            f"{what} must be class numbers (integers from 0), or numbers {[samples, classes]} for a "
            f"regression, got {values.min():g} to {values.max():g} in the shape {shape}"
        )
    if values.max() >= classes:
        raise InputError(
            f"{what} holds class {values.max():g}, but the network has the classes 0 to {classes - 1}"
        )
    return torch.as_tensor(values.astype(np.int64))


def score(logits: Tensor, y: Tensor, task: str) -> float:
    """Share of right labels; for regression R², 1 - Σ(y - answer)² / Σ(y - mean)², over all outputs."""
    if task == "regression":
        return _explained(logits.double(), y.double())
    labels = Output(tuple(logits.shape[1:]), task).labels(logits.double().numpy())
    assert labels is not None
    return float(np.mean(labels == y.numpy().astype(np.int64).reshape(labels.shape)))


def rms_error(logits: Tensor, y: Tensor) -> float:
    """√(mean (y - answer)²) over samples and outputs, in the unit of y."""
    return float((y.double() - logits.double().reshape(y.shape)).square().mean().sqrt())


def agreement(logits: Tensor, teacher: Tensor, task: str) -> float:
    """Share of labels that are the teacher's; for regression how much of its variance is explained."""
    if task == "regression":
        return _explained(logits.double(), teacher.double())
    output = Output(tuple(teacher.shape[1:]), task)
    labels, wanted = (output.labels(some.double().numpy()) for some in (logits, teacher))
    return float(np.mean(labels == wanted))


def _explained(found: Tensor, wanted: Tensor) -> float:
    spread = float((wanted - wanted.mean(0)).square().sum())
    return 1.0 - float((wanted - found.reshape(wanted.shape)).square().sum()) / max(spread, 1e-300)
