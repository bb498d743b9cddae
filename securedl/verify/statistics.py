"""What spot-checking proves, in numbers.

`scipy.stats` gives the distributions; the formulas are those of sampling without replacement and of
Clopper and Pearson (Biometrika 26, 1934) and Wilson (J. Am. Stat. Assoc. 22, 1927).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import special, stats

from securedl.errors import InputError

#: Of the answers tampered with, for which reports give chances.
FRACTIONS = (0.01, 0.1, 0.5, 1.0)


#: What a sum of chances may lose by its logarithms; how much depends on the processor.
CHANCE_ROUNDING = 1e-8


def detection_probability(
    queries: int, probes: int, tampered: int, miss: float = 0.0, *, forced: int = 0
) -> float:
    """Chance that tampering with `tampered` of `queries` answers shows on a probe at least once.

    Exact (hypergeometric) for probes at uniform places. With `forced` of them placed one in each of as many
    equal batches, as `placement.place` does, a server does best to spread its tampering evenly; then
    this is a lower bound, by Hoeffding's bound on sums of unequal chances (Ann. Math. Stat. 27, 1956).

    Args:
        queries: all answers, probes among them. miss: chance that a tampered probe shows nothing, taken as
            independent from probe to probe, as for probes drawn at random from a fingerprint.
    """
    for name, value, top in (("probes", probes, queries), ("tampered", tampered, queries)):
        if not 0 <= value <= top:
            raise InputError(f"{name} {value} among {queries} queries; expected 0 to {top}")
    if not 0 <= forced <= probes:
        raise InputError(f"forced {forced} of {probes} probes; expected 0 to {probes}")
    _in_unit(miss, "miss")
    if not queries or not tampered:
        return 0.0
    if not forced:
        return _seen(queries, probes, tampered, miss)
    return _seen_forced(queries, probes, tampered, miss, forced)


def _seen(queries: int, probes: int, tampered: int, miss: float) -> float:
    """1 - E[miss^hits] for hypergeometric hits, summed so that small chances keep their digits."""
    hits = np.arange(max(0, probes + tampered - queries), min(probes, tampered) + 1)
    if miss == 0.0 and hits[0] > 0:
        return 1.0
    chance = np.exp(
        _log_choose(probes, hits)
        + _log_choose(queries - probes, tampered - hits)
        - _log_choose(queries, tampered)
    )
    return min(1.0, float(np.sum(chance * (1.0 - float(miss) ** hits))))


def _log_choose(n: int, k: Any) -> Any:
    """log C(n, k). Over 100 times as fast as `hypergeom.pmf`; detection differs by 2e-9 at n = 1e6."""
    return -np.log1p(n) - special.betaln(n - k + 1.0, k + 1.0)


def _seen_forced(queries: int, probes: int, tampered: int, miss: float, forced: int) -> float:
    """The lower bound for stratified probes.

    Given h hits among the forced, the chance to pass is g(h) = miss^h · G(tampered - h), with G that of the
    other probes, uniform over the other places. g is convex in h, so E[g] over the forced hits, which are
    independent with chances of mean tampered/queries, is at most that over a binomial of that mean. The
    binomial also reaches h that cannot happen; there g is continued by straight lines, which stay convex.
    """
    others, rest = queries - forced, probes - forced
    low, high = max(0, tampered - others), min(forced, tampered)
    inside = np.arange(low, high + 1)
    passes = [1.0 - _seen(others, rest, tampered - int(h), miss) if others else 1.0 for h in inside]
    g = float(miss) ** inside * np.array(passes)
    if low == high:
        return 1.0 - float(g[0])
    h = np.arange(forced + 1)
    extended = np.interp(h, inside, g)
    extended[h < low] = g[0] + (g[0] - g[1]) * (low - h[h < low])
    extended[h > high] = np.maximum(0.0, g[-1] + (g[-1] - g[-2]) * (h[h > high] - high))
    passed = float(np.sum(stats.binom.pmf(h, forced, tampered / queries) * extended))
    return min(1.0, max(0.0, 1.0 - passed))


def detection_by_fraction(
    queries: int,
    probes: int,
    fractions: Iterable[float] = FRACTIONS,
    miss: float = 0.0,
    *,
    forced: int = 0,
) -> dict[float, float]:
    """`detection_probability` for each fraction of the answers tampered with, one answer at least."""
    found: dict[float, float] = {}
    for fraction in fractions:
        _in_unit(fraction, "fraction")
        tampered = min(queries, max(1, math.ceil(fraction * queries - 1e-9)))
        found[fraction] = detection_probability(queries, probes, tampered, miss, forced=forced)
    return found


def alterable(
    queries: int, probes: int, miss: float = 0.0, *, forced: int = 0, confidence: float = 0.95
) -> int:
    """How many of the answers, probes among them, could be altered before it were noticed with this
    confidence; all, where it never is.

    Example: of 1,000 answers with 23 probes, 120.
    """
    _confidence(confidence)
    if not probes:
        return queries
    low, high = 0, queries  # noticed from some number between them on
    if detection_probability(queries, probes, queries, miss, forced=forced) < confidence:
        return queries
    while high - low > 1:
        middle = (low + high) // 2
        seen = detection_probability(queries, probes, middle, miss, forced=forced) >= confidence
        low, high = (low, middle) if seen else (middle, high)
    return low


def probes_needed(samples: int, fraction: float, confidence: float = 0.95, miss: float = 0.0) -> int:
    """The least number of probes, at random places among so many samples, that notices tampering with a
    fraction of all answers with this confidence, as `detection_by_fraction` has it.

    Args:
        miss: as of `detection_probability`. Where a server returns labels only, count with what was measured
            for its kind of tampering: it moves no label of many probes.

    Example: among 1,000 samples, 5 % of the answers, 95 %: 57.
    """
    if samples < 1:
        raise InputError(f"samples {samples}; expected 1 or more")
    if not 0.0 < fraction <= 1.0:
        raise InputError(f"fraction {fraction}; expected above 0, and at most 1")
    if not 0.0 <= miss < 1.0:
        raise InputError(
            f"miss {miss}; expected 0 or more, and below 1: probes that show nothing are no help"
        )
    _confidence(confidence)

    def noticed(probes: int) -> bool:
        found = detection_by_fraction(samples + probes, probes, [fraction], miss)
        return found[fraction] >= confidence - CHANCE_ROUNDING

    most = 1
    while not noticed(most):
        most *= 2
    return bisect_left(range(most), True, key=noticed)


def upper_bound_tampered(checked: int, detected: int = 0, confidence: float = 0.95) -> float:
    """Clopper-Pearson: the fraction of answers tampered with (and visibly so) is at most this.

    One-sided, from `detected` of `checked` probes off. Nothing checked: 1. Nothing detected of n:
    1 - (1 - confidence)^(1/n), about 3/n at 95 %.
    """
    _counts(detected, checked)
    _confidence(confidence)
    if detected == checked:
        return 1.0
    return float(stats.beta.ppf(confidence, detected + 1, checked - detected))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's two-sided interval of a proportion; (0, 1) without trials."""
    _counts(successes, trials)
    _confidence(confidence)
    if not trials:
        return 0.0, 1.0
    z = float(stats.norm.ppf(0.5 + confidence / 2.0))
    p, shrink = successes / trials, 1.0 + z * z / trials
    middle = (p + z * z / (2 * trials)) / shrink
    reach = z / shrink * math.sqrt(p * (1.0 - p) / trials + z * z / (4.0 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, middle - reach)
    return low, 1.0 if successes == trials else min(1.0, middle + reach)


def poisson_limit(expected: float, confidence: float = 0.99) -> int:
    """The count that a Poisson variable of this mean exceeds with chance 1 - confidence at most."""
    return int(stats.poisson.ppf(confidence, expected))


def _counts(part: int, whole: int) -> None:
    if not 0 <= part <= whole:
        raise InputError(f"{part} of {whole}; expected 0 to {whole}")


def _confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence {confidence}; expected between 0 and 1")


def _in_unit(value: float, name: str) -> None:
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{name} {value}; expected 0 to 1")
