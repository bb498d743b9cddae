"""Primes, the security table, and chains that are refused."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securedl.errors import CompileError
from securedl.he.ckks import HEADROOM_BITS, ckks_parameters, scale_bits_for
from securedl.he.params import MAX_MODULUS_BITS, Parameters, is_prime, ntt_primes


def by_trial(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def test_is_prime_against_trial_division():
    assert [n for n in range(-5, 5000) if is_prime(n)] == [n for n in range(5000) if by_trial(n)]


@given(st.integers(1 << 20, 1 << 32))
def test_is_prime_against_trial_division_far_out(n):
    assert is_prime(n) == by_trial(n)


@pytest.mark.parametrize(
    "n",
    [
        561, 41041, 825265, 321197185,  # Carmichael numbers
        2047, 3215031751, 3474749660383, 341550071728321,  # least strong pseudoprimes, OEIS A014233
        3825123056546413051, 318665857834031151167461,
    ],
)  # fmt: skip
def test_pseudoprimes_are_not_primes(n):
    assert not is_prime(n)


@pytest.mark.parametrize("n", [(1 << 31) - 1, (1 << 61) - 1, 0xFFFFEE001, 0xFFFFC4001, 0x1FFFFE0001])
def test_known_primes(n):
    """Mersenne's, and the chain that SEAL's native/src/seal/util/globals.cpp gives for N = 4096."""
    assert is_prime(n)


@pytest.mark.parametrize(("ring", "bits"), [(4096, 30), (8192, 40), (16384, 36), (32768, 50)])
def test_ntt_primes_descend_and_suit_the_ring(ring, bits):
    found = list(itertools.islice(ntt_primes(ring, bits), 12))
    assert found == sorted(set(found), reverse=True)
    for q in found:
        assert q.bit_length() == bits
        assert q % (2 * ring) == 1
        assert is_prime(q)
    below = range(found[0] + 2 * ring, 1 << bits, 2 * ring)
    assert not any(is_prime(q) for q in below), "a larger one was left out"


@pytest.mark.parametrize("ring", sorted(MAX_MODULUS_BITS))
def test_every_chain_fits_the_table_or_is_refused(ring):
    for levels in range(1, 40):
        if scale_bits_for(ring, levels) < 30:
            assert levels > 1
            with pytest.raises(CompileError, match="30 are needed"):
                ckks_parameters(ring, levels)
            continue
        params = ckks_parameters(ring, levels)
        bits = scale_bits_for(ring, levels)
        assert params.modulus_bits <= MAX_MODULUS_BITS[ring]
        assert params.levels == levels
        assert params.slots == ring // 2
        assert [q.bit_length() for q in params.primes] == [bits + HEADROOM_BITS, *[bits] * levels]
        assert params.special >= 4 * max(params.primes)
        assert 30 <= bits <= 40


#: Total bits of Q·P at 128 bits, ternary secret: what both tables allow (SEAL alone: 109, 218, 438, 881).
@pytest.mark.parametrize(
    ("ring", "bits", "sizes", "last"),
    [
        (4096, 106, [31], 26),
        (8192, 214, [46] * 3, 27),
        (16384, 430, [44] * 8, 29),
        (32768, 868, [46] * 17, 37),
    ],
)
def test_one_bit_too_many_is_refused(ring, bits, sizes, last):
    special = next(ntt_primes(ring, 49))
    source = ntt_primes(ring, sizes[0])
    primes = [next(source) for _ in sizes]
    accepted = Parameters("ckks", ring, (*primes, next(ntt_primes(ring, last))), special)
    assert accepted.modulus_bits == bits
    with pytest.raises(CompileError, match=f"at most {bits} are allowed"):
        Parameters("ckks", ring, (*primes, next(ntt_primes(ring, last + 1))), special)


GOOD = ckks_parameters(8192, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "bfv"}, "unknown"),
        ({"ring": 2048}, "not supported"),
        ({"ring": 8191}, "not supported"),
        ({"primes": ()}, "distinct"),
        ({"primes": (GOOD.primes[0],) * 2}, "distinct"),
        ({"primes": (*GOOD.primes, GOOD.special)}, "distinct"),
        ({"primes": (GOOD.primes[0], GOOD.primes[1] + 2)}, "not a prime"),
        ({"primes": (next(q for q in ntt_primes(4096, 39) if q % 16384 != 1),)}, "not a prime"),
        ({"primes": (-16383,)}, "not a prime"),
        ({"primes": (0,)}, "not a prime"),
        ({"special": next(ntt_primes(8192, 51))}, "not a prime below"),
        ({"special": next(ntt_primes(8192, 48))}, "4 times"),
    ],
)
def test_malformed_chains_are_refused(change, message):
    with pytest.raises(CompileError, match=message):
        dataclasses.replace(GOOD, **change)


def test_id_names_every_field():
    others = [
        ckks_parameters(16384, 2),
        ckks_parameters(8192, 3),
        ckks_parameters(8192, 2, scale_bits=36),
        dataclasses.replace(GOOD, scheme="bgv", plain_modulus=65537),
        dataclasses.replace(GOOD, scheme="bgv", plain_modulus=114689),
        dataclasses.replace(GOOD, special=list(itertools.islice(ntt_primes(8192, 49), 2))[1]),
    ]
    assert len({p.id for p in (GOOD, *others)}) == 7
    assert GOOD.id == ckks_parameters(8192, 2).id
    assert len(GOOD.id) == 16


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOOD.ring = 4096
