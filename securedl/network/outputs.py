"""What an answer of a network is: its shape, its task, and what the client applies to it after decryption."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

from securedl.errors import InputError
from securedl.network.graph import Array

#: classes: one logit a class; binary: one logit; multilabel: a logit for each label; regression: numbers.
TASKS = ("classes", "binary", "multilabel", "regression")


@dataclass(frozen=True)
class Head:
    """What a network ends in and the client applies.

    Attributes:
        kind: "softmax", "log_softmax" or "sigmoid"; "" for nothing. axis: of one sample's answer, along which
            the classes of a softmax are.

    Raises:
        InputError: no such kind.
    """

    kind: str = ""
    axis: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("", "softmax", "log_softmax", "sigmoid"):
            raise InputError(f"a network ends in no {self.kind!r} that the client knows")

    def __call__(self, logits: Array) -> Array:
        """Of logits [samples, ...]."""
        if self.kind == "sigmoid":
            return np.asarray(expit(logits))
        if self.kind:
            return np.asarray(
                (softmax if self.kind == "softmax" else log_softmax)(logits, axis=self.axis + 1)
            )
        return logits


@dataclass(frozen=True)
class Output:
    """One sample's answer.

    Attributes:
        shape: of the logits. task: one of `TASKS`. head: what makes of them what the network itself gives.

    Raises:
        InputError: no such task, or one that the shape does not allow.

    Example:
        >>> Output((3,), "classes").labels(np.array([[0.1, 2.0, -1.0]]))
        array([1])
    """

    shape: tuple[int, ...]
    task: str
    head: Head = Head()

    def __post_init__(self) -> None:
        check_task(self.task, self.shape, self.head)

    def shaped(self, logits: Array) -> Array:
        """Flat logits [samples, outputs] as [samples, *shape]."""
        return logits.reshape(len(logits), *self.shape)

    def labels(self, logits: Array) -> NDArray[np.int64] | None:
        """Labels of logits [samples, *shape]: the largest class, or 1 above 0; None for regression.

        The classes are along the first axis of an answer, or along that of a softmax at the network's end.
        """
        if self.task == "regression":
            return None
        if self.task == "classes":
            return np.asarray(np.argmax(logits, axis=self.head.axis + 1), dtype=np.int64)
        labels: NDArray[np.int64] = (logits > 0).astype(np.int64)
        return labels.reshape(len(labels)) if self.task == "binary" else labels

    def probabilities(self, logits: Array) -> Array | None:
        """Of logits, in their shape: softmax over classes, else sigmoid; None for regression."""
        if self.task == "regression":
            return None
        if self.task == "classes":
            return Head("softmax", self.head.axis)(logits)
        return Head("sigmoid")(logits)


def check_task(task: Any, shape: tuple[int, ...], head: Head = Head()) -> None:
    """Refuse a task that is none, or that answers of this shape cannot have.

    Raises:
        InputError: so it is, or the head's axis is none of the answer's.
    """
    if task not in TASKS:
        raise InputError(f"task must be one of {', '.join(map(repr, TASKS))}, got {task!r}")
    if task == "binary" and math.prod(shape) != 1:
        raise InputError(
            f"task 'binary' needs one logit a sample, the network gives {list(shape)}: use 'classes' or "
            "'multilabel'"
        )
    if head.axis not in range(max(len(shape), 1)):
        raise InputError(f"the answer's shape {list(shape)} has no axis {head.axis} for its {head.kind}")
    if task == "classes" and (not shape or shape[head.axis] < 2):
        raise InputError(
            f"task 'classes' needs a logit for each class, the network gives {list(shape)}: use 'binary' "
            "or 'regression'"
        )


def task_of(shape: tuple[int, ...], head: Head) -> str:
    """The task of a network of which nothing else is known.

    A vector, or a softmax: classes; one output: binary; else, and after a sigmoid, each output by its sign.
    """
    single = math.prod(shape) == 1
    if head.kind == "sigmoid" or single:
        return "binary" if single else "multilabel"
    return "classes" if head.kind or len(shape) == 1 else "multilabel"
