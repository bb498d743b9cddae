"""Selections: by hand, against brute force, and what a cover is worth."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from securedl.errors import InputError
from securedl.verify.selection import active_neurons, cover, covered_weights, manc, random_choice

BAG = np.array(
    [
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 1, 1, 1, 0, 0],
    ],
    dtype=bool,
)


def test_manc_as_written_repeats_itself_once_all_is_covered():
    assert manc(BAG, 4).tolist() == [1, 2, 0, 0]


def test_cover_begins_again_with_what_is_left():
    assert cover(BAG, 4).tolist() == [1, 2, 3, 0]
    for k in range(5):
        assert cover(BAG, k).tolist() == cover(BAG, 4)[:k].tolist()
    assert sorted(cover(np.zeros((3, 2), dtype=bool), 3).tolist()) == [0, 1, 2]


def test_cover_is_within_the_greedy_bound_of_the_best():
    """Nemhauser, Wolsey and Fisher (1978): at least 1 - 1/e of the best cover; here by brute force."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        marks = rng.random((8, 30)) < 0.2
        best = max(marks[list(some)].any(0).sum() for some in combinations(range(8), 3))
        greedy = marks[cover(marks, 3)].any(0).sum()
        assert greedy >= (1 - 1 / np.e) * best
        assert greedy >= marks[random_choice(8, 3, seed=0)].any(0).sum() - 1


def test_greedy_against_tamperings_catches_more_than_chance():
    """500 tamperings of two kinds, each seen by few samples: half to choose by, half to judge by."""
    rng = np.random.default_rng(1)
    kind = rng.integers(0, 2, 500)
    seen = rng.random((500, 40)) < np.where(kind[:, None] == np.arange(40) % 2, 0.5, 0.02)
    chosen = cover(seen[:250].T, 4)
    chance = np.mean([seen[250:, random_choice(40, 4, seed=s)].any(1).mean() for s in range(200)])
    assert seen[250:, chosen].any(1).mean() > chance


def test_random_choices_are_even():
    counts = np.bincount(np.concatenate([random_choice(10, 3, seed=s) for s in range(1000)]), minlength=10)
    assert counts.min() > 230  # 300 expected, deviation 14.5
    assert counts.max() < 370
    assert len(set(random_choice(10, 10, seed=0))) == 10
    for k in (-1, 11):
        with pytest.raises(InputError, match="bag"):
            random_choice(10, k, seed=0)


def test_active_neurons_are_positive_inputs_of_layers():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    x = np.random.default_rng(0).normal(size=(6, 2))
    with torch.no_grad():
        hidden = [model[: 2 * k](torch.tensor(x, dtype=torch.float32)).numpy() > 0 for k in (1, 2)]
    np.testing.assert_array_equal(active_neurons(model, x), hidden[1])
    np.testing.assert_array_equal(active_neurons(model, x, layers="all"), np.concatenate(hidden, 1))
    with pytest.raises(InputError, match="no hidden"):
        active_neurons(nn.Linear(2, 2), x, layers="all")


def test_covered_weights_are_those_that_move_a_logit(made, jacobians):
    model, x = made
    found = covered_weights(model, x, change=0.5, tolerance=0.05)
    logits = jacobians(model, x, of=lambda z, axis: z)
    expected = [np.concatenate([part.abs().amax(0).numpy() for part in one.values()]) for one in logits]
    sure = np.abs(np.array(expected) * 0.5 - 0.05) > 1e-6
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(found[sure], (np.array(expected) * 0.5 > 0.05)[sure])
    assert 0.1 < found.mean() < 1.0


def test_covered_entries_of_a_graph(small):
    """Each stored entry changed by itself, through numpy alone."""
    x = np.random.default_rng(0).normal(size=(5, 6))
    found = covered_weights(small, x, change=0.1, tolerance=0.02)
    expected, step = [], 1e-6
    for node in small.nodes[::2]:
        for part in (node.matrix.data, node.bias):
            for k in range(len(part)):
                kept, before = part[k], small(x)
                part[k] = kept + step
                expected.append(np.abs(small(x) - before).max(1) / step * 0.1)
                part[k] = kept
    expected = np.array(expected).T
    sure = np.abs(expected - 0.02) > 1e-5
    np.testing.assert_array_equal(found[sure], (expected > 0.02)[sure])
    assert 0.1 < found.mean() < 0.9
