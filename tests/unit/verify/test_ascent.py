"""Sensitive samples of both papers: constraints, detection, and networks that explode or are flat."""

import copy

import numpy as np
import pytest
import torch
from scipy import sparse

from securedl.errors import InputError
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.verify.ascent import sensitive_samples, verideep_samples
from securedl.verify.attacks import ATTACKS
from securedl.verify.samples import natural_samples
from securedl.verify.sensitivity import Sensitivity

BOX = {"low": -4.0, "high": 4.0}


@pytest.fixture(scope="module")
def starts(digits):
    return natural_samples(digits[0], 60, seed=0)


@pytest.fixture(scope="module")
def sensitive(network, starts):
    return sensitive_samples(network, starts, **BOX, seed=1)


@pytest.fixture(scope="module")
def verideep(network, starts):
    return verideep_samples(network, starts, low=-1.0, high=1.0, epsilon=0.3, steps=300, rate=3e-3)


def test_ascent_raises_sensitivity_inside_the_box(network, starts, sensitive):
    assert sensitive.min() >= -4.0
    assert sensitive.max() <= 4.0
    assert sensitive.dtype == np.float64
    measure = Sensitivity(network)
    assert (measure(sensitive)[0] > measure(starts)[0]).all()
    np.testing.assert_array_equal(sensitive, sensitive_samples(network, starts, **BOX, seed=1))


def test_verideep_stays_near_its_starts(network, starts, verideep):
    assert np.abs(verideep).max() <= 1.0
    share = np.linalg.norm(verideep - starts, axis=1) / np.linalg.norm(starts, axis=1)
    assert share.max() <= 0.3 + 1e-12
    assert share.max() > 0.1
    measure = Sensitivity(network, layers="last")
    assert (measure(verideep)[0] > measure(starts)[0]).all()


def test_verideep_with_a_bound_for_each_feature(network, starts):
    most = np.where(np.arange(64) % 2, 0.0, 0.05)
    found = verideep_samples(
        network, starts, **BOX, epsilon=np.inf, feature_epsilon=most, steps=30, rate=0.01
    )
    assert (np.abs(found - starts) <= most + 1e-12).all()
    assert np.abs(found - starts).max() > 0.04


def test_sensitive_beats_natural_by_label(network, starts, sensitive, verideep):
    """Top-1, mean over the attacks that change more than one weight, 20 draws each."""
    sets = {"natural": starts, "sensitive": sensitive, "verideep": verideep}
    caught = dict.fromkeys(sets, 0.0)
    for name in ("weight noise", "zeroed weights", "swapped rows", "8-bit weights"):
        for seed in range(20):
            tampered = ATTACKS[name](network, seed)
            for kind, x in sets.items():
                caught[kind] += np.mean(network(x).argmax(1) != tampered(x).argmax(1)) / 80
    assert caught["sensitive"] > 3 * caught["natural"]
    assert caught["verideep"] > 2 * caught["natural"]
    assert caught["sensitive"] > 0.3


def test_a_torch_module_keeps_its_state_and_gives_images(images_network):
    before = copy.deepcopy(images_network.state_dict())
    x = np.random.default_rng(0).uniform(size=(5, 2, 7, 7))
    told = []
    for found in (
        sensitive_samples(images_network, x, low=0, high=1, seed=0, steps=5),
        verideep_samples(images_network, x, low=0, high=1, steps=5, progress=lambda *at: told.append(at)),
    ):
        assert found.shape == x.shape
        assert np.abs(found - x).max() > 0.0
    assert told[-1] == (5, 5)
    assert images_network.training
    for name, value in images_network.state_dict().items():
        assert torch.equal(value, before[name])


def test_bounds_for_each_feature(small):
    low, high = np.arange(6).reshape(2, 3) - 3.0, np.arange(6).reshape(2, 3) - 2.5
    x = sensitive_samples(small, np.zeros((8, 2, 3)), low=low, high=high, seed=0)
    assert x.shape == (8, 2, 3)
    assert (x >= low).all()
    assert (x <= high).all()


def test_exploding_polynomials_give_no_nan():
    """Values reach 1e300 and overflow; the samples must stay finite and inside the box."""
    rng = np.random.default_rng(0)
    cube = Polynomial(np.repeat([[0.0], [1.0], [5.0], [1e30]], 4, 1))
    layers = [Affine(sparse.csr_matrix(rng.normal(size=(4, 4))), rng.normal(size=4)) for _ in range(5)]
    nodes = [node for layer in layers for node in (layer, cube)]
    graph = Graph((4,), (*nodes[:-1],))
    start = rng.normal(size=(6, 4))
    for x in (
        sensitive_samples(graph, start, low=-1e3, high=1e3, seed=0, steps=10),
        verideep_samples(graph, start, low=-1e3, high=1e3, steps=10),
    ):
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= 1e3


def test_a_flat_network_still_moves():
    """All weights zero: the first layer's gradient vanishes, random directions take over."""
    graph = Graph((3,), (Affine(sparse.csr_matrix((2, 3)), np.zeros(2)),))
    assert np.isfinite(sensitive_samples(graph, np.zeros((2, 3)), **BOX, seed=0, steps=5)).all()


@pytest.mark.parametrize(
    ("starts", "low", "high"),
    [
        (np.full((2, 6), np.nan), -1, 1),
        (np.zeros((2, 6)), 1, -1),
        (np.zeros((2, 6)), [0, 0], 1),
        (np.zeros((2, 5)), -1, 1),
    ],
)
def test_wrong_input_is_refused(small, starts, low, high):
    with pytest.raises(InputError):
        sensitive_samples(small, starts, low=low, high=high, seed=0)
