"""Every answer checked without weights: secret random combinations of all values that come back.

The combinations are as secret as a key: a server that knew one could change values unseen along it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtri

from securedl.client.tolerances import MISS, Tolerance
from securedl.network.graph import Array
from securedl.plan.network import Inner, Network
from securedl.plan.plan import Plan
from securedl.plan.projection import Projection
from securedl.verify.check import Finding, Segment, ValueCheck
from securedl.verify.report import Blind

#: Of each segment, and the standard deviations of an honest error of one that are allowed.
COMBINATIONS, PROJECTED_SIGMAS = 16, 10.0
#: A normal number is below 1/c with a chance of 0.8/c at most, so one value that changes by c times what a
#: combination allows, over its own deviation, is missed by K of them with a chance of (0.8/c)^K.
SMALL = np.sqrt(2 / np.pi)
#: The least part of a value that combinations leave open to who is not to know the weights.
OPEN = 0.02


@dataclass(frozen=True, eq=False, repr=False)
class Projected:
    """The combinations of one segment, with what honest errors of them may be.

    Attributes:
        projection: with rows r that are normal and divided by the values' standard deviations.
        tolerance: of the values themselves.
    """

    projection: Projection
    tolerance: Tolerance

    @cached_property
    def allowed(self) -> Array:
        """[batch, combinations]."""
        variance = self.tolerance.deviations**2 @ (self.projection.rows**2).T
        return np.asarray(PROJECTED_SIGMAS * np.sqrt(variance))

    @cached_property
    def blind(self) -> float:
        """The change of one value that is missed with a chance of `MISS`, the largest of all."""
        margin = SMALL / (MISS / 2) ** (1 / len(self.projection.rows))  # the half that `OPEN` leaves at least
        return float(margin * self.allowed.max() * self.tolerance.deviations.max())

    def to_parts(self) -> tuple[Any, dict[str, Array]]:
        """Of the sums; the tolerance is kept beside them."""
        return self.projection.to_parts()


def projections(
    plan: Plan, network: Network, tolerances: list[Tolerance], fewer: bool = False
) -> list[Projected | None]:
    """Of each segment, freshly drawn; None where they are no affine function of what a client knows.

    Args:
        fewer: half as many as values that are received, for who is not to know the weights; None where there
            is one value.
    """
    points, found = plan.signature.checkpoints, list[Projected | None]()
    for number, tolerance in enumerate(tolerances):
        features = tolerance.deviations.shape[1]
        count = min(COMBINATIONS, features // 2) if fewer else COMBINATIONS
        rows = _normal(count, features)
        while fewer and count and open_parts(rows).min() < OPEN:
            rows = _normal(count, features)
        rows /= tolerance.deviations.max(axis=0)
        projection = network.projected(number + 1, rows, points) if count else None
        found.append(None if projection is None else Projected(projection, tolerance))
    return found


def open_parts(rows: Array) -> Array:
    """How much of each feature, 0 to 1, is not told by combinations [combinations, features]: the part of its
    unit vector outside of their span.
    """
    span = np.linalg.qr(rows.T)[0]
    return np.asarray(1 - (span**2).sum(axis=1))


def _normal(*shape: int) -> Array:
    """From the operating system's randomness."""
    size = int(np.prod(shape))
    drawn = np.frombuffer(secrets.token_bytes(8 * size), np.uint64) >> np.uint64(11)
    return np.asarray(ndtri((drawn + 0.5) / 2.0**53).reshape(shape))


class ProjectionCheck(ValueCheck):
    """Combinations of the values of every lane, at every checkpoint that has them."""

    name, later = "projected", True

    def __init__(self, projected: list[Projected | None]) -> None:
        self._projected = projected
        self.points = sum(one is not None for one in projected)
        self.blind = Blind(0.0, MISS, "")

    def segment(self, segment: Segment) -> Finding:
        """All lanes, or none where the segment has no combinations."""
        known = self._projected[segment.point - 1]
        if known is None:
            return Finding()
        errors = known.projection.errors(segment.sent, segment.received)
        degree = known.projection.form.degree
        grown = known.tolerance.grown([Inner(segment.sent, degree)])
        with np.errstate(all="ignore"):
            ratios = (np.abs(errors) / known.allowed).max(axis=1) / grown
        ratios[np.isnan(ratios)] = np.inf
        self._blinder(known.blind * float(grown.max()), segment)
        return self._found(ratios, segment)
