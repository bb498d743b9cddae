"""Noise of BGV where products come behind matrices, again and again, without a refresh.

A product of polynomials is a product of their values at the 2N-th roots of unity, so noise that is large at
a root of one factor is larger still there in the product: three or four products make so much of the few
roots at which a key is large that the mean square over all keys says little (`he.noise` was exceeded by 2 to
26 bits with one key of two). So a bound of the values at all roots is carried along, the *peak*. With it a
product's mean square is at most one factor's times the square of the other's peak, whatever they have in
common.

What is structured is a wave at few roots, and stays so behind a matrix, whose weights multiply it by what
they are there. Its size is a random number: what the key is at these roots, times what weights are there, and
powers of that. Norms of it are carried along, (E|x|^2p)^(1/2p) for many p: a sum's are at most the sum of its
terms' (Minkowski), a product's at most the product of its factors' at 2p (Cauchy and Schwarz), and a fresh
weight, which is independent, multiplies them. The size that is exceeded with a chance of 2^-40 follows from
the best of them (Markov). A bound for each factor by itself would count one such chance for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from securedl.he.noise import KEY, Noise, NoiseEvaluator, Sizes
from securedl.he.params import Parameters

Norms: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

#: A random polynomial's value at a root is so many deviations large with a chance of exp(-38.4), so at one of
#: 2^15 roots with 2^-40; and so is a product of two.
ROOTS, TWO = 6.2, 20.5
#: ln of 2^40.
_RARE = 27.8
#: Of the norms: p. The norm at 2p lies _DOUBLE further.
_POWERS, _DOUBLE = 2.0 ** (np.arange(13) / 2), 2


def _peak_of(norms: Norms) -> float:
    return float(np.min(norms * np.exp(_RARE / (2 * _POWERS))))


def _product(a: Norms, b: Norms) -> Norms:
    """Of sizes that may depend on each other."""
    beyond = [np.inf] * _DOUBLE
    with np.errstate(invalid="ignore"):
        found = np.append(a[_DOUBLE:], beyond) * np.append(b[_DOUBLE:], beyond)
    return np.asarray(np.nan_to_num(found, nan=np.inf, posinf=np.inf))


#: Of what a random polynomial of mean square 1 is at one root: the square is an exponential variable.
_RANDOM: Norms = np.array([math.exp(math.lgamma(1 + p) / (2 * p)) for p in _POWERS])
#: Of a wave: as many deviations as `KEY` says.
_WAVE = _RANDOM * (KEY / _peak_of(_RANDOM))


@dataclass(frozen=True, kw_only=True)
class DeepNoise(Noise):
    """With a bound of the values at all roots, and norms of the structured part."""

    peak: float
    norms: Norms


class DeepNoiseEvaluator(NoiseEvaluator):
    """See `NoiseEvaluator`. Its handles are `DeepNoise`."""

    def __init__(self, params: Parameters | Sizes) -> None:
        super().__init__(params)
        ring, t = self.params.ring, self._t
        self._rounding_peak = t * math.sqrt(ring / 12) * (ROOTS + TWO * math.sqrt(self._ones))

    def _at_roots(self, variance: float) -> float:
        """The largest value of a random polynomial at a root."""
        return ROOTS * math.sqrt(self.params.ring * variance)

    def _deep(self, variance: float, norms: Norms, level: int, size: int, peak: float) -> DeepNoise:
        found = DeepNoise(variance, _peak_of(norms), level, size, peak=peak, norms=norms)
        self._checked(found)
        return found

    def fresh(self, level: int, encrypted: bool = True) -> DeepNoise:
        """See `NoiseEvaluator`."""
        variance = super().fresh(level, encrypted).variance
        return self._deep(variance, 0 * _WAVE, level, 1 + encrypted, self._at_roots(variance))

    def add(self, a: Any, b: Any) -> DeepNoise:
        """See `NoiseEvaluator`."""
        variance = (a.variance + b.variance) * (2 if a is b else 1)
        return self._deep(variance, a.norms + b.norms, a.level, max(a.size, b.size), a.peak + b.peak)

    def multiply(self, a: Any, b: Any) -> DeepNoise:
        """Of values that may be kin, or of one and a weight."""
        if 1 in (a.size, b.size):
            return self.dot(*([one] for one in sorted((a, b), key=lambda one: -one.size)))
        variance = min(a.peak**2 * b.variance, b.peak**2 * a.variance)
        norms = self.params.ring / 2 * _product(a.norms, b.norms) + a.norms * b.peak + b.norms * a.peak
        return self._deep(variance, norms, a.level, a.size + b.size - 1, a.peak * b.peak)

    def dot(self, xs: Sequence[Any], ws: Sequence[Any]) -> DeepNoise:
        """Weights are fresh: at each root independent of what they are multiplied by, whose mean square they
        so give but for a part, the largest where few roots have most of it (a sum of exponential variables,
        after Laurent and Massart 2000).
        """
        ring, pairs = self.params.ring, list(zip(xs, ws, strict=True))
        even = sum(x.variance * w.variance for x, w in pairs)
        largest = max(x.peak**2 * w.variance for x, w in pairs)
        variance = ring * (1.5 * even + 4 * _RARE * largest / ring**2)
        norms = np.sqrt(ring * sum(x.norms**2 * w.variance for x, w in pairs)) * _RANDOM
        peak = self._at_roots(sum(x.peak**2 * w.variance for x, w in pairs))
        return self._deep(variance, norms, xs[0].level, xs[0].size + ws[0].size - 1, peak)

    def _switched(self, a: Any) -> DeepNoise:
        variance, wave = self._switching(a.level)
        peak = a.peak + TWO * math.sqrt(self.params.ring / 12) * self._key(a.level) + self._rounding_peak
        return self._deep(a.variance + variance, a.norms + wave * _WAVE, a.level, 2, peak)

    def rescale(self, a: Any) -> DeepNoise:
        """See `NoiseEvaluator`."""
        q = float(self.params.primes[a.level])
        norms, peak = a.norms / q + self._lost * _WAVE, a.peak / q + self._rounding_peak
        return self._deep(a.variance / q**2 + self._rounding, norms, a.level - 1, a.size, peak)

    def moved(self, a: Any, power: int, divisor: int = 1) -> DeepNoise:
        """See `NoiseEvaluator`."""
        found = super().moved(replace(a, norms=a.norms / divisor, peak=a.peak / divisor), power, divisor)
        assert isinstance(found, DeepNoise)
        return found
