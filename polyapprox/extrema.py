"""Local extrema of |error|: a dense search and a golden-section polish, all brackets at once."""

from collections.abc import Callable

import numpy as np

from polyapprox.activations import FloatArray

_GOLDEN = (5**0.5 - 1) / 2
_STEPS = 40  # narrows a bracket by 4e-9; the error at a smooth extremum is then below rounding


def local_extrema(error: Callable[[FloatArray], FloatArray], points: FloatArray) -> FloatArray:
    """Ascending x where |error| is locally largest, found from the ascending `points`.

    Points at a kink stay candidates themselves, and so do both ends.
    """
    size = np.abs(error(points))
    padded = np.concatenate([[-1.0], size, [-1.0]])
    peak = np.flatnonzero((size >= padded[:-2]) & (size >= padded[2:]))
    x = points[peak]
    lo = points[np.maximum(peak - 1, 0)]
    hi = points[np.minimum(peak + 1, points.size - 1)]
    polished = _golden(error, lo, hi)
    better = np.abs(error(polished)) > size[peak]
    return np.unique(np.where(better, polished, x))


def _golden(error: Callable[[FloatArray], FloatArray], lo: FloatArray, hi: FloatArray) -> FloatArray:
    for _ in range(_STEPS):
        width = _GOLDEN * (hi - lo)
        left, right = hi - width, lo + width
        keep_left = np.abs(error(left)) > np.abs(error(right))
        hi = np.where(keep_left, right, hi)
        lo = np.where(keep_left, lo, left)
    return (lo + hi) / 2
