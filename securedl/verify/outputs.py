"""What of an answer can be compared: the forms of output of VerIDeep (section IV-E, Tables III-VI).

Logits are compared through softmax; one logit is read as a sigmoid, a second class of logit 0 beside it.
The papers do not say whether the k labels of "top-k" are ordered: here they are, the stronger reading.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from securedl.errors import InputError
from securedl.network.graph import Array

#: From logits [..., classes] to what the client is told, [..., values]: answers differ where any value does.
Told: TypeAlias = Callable[[Array], NDArray[Any]]


def _top(k: int, logits: Array) -> NDArray[Any]:
    """Labels of the k largest, in order; the smaller label first of equal ones."""
    if k == 1:
        return np.asarray(logits.argmax(-1)[..., None])
    return np.argsort(-logits, axis=-1, kind="stable")[..., :k]


def _probabilities(decimals: int, logits: Array) -> NDArray[Any]:
    return np.asarray(np.round(softmax(logits, axis=-1), decimals))


def _top_probability(decimals: int, logits: Array) -> NDArray[Any]:
    best = np.round(softmax(logits, axis=-1).max(-1, keepdims=True), decimals)
    return np.concatenate([_top(1, logits), best], -1)


#: By the paper's names: labels in order; the label and its probability to 2 decimals; all probabilities.
OUTPUTS: dict[str, Told] = {
    "top-1": partial(_top, 1),
    "top-3": partial(_top, 3),
    "top-5": partial(_top, 5),
    "top-1-p-dec2": partial(_top_probability, 2),
    "p-dec-1": partial(_probabilities, 1),
    "p-dec-2": partial(_probabilities, 2),
}
#: The whole answer, compared within a tolerance: what a client that decrypts has.
LOGITS = "logits"


def differing(output: str, expected: Array, found: Array, *, tolerance: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Which answers differ, bool [..., samples].

    Args:
        output: a name of `OUTPUTS`, or "logits".
        expected: logits [samples, classes] of the owner's network. found: [..., samples, classes] of what is
            served, with any axes in front, say one of tamperings.
        tolerance: of "logits" alone: the largest difference that does not count, in their units; a number or
            one for each sample. NaN differs.

    Raises:
        InputError: no such output, or shapes that do not fit.

    Example:
        caught = differing("top-1", model(x), np.stack([t(x) for t in tampered])).any(-1).mean()
    """
    if output not in OUTPUTS and output != LOGITS:
        raise InputError(f"output {output!r}; expected one of {', '.join([*OUTPUTS, LOGITS])}")
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.ndim != 2 or found.shape[-2:] != expected.shape:
        raise InputError(
            f"logits {list(expected.shape)} expected and {list(found.shape)} found; they must be "
            "[samples, classes] and [..., samples, classes]"
        )
    if output == LOGITS:
        allowed = np.broadcast_to(np.asarray(tolerance, dtype=np.float64), expected.shape[:1])
        within = np.abs(found - expected) <= allowed[:, None]
        return np.asarray(~within.all(-1))
    told = OUTPUTS[output]
    return np.asarray((told(_classes(found)) != told(_classes(expected))).any(-1))


def _classes(logits: Array) -> Array:
    single = logits.shape[-1] == 1
    return np.concatenate([logits, np.zeros_like(logits)], -1) if single else logits
