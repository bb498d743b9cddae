"""Whole numbers modulo t against Python's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from securedl.he.modular import (
    MODULUS_BITS,
    Halved,
    centred_residues,
    integers,
    reduced,
    remainders,
    sums_of_products,
    times,
)

MODULI = [2, 3, 257, 65537, 1032193, (1 << 31) - 1, (1 << 32) + 15, (1 << MODULUS_BITS) - 9]


@given(modulus=st.integers(2, (1 << MODULUS_BITS) - 1), data=st.data())
def test_products(modulus, data):
    residues = st.lists(st.integers(0, modulus - 1), min_size=1, max_size=8)
    one, other = data.draw(residues), data.draw(residues)
    found = times(np.array(one)[:, None], np.array(other), modulus)
    assert found.dtype == np.int64
    assert found.tolist() == [[a * b % modulus for b in other] for a in one]


@pytest.mark.parametrize("t", MODULI)
def test_products_at_the_ends(t):
    ends = sorted({0, 1, t // 2, t - 2, t - 1, min(t - 1, (1 << 17) - 1), min(t - 1, 1 << 17)})
    for a in ends:
        assert times(np.array(ends), a, t).tolist() == [a * b % t for b in ends]
    assert int(times(t - 1, t - 1, t)) == 1 % t


@pytest.mark.parametrize("t", MODULI)
def test_residues(t):
    """Of doubles and integers, negative ones too."""
    numbers = [0, 1, -1, t // 2, -(t // 2), t // 2 + 1, t - 1, t, -t, 7 * t + 3, 1 - 5 * t, 2**52, -(2**52)]
    for given_as in (np.int64, np.float64):
        found = reduced(np.array(numbers, given_as), t)
        assert found.dtype == np.int64
        assert found.tolist() == [number % t for number in numbers]


@pytest.mark.parametrize("t", MODULI[1:])
def test_centred_residues(t):
    """Those of least magnitude, which for an odd t are from -(t - 1)/2 to (t - 1)/2."""
    numbers = [0, 1, -1, t // 2, -(t // 2), t // 2 + 1, t - 1, t, -t, 7 * t + 3, 1 - 5 * t]
    found = centred_residues(np.array(numbers), t).tolist()
    assert all(
        (one - number) % t == 0 and 2 * abs(one) < t for one, number in zip(found, numbers, strict=True)
    )
    assert found[3:6] == [t // 2, -(t // 2), t // 2 + 1 - t]


@given(modulus=st.integers(2, (1 << MODULUS_BITS) - 1), n=st.integers(0, 9), data=st.data())
def test_sums_of_products(modulus, n, data):
    """Of negative numbers too."""
    numbers = st.integers(1 - (1 << MODULUS_BITS), (1 << MODULUS_BITS) - 1)
    left, right = (
        [data.draw(st.lists(numbers, min_size=n, max_size=n)) for _ in range(rows)] for rows in (3, 2)
    )
    arrays = (np.array(one, np.int64).reshape(len(one), n) for one in (left, right))
    found = sums_of_products(*arrays, modulus)
    wanted = [[sum(a * b for a, b in zip(x, y, strict=True)) % modulus for y in right] for x in left]
    assert found.tolist() == wanted


@pytest.mark.parametrize("t", [65537, (1 << MODULUS_BITS) - 9])
@pytest.mark.parametrize("n", [5000, 2 * (1 << 18) + 1])
def test_long_sums_do_not_overflow(t, n):
    """All as large as they may be, where every partial sum is; and more than are added at a time."""
    for a, b in (t - 1, t - 1), (1 - t, t - 1), (t - 1, (1 << MODULUS_BITS) - 1):
        found = sums_of_products(np.full((1, n), a), np.full((1, n), b), t)
        assert found.tolist() == [[n * a * b % t]]
    drawn = np.random.default_rng(0).integers(1 - t, t, (2, n))
    wanted = sum(int(a) * int(b) for a, b in drawn.T.tolist()) % t
    assert sums_of_products(drawn[:1], drawn[1:], t).tolist() == [[wanted]]


@given(modulus=st.integers(2, (1 << MODULUS_BITS) - 1), data=st.data())
def test_remainders_of_large_doubles(modulus, data):
    """Of any size: Python's integers are as exact as these doubles."""
    numbers = data.draw(st.lists(st.floats(-1e300, 1e300).map(float.__round__).map(float), max_size=5))
    found = remainders(np.array(numbers), modulus)
    assert found.dtype == np.int64
    assert found.tolist() == [int(number) % modulus for number in numbers]


@pytest.mark.parametrize("t", MODULI[2:])
def test_sums_of_products_with_a_sparse_matrix(t):
    random = np.random.default_rng(t)
    left, right = (random.integers(1 - (1 << MODULUS_BITS), 1 << MODULUS_BITS, (n, 40)) for n in (5, 7))
    right[random.integers(0, 2, right.shape) == 0] = 0
    right[0] = 0
    wanted = (left.astype(object) @ right.T.astype(object) % t).tolist()
    assert Halved(sparse.csr_matrix(right)).sums(left, t).tolist() == wanted
    assert Halved(right).sums(left, t).tolist() == wanted


def test_more_terms_than_a_sum_of_doubles_holds(monkeypatch):
    """Added up in parts."""
    monkeypatch.setattr("securedl.he.modular._TERMS", 16)
    random, t = np.random.default_rng(0), MODULI[-1]
    left, right = (random.integers(0, t, (n, 50)) for n in (3, 4))
    wanted = (left.astype(object) @ right.T.astype(object) % t).tolist()
    for one in (right, sparse.csr_matrix(right)):
        assert Halved(one).sums(left, t).tolist() == wanted


@given(data=st.data())
def test_integers_are_those_of_their_residues(data):
    primes = data.draw(
        st.lists(st.sampled_from([3, 257, 65537, 1032193, 8589852673]), min_size=1, unique=True)
    )
    half = math.prod(primes) // 2
    ends = st.sampled_from([0, 1, -1, half, -half, half - 1])
    numbers = data.draw(st.lists(st.integers(-half, half) | ends, max_size=6))
    residues = [centred_residues(np.array([n % t for n in numbers], np.int64), t) for t in primes]
    assert integers(residues, primes).tolist() == numbers
    assert integers([one.astype(float)[None] for one in residues], primes).tolist() == [numbers]
    beyond = [(half + 1) % t for t in primes]
    assert integers(beyond, primes) == -half
