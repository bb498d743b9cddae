"""Ties: inputs at which all logits are equal but the winner's, which leads by a little.

Neither paper has them. Any change of the network moves some logit above the winner's, so it changes the label
unless the winner gains most: about one time in as many as there are classes. The same point solved again for
another winner misses other changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.progress import Steps
from securedl.verify.differentiable import AnyNetwork, Differentiable
from securedl.verify.samples import started

#: By how many tolerances the winner leads: an honest answer, off by one at most, keeps its label.
LEAD = 2.2
SOLVED = 1e-3  # largest residual of a solved one, in leads
DAMPINGS = (1.0, 1e-2, 1e-4)  # to begin with, one after the other for what is not solved: none suits all
LESS, MORE = 0.3, 4.0
FLAT = 1e-100  # squared slopes below this are none
VALUES = 1 << 25  # of slopes at once: 256 MiB


@dataclass(frozen=True, eq=False)
class Ties:
    """Samples where all classes tie.

    Attributes:
        samples: float64 [samples, ...]. winners: the class that leads, int64 [samples].
        solved: bool [samples]: whether every other logit is where it has to be, to 0.1 % of the lead.
    """

    samples: Array
    winners: NDArray[np.int64]
    solved: NDArray[np.bool_]


def tie_samples(
    network: AnyNetwork,
    starts: Any,
    *,
    low: ArrayLike,
    high: ArrayLike,
    tolerance: float,
    winners: ArrayLike | None = None,
    steps: int = 100,
    progress: Steps | None = None,
) -> Ties:
    """One tie for each start [samples, ...], by Levenberg-Marquardt inside the box.

    Args:
        network: a graph, or a torch module that gives logits or ends in a softmax; run in double precision.
        low, high: the box, see `samples`; a wide one has ties almost surely, [0, 1] not always.
        tolerance: of a logit; the winner leads by `LEAD` of these.
        steps: for each of three dampings.
        winners: class of each sample; by default 0, 1, 2, ... in turn. For a tie pair give the samples of one
            call as the starts of another, with other winners.

    Raises:
        InputError: shapes, box, or winners that do not fit.

    Example:
        box = {"low": -4, "high": 4, "tolerance": 1e-6}
        one = tie_samples(model, x, **box)
        other = tie_samples(model, one.samples, **box, winners=(one.winners + 1) % 10)
    """
    x, lower, upper = started(starts, low, high)
    view = Differentiable(network, "last")
    classes, _ = view.sizes(x.shape[1:])
    if classes < 2:
        raise InputError("a network with one logit has no classes to tie")
    order = np.arange(len(x)) % classes if winners is None else np.asarray(winners)
    if order.shape != (len(x),) or order.min() < 0 or order.max() >= classes:
        raise InputError(f"winners must be {len(x)} classes from 0 to {classes - 1}")
    size = max(1, VALUES // (classes * x[0].size))
    parts = [slice(first, first + size) for first in range(0, len(x), size)]
    found, left = x.copy(), np.full(len(x), np.inf)
    for number, (part, damping) in enumerate(product(parts, DAMPINGS)):
        if progress is not None:
            progress(number + 1, len(parts) * len(DAMPINGS))
        again = np.arange(len(x))[part]
        again = again[left[again] > SOLVED * LEAD * tolerance]
        if not again.size:
            continue
        solver = _Solver(view, lower, upper, LEAD * tolerance, order[again])
        samples, residual = solver.run(x[again], damping, steps)
        better = residual < left[again]
        found[again[better]], left[again[better]] = samples[better], residual[better]
    return Ties(found, order.astype(np.int64), left <= SOLVED * LEAD * tolerance)


class _Solver:
    """Levenberg-Marquardt for z_winner - z_j = lead, every sample with a damping of its own.

    A step is the shortest, in widths of the box, that solves the linearised equations, damped; features that
    it would push through a wall of the box stay, and the rest takes their part.
    """

    def __init__(
        self, view: Differentiable, lower: Array, upper: Array, lead: float, winners: NDArray[Any]
    ) -> None:
        self._view, self._lower, self._upper = view, lower, upper
        self._winners, self._lead = winners, lead

    def run(self, x: Array, first: float, steps: int) -> tuple[Array, Array]:
        """The best points, and their largest residuals [samples]; first: the damping to begin with."""
        damping = np.full(len(x), first)
        residual, slope = self._linear(x)
        for _ in range(steps):
            if (np.abs(residual) <= SOLVED * self._lead).all():
                break
            tried = self._moved(x, residual, slope, damping)
            new_residual, new_slope = self._linear(tried)
            better = (new_residual**2).sum(1) < (residual**2).sum(1)
            x = np.where(_rows(better, x), tried, x)
            residual, slope = (
                np.where(_rows(better, old), new, old)
                for old, new in ((residual, new_residual), (slope, new_slope))
            )
            damping = damping * np.where(better, LESS, MORE)
        return x, np.abs(residual).max(1)

    def _linear(self, x: Array) -> tuple[Array, Array]:
        """Residuals [samples, classes], 0 at the winner, and their slopes [samples, classes, features]."""
        classes, _ = self._view.sizes(x.shape[1:])
        copies = self._view.tensor(np.tile(x, (classes, *[1] * (x.ndim - 1))))
        logits = self._view(copies)[0].reshape(classes, len(x), classes)
        own: Tensor = logits.diagonal(dim1=0, dim2=2)
        (found,) = torch.autograd.grad(own.sum(), copies)
        slopes = found.reshape(classes, len(x), -1).transpose(0, 1).numpy()
        z, rows = own.detach().numpy(), np.arange(len(x))
        residual = z[rows, self._winners][:, None] - z - self._lead
        residual[rows, self._winners] = 0.0
        return residual, slopes[rows, self._winners][:, None] - slopes

    def _moved(self, x: Array, residual: Array, slope: Array, damping: Array) -> Array:
        width = (self._upper - self._lower).reshape(-1)
        flat, scaled = x.reshape(len(x), -1), slope * width
        downhill = -np.einsum("sk,skf->sf", residual, scaled)
        low, high = self._lower.reshape(-1), self._upper.reshape(-1)
        held = ((flat <= low) & (downhill < 0.0)) | ((flat >= high) & (downhill > 0.0))
        scaled = np.where(held[:, None, :], 0.0, scaled)
        square = scaled @ scaled.transpose(0, 2, 1)
        size = np.maximum(np.trace(square, axis1=1, axis2=2) / square.shape[1], FLAT)
        square += (damping * size)[:, None, None] * np.eye(square.shape[1])
        weights = np.linalg.solve(square, residual[:, :, None])
        step = -width * (scaled.transpose(0, 2, 1) @ weights)[:, :, 0]
        return np.asarray(np.clip(flat + step, low, high)).reshape(x.shape)


def _rows(marks: NDArray[np.bool_], like: Array) -> NDArray[np.bool_]:
    """[samples] in the axes of [samples, ...]."""
    return marks.reshape(-1, *[1] * (like.ndim - 1))
