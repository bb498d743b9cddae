"""Whole numbers encrypted and decrypted at every level and factor; what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tenseal.sealapi as seal

from securedl.client.batching import batched, unbatched
from securedl.client.keys import Keys
from securedl.errors import FormatError, InputError
from securedl.he.backends import backend
from securedl.he.bgv import bgv_parameters, plain_prime
from securedl.he.record import HEADER, MAGIC, Shape, pack, unpack
from securedl.he.seal import SealContext

pytestmark = pytest.mark.he

PARAMS = bgv_parameters(4096, plain_prime(4096, 1 << 20), (34, 32))
T, HALF = PARAMS.plain_modulus, PARAMS.plain_modulus // 2
FACTORS = [1, 2, 31337, T - 1]


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys(PARAMS)


def numbers(seed: int = 0) -> np.ndarray:
    """Slots, the ends among them."""
    found = np.random.default_rng(seed).integers(-HALF, HALF, (2, PARAMS.ring // 2), endpoint=True)
    found[0, :4] = 0, HALF, -HALF, 1
    return found.astype(np.float64)


def shape(level: int = 0, factor: int = 1, size: int = 2) -> Shape:
    return Shape(level, size, 1.0, seeded=size == 2, correction=factor)


@pytest.mark.parametrize(("ring", "bits"), [(4096, 17), (8192, 26), (8192, 33), (16384, 30)])
def test_slots_are_seals(ring: int, bits: int) -> None:
    """Coefficients as SEAL's BatchEncoder gives them, under any factor; and back."""
    t = plain_prime(ring, 1 << (bits - 1))
    context = SealContext(bgv_parameters(ring, t, (bits + 4,)))
    encoder, random = seal.BatchEncoder(context.context), np.random.default_rng(bits)
    for factor in (1, t - 1, int(random.integers(2, t))):
        values, plain = random.integers(0, t, (2, ring // 2)), seal.Plaintext()
        encoder.encode([int(value) * factor % t for value in values.ravel()], plain)
        found = batched(values.astype(np.float64), factor, ring, t)
        np.testing.assert_array_equal(np.mod(found, t), context.plain_coefficients(plain))
        assert np.abs(found).max() <= t // 2
        wanted = [int(value) * factor % t for value in values.ravel()]
        np.testing.assert_array_equal(unbatched(found, ring, t).ravel(), wanted)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("ahead", [False, True])
def test_what_is_encrypted_is_decrypted(keys, level, factor, ahead):
    values, wanted = numbers(factor), shape(level, factor)
    data = keys.encrypt(values, wanted, keys.zero if ahead else None)
    np.testing.assert_array_equal(keys.decrypt(data, wanted), values)
    assert HEADER.unpack_from(data)[-1] == factor
    assert data != keys.encrypt(values, wanted)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("factor", FACTORS)
def test_coefficients_too(keys, level, factor):
    values, wanted = numbers(factor).ravel(), shape(level, factor)
    data = keys.encrypt(values, wanted)
    np.testing.assert_array_equal(keys.decrypt(data, wanted, coefficients=True), values)


@pytest.mark.parametrize("factor", FACTORS)
def test_through_an_evaluator(keys, factor):
    """Sent back at level 0, with the factor that the program names."""
    values, fresh = numbers(), shape(1, factor)
    e = backend("vector").open(PARAMS)
    low = e.mod_switch(e.load(unpack(PARAMS, keys.encrypt(values, fresh), fresh)), 0)
    there = factor * pow(PARAMS.primes[1], -1, T) % T
    data = pack(PARAMS, e.dump(low))
    np.testing.assert_array_equal(keys.decrypt(data, Shape(0, 2, 1.0, correction=there)), values)


def test_slots_are_two_rows_that_rotate(keys):
    """Coefficients are those of SEAL's BatchEncoder: a polynomial that is constant is so in every slot."""
    data = keys.encrypt(np.full((2, PARAMS.ring // 2), -5.0), shape())
    found = keys.decrypt(data, shape(), coefficients=True)
    assert found[0] == -5
    assert not found[1:].any()


@pytest.mark.parametrize("wrong", [HALF + 1.0, -HALF - 1.0, float(T), 2.0**40, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("size", [1, 2])
def test_values_that_do_not_fit_are_refused(keys, wrong, size):
    values = numbers()
    values[0, 77] = wrong
    with pytest.raises(InputError, match=f"do not fit the plain modulus {T}"):
        keys.encrypt(values, shape(size=size))


def altered(data: bytes, factor: int) -> bytes:
    """The same record with another factor in its header."""
    fields = HEADER.unpack_from(data)
    assert fields[0] == MAGIC
    return HEADER.pack(*fields[:-1], factor) + data[HEADER.size :]


@pytest.mark.parametrize("wrong", [0, 2, T - 1, T, T + 1, 1 << 63, (1 << 64) - 1])
def test_another_factor_is_refused_before_anything_is_decrypted(keys, monkeypatch, wrong):
    def never(*arguments):
        raise AssertionError("decrypted")

    data = keys.encrypt(numbers(), shape())
    keys.decrypt(altered(data, 1), shape())
    monkeypatch.setattr(keys, "_decryptor", type("Never", (), {"decrypt": never}))
    with pytest.raises(FormatError, match=f"a BGV record has correction factor 1, got {wrong}$"):
        keys.decrypt(altered(data, wrong), shape())


@pytest.mark.parametrize("wrong", [0, T, T + 5])
def test_what_seal_refuses_is_an_error_of_ours(keys, wrong):
    """Of a program that names a factor which is none: none that was checked does."""
    data = altered(keys.encrypt(numbers(), shape()), wrong)
    with pytest.raises(FormatError, match="SEAL cannot decrypt this ciphertext"):
        keys.decrypt(data, shape(factor=wrong))


def test_any_residues_decrypt_to_residues(keys):
    """A server may send anything."""
    random, wanted = np.random.default_rng(1), Shape(0, 2, 1.0)
    for residues in (
        random.integers(0, PARAMS.primes[0], (2, 1, PARAMS.ring), dtype=np.uint64),
        np.full((2, 1, PARAMS.ring), PARAMS.primes[0] - 1, np.uint64),
        np.zeros((2, 1, PARAMS.ring), np.uint64),
    ):
        record = replace(unpack(PARAMS, keys.encrypt(numbers(), shape()), shape()), seed=None)
        found = keys.decrypt(pack(PARAMS, replace(record, shape=wanted, residues=residues)), wanted)
        assert (np.abs(found) <= HALF).all()
        assert (found == np.rint(found)).all()


@pytest.mark.parametrize("evaluator", ["vector", "seal"])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("own", FACTORS)
def test_plain_weights(keys, factor, own, evaluator):
    """A plaintext has a factor too, which a product takes on and a sum does not."""
    values = numbers()
    weights = np.random.default_rng(2).integers(-9, 9, values.shape).astype(np.float64)
    e, fresh, plain = backend(evaluator).open(PARAMS), shape(1, factor), shape(1, own, size=1)
    record = unpack(PARAMS, keys.encrypt(weights, plain), plain)
    x, w = e.load(unpack(PARAMS, keys.encrypt(values, fresh), fresh)), e.load(record)
    both = factor * own % T
    for handle, there, exact in [
        (e.multiply(x, w), both, values * weights),
        (e.dot([x, x], [w, w]), both, 2 * values * weights),
        (e.add(x, w), factor, values + weights),
    ]:
        found = e.dump(handle)
        assert found.shape.correction == there
        data = pack(PARAMS, found)
        opened = keys.decrypt(data, Shape(1, 2, 1.0, correction=there))
        np.testing.assert_array_equal((opened - exact) % T, 0)
