"""Measured answers against expected ones, each sample with its own tolerance.

The error of CKKS grows with the activations, so one tolerance for all samples does not work: 16 times a
global σ gave 13-22 % false positives, 8 times a per-sample σ none in 2,700. A tolerance is measured by the
owner alone: the same samples encrypted, evaluated and decrypted again and again *without the server*, which
could otherwise widen its own tolerance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from securedl.errors import InputError
from securedl.network.graph import Array

LEAST_RUNS = 20
#: Medians of a probe's largest deviation that are allowed before it counts as an alarm.
MARGIN = 16.0


def deviation(measured: ArrayLike, expected: ArrayLike, tolerance: ArrayLike) -> Array:
    """Largest |measured - expected| of each sample over its tolerance, float64 [samples].

    Above 1 is an alarm. A value that is not finite gives infinity, never NaN: NaN would pass `> 1`.

    Args:
        measured, expected: [samples, values]. tolerance: [samples], or one number, in the units of values.
    """
    got, want = np.asarray(measured, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if got.shape != want.shape or got.ndim != 2:
        raise InputError(
            f"measured {got.shape} against expected {want.shape}; both must be [samples, values]"
        )
    if not np.isfinite(want).all():
        raise InputError("expected values must be finite")
    allowed = _per_sample(tolerance, len(want), "tolerance")
    with np.errstate(all="ignore"):
        worst = np.max(np.abs(got - want), axis=1, initial=0.0) / allowed
    return np.asarray(np.where(np.isfinite(got).all(axis=1), worst, np.inf))


def calibrate(errors: ArrayLike, probes: ArrayLike, *, count: int) -> tuple[Array, Array]:
    """Tolerance of each probe and factor of each lane, from errors measured with probes in random lanes.

    A probe's own error is the median over runs of its largest deviation: it depends on the probe's
    activations. A lane's factor is the root mean square of the errors seen there over their probes' own,
    at least 1: key switching is up to 100 times less exact in the slots whose roots of unity lie near 1.
    A probe p in lane l may then deviate by tolerance[p] · factor[l]. MARGIN medians of a largest
    deviation are more than 11 σ for a single value and more for many.

    Args:
        errors: [runs, lanes], the largest |measured - expected| of the probe in each lane.
        probes: int [runs, lanes], which probe it was, each of `count` probes in at least 20 runs.

    Returns:
        (tolerances [count], factors [lanes]).
    """
    seen, which = np.asarray(errors, dtype=np.float64), np.asarray(probes, dtype=np.int64)
    if seen.ndim != 2 or seen.shape != which.shape:
        raise InputError(f"errors {seen.shape} and probes {which.shape} must both be [runs, lanes]")
    if not np.isfinite(seen).all():
        raise InputError("an error is not finite: the honest evaluation overflows")
    times = np.bincount(which.ravel(), minlength=count)
    if len(times) > count or times.min() < LEAST_RUNS:
        raise InputError(f"a probe was measured {times.min()} times; at least {LEAST_RUNS} are needed")
    own = np.array([np.median(seen[which == probe]) for probe in range(count)])
    own = np.maximum(own, np.finfo(np.float64).tiny)
    factors = np.maximum(np.sqrt(np.mean((seen / own[which]) ** 2, axis=0)), 1.0)
    return MARGIN * own, factors


def _per_sample(given: ArrayLike, samples: int, name: str) -> Array:
    found = np.asarray(given, dtype=np.float64)
    if found.shape not in ((), (samples,)):
        raise InputError(f"{name} of shape {found.shape}; expected one number or [{samples}]")
    if not (np.isfinite(found).all() and (found > 0.0).all()):
        raise InputError(f"{name} must be finite and above 0")
    return np.array(np.broadcast_to(found, (samples,)), dtype=np.float64)
