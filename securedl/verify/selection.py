"""Which k samples of a bag to ask: all of these give indices, int64 [k]."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securedl.errors import InputError
from securedl.network.graph import samples_of
from securedl.verify.differentiable import AnyNetwork, Differentiable, Layers

Chosen: TypeAlias = NDArray[np.int64]
Marks: TypeAlias = NDArray[np.bool_]

BLOCK = 16  # samples whose weights are looked at together


def random_choice(bag: int, k: int, *, seed: int) -> Chosen:
    """k different ones of a bag of so many."""
    _check(bag, k)
    return np.random.default_rng(seed).choice(bag, k, replace=False).astype(np.int64)


def manc(active: Marks, k: int) -> Chosen:
    """Maximum Active-Neuron Cover, VerIDeep's Algorithm 2 as it is written.

    Once no sample has an uncovered neuron, its arg max of zeros is the first sample again and again: the k
    samples are then not all different. `cover` mends that.

    Args:
        active: [samples, neurons], see `active_neurons`.
    """
    _check(len(active), k)
    uncovered, chosen = np.ones(active.shape[1], dtype=np.bool_), []
    for _ in range(k):
        best = int(np.argmax((active & uncovered).sum(1)))
        chosen.append(best)
        uncovered &= ~active[best]
    return np.array(chosen, dtype=np.int64)


def cover(marks: Marks, k: int) -> Chosen:
    """Greedy maximum cover: each time the sample with the most marks that none before has; all different.

    When nothing is left to cover it begins again, with the samples that remain, so that the first n of k are
    the same whatever k is and later ones cover twice.

    Args:
        marks: [samples, things covered]: active neurons, `covered_weights`, or, transposed, what each sample
            detects of simulated tamperings [tamperings, samples] - which is greedy against these.
    """
    _check(len(marks), k)
    counts, free = marks.astype(np.float32), np.ones(len(marks), dtype=np.bool_)
    uncovered, chosen = np.ones(marks.shape[1], dtype=np.float32), []
    for _ in range(k):
        gain = np.where(free, counts @ uncovered, -1.0)
        if gain.max() <= 0.0:
            uncovered[:] = 1.0
            gain = np.where(free, counts @ uncovered, -1.0)
        best = int(np.argmax(gain))
        chosen.append(best)
        free[best] = False
        uncovered[marks[best]] = 0.0
    return np.array(chosen, dtype=np.int64)


def active_neurons(network: AnyNetwork, x: Any, *, layers: Layers = "last") -> Marks:
    """Which neurons each sample activates: [samples, neurons], activation above 0 (VerIDeep, Algorithm 2).

    A neuron is an input of a layer with weights: at 0 it makes outputs insensitive to those that it enters.
    The paper does not name its "neurons of interest"; "last" takes those that enter the last layer (for a
    perceptron the features themselves), "all" those of all layers but the first. A polynomial is never
    inactive: cover weights there.
    """
    samples = samples_of(x)
    view = Differentiable(network, "all", torch.float32)
    with torch.no_grad():
        _, found = view(view.tensor(samples))
    wanted = found[-1:] if layers == "last" else found[1:]
    if not wanted:
        raise InputError("a network of one layer has no hidden neurons; use layers='last'")
    return np.concatenate([(layer.read > 0).flatten(1).numpy() for layer in wanted], 1)


def covered_weights(
    network: AnyNetwork, x: Any, *, change: float, tolerance: float, layers: Layers = "all"
) -> Marks:
    """Which weights each sample covers: [samples, weights and biases], those where max_k |∂z_k/∂w| · change >
    tolerance for the logits z: a change of the weight by that much is seen in an answer.

    Not in the papers: what MANC is for, in a way that works for every activation.
    """
    samples = samples_of(x)
    view = Differentiable(network, layers, torch.float32)
    marks = []
    for first in range(0, len(samples), BLOCK):
        leaf = view.tensor(samples[first : first + BLOCK])
        found, slopes = view.slopes(leaf, _each_logit)
        with torch.no_grad():
            reach = torch.cat([layer.reach(slope) for layer, slope in zip(found, slopes, strict=True)], 1)
        marks.append((reach * change > tolerance).numpy())
    return np.concatenate(marks)


def _each_logit(logits: Tensor) -> Tensor:
    classes = logits.shape[1]
    return torch.eye(classes, dtype=logits.dtype)[:, None, :].expand(classes, *logits.shape)


def _check(bag: int, k: int) -> None:
    if not 0 <= k <= bag:
        raise InputError(f"{k} samples of a bag of {bag}; expected between 0 and as many as there are")
