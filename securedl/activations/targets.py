"""What a network is to answer: its task, targets of a right form, and how well answers match them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securedl.errors import InputError
from securedl.network.outputs import Head, Output, check_task, task_of


def found_task(task: str | None, y: Any, shape: tuple[int, ...], head: Head) -> str:
    """The task that was given, or the one that targets and answers tell.

    One output: binary for targets of 0 and 1, else regression. Several: classes for a whole number a sample,
    multilabel for 0 and 1 in the shape of the answers, regression for other numbers in that shape.

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
    values = _array(y)
    switches = values.size > 0 and bool(np.isin(values, (0, 1)).all())
    if math.prod(shape) == 1:
        return "binary" if switches or head.kind == "sigmoid" else "regression"
    if values.ndim > 1 and values.shape[1:] == shape:
        return "multilabel" if head.kind == "sigmoid" or switches else "regression"
    return task_of(shape, head)


def _array(y: Any) -> NDArray[Any]:
    return np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)


def as_targets(y: Any, logits: Tensor, task: str, what: str) -> Tensor:
    """Targets as the loss takes them: class numbers int64 [samples], or float64 in the shape of the logits.

    Raises:
        InputError: other numbers or another shape than the task has; what the network gives is said too.
    """
    found, samples, shape = _array(y), len(logits), tuple(logits.shape[1:])
    if task == "classes":
        if logits.ndim != 2:
            raise InputError(
                "fine-tuning on classes needs a network that gives logits [samples, classes], not "
                f"{list(logits.shape)}"
            )
        return _classes(found, samples, shape[0], what)
    if found.dtype == object or not (np.issubdtype(found.dtype, np.number) or found.dtype == bool):
        raise InputError(f"{what} must be numbers, got {found.dtype}")
    values = found.astype(np.float64)
    fits = values.shape == (samples, *shape) or (math.prod(shape) == 1 and values.size == samples)
    if not fits or len(values) != samples:
        raise InputError(
            f"{what} must be [samples{''.join(f', {size}' for size in shape)}] = {[samples, *shape]} for "
            f"the task {task!r}, got {list(found.shape)}"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{what} has NaN or infinite values: clean the data first")
    if task in ("binary", "multilabel") and (values.min() < 0 or values.max() > 1):
        raise InputError(
            f"{what} must be 0 or 1 for the task {task!r}, got {values.min():g} to {values.max():g}"
        )
    return torch.as_tensor(values.reshape(samples, *shape))


def _classes(found: NDArray[Any], samples: int, classes: int, what: str) -> Tensor:
    if found.shape != (samples,) or not np.issubdtype(found.dtype, np.integer) or found.min() < 0:
        raise InputError(
            f"{what} must be {samples} class numbers (integers from 0), got {found.dtype} {list(found.shape)}"
        )
    if found.max() >= classes:
        raise InputError(
            f"{what} holds class {found.max()}, but the network has the classes 0 to {classes - 1}"
        )
    return torch.as_tensor(found.astype(np.int64))


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
