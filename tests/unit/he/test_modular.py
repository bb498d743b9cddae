"""Whole numbers modulo t against Python's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securedl.he.modular import MODULUS_BITS, centred_residues, reduced, sums_of_products, times

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
