"""Sensitive samples: gradient ascent on the sensitivity of the outputs to the weights.

Both papers' algorithms loop *while* the constraint holds, so they end after a step has broken it: SecureDL's
at the first step on 100 of 100 digits. Here every step is projected back instead and the best point met is
kept. Both climb log S rather than S (see `sensitivity`), and both take f = softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike

from securedl.network.graph import Array
from securedl.progress import Steps
from securedl.verify.differentiable import AnyNetwork, Layers
from securedl.verify.samples import started
from securedl.verify.sensitivity import Sensitivity

#: From slopes [samples, ...] and the number of the step to how far each sample moves.
Move: TypeAlias = Callable[[Array, int], Array]

DECAY = 1e-3  # the last step's share of the first
ADAM, ADAM_LEAST = (0.9, 0.999), 1e-8
TINY = np.finfo(np.float64).tiny


def sensitive_samples(
    network: AnyNetwork,
    starts: Any,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    layers: Layers = "all",
    steps: int = 100,
    rate: float = 0.05,
    progress: Steps | None = None,
) -> Array:
    """One sensitive sample for each start, anywhere in the box; float64 [samples, ...] as the starts.

    SecureDL (Xu et al., ACSAC 2020), Algorithm 2: no wish to look natural, since the server cannot see
    samples. Raw gradient steps diverge at the fifth with polynomial activations, so each is normalised.

    Args:
        network: a graph or a torch module that gives logits or ends in a softmax.
        starts: [samples, ...]; the paper takes them at random from the original samples.
        low, high: the box, see `samples`.
        seed: of the directions taken where the gradient is zero or not finite.
        rate: root mean square of the first step, as a share of the box's width; it falls geometrically to
            a thousandth, since what catches a change of the weights is how near a boundary the sample comes.

    Raises:
        InputError: starts, box or network that do not fit.
    """
    x, lower, upper = started(starts, low, high)
    measure = Sensitivity(network, layers=layers, dtype=torch.float32)
    move = level_steps(upper - lower, rate, steps, seed)
    return climbed(measure, x, move, lambda moved: np.clip(moved, lower, upper), steps, progress)


def verideep_samples(
    network: AnyNetwork,
    starts: Any,
    *,
    low: ArrayLike,
    high: ArrayLike,
    epsilon: float = 0.2,
    feature_epsilon: ArrayLike = np.inf,
    layers: Layers = "last",
    steps: int = 1000,
    rate: float = 1e-3,
    progress: Steps | None = None,
) -> Array:
    """One sensitive sample near each start; float64 [samples, ...] as the starts.

    VerIDeep (He et al., arXiv 1808.03277), Algorithm 1 with the settings of section V-C: the last layer's
    weights, ADAM at 1e-3, 1,000 steps, ‖v - v0‖ ≤ ε ‖v0‖. Silent: ε, the units of the rate.

    Args:
        network: a graph or a torch module that gives logits or ends in a softmax.
        starts: v0, [samples, ...] of the data.
        low, high: the box, see `samples`; the paper's [p, q].
        epsilon: of the paper's constraint; infinite for none.
        feature_epsilon: most by which a feature may move, in its own units; beside `epsilon`.
        rate: as a share of the box's width.

    Raises:
        InputError: starts, box or network that do not fit.
    """
    x, lower, upper = started(starts, low, high)
    start, width, axes = x, upper - lower, tuple(range(1, x.ndim))
    most = np.asarray(feature_epsilon, dtype=np.float64)
    lower, upper = np.maximum(lower, start - most), np.minimum(upper, start + most)
    radius = np.inf if np.isinf(epsilon) else epsilon * np.sqrt((start * start).sum(axes, keepdims=True))

    def near(moved: Array) -> Array:
        away = np.clip(moved, lower, upper) - start
        length = np.sqrt((away * away).sum(axes, keepdims=True))
        return np.asarray(start + np.where(length > radius, radius / np.maximum(length, TINY), 1.0) * away)

    measure = Sensitivity(network, layers=layers, dtype=torch.float32)
    return climbed(measure, x, _adam(width, rate), near, steps, progress)


def climbed(
    measure: Callable[[Array], tuple[Array, Array]],
    x: Array,
    move: Move,
    project: Callable[[Array], Array],
    steps: int,
    progress: Steps | None = None,
) -> Array:
    """The highest points met on the way up from samples x [samples, ...].

    Args:
        measure: heights [samples] and slopes [samples, ...]; what is not finite is never the best.
        project: back to what is allowed.
    """
    best, peak = x.copy(), np.full(len(x), -np.inf)
    for step in range(steps + 1):
        with np.errstate(all="ignore"):
            height, slope = measure(x)
        better = np.nan_to_num(height, nan=-np.inf, posinf=-np.inf) > peak
        best[better], peak[better] = x[better], height[better]
        if step < steps:
            x = project(x + move(slope, step))
        if progress is not None:
            progress(min(step + 1, steps), steps)
    return np.asarray(best)


def level_steps(width: Array, rate: float, steps: int, seed: int) -> Move:
    """Steps of one length, root mean square `rate` of the box's width, that falls geometrically; in a random
    direction where the slope is zero or not finite."""
    rng = np.random.default_rng(seed)

    def move(slope: Array, step: int) -> Array:
        length = rate * DECAY ** (step / steps)
        rows = (slope * width).reshape(len(slope), -1)
        with np.errstate(all="ignore"):
            top = np.max(np.abs(rows), axis=1, keepdims=True)
            usable = np.isfinite(top) & (top > 0.0)
        rows = np.where(usable, rows, rng.standard_normal(rows.shape)) / np.where(usable, top, 1.0)
        rows = rows / np.sqrt(np.mean(rows * rows, axis=1, keepdims=True))
        return np.asarray(length * width * rows.reshape(slope.shape))

    return move


def _adam(width: Array, rate: float) -> Move:
    """ADAM (Kingma and Ba, 2015), every feature in units of the box's width; slopes not finite count as 0."""
    mean, square = np.zeros(1), np.zeros(1)

    def move(slope: Array, step: int) -> Array:
        nonlocal mean, square
        gradient = np.nan_to_num(slope * width, nan=0.0, posinf=0.0, neginf=0.0)
        mean = ADAM[0] * mean + (1.0 - ADAM[0]) * gradient
        square = ADAM[1] * square + (1.0 - ADAM[1]) * gradient * gradient
        first, second = (
            part / (1.0 - decay ** (step + 1)) for part, decay in zip((mean, square), ADAM, strict=True)
        )
        return np.asarray(rate * width * first / (np.sqrt(second) + ADAM_LEAST))

    return move
