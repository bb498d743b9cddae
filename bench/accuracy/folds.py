"""Repeated stratified cross-validation and the corrected interval of its paired differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import t
from sklearn.model_selection import StratifiedKFold

FOLDS, REPETITIONS = 5, 10
#: Of the shuffles. Training options were chosen on other ones, from 0.
FIRST_SEED = 1000


@dataclass(frozen=True, eq=False)
class Fold:
    """Samples standardised by the training part: float32 [samples, features]; int64 labels."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def folds(x: np.ndarray, y: np.ndarray, repetition: int) -> Iterator[Fold]:
    """The five folds of one repetition; the repetition seeds the shuffle."""
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=FIRST_SEED + repetition).split(x, y)
    for train, test in split:
        mean, deviation = x[train].mean(axis=0), x[train].std(axis=0)
        deviation[deviation == 0] = 1.0
        scaled = ((x - mean) / deviation).astype(np.float32)
        yield Fold(scaled[train], y[train], scaled[test], y[test])


def corrected_interval(
    differences: np.ndarray, test_share: float, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of cross-validated differences.

    mean ± t_{J-1} √((1/J + n_test/n_train) s²) over the J folds of all repetitions: the training parts
    overlap, so the plain s²/J is too small (Nadeau and Bengio, Machine Learning 52, 2003, section 3;
    for repeated cross-validation Bouckaert and Frank, PAKDD 2004).

    Args:
        differences: [J], J ≥ 2. test_share: n_test / n_train, 1/4 for five folds.
    """
    count = len(differences)
    variance = (1 / count + test_share) * differences.var(ddof=1)
    half = float(t.ppf((1 + level) / 2, count - 1) * np.sqrt(variance))
    middle = float(differences.mean())
    return middle - half, middle + half


def accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of right labels, %."""
    return 100 * float(np.mean(labels == truth))


def balanced(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of the share of right labels, %."""
    return float(np.mean([accuracy(labels[truth == k], truth[truth == k]) for k in np.unique(truth)]))
