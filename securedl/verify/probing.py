"""The fingerprint of an encrypted network: sensitive, natural and wide samples, none of which overflows.

Norms are taken from the middle of the box, in units of its half widths: those of encrypted values. A server
can compute ‖x‖² and tamper by it, so the samples' norms must be as varied as the data's: see `_like_data` and
`_wide`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from securedl.errors import InputError
from securedl.network.graph import Array, Graph, samples_of
from securedl.progress import Steps
from securedl.verify.ascent import climbed, level_steps
from securedl.verify.fingerprint import Fingerprint
from securedl.verify.samples import natural_samples, started, uniform_samples
from securedl.verify.sensitivity import Sensitivity

__all__ = ["Answering", "Limit", "fingerprint", "unguided"]

Limit: TypeAlias = Callable[[Array], NDArray[np.bool_]]
"""[samples, features] to bool [samples]: which samples would overflow under encryption."""


class Answering(Protocol):
    """What answers: flat logits [samples, outputs] for samples [samples, features]."""

    def __call__(self, x: Array, /) -> Array:
        """Logits."""


SHARES = {"natural": 0.15, "wide": 0.15}  # the rest is sensitive
ASCENT_STEPS, ASCENT_RATE = 30, 0.05
HALVINGS = 30  # of a way to what overflows; a billionth of it is left then
DIRECTIONS = 20  # directions for a wide sample
LEAST_NORM = 0.5  # of a wide sample, in median norms of the data


@dataclass(frozen=True, eq=False)
class _Data:
    """Calibration samples that do not overflow [any number, features], and the box [features]."""

    rows: Array
    low: Array
    high: Array
    refused: Limit

    @classmethod
    def of(cls, x_train: Any, low: ArrayLike, high: ArrayLike, limit: Limit | None) -> _Data:
        given = samples_of(x_train, what="x_train")
        rows, lower, upper = started(given.reshape(len(given), -1), low, high)
        refused = limit or (lambda x: np.zeros(len(x), dtype=np.bool_))
        fits = rows[~refused(rows)]
        if not len(fits):
            raise InputError(
                f"all {len(rows)} calibration samples would overflow encrypted: check the plan's scales"
            )
        return cls(fits, lower, upper, refused)

    @property
    def middle(self) -> Array:
        return (self.low + self.high) / 2.0

    @cached_property
    def norms(self) -> Array:
        return self.norm(self.rows)

    def norm(self, x: Array) -> Array:
        """[samples]."""
        half = np.maximum((self.high - self.low) / 2.0, np.finfo(np.float64).tiny)
        return np.asarray(np.sqrt(np.mean(((x - self.middle) / half) ** 2, axis=1)))

    def chosen(self, count: int, seed: int) -> Array:
        """Some of the rows, in random order."""
        return natural_samples(self.rows, count, seed=seed) if count else self.rows[:0]

    def drawn_in(self, x: Array, anchors: Array) -> Array:
        """Samples that overflow, halved towards their anchors, which do not, until none does."""
        for _ in range(HALVINGS):
            refused = self.refused(x)
            if not refused.any():
                return x
            x = np.where(refused[:, None], (x + anchors) / 2.0, x)
        return np.where(self.refused(x)[:, None], anchors, x)


def fingerprint(
    graph: Graph,
    x_train: Any,
    count: int,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    limit: Limit | None = None,
    progress: Steps | None = None,
) -> Fingerprint:
    """A fingerprint of `count` samples in random order: 15 % natural, 15 % wide, the rest sensitive.

    Kinds are mixed because tampering can depend on content: what spares one kind meets another. From
    three samples on there is one of each at least.

    Args:
        x_train: calibration samples [samples, features].
        low, high: the box of what can be encrypted, see `samples`.
        limit: which samples would overflow; no sample does.
        progress: called with steps done and steps in all.

    Raises:
        InputError: fewer than one sample, shapes, the box, or a limit that refuses all calibration samples.
    """
    seeds = _seeds(count, seed, 5)
    data = _Data.of(x_train, low, high, limit)
    least = 1 if count >= 3 else 0
    natural, wide = (max(least, int(SHARES[kind] * count)) for kind in ("natural", "wide"))
    parts = {
        "sensitive": _like_data(graph, data, count - natural - wide, seeds[:2], progress),
        "natural": data.chosen(natural, seeds[2]),
        "wide": _wide(data, wide, seeds[3]),
    }
    return _mixed(graph, parts, seeds[4])


def unguided(
    network: Answering,
    x_train: Any,
    count: int,
    *,
    low: ArrayLike,
    high: ArrayLike,
    seed: int,
    limit: Limit | None = None,
) -> Fingerprint:
    """A fingerprint of `count` samples in random order, half natural and half wide, of a network whose
    weights are tested otherwise than by its answers. See `fingerprint`.
    """
    seeds = _seeds(count, seed, 3)
    data = _Data.of(x_train, low, high, limit)
    parts = {"natural": data.chosen(-(-count // 2), seeds[0]), "wide": _wide(data, count // 2, seeds[1])}
    return _mixed(network, parts, seeds[2])


def _like_data(graph: Graph, data: _Data, count: int, seeds: list[int], progress: Steps | None) -> Array:
    """Sensitive samples: each from a calibration sample, with its norm, and no feature outside the data's.

    The last layer's weights, in single precision: on the MNIST CNN a tenth of the time of all weights, and
    30 steps of it catch as much, whichever layer is tampered with.
    """
    starts = data.chosen(count, seeds[0])
    low, high = data.rows.min(0), data.rows.max(0)
    norms = data.norm(starts)[:, None]

    def project(x: Array) -> Array:
        size = np.maximum(data.norm(x)[:, None], np.finfo(np.float64).tiny)
        return np.asarray(np.clip(data.middle + (x - data.middle) * np.minimum(1.0, norms / size), low, high))

    measure = Sensitivity(graph, layers="last", dtype=torch.float32)
    move = level_steps(high - low, ASCENT_RATE, ASCENT_STEPS, seeds[1])
    return data.drawn_in(climbed(measure, starts, move, project, ASCENT_STEPS, progress), starts)


def _wide(data: _Data, count: int, seed: int) -> Array:
    """Each from a calibration sample towards a uniform one of the box, a uniform share of the way that does
    not overflow, and with half the data's median norm at least.

    Without the shares norms concentrate, and a server that adds k(1 - ‖x‖²/R²) to a logit flips 80 % of
    natural digits and 3.4 % of these.
    """
    seeds = iter(int(s) for s in np.random.SeedSequence(seed).generate_state(2 * DIRECTIONS + 1))
    least = LEAST_NORM * float(np.median(data.norms))
    large = data.rows[data.norms >= least]
    found = natural_samples(large, count, seed=next(seeds)) if count else large[:0]
    anchors, waiting = found, np.ones(count, dtype=np.bool_)
    for _ in range(DIRECTIONS):
        target = uniform_samples(data.low.shape, count, low=data.low, high=data.high, seed=next(seeds))
        share = np.random.default_rng(next(seeds)).uniform(0.0, 1.0, (count, 1))
        tried = data.drawn_in(anchors + share * (data.drawn_in(target, anchors) - anchors), anchors)
        good = waiting & (data.norm(tried) >= least)
        found, waiting = np.where(good[:, None], tried, found), waiting & ~good
        if not waiting.any():
            break
    return np.asarray(found)


def _seeds(count: int, seed: int, wanted: int) -> list[int]:
    if count < 1:
        raise InputError(f"a fingerprint of {count} samples; at least 1 is needed")
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(wanted)]


def _mixed(network: Answering, parts: Mapping[str, Array], seed: int) -> Fingerprint:
    """Samples of all kinds in random order."""
    kinds = [kind for kind, part in parts.items() for _ in part]
    order = np.random.default_rng(seed).permutation(len(kinds))
    samples = np.concatenate(list(parts.values()))[order]
    return Fingerprint(samples, tuple(kinds[i] for i in order), network(samples))
