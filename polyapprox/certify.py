"""A proved bound of max |f - p|, by branch and bound with derivative bounds.

On a cell [a, b] of width h, let e = f - p. Linear interpolation of e between a and b errs by at most
h²/8 max |e''|, so with m <= e'' <= M on the cell

    min(e(a), e(b)) - max(M, 0) h²/8  <=  e  <=  max(e(a), e(b)) + max(-m, 0) h²/8,

and with |e'| <= L only, |e| <= (|e(a)| + |e(b)|)/2 + L h/2. The constants of f come with its Activation,
those of p from its Chebyshev coefficients: p''(x) = p''(c) ± |x - c| max |p'''|, and |T_k| <= 1. Cells
whose bound is above the largest error seen are halved until the two agree.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev as cheb

from polyapprox import quadrature
from polyapprox.activations import Activation, FloatArray
from polyapprox.approximation import Approximation
from polyapprox.extrema import local_extrema

RELATIVE = 1e-6
ABSOLUTE = 1e-9
# Past this many cells the bound is returned as it stands: still valid, only less tight.
_MAX_CELLS = 1 << 21
_HALVINGS = 50
_DENSE = 20_000


@dataclass(frozen=True)
class _Error:
    """e = f - p with p in Chebyshev form on the domain."""

    activation: Activation
    coefficients: tuple[float, ...]
    domain: tuple[float, float]

    def __call__(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.activation(x) - self._series(x, 0), dtype=np.float64)

    @property
    def rounding(self) -> float:
        """What evaluating e in float64 may hide: Clenshaw's error, that of u = (x - mid)/half and of f."""
        size = self._derivative_bound(0) * (len(self.coefficients) + 4)
        shift = self._derivative_bound(1) * float(np.abs(self.domain).max())
        largest = float(np.abs(self.activation(np.array(self.domain))).max())
        return 2.0**-51 * (size + shift + largest)

    def _series(self, x: FloatArray, order: int) -> FloatArray:
        lo, hi = self.domain
        half = (hi - lo) / 2
        series = cheb.chebder(self.coefficients, order, scl=1 / half)
        return np.asarray(cheb.chebval((x - (lo + hi) / 2) / half, series), dtype=np.float64)

    def _derivative_bound(self, order: int) -> float:
        lo, hi = self.domain
        return float(np.abs(cheb.chebder(self.coefficients, order, scl=2 / (hi - lo))).sum())

    def upper(self, a: FloatArray, b: FloatArray, ea: FloatArray, eb: FloatArray) -> FloatArray:
        """A bound of |e| on each cell [a, b], given e at its ends."""
        centre, radius = (a + b) / 2, (b - a) / 2
        bound = np.full_like(a, np.inf)
        if self.activation.second_derivative is not None:
            low, high = self.activation.second_derivative
            p2, spread = self._series(centre, 2), radius * self._derivative_bound(3)
            above = np.maximum(ea, eb) + np.maximum(-(low - p2 - spread), 0) * radius**2 / 2
            below = np.maximum(-ea, -eb) + np.maximum(high - p2 + spread, 0) * radius**2 / 2
            bound = np.maximum(above, below)
        if self.activation.lipschitz is not None:
            slope = np.abs(self._series(centre, 1)) + radius * self._derivative_bound(2)
            sloped = (np.abs(ea) + np.abs(eb)) / 2 + (self.activation.lipschitz + slope) * radius
            bound = np.minimum(bound, sloped)
        return bound


def max_error(
    activation: Activation, coefficients: tuple[float, ...], domain: tuple[float, float]
) -> tuple[float, bool]:
    """(bound, certified): a bound of |f - p| on the domain.

    Certified: never below the true maximum, and above it by at most 1e-6 relative or 1e-9 absolute,
    whichever is more. An activation without constants gets the largest error of a dense search, False.
    """
    error = _Error(activation, coefficients, domain)
    breaks = quadrature.breakpoints(domain, activation.kinks)
    if not activation.certifiable:
        peaks = local_extrema(error, quadrature.grid(breaks, _DENSE))
        return float(np.abs(error(peaks)).max()), False
    return _branch_and_bound(error, quadrature.grid(breaks, 64 * len(coefficients))), True


def _branch_and_bound(error: _Error, edges: FloatArray) -> float:
    values = error(edges)
    found = float(np.abs(values).max())  # never above the true maximum
    settled = found  # a bound of |e| on every cell already given up
    a, b, ea, eb = edges[:-1], edges[1:], values[:-1], values[1:]
    for left in range(_HALVINGS, -1, -1):
        upper = error.upper(a, b, ea, eb)
        halve = upper > max(found * (1 + RELATIVE), found + ABSOLUTE)
        if left == 0 or np.count_nonzero(halve) > _MAX_CELLS:
            halve[:] = False
        settled = max(settled, float(upper[~halve].max(initial=0.0)))
        if not halve.any():
            break
        a, b, ea, eb = a[halve], b[halve], ea[halve], eb[halve]
        middle = (a + b) / 2
        em = error(middle)
        found = max(found, float(np.abs(em).max()))
        a, b = np.concatenate([a, middle]), np.concatenate([middle, b])
        ea, eb = np.concatenate([ea, em]), np.concatenate([em, eb])
    return settled + error.rounding


def measure(
    activation: Activation,
    coefficients: npt.ArrayLike,
    domain: tuple[float, float],
    method: str,
    samples: FloatArray | None = None,
    sample_weights: FloatArray | None = None,
) -> Approximation:
    """The Approximation with these Chebyshev coefficients, its errors measured (samples: [count])."""
    series = tuple(float(c) for c in np.asarray(coefficients, dtype=np.float64))
    bound, certified = max_error(activation, series, domain)
    error = _Error(activation, series, domain)
    x, w = quadrature.nodes(domain, activation.kinks)
    data_max = data_rms = None
    if samples is not None:
        at_samples = error(samples)
        data_max = float(np.abs(at_samples).max())
        data_rms = float(np.sqrt(np.average(at_samples**2, weights=sample_weights)))
    return Approximation(
        coefficients=series,
        domain=domain,
        max_error=bound,
        rms_error=float(np.sqrt(np.average(error(x) ** 2, weights=w))),
        certified=certified,
        data_max_error=data_max,
        data_rms_error=data_rms,
        function=activation.name,
        method=method,
    )
