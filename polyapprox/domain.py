"""What a fit is asked for, checked once: function, degree, domain, samples."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from polyapprox.activations import Activation, FloatArray, Function
from polyapprox.errors import FitError

# The quadrature and the exchange are accurate up to here, and power coefficients are not even at half of it.
MAX_DEGREE = 64
_NARROWEST = 1e-9  # relative width; below it u = (x - mid) / half keeps fewer than half of its digits

Target: TypeAlias = str | Activation | Function


def checked_degree(degree: int) -> int:
    """`degree` as an int; FitError unless a whole number from 0 to 64."""
    try:
        whole = int(degree)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if isinstance(degree, bool) or whole != degree or not 0 <= whole <= MAX_DEGREE:
        raise FitError(f"degree is {degree!r}; expected a whole number from 0 to {MAX_DEGREE}")
    return whole


def checked_samples(samples: npt.ArrayLike) -> FloatArray:
    """`samples` as float64 [count]; FitError when empty or not finite."""
    points = np.asarray(samples, dtype=np.float64).ravel()
    if points.size == 0:
        raise FitError("samples is empty; expected at least degree + 1 distinct numbers")
    bad = np.count_nonzero(~np.isfinite(points))
    if bad:
        raise FitError(f"{bad} of {points.size} samples are NaN or infinite; remove them first")
    return points


def checked_domain(
    target: Activation, domain: Sequence[float] | None, samples: FloatArray | None = None
) -> tuple[float, float]:
    """(lo, hi): as given, else the samples' extent, else the activation's usual interval.

    FitError unless two finite numbers in ascending order that contain every sample.
    """
    if domain is not None:
        if len(domain) != 2:
            raise FitError(f"domain is {tuple(domain)}; expected two numbers (lo, hi)")
        lo, hi = float(domain[0]), float(domain[1])
    elif samples is not None:
        lo, hi = float(samples.min()), float(samples.max())
        if lo == hi:
            raise FitError(f"every sample is {lo:g}, so they span no domain; give domain=(lo, hi)")
    else:
        lo, hi = target.interval
        if not np.isfinite(hi - lo):
            raise FitError(f"{target.name} has no usual interval; give domain=(lo, hi) or samples")
    if not (np.isfinite(hi - lo) and lo < hi):
        raise FitError(f"domain is ({lo:g}, {hi:g}); expected two finite numbers, the lower first")
    if hi - lo < _NARROWEST * max(abs(lo), abs(hi)):
        raise FitError(f"domain ({lo!r}, {hi!r}) is too narrow to tell its points apart; widen it")
    if samples is not None:
        outside = np.count_nonzero((samples < lo) | (samples > hi))
        if outside:
            raise FitError(
                f"{outside} of {samples.size} samples lie outside the domain ({lo:g}, {hi:g}), where no "
                f"error is bounded; widen it to ({samples.min():g}, {samples.max():g}) or drop them"
            )
    return lo, hi
