"""The search for a chain against all chains, on noise that grows and shrinks as a program's does."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from securedl.compiler.chains import LARGEST_PRIME_BITS, chain_bits, enough, smallest_chain
from securedl.he.params import ntt_primes

T = 20
#: Of each level from the top, what is done there before a prime is dropped: bits of noise after it.
PROGRAMS = {
    "matrix": [lambda noise: noise + T + 18],
    "square, matrix": [lambda noise: 2 * noise + 7, lambda noise: noise + T + 16],
    "matrix, square": [lambda noise: noise + T + 18, lambda noise: 2 * noise + 13],
    "two squares": [lambda noise: 2 * noise + 7, lambda noise: 2 * noise + 13],
    "cubic, matrix": [
        lambda noise: 2 * noise + 7,
        lambda noise: 2 * noise + 10,
        lambda noise: noise + T + 16,
    ],
}


def noise_fits(name: str, bits) -> bool:
    """Noise starts at T + 5; what a prime that is dropped leaves is T + 9 at least."""
    noise, left = T + 5.0, list(bits)
    for grown in PROGRAMS[name]:
        noise = grown(noise)
        if noise >= sum(left) - 1:
            return False
        noise = math.log2(2.0 ** (noise - left.pop()) + 2.0 ** (T + 9))
        if noise >= sum(left) - 1:
            return False
    return True


@pytest.mark.parametrize("name", PROGRAMS)
def test_against_all_chains(name):
    primes = len(PROGRAMS[name]) + 1
    found = smallest_chain(lambda bits: noise_fits(name, bits), T, primes)
    assert found is not None
    assert noise_fits(name, found)
    sizes = [range(T + 9, T + 24), *[range(T + 1, T + 22)] * (primes - 1)]
    best = min(chain_bits(bits) for bits in product(*sizes) if noise_fits(name, bits))
    assert best <= chain_bits(found) <= best + 1


def test_what_does_not_fit():
    assert smallest_chain(lambda bits: False, T, 3) is None
    assert smallest_chain(lambda bits: True, LARGEST_PRIME_BITS, 2) is None
    assert smallest_chain(lambda bits: True, T, 3) == [T + 1] * 3
    assert smallest_chain(lambda bits: True, LARGEST_PRIME_BITS - 1, 3) == [LARGEST_PRIME_BITS] * 3


def test_small_primes_are_few():
    """Of 18 bits and 1 modulo 16384, for one."""
    there = [q for q in ntt_primes(8192, 18) if q > 65537]
    assert enough(8192, 65537, [18] * (len(there) - 1))
    assert not enough(8192, 65537, [18] * len(there))
    assert enough(8192, 65537, [30, 30, 31])
    assert not enough(8192, there[-1], [18])
    assert np.log2(there).max() < 18
