"""Probes of whole numbers: a server that computes another polynomial of degree D agrees on at most D of t of
them (Schwartz, JACM 1980; Zippel, EUROSAM 1979), where a probe is anything modulo t; else on D of as many
numbers as there are. The bound is reached by a difference that has D roots.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from securedl.plan.forms import NONE, Form, Powers
from securedl.plan.normalised import Layer
from securedl.plan.quantised import Quantised, Requantised

sys.path.insert(0, str(Path(__file__).parent))
from counting import within
from exact_plans import EXACT

#: Probes at a time, of so many features.
PROBES, FEATURES = 5000, 5
#: Of what a segment's levels allow, and below it.
DEGREES = (1, 2, 4, 8)


def network(form: Form, t: int) -> Quantised:
    """1-5-2 with weights that are anything modulo t, and so are values that are sent back."""
    random, half = np.random.default_rng(0), (t - 1) // 2

    def layer(out: int, size: int, sources: int, form: Form, name: str) -> Layer:
        entries = random.integers(-half, half, (sources, out, size), endpoint=True).astype(float)
        bias = random.integers(-half, half, out, endpoint=True).astype(float)
        return Layer(name, tuple(map(sparse.csr_matrix, entries)), bias, form)

    layers = layer(FEATURES, 1, 1, form, "first"), layer(2, FEATURES, form.registers, NONE, "last")
    client = Requantised(1.0, half, (np.ones(FEATURES),), half)
    return Quantised(np.ones(1), np.zeros(1), client, layers, np.ones(2), np.zeros(2))


def answers(layer: Layer, u: np.ndarray, t: int) -> np.ndarray:
    """Of the sum of W_k u^k and a bias modulo t, [probes, out], for whole numbers below 2^17."""
    total, power = layer.bias.astype(np.int64), np.ones_like(u)
    for matrix in layer.matrices:
        power = power * u % t
        total = total + power @ (matrix.toarray().astype(np.int64) % t).T
    return total % t


def with_roots(layer: Layer, feature: int, roots: np.ndarray, t: int) -> Layer:
    """What one output is gets the product of (u - root), of a feature, added."""
    coefficients = reduce(lambda found, root: np.convolve(found, [1, -root]) % t, roots, np.ones(1, np.int64))
    bias, changes = layer.bias.copy(), np.zeros((len(layer.matrices), layer.features, FEATURES))
    bias[0] += coefficients[-1]
    changes[: len(roots), 0, feature] = coefficients[-2::-1]
    pairs = zip(layer.matrices, changes, strict=True)
    return replace(layer, bias=bias, matrices=tuple(sparse.csr_matrix(m + change) for m, change in pairs))


def misses(degree: int, t: int, probes: int) -> int:
    """On how many of so many probes another polynomial of a degree agrees, with as many roots around 0, where
    values that are not all alike would be likeliest.
    """
    honest, random = network(Powers(max(DEGREES)), t), np.random.default_rng(1)
    layer, missed = honest.layers[1], 0
    for _ in range(probes // PROBES):
        roots = np.arange(degree) - degree // 2
        wrong = with_roots(layer, int(random.integers(FEATURES)), roots, t)
        u = honest.probed(np.zeros((PROBES, 1)), (), np.inf)[1].sent.astype(np.int64)
        missed += int((answers(layer, u, t) == answers(wrong, u, t)).all(axis=1).sum())
    return missed


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Misses are counted, so probes are the same everywhere."""
    make, seeds = np.random.default_rng, itertools.count(100)
    monkeypatch.setattr(
        np.random, "default_rng", lambda seed=None: make(next(seeds) if seed is None else seed)
    )


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("t", "degree"),
    [
        pytest.param(t, degree, marks=[] if (t == 257) == (degree < 3) else [pytest.mark.slow])
        for t in (257, 65537)
        for degree in DEGREES
    ],
)
def test_the_bound_is_reached_and_holds(t: int, degree: int) -> None:
    assert within(misses(degree, t, 1_000_000), 1_000_000 * degree / t)


@pytest.mark.parametrize("form", EXACT)
def test_no_segment_allows_a_higher_degree(form: str) -> None:
    """Each level is a squaring at most."""
    levels = [port.level for port in EXACT[form]().signature.back if port is not None]
    assert 2 ** max(levels) in DEGREES


def test_roots_by_hand() -> None:
    """(u - 2) (u - 3) = u² - 5 u + 6, of the third feature."""
    layer = network(Powers(2), 257).layers[1]
    wrong = with_roots(layer, 2, np.array([2, 3]), 257)
    u = np.array([[9, 9, k, 9, 9] for k in range(257)])
    difference = (answers(wrong, u, 257) - answers(layer, u, 257)) % 257
    assert difference[:, 0].tolist() == [(k * k - 5 * k + 6) % 257 for k in range(257)]
    assert not difference[:, 1].any()
