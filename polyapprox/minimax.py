"""The best polynomial in the maximum norm, by the Remez exchange; what least squares is compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import chebyshev as cheb

from polyapprox import quadrature
from polyapprox.activations import Activation, FloatArray, as_activation
from polyapprox.approximation import Approximation
from polyapprox.certify import measure
from polyapprox.domain import Target, checked_degree, checked_domain
from polyapprox.errors import FitError
from polyapprox.extrema import local_extrema

_GAP = 1e-9  # stop when the largest error is within this of the levelled one, relative
_ACCEPT = 1e-3  # the gap that is still called a best approximation when rounding stops the exchange
_ROUNDING = 1e-14  # of the largest |f|: errors near it only show how f was rounded
_EXCHANGES = 100
_GRID = 2000


def remez(function: Target, degree: int, domain: Sequence[float] | None = None) -> Approximation:
    """The polynomial of at most `degree` that minimises max |f - p| on `domain` (lo, hi).

    By alternation, p is best when f - p takes its largest size with alternating signs at degree + 2
    points. Each exchange levels the error on degree + 2 points and moves them to where it peaks.
    Where the levelled error is 0 (an even f on symmetric points) one point is exchanged, as in the
    single-point algorithm, which leaves that state. Kinks are always among the candidates.
    Source: Remez 1934; Trefethen, Approximation Theory and Approximation Practice, ch. 10.

    FitError: an unusable degree or domain; no convergence (f not continuous, or degree too high for
    float64).
    """
    target = as_activation(function)
    count = checked_degree(degree) + 1
    interval = checked_domain(target, domain)
    lo, hi = interval
    mid, half = (lo + hi) / 2, (hi - lo) / 2
    # Cosine spacing: extrema of f - p crowd towards the ends as Chebyshev points do.
    cosine = mid + half * np.cos(np.linspace(np.pi, 0, _GRID * (1 + count // 16)))
    points = np.unique(np.concatenate([cosine, quadrature.breakpoints(interval, target.kinks)]))
    points = points[(points >= lo) & (points <= hi)]

    scale = float(np.abs(target(points)).max())
    reference = mid - half * np.cos(np.linspace(0, np.pi, count + 1))
    best: tuple[float, FloatArray] = (np.inf, np.zeros(count))
    for _ in range(_EXCHANGES):
        series, level = _levelled(target, (reference - mid) / half, reference)

        def error(x: FloatArray, series: FloatArray = series) -> FloatArray:
            return np.asarray(target(x) - cheb.chebval((x - mid) / half, series), dtype=np.float64)

        peaks = local_extrema(error, np.union1d(points, reference))
        sizes = error(peaks)
        largest = float(np.abs(sizes).max())
        best = min(best, (largest, series), key=lambda pair: pair[0])
        floor = _ROUNDING * scale
        if largest - abs(level) <= _GAP * largest + floor:
            break
        reference = _exchange(peaks, sizes, reference, level, floor)
    else:
        if best[0] - abs(level) > _ACCEPT * best[0] and best[0] > 1000 * _ROUNDING * scale:
            raise FitError(
                f"the Remez exchange for {target.name}, degree {degree} on ({lo:g}, {hi:g}) did not "
                f"converge (error {best[0]:.3g}, lower bound {abs(level):.3g}); is the function "
                "continuous? lower the degree or narrow the domain"
            )
    return measure(target, best[1], interval, "minimax")


def _levelled(target: Activation, u: FloatArray, x: FloatArray) -> tuple[FloatArray, float]:
    """(Chebyshev series, E) with f - p = ±E, alternating and + first, at degree + 2 points."""
    signs = (-1.0) ** np.arange(u.size)
    matrix = np.column_stack([cheb.chebvander(u, u.size - 2), signs])
    solution = np.linalg.solve(matrix, target(x))
    return solution[:-1], float(solution[-1])


def _exchange(
    peaks: FloatArray, sizes: FloatArray, reference: FloatArray, level: float, floor: float
) -> FloatArray:
    """The next reference: alternating peaks no lower than the level, the largest of all among them."""
    high = np.abs(sizes) >= max(abs(level) * (1 - 1e-9), floor)
    peaks, sizes = peaks[high], sizes[high]
    run = np.cumsum(np.diff(np.sign(sizes), prepend=np.sign(sizes[0])) != 0)
    chosen = np.array([np.where(run == r, np.abs(sizes), -1.0).argmax() for r in range(run[-1] + 1)])
    if chosen.size < reference.size:
        top = int(np.abs(sizes).argmax())
        return _single_exchange(reference, level, float(peaks[top]), float(np.sign(sizes[top])))
    while chosen.size > reference.size:
        # Only an end can go without breaking the alternation; the largest peak never is the smaller end.
        first, last = np.abs(sizes[chosen[[0, -1]]])
        chosen = chosen[1:] if first < last else chosen[:-1]
    return np.asarray(peaks[chosen], dtype=np.float64)


def _single_exchange(reference: FloatArray, level: float, x: float, sign: float) -> FloatArray:
    """`reference` with x in place of the neighbour of its sign; the levelled error then grows."""
    signs = (-1.0) ** np.arange(reference.size) * (np.sign(level) or 1.0)
    right = int(np.searchsorted(reference, x))
    for neighbour in (right, right - 1):
        if 0 <= neighbour < reference.size and signs[neighbour] == sign:
            return np.sort(np.append(np.delete(reference, neighbour), x))
    # x lies beyond an end of the other sign: the far end goes.
    return np.append(x, reference[:-1]) if right == 0 else np.append(reference[1:], x)
