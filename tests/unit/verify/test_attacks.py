"""Attacks change what they say and leave the given graph alone."""

import numpy as np
import pytest
from scipy import sparse

from securedl.errors import InputError
from securedl.network.graph import Affine, Graph
from securedl.verify import attacks


def weights(graph):
    return np.concatenate([n.matrix.data for n in graph.nodes if isinstance(n, Affine)])


def biases(graph):
    return np.concatenate([n.bias for n in graph.nodes if isinstance(n, Affine)])


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_seeded_and_pure(network, digits, name):
    before, bias = weights(network).copy(), biases(network).copy()
    first, second, other = (attacks.ATTACKS[name](network, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(weights(network), before)
    np.testing.assert_array_equal(biases(network), bias)
    x = digits[0][:4] + 0.5
    np.testing.assert_array_equal(first(x), second(x))
    assert attacks.changes(network, first, x)
    assert (first(x) == other(x)).all() == (name == "8-bit weights")


def test_how_many_weights_change(network):
    old = weights(network)
    noisy = weights(attacks.weight_noise(network, 0, fraction=0.1))
    assert np.count_nonzero(noisy != old) == round(0.1 * len(old))
    zeroed = weights(attacks.zeroed_weights(network, 0, fraction=0.01))
    assert np.count_nonzero(zeroed == 0) == round(0.01 * len(old))
    assert len(zeroed) == len(old)
    doubled = weights(attacks.scaled_weight(network, 0))
    (at,) = np.flatnonzero(doubled != old)
    assert doubled[at] == 2 * old[at]
    shifted = attacks.shifted_bias(network, 0)
    assert np.count_nonzero(biases(shifted) != biases(network)) == 1


def test_swapped_rows_are_a_permutation(small):
    tampered = attacks.swapped_rows(small, 3)
    (pair,) = [(a, b) for a, b in zip(small.nodes, tampered.nodes, strict=True) if a is not b]
    moved = np.flatnonzero(pair[0].bias != pair[1].bias)
    assert len(moved) == 2
    np.testing.assert_array_equal(pair[0].matrix.toarray()[moved], pair[1].matrix.toarray()[moved[::-1]])


def test_quantised_to_a_grid(network):
    tampered = attacks.quantised(network, bits=8)
    for old, new in zip(network.nodes, tampered.nodes, strict=True):
        if isinstance(old, Affine):
            top = np.abs(old.matrix.data).max()
            grid = new.matrix.data / top * 127
            np.testing.assert_allclose(grid, np.round(grid), atol=1e-9)
            assert np.abs(old.matrix.data - new.matrix.data).max() <= top / 254 + 1e-12


def test_nothing_to_tamper_with():
    empty = Graph((2,), (Affine(sparse.csr_matrix((1, 2)), np.zeros(1)),))
    with pytest.raises(InputError, match="no weights"):
        attacks.weight_noise(empty, 0)
    zero = Graph((1,), (Affine(sparse.csr_matrix(([0.0], [0], [0, 1]), shape=(1, 1)), np.zeros(1)),))
    with pytest.raises(InputError, match="none to scale"):
        attacks.scaled_weight(zero, 0)
    with pytest.raises(InputError, match="two rows"):
        attacks.swapped_rows(zero, 0)
    with pytest.raises(InputError, match="fraction"):
        attacks.weight_noise(zero, 0, fraction=0.0)
