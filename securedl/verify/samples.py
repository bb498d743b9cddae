"""Samples whose outputs betray a changed network.

`sensitive_samples` is Algorithm 2 of SecureDL (Xu et al., ACSAC 2020, section 4.2.2): gradient ascent on
Σ_k ‖∂f_k/∂ω‖² with no wish to look natural, since the server cannot see samples. Where the paper is silent
or does not work, and what is done here (figures: 100 digits, MLP 64-32-32-10):

- its loop stops *after* a step has left the box [B, Q], at the first step on 100 of 100 digits: each step
  is projected into the box instead, and the best point met is kept;
- f is the softmax output; on logits the ascent only brightens the input and catches no more than natural
  samples do;
- the gradient is normalised: raw steps diverge at the fifth with polynomial activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securedl.errors import InputError
from securedl.network.graph import Array, Graph
from securedl.verify.fingerprint import Fingerprint
from securedl.verify.sensitivity import Sensitivity

__all__ = [
    "Answering",
    "Fingerprint",
    "Limit",
    "fingerprint",
    "natural_samples",
    "sensitive_samples",
    "unguided",
    "wide_samples",
]

Limit: TypeAlias = Callable[[Array], NDArray[np.bool_]]
"""[samples, features] to bool [samples]: which samples would overflow under encryption."""


class Answering(Protocol):
    """What answers: flat logits [samples, outputs] for samples [samples, features]."""

    @property
    def features(self) -> int:
        """Of a sample."""

    def __call__(self, x: Array, /) -> Array:
        """Logits."""


HALVINGS = 60
SHARES = {"natural": 0.15, "wide": 0.15}  # the rest is sensitive
DECAY = 0.05  # the last step's share of the first


def sensitive_samples(
    graph: Graph,
    starts: Any,
    *,
    low: ArrayLike,
    high: ArrayLike,
    steps: int = 100,
    rate: float = 0.05,
    seed: int,
    limit: Limit | None = None,
    anchor: ArrayLike = 0.0,
) -> Array:
    """One sensitive sample for each start; float64 [samples, features], always inside the box.

    Args:
        starts: [samples, ...]; the paper takes them at random from the original samples.
        low, high: the box, a number or one for each feature, in the units of the inputs.
        rate: root mean square of the first step, as a share of the box's width; it falls linearly. Of
            0.02, 0.05, 0.1, 0.2 and 0.4 the default reaches furthest in 100 steps (digits MLP).
        seed: of the directions taken where the gradient is zero or not finite.
        limit: a step into what it refuses is not taken, and that sample's steps are halved from there on.
        anchor: a sample that the limit does not refuse, [features] or the origin.

    Raises:
        InputError: shapes, an empty box, or a limit that refuses the whole neighbourhood of the anchor.
    """
    rng = np.random.default_rng(seed)
    lower, upper = _box(graph, low, high)
    width = upper - lower
    sensitivity = Sensitivity(graph)
    x = _allowed(np.clip(_rows(graph, starts), lower, upper), lower, upper, limit, anchor)
    best, peak = x.copy(), np.full(len(x), -np.inf)
    share = np.ones(len(x))
    for step in range(steps + 1):
        with np.errstate(all="ignore"):
            height, slope = sensitivity(x)
        better = np.nan_to_num(height, nan=-np.inf, posinf=-np.inf) > peak
        best[better], peak[better] = x[better], height[better]
        if step == steps:
            break
        length = rate * share * (1.0 - (1.0 - DECAY) * step / steps)
        moved = np.clip(x + length[:, None] * width * _direction(slope * width, rng), lower, upper)
        refused = _refused(moved, limit)
        share[refused] /= 2.0
        x = np.where(refused[:, None], x, moved)
    return np.asarray(best)


def wide_samples(
    graph: Answering,
    count: int,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    limit: Limit | None = None,
    anchor: ArrayLike = 0.0,
) -> Array:
    """Uniform in the box, then drawn towards its point nearest the anchor by a uniform factor.

    Without the factor their norms concentrate, and a server that adds k(1 - ‖x‖²/R²) to a logit flips 80 %
    of natural digits and 3.4 % of these. float64 [count, features].
    """
    rng = np.random.default_rng(seed)
    lower, upper = _box(graph, low, high)
    near = np.clip(anchor, lower, upper)
    uniform = rng.uniform(lower, upper, (count, graph.features))
    factor = rng.uniform(0.0, 1.0, (count, 1))
    return _allowed(np.clip(near + factor * (uniform - near), lower, upper), lower, upper, limit, anchor)


def natural_samples(
    graph: Answering,
    x_train: Any,
    count: int,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    limit: Limit | None = None,
    anchor: ArrayLike = 0.0,
) -> Array:
    """Training samples, all different while there are enough, inside the box. float64 [count, features]."""
    rows = _rows(graph, x_train)
    if count and not len(rows):
        raise InputError(f"{count} natural samples were asked for and x_train is empty")
    rng = np.random.default_rng(seed)
    rounds = -(-count // max(len(rows), 1))
    order = [rng.permutation(len(rows)) for _ in range(rounds)] or [np.zeros(0, dtype=np.int64)]
    lower, upper = _box(graph, low, high)
    chosen = np.clip(rows[np.concatenate(order)[:count]], lower, upper)
    return _allowed(chosen, lower, upper, limit, anchor)


def fingerprint(
    graph: Graph,
    x_train: Any,
    count: int,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    limit: Limit | None = None,
    anchor: ArrayLike = 0.0,
) -> Fingerprint:
    """A fingerprint of `count` samples in random order: 15 % natural, 15 % wide, the rest sensitive.

    Kinds are mixed because tampering can depend on content: what spares one kind meets another. From
    three samples on there is one of each at least.
    """
    if count < 1:
        raise InputError(f"a fingerprint of {count} samples; at least 1 is needed")
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(5)]
    least = 1 if count >= 3 else 0
    natural, wide = (max(least, int(SHARES[kind] * count)) for kind in ("natural", "wide"))
    sensitive = count - natural - wide
    box: Any = {"low": low, "high": high, "limit": limit, "anchor": anchor}
    starts = natural_samples(graph, x_train, sensitive, seed=seeds[0], **box)
    parts = {
        "sensitive": sensitive_samples(graph, starts, seed=seeds[1], **box),
        "natural": natural_samples(graph, x_train, natural, seed=seeds[2], **box),
        "wide": wide_samples(graph, wide, seed=seeds[3], **box),
    }
    return _mixed(graph, parts, seeds[4])


def unguided(
    graph: Answering,
    x_train: Any,
    count: int,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    limit: Limit | None = None,
    anchor: ArrayLike = 0.0,
) -> Fingerprint:
    """A fingerprint of `count` samples in random order, half natural and half wide, of a network whose
    weights are tested otherwise than by its answers.
    """
    if count < 1:
        raise InputError(f"a fingerprint of {count} samples; at least 1 is needed")
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(3)]
    box: Any = {"low": low, "high": high, "limit": limit, "anchor": anchor}
    parts = {
        "natural": natural_samples(graph, x_train, -(-count // 2), seed=seeds[0], **box),
        "wide": wide_samples(graph, count // 2, seed=seeds[1], **box),
    }
    return _mixed(graph, parts, seeds[2])


def _mixed(graph: Answering, parts: Mapping[str, Array], seed: int) -> Fingerprint:
    """Samples of all kinds in random order."""
    kinds = [kind for kind, part in parts.items() for _ in part]
    order = np.random.default_rng(seed).permutation(len(kinds))
    samples = np.concatenate(list(parts.values()))[order]
    return Fingerprint(samples, tuple(kinds[i] for i in order), graph(samples))


def _rows(graph: Answering, x: Any) -> Array:
    """Samples as finite float64 [samples, features]."""
    given = np.asarray(x, dtype=np.float64)
    if given.ndim < 2 or int(np.prod(given.shape[1:])) != graph.features:
        raise InputError(f"samples of shape {given.shape}; expected [samples, {graph.features} features]")
    if not np.isfinite(given).all():
        raise InputError("samples hold a value that is not finite")
    return given.reshape(len(given), graph.features)


def _box(graph: Answering, low: ArrayLike, high: ArrayLike) -> tuple[Array, Array]:
    """The box, one bound for each feature."""
    try:
        lower, upper = (
            np.broadcast_to(np.asarray(side, dtype=np.float64).reshape(-1), (graph.features,))
            for side in (low, high)
        )
    except ValueError as error:
        raise InputError(f"the box needs a number or {graph.features} of them for each side") from error
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise InputError("the box must be finite, with low <= high for every feature")
    return lower, upper


def _refused(x: Array, limit: Limit | None) -> NDArray[np.bool_]:
    return np.zeros(len(x), dtype=np.bool_) if limit is None else np.asarray(limit(x), dtype=np.bool_)


def _allowed(x: Array, lower: Array, upper: Array, limit: Limit | None, anchor: ArrayLike) -> Array:
    """Samples that the limit refuses, halved towards the box's point nearest the anchor until it agrees."""
    near = np.clip(anchor, lower, upper)
    for _ in range(HALVINGS):
        refused = _refused(x, limit)
        if not refused.any():
            return x
        x = np.where(refused[:, None], (x + near) / 2.0, x)
    raise InputError(
        f"the limit refuses {int(refused.sum())} samples however near the anchor: no input of this box "
        "survives encryption; check the plan's scales"
    )


def _direction(slope: Array, rng: np.random.Generator) -> Array:
    """Each row at root mean square 1; a random one where the gradient is zero or not finite."""
    with np.errstate(all="ignore"):
        top = np.max(np.abs(slope), axis=1, keepdims=True)
        usable = np.isfinite(top) & (top > 0.0)
    rows = np.where(usable, slope, rng.standard_normal(slope.shape)) / np.where(usable, top, 1.0)
    return np.asarray(rows / np.sqrt(np.mean(rows * rows, axis=1, keepdims=True)))
