"""Noise of BGV where products come behind matrices, again and again, without a refresh.

A product of polynomials is a product of their values at the 2N-th roots of unity, so noise that is large at
a root of one factor is larger still there in the product: three or four products make so much of the few
roots at which a key is large that the mean square over all keys says little (`he.noise` was exceeded by 2 to
26 bits with one key of two). So a bound of the values at all roots is carried along, the *peak*. With it a
product's mean square is at most one factor's times the square of the other's peak, whatever they have in
common. What is structured, a wave at few roots, stays so behind a matrix, whose weights multiply it by what
they are there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from securedl.he.noise import ERROR, Noise, NoiseEvaluator, Sizes
from securedl.he.params import Parameters

#: A random polynomial's value at a root is so many deviations large with a chance of exp(-38.4), so at one of
#: 2^15 roots with 2^-40; and so is a product of two.
ROOTS, TWO = 6.2, 20.5
#: ln of 2^40.
_RARE = 27.8


class DeepNoiseEvaluator(NoiseEvaluator):
    """See `NoiseEvaluator`."""

    def __init__(self, params: Parameters | Sizes) -> None:
        super().__init__(params)
        ring, t = self.params.ring, self._t
        self._rounding_peak = t * math.sqrt(ring / 12) * (ROOTS + TWO * math.sqrt(self._ones))

    def _at_roots(self, variance: float) -> float:
        """The largest value of a random polynomial at a root."""
        return ROOTS * math.sqrt(self.params.ring * variance)

    def fresh(self, level: int, encrypted: bool = True) -> Noise:
        """See `NoiseEvaluator`."""
        found = super().fresh(level, encrypted)
        return replace(found, peak=self._at_roots(found.variance))

    def add(self, a: Noise, b: Noise) -> Noise:
        """See `NoiseEvaluator`."""
        return replace(super().add(a, b), peak=a.peak + b.peak)

    def multiply(self, a: Noise, b: Noise) -> Noise:
        """Of values that may be kin, or of one and a weight."""
        if 1 in (a.size, b.size):
            return self.dot(*([one] for one in sorted((a, b), key=lambda one: -one.size)))
        variance = min(a.peak**2 * b.variance, b.peak**2 * a.variance)
        structured = self.params.ring * a.structured * b.structured / 2
        structured += a.structured * b.peak + b.structured * a.peak
        return self._checked(Noise(variance, structured, a.level, a.size + b.size - 1, a.peak * b.peak))

    def dot(self, xs: Sequence[Noise], ws: Sequence[Noise]) -> Noise:
        """Weights are fresh: at each root independent of what they are multiplied by, whose mean square they
        so give but for a part, the largest where few roots have most of it (a sum of exponential variables,
        after Laurent and Massart 2000).
        """
        ring, pairs = self.params.ring, list(zip(xs, ws, strict=True))
        even = sum(x.variance * w.variance for x, w in pairs)
        largest = max(x.peak**2 * w.variance for x, w in pairs)
        variance = ring * (1.5 * even + 4 * _RARE * largest / ring**2)
        structured = self._at_roots(sum(x.structured**2 * w.variance for x, w in pairs))
        peak = self._at_roots(sum(x.peak**2 * w.variance for x, w in pairs))
        return self._checked(Noise(variance, structured, xs[0].level, xs[0].size + ws[0].size - 1, peak))

    def _switched(self, a: Noise) -> Noise:
        ring, t = self.params.ring, self._t
        part = sum((q / self.params.special) ** 2 for q in self.params.primes[: a.level + 1])
        peak = a.peak + TWO * t * ring * math.sqrt(ERROR * part / 12) + self._rounding_peak
        return replace(super()._switched(a), peak=peak)

    def rescale(self, a: Noise) -> Noise:
        """See `NoiseEvaluator`."""
        peak = a.peak / float(self.params.primes[a.level]) + self._rounding_peak
        return replace(super().rescale(a), peak=peak)
