"""Ties: where they are, who leads by how much, and what they catch."""

import numpy as np
import pytest
import torch
from torch import nn

from securedl.errors import InputError
from securedl.verify.attacks import ATTACKS
from securedl.verify.samples import natural_samples
from securedl.verify.ties import tie_samples

BOX = {"low": -4.0, "high": 4.0}
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def ties(network, digits):
    return tie_samples(network, natural_samples(digits[0], 50, seed=0), **BOX, tolerance=TOLERANCE)


def leads(network, ties):
    """z_winner - z_j for all others, [samples, classes - 1]."""
    z = network(ties.samples)
    rows = np.arange(len(z))
    others = np.ones(z.shape, dtype=bool)
    others[rows, ties.winners] = False
    return z[rows, ties.winners][:, None] - z[others].reshape(len(z), -1)


def test_all_others_tie_below_the_winner(network, ties):
    assert ties.solved.mean() >= 0.97
    assert ties.winners.tolist() == [k % 10 for k in range(50)]
    found = leads(network, ties)[ties.solved]
    np.testing.assert_allclose(found, 2.2 * TOLERANCE, rtol=2e-3)
    assert np.abs(ties.samples).max() <= 4.0


def test_an_honest_answer_keeps_its_label(network, ties):
    z = network(ties.samples)[ties.solved]
    noise = np.random.default_rng(0).uniform(-TOLERANCE, TOLERANCE, (100, *z.shape))
    assert ((z + noise).argmax(-1) == ties.winners[ties.solved]).all()


def test_a_pair_catches_nearly_all(network, ties):
    """Many-weight attacks by the label alone: one sample misses about one in ten, a pair far fewer."""
    second = tie_samples(network, ties.samples, **BOX, tolerance=TOLERANCE, winners=(ties.winners + 1) % 10)
    assert second.solved.mean() >= 0.95
    assert np.linalg.norm(second.samples - ties.samples, axis=1).mean() < 0.5
    both = ties.solved & second.solved
    missed = []
    for name in ("weight noise", "zeroed weights", "8-bit weights"):
        for seed in range(20):
            z = ATTACKS[name](network, seed)
            kept = [z(t.samples[both]).argmax(1) == t.winners[both] for t in (ties, second)]
            missed.append([kept[0].mean(), (kept[0] & kept[1]).mean()])
    one, pair = np.mean(missed, axis=0)
    assert one < 0.2
    assert pair < 0.02


def test_a_convolution_in_single_precision():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))
    x = np.random.default_rng(0).uniform(size=(6, 2, 7, 7))
    told = []
    found = tie_samples(model, x, low=-3.0, high=3.0, tolerance=1e-6, progress=lambda *at: told.append(at))
    assert found.samples.shape == x.shape
    assert np.abs(found.samples).max() <= 3.0
    assert told[-1][0] == told[-1][1]
    assert model[0].weight.dtype == torch.float32
    double = model.double()
    found_leads = leads(lambda x: double(torch.tensor(x)).detach().numpy(), found)
    assert found.solved.mean() > 0.5
    np.testing.assert_allclose(found_leads[found.solved], 2.2e-6, rtol=2e-3)


def test_no_tie_in_the_box_is_said(network, digits):
    """In a box of one point nothing can be solved."""
    found = tie_samples(network, digits[0][:3], low=0.0, high=0.0, tolerance=TOLERANCE, steps=3)
    assert not found.solved.any()
    assert (found.samples == 0.0).all()


def test_wrong_input_is_refused(network, digits):
    for winners in ([0], [0, 10], [-1, 0]):
        with pytest.raises(InputError, match="winners must be 2 classes"):
            tie_samples(network, digits[0][:2], **BOX, tolerance=1.0, winners=winners)
    with pytest.raises(InputError, match="one logit"):
        tie_samples(nn.Linear(3, 1), np.zeros((2, 3)), **BOX, tolerance=1.0)
