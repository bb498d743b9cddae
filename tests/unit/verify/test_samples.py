"""Samples: the box, the limit, detection against natural inputs, and what is saved."""

import numpy as np
import pytest
from scipy import sparse

from securedl.errors import FormatError, InputError
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.verify.attacks import ATTACKS
from securedl.verify.fingerprint import Fingerprint
from securedl.verify.samples import fingerprint, natural_samples, sensitive_samples, wide_samples
from securedl.verify.sensitivity import Sensitivity

BOX = {"low": -4.0, "high": 4.0}


@pytest.fixture(scope="module")
def sensitive(network, digits):
    starts = digits[0][np.random.default_rng(0).choice(len(digits[0]), 60, replace=False)]
    return starts, sensitive_samples(network, starts, **BOX, seed=1)


def test_ascent_raises_sensitivity_inside_the_box(network, sensitive):
    starts, found = sensitive
    assert found.min() >= -4.0
    assert found.max() <= 4.0
    assert found.dtype == np.float64
    measure = Sensitivity(network)
    assert (measure(found)[0] > measure(starts)[0]).all()
    again = sensitive_samples(network, starts, **BOX, seed=1)
    np.testing.assert_array_equal(found, again)


def test_sensitive_beats_natural_by_label(network, digits, sensitive):
    """Top-1, mean over the attacks that change more than one weight, 20 draws each."""
    sets = {
        "natural": natural_samples(network, digits[0], 60, **BOX, seed=3),
        "sensitive": sensitive[1],
    }
    caught = dict.fromkeys(sets, 0.0)
    for name in ("weight noise", "zeroed weights", "swapped rows", "8-bit weights"):
        for seed in range(20):
            tampered = ATTACKS[name](network, seed)
            for kind, x in sets.items():
                caught[kind] += np.mean(network(x).argmax(1) != tampered(x).argmax(1)) / 80
    assert caught["sensitive"] > 3 * caught["natural"]
    assert caught["sensitive"] > 0.2


def test_every_attack_shows_in_the_logits(network, digits):
    marks = fingerprint(network, digits[0], 20, **BOX, seed=5)
    for name, attack in ATTACKS.items():
        for seed in range(10):
            moved = np.abs(attack(network, seed)(marks.samples) - marks.logits).max()
            assert moved > 1e-5, (name, seed)


def test_bounds_for_each_feature(small):
    low, high = np.arange(6) - 3.0, np.arange(6) - 2.5
    starts = np.zeros((8, 2, 3))
    for x in (
        sensitive_samples(small, starts, low=low, high=high, seed=0),
        wide_samples(small, 8, low=low, high=high, seed=0),
        natural_samples(small, starts, 8, low=low, high=high, seed=0),
    ):
        assert x.shape == (8, 6)
        assert (x >= low).all()
        assert (x <= high).all()


def test_the_limit_is_never_crossed(network, digits):
    def limit(x):
        return np.abs(network(x)).max(axis=1) > 12.0

    found = fingerprint(network, 4 * digits[0], 40, **BOX, seed=2, limit=limit)
    assert not limit(found.samples).any()
    loose = fingerprint(network, 4 * digits[0], 40, **BOX, seed=2)
    assert limit(loose.samples).any()


def test_a_limit_that_refuses_everything(small):
    with pytest.raises(InputError, match="however near the anchor"):
        wide_samples(small, 3, **BOX, seed=0, limit=lambda x: np.ones(len(x), dtype=bool))


def test_exploding_polynomials_give_no_nan():
    """Values reach 1e300 and overflow; the samples must stay finite and inside the box."""
    rng = np.random.default_rng(0)
    cube = Polynomial(np.repeat([[0.0], [1.0], [5.0], [1e30]], 4, 1))
    layers = [Affine(sparse.csr_matrix(rng.normal(size=(4, 4))), rng.normal(size=4)) for _ in range(5)]
    nodes = [node for layer in layers for node in (layer, cube)]
    graph = Graph((4,), (*nodes[:-1],))
    with np.errstate(all="ignore"):
        x = sensitive_samples(graph, rng.normal(size=(6, 4)), low=-1e3, high=1e3, seed=0, steps=10)
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 1e3


def test_a_flat_network_still_moves():
    """All weights zero: the first layer's gradient vanishes, random directions take over."""
    graph = Graph((3,), (Affine(sparse.csr_matrix((2, 3)), np.zeros(2)),))
    assert np.isfinite(sensitive_samples(graph, np.zeros((2, 3)), **BOX, seed=0, steps=5)).all()


def test_wide_norms_vary(network):
    norms = np.linalg.norm(wide_samples(network, 2000, **BOX, seed=0), axis=1)
    full = 4.0 * np.sqrt(64 / 3)
    shares, _ = np.histogram(norms / full, bins=4, range=(0.0, 1.0))
    assert shares.min() > 400  # uniform would give 500; without the factor all are in the last bin


def test_natural_samples_differ_until_they_run_out(small):
    x = np.arange(30.0).reshape(5, 2, 3) / 10
    found = natural_samples(small, x, 5, **BOX, seed=0)
    assert len(np.unique(found, axis=0)) == 5
    assert natural_samples(small, x, 12, **BOX, seed=0).shape == (12, 6)
    assert natural_samples(small, x, 0, **BOX, seed=0).shape == (0, 6)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_fingerprint_mixes_kinds_and_survives_saving(small, tmp_path, count):
    found = fingerprint(small, np.random.default_rng(0).normal(size=(9, 2, 3)), count, **BOX, seed=4)
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


@pytest.mark.parametrize(
    ("starts", "low", "high"),
    [
        (np.zeros((2, 5)), -1, 1),
        (np.full((2, 6), np.nan), -1, 1),
        (np.zeros((2, 6)), 1, -1),
        (np.zeros((2, 6)), [0, 0], 1),
        (np.zeros((2, 6)), -np.inf, 1),
    ],
)
def test_wrong_input_is_refused(small, starts, low, high):
    with pytest.raises(InputError):
        sensitive_samples(small, starts, low=low, high=high, seed=0)


def test_empty_fingerprint_is_refused(small):
    with pytest.raises(InputError, match="at least 1"):
        fingerprint(small, np.zeros((2, 6)), 0, **BOX, seed=0)
