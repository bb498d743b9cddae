"""Parameters of BGV, and its correction factors against Python's integers and SEAL's ciphertexts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from securedl.client.keys import Keys
from securedl.errors import CompileError
from securedl.he.backends import backend
from securedl.he.bgv import Bgv, bgv_parameters, plain_prime, plain_primes
from securedl.he.params import MAX_MODULUS_BITS
from securedl.he.record import Shape, unpack, unpack_key
from securedl.he.schemes import scheme_of
from securedl.he.seal import SealContext

SCHEME = Bgv()


def prime(n: int) -> bool:
    """By trial."""
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


@pytest.mark.parametrize("ring", sorted(MAX_MODULUS_BITS))
@pytest.mark.parametrize("least", [1, 2, 65537, 65538, 1 << 20, (1 << 25) + 1, 1 << 30, (1 << 32) + 7])
def test_plain_primes_are_the_smallest(ring, least):
    t = plain_prime(ring, least)
    assert t >= least
    assert (t - 1) % (2 * ring) == 0
    assert prime(t)
    between = range((least - 1) // (2 * ring) * (2 * ring) + 1, t, 2 * ring)
    assert not any(prime(one) for one in between if one >= least)


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("bits", [1, 20, 31, 64, 98])
def test_several_plain_primes_hold_a_product(number, bits):
    ring, least = 8192, (1 << bits) + 1
    if bits > 33 * number:
        with pytest.raises(CompileError, match="no plain modulus of at most 33 bits"):
            plain_primes(ring, least, number)
        return
    if bits > 32 * number:
        return
    found = plain_primes(ring, least, number)
    assert len({*found}) == number
    assert math.prod(found) >= least
    assert all((t - 1) % (2 * ring) == 0 and plain_prime(ring, t) == t for t in found)
    assert [plain_prime(ring, t + 1) for t in found[:-1]] == list(found[1:])
    assert max(found).bit_length() <= max(math.ceil(bits / number) + 1, 20)


def test_plain_primes_have_33_bits_at_most():
    assert plain_prime(4096, 2) == 40961
    assert plain_prime(8192, 2) == 65537
    assert plain_prime(8192, (1 << 33) - (1 << 20)).bit_length() == 33
    with pytest.raises(CompileError, match="no plain modulus of at most 33 bits is at least 8589934592"):
        plain_prime(8192, 1 << 33)


@pytest.mark.parametrize(
    ("ring", "bits"),
    [(4096, (30, 28)), (8192, (41, 35, 31)), (8192, (30, 30, 30)), (16384, (45, 44, 46, 36))],
)
def test_chains(ring, bits):
    """Primes of these sizes in this order, a special one two bits above the largest; SEAL takes them."""
    t = plain_prime(ring, 1 << 25)
    params = bgv_parameters(ring, t, bits)
    assert [q.bit_length() for q in params.primes] == list(bits)
    assert params.special.bit_length() == max(bits) + 2
    assert (params.scheme, params.plain_modulus, params.exact) == ("bgv", t, True)
    assert len({*params.primes, params.special, t}) == len(bits) + 2
    assert SealContext(params).context.parameters_set()
    assert scheme_of(params).slots(ring) == (2, ring // 2)


def test_chains_that_are_refused():
    t = plain_prime(8192, 1 << 25)
    with pytest.raises(CompileError, match="214 bits give 128 bits of security"):
        bgv_parameters(8192, t, (43, 43, 43, 43))
    assert bgv_parameters(8192, t, (43, 43, 42, 41)).modulus_bits <= 214
    with pytest.raises(CompileError, match="do not fit ring 2048: 0 bits"):
        bgv_parameters(2048, t, (26,))
    for small in (20, t.bit_length() - 1):
        with pytest.raises(CompileError, match=f"plain modulus {t} is not below every prime"):
            bgv_parameters(8192, t, (40, small, 40))
    assert min(bgv_parameters(8192, t, (40, t.bit_length(), 40)).primes) > t
    with pytest.raises(CompileError, match="follows from its plain modulus"):
        SCHEME.parameters(8192, 2)


PARAMS = bgv_parameters(8192, plain_prime(8192, 1 << 22), (40, 38, 37))
T = PARAMS.plain_modulus
FACTORS = [1, 2, 12345, T // 2, T - 1]


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("left", FACTORS)
@pytest.mark.parametrize("right", FACTORS)
def test_factors(level, left, right):
    q = PARAMS.primes[level]
    assert SCHEME.whole(PARAMS, left, right) == left * right % T
    product = SCHEME.product(PARAMS, level, left, right)
    assert int(product) * q % T == left * right % T
    weight = SCHEME.factor(PARAMS, level, left, right)
    assert 1 <= weight < T
    assert SCHEME.product(PARAMS, level, left, weight) == right
    low = SCHEME.lowered(PARAMS, left, level, 0)
    assert int(low) * math.prod(PARAMS.primes[1 : level + 1]) % T == left
    assert SCHEME.lowered(PARAMS, left, level, level) == left
    assert SCHEME.same(left, right) == (left == right)


@pytest.mark.he
@pytest.mark.parametrize("name", ["seal", "vector"])
def test_factors_are_those_of_ciphertexts(name):
    keys, random = Keys(PARAMS), np.random.default_rng(0)
    e = backend(name).open(PARAMS)
    e.set_keys(unpack_key(PARAMS, keys.switch_key(None)), {64: unpack_key(PARAMS, keys.switch_key(64))})

    def fresh(factor):
        shape = Shape(2, 2, 1.0, seeded=True, correction=factor)
        values = random.integers(-9, 9, PARAMS.ring).astype(np.float64)
        return e.load(unpack(PARAMS, keys.encrypt(values, shape), shape))

    def factor(handle):
        return e.dump(handle).shape.correction

    for left, right in (1, 1), (5, T - 1), (12345, T // 2):
        a, b = fresh(left), fresh(right)
        assert (factor(a), factor(b)) == (left, right)
        product = e.relinearise(e.multiply(a, b))
        assert factor(product) == SCHEME.whole(PARAMS, left, right)
        assert factor(e.rescale(product)) == SCHEME.product(PARAMS, 2, left, right)
        assert factor(e.multiply_rescale(a, a)) == SCHEME.product(PARAMS, 2, left, left)
        assert factor(e.rotate(a, [64])[0]) == factor(e.add(a, a)) == left
        for to in (1, 0):
            assert factor(e.mod_switch(a, to)) == SCHEME.lowered(PARAMS, left, 2, to)
        weight = fresh(int(SCHEME.factor(PARAMS, 2, left, 1)))
        assert factor(e.rescale(e.relinearise(e.dot([a, a], [weight, weight])))) == 1
