"""Composite Gauss-Legendre quadrature, split at kinks, for the weights of continuous least squares."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from polyapprox.activations import FloatArray
from polyapprox.errors import FitError

Weight: TypeAlias = str | Callable[[FloatArray], npt.ArrayLike]
WEIGHTS = ("uniform", "chebyshev", "gaussian")

# 128 panels of 16 nodes: to rounding for functions with poles at distance pi (sigmoid) up to [-100, 100],
# 1e-6 at [-1000, 1000]; 2048 rows of least squares take about a millisecond.
_PANELS = 128
_NODES = 16


def breakpoints(domain: tuple[float, float], kinks: tuple[float, ...]) -> FloatArray:
    """The domain's ends, and between them the kinks and 0 (where most activations have theirs)."""
    lo, hi = domain
    inside = {point for point in (*kinks, 0.0) if lo < point < hi}
    return np.array([lo, *sorted(inside), hi])


def grid(breaks: FloatArray, cells: int) -> FloatArray:
    """Ascending points that cut [breaks[0], breaks[-1]] into about `cells` cells, all breaks among them."""
    widths = np.diff(breaks)
    counts = np.maximum(4, np.round(cells * widths / widths.sum())).astype(int)
    pieces = [np.linspace(a, b, n + 1)[:-1] for a, b, n in zip(breaks[:-1], breaks[1:], counts, strict=True)]
    return np.concatenate([*pieces, breaks[-1:]])


def nodes(
    domain: tuple[float, float], kinks: tuple[float, ...] = (), weight: Weight = "uniform"
) -> tuple[FloatArray, FloatArray]:
    """Points x in the domain and weights w with sum w g(x) = integral of weight(x) g(x) dx.

    "uniform": 1. "chebyshev": 1 / sqrt(1 - u²), integrated in theta = arccos u, u in [-1, 1] being the
    scaled x. "gaussian": exp(-u² / (2 sigma²)), sigma = 1/3, so that the domain spans three sigma either
    side. A callable: non-negative on the domain. Weights count up to a common factor.
    """
    lo, hi = domain
    mid, half = (lo + hi) / 2, (hi - lo) / 2
    breaks = breakpoints(domain, kinks)
    if weight == "chebyshev":
        scaled = np.clip((breaks - mid) / half, -1.0, 1.0)
        theta, w = _composite(grid(np.arccos(scaled)[::-1], _PANELS))
        return mid + half * np.cos(theta), w
    x, w = _composite(grid(breaks, _PANELS))
    if weight == "uniform":
        return x, w
    if weight == "gaussian":
        return x, w * np.exp(-4.5 * ((x - mid) / half) ** 2)
    if not callable(weight):
        raise FitError(f"weight is {weight!r}; expected one of {', '.join(WEIGHTS)} or a callable")
    return x, w * checked_weights(weight(x), x.size, "weight(x)")


def checked_weights(weights: npt.ArrayLike, size: int, what: str) -> FloatArray:
    """`weights` as float64 [size]; FitError unless non-negative, finite and not all zero."""
    values = np.asarray(weights, dtype=np.float64).ravel()
    if values.size != size:
        raise FitError(f"{what} has {values.size} values for {size} points; expected one each")
    if not (np.all(np.isfinite(values)) and np.all(values >= 0) and np.any(values > 0)):
        raise FitError(f"{what} must be finite, non-negative and somewhere positive")
    return values


def _composite(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    centre, radius = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    x = centre[:, None] + radius[:, None] * points
    return x.ravel(), (radius[:, None] * weights).ravel()
