"""The fingerprint: kinds, headroom, norms and marginals like the data's, and what is saved."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from securedl.errors import FormatError, InputError
from securedl.network.from_torch import import_torch
from securedl.network.polynomial import PolynomialActivation
from securedl.verify.attacks import ATTACKS
from securedl.verify.fingerprint import Fingerprint
from securedl.verify.probing import fingerprint, unguided
from securedl.verify.sensitivity import Sensitivity

BOX = {"low": -4.0, "high": 4.0}


def of_kind(found, kind):
    return found.samples[np.array(found.kinds) == kind]


@pytest.fixture(scope="module")
def standardised(digits):
    """As networks on images are trained: 0 is the mean, and the origin is no digit."""
    x = digits[0] + 1.0
    return (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0) + 1.5


@pytest.fixture(scope="module")
def found(network, standardised):
    return fingerprint(network, standardised[:300], 100, low=-12.0, high=12.0, seed=5)


def test_every_attack_shows_in_the_logits(network, digits):
    marks = fingerprint(network, digits[0], 20, **BOX, seed=5)
    for name, attack in ATTACKS.items():
        for seed in range(10):
            moved = np.abs(attack(network, seed)(marks.samples) - marks.logits).max()
            assert moved > 1e-5, (name, seed)


def test_sensitive_ones_show_more_by_label_than_natural_ones(network, digits):
    marks = fingerprint(network, digits[0], 100, **BOX, seed=5)
    natural = digits[0][:100]
    caught = np.zeros(2)
    for seed in range(20):
        tampered = ATTACKS["weight noise"](network, seed)
        for k, x in enumerate((of_kind(marks, "sensitive"), natural)):
            caught[k] += np.mean(network(x).argmax(1) != tampered(x).argmax(1))
    assert caught[0] > 3 * caught[1]


def test_sensitive_ones_have_norms_and_marginals_of_the_data(found, standardised):
    x = of_kind(found, "sensitive")
    assert (x >= standardised[:300].min(0)).all()
    assert (x <= standardised[:300].max(0)).all()
    norms = np.linalg.norm(x, axis=1)
    natural = np.linalg.norm(standardised[:300], axis=1)
    assert norms.max() <= natural.max() * (1 + 1e-9)
    assert norms.std() > 0.5 * natural.std()
    assert np.median(norms) == pytest.approx(np.median(natural), rel=0.2)


def test_wide_ones_are_not_small_and_vary(network, standardised):
    box = {"low": -12.0, "high": 12.0}
    wide = of_kind(fingerprint(network, standardised[:300], 1000, **box, seed=1), "wide")
    norms = np.linalg.norm(wide, axis=1)
    median = np.median(np.linalg.norm(standardised[:300], axis=1))
    assert norms.min() >= 0.5 * median
    full = 12.0 * np.sqrt(64 / 3)
    assert norms.max() > 0.8 * full
    shares, _ = np.histogram(norms / full, bins=4, range=(0.0, 1.0))
    assert shares[1:].min() > 20  # of 150


def test_no_sample_overflows_even_if_the_origin_would(network, standardised):
    """A limit that refuses the origin and most of the box, and some of the data."""
    natural = np.linalg.norm(standardised[:300], axis=1)
    low, high = np.quantile(natural, [0.1, 0.9])

    def limit(x):
        norms = np.linalg.norm(x, axis=1)
        return (norms < low) | (norms > high)

    marks = fingerprint(network, standardised[:300], 60, low=-12.0, high=12.0, seed=2, limit=limit)
    assert not limit(marks.samples).any()
    assert limit(fingerprint(network, standardised[:300], 60, low=-12.0, high=12.0, seed=2).samples).any()
    wide = of_kind(
        unguided(network, standardised[:300], 60, low=-12.0, high=12.0, seed=2, limit=limit), "wide"
    )
    assert not limit(wide).any()


def test_a_limit_that_refuses_all_the_data(small):
    with pytest.raises(InputError, match="all 3 calibration samples"):
        unguided(small, np.zeros((3, 6)), 3, **BOX, seed=0, limit=lambda x: np.ones(len(x), dtype=bool))


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_fingerprint_mixes_kinds_and_survives_saving(small, tmp_path, count):
    told = []
    found = fingerprint(
        small, np.random.default_rng(0).normal(size=(9, 6)), count, **BOX, seed=4,
        progress=lambda *at: told.append(at),
    )  # fmt: skip
    assert told[-1][0] == told[-1][1]
    assert len(found) == count
    assert found.samples.shape == (count, 6)
    np.testing.assert_array_equal(found.logits, small(found.samples))
    assert set(found.kinds) == ({"sensitive", "natural", "wide"} if count >= 3 else {"sensitive"})
    np.savez(tmp_path / "f.npz", **found.to_arrays())
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        again = Fingerprint.from_arrays(arrays)
    assert again.kinds == found.kinds
    np.testing.assert_array_equal(again.samples, found.samples)
    np.testing.assert_array_equal(again.labels, found.logits.argmax(1))


def test_seeds_decide(small):
    x = np.random.default_rng(0).normal(size=(9, 6))
    one, same, other = (fingerprint(small, x, 10, **BOX, seed=seed).samples for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_probes_of_a_convolutional_network_are_made_at_once():
    """The network of tests/system/test_mnist_cnn.py with squares, untrained: seconds of one processor."""

    def square():
        return PolynomialActivation(np.array([0.3, 0.8, 0.2]), (-3.0, 3.0), name="square")

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 5), square(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 5), square(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(256, 64), square(), nn.Linear(64, 10),
        )  # fmt: skip
    graph = import_torch(model, (1, 28, 28)).graph
    x = np.random.default_rng(0).uniform(size=(64, 784))
    began = time.process_time()
    marks = fingerprint(graph, x, 128, low=-1.0, high=2.0, seed=0)
    assert time.process_time() - began <= 3.0
    measure = Sensitivity(graph, layers="last")
    sensitive, natural = (measure(of_kind(marks, kind))[0] for kind in ("sensitive", "natural"))
    assert sensitive.min() > natural.max()


def test_damaged_arrays_are_refused(small):
    good = fingerprint(small, np.ones((2, 6)), 3, **BOX, seed=0).to_arrays()
    for change in (
        {"logits": good["logits"][:2]},
        {"samples": good["samples"].astype(np.float32)},
        {"samples": good["samples"] * np.nan},
        {"kinds": np.array(1)},
        {"kinds": np.array("wide")},
    ):
        with pytest.raises(FormatError):
            Fingerprint.from_arrays({**good, **change})
    with pytest.raises(FormatError, match="missing"):
        Fingerprint.from_arrays({"samples": good["samples"]})


def test_empty_fingerprint_is_refused(small):
    with pytest.raises(InputError, match="at least 1"):
        fingerprint(small, np.zeros((2, 6)), 0, **BOX, seed=0)
