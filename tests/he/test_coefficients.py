"""Values in coefficients: their order is SEAL's, products are of polynomials, cut answers stay right."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as seal

from securedl.client.coefficients import encoded, from_residues, to_residues
from securedl.errors import FormatError, InputError
from securedl.he.arithmetic import Evaluator
from securedl.he.ckks import VALUE_SCALE, coefficient_parameters
from securedl.he.cut import cut, lifted
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, pack, unpack
from securedl.he.roots import monomial
from securedl.he.seal import SealContext, SealEvaluator
from securedl.he.vector import VectorEvaluator

sys.path.insert(0, str(Path(__file__).parent))
from coefficient_oracle import (  # found by path, not by package
    ANSWER,
    CUT,
    UNIT,
    VALUE,
    VALUE_UNIT,
    WEIGHT,
    WEIGHT_UNIT,
    close,
    convolved,
    owner,
    real,
    values,
    weights,
)

pytestmark = pytest.mark.he

N = 4096
PARAMS = coefficient_parameters(N)
Make = Callable[[Parameters], Evaluator[Any]]
EVALUATORS: list[Make] = [SealEvaluator, VectorEvaluator]


def test_parameters_leave_room() -> None:
    for ring in (4096, 8192):
        params = coefficient_parameters(ring)
        (q,) = params.primes
        assert q.bit_length() == 48
        assert params.special.bit_length() == 50
        assert q > 2 * 2.0**6 * ANSWER.scale / 2


class TestOrder:
    def test_coefficients_are_those_of_seals_encoder(self) -> None:
        """SEAL encodes slots z as round(scale · 2/N · Re Σ z_j ζ^(-k 3^j)); its order is proved by that."""
        rng, context = np.random.default_rng(1), SealContext(PARAMS)
        slots, scale = rng.normal(size=N // 2), 2.0**30
        plain = seal.Plaintext()
        parms_id = list(context.parms_ids[0])
        seal.CKKSEncoder(context.context).encode(slots.tolist(), parms_id, scale, plain)
        residues = context.plaintext_record(plain, 0).residues
        exponents = np.array([pow(3, j, 2 * N) for j in range(N // 2)])
        expected = np.empty(N)
        for k in range(N):
            angles = math.pi / N * (exponents * k % (2 * N))
            expected[k] = 2 / N * scale * (slots * np.cos(angles)).sum()
        found = from_residues(PARAMS, residues)
        assert np.abs(found[0] - expected).max() < 0.51
        np.testing.assert_array_equal(to_residues(PARAMS, 0, found), residues)

    def test_largest_coefficients_come_back(self) -> None:
        q = PARAMS.primes[0]
        rng = np.random.default_rng(2)
        given = rng.integers(-(q // 2), q // 2 + 1, (2, N)).astype(np.float64)
        given[0, :3] = q // 2, -(q // 2), 0
        np.testing.assert_array_equal(from_residues(PARAMS, to_residues(PARAMS, 0, given)), given)

    @pytest.mark.parametrize("power", [0, 1, 5, N - 1, N, N + 3, 2 * N - 1, -1, -N])
    def test_monomials(self, power: int) -> None:
        found = from_residues(PARAMS, monomial(PARAMS, 0, power).residues)[0]
        expected = np.zeros(N)
        expected[power % N] = -1 if power % (2 * N) >= N else 1
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("divisor", [2, 64])
    def test_a_monomial_over_a_divisor_is_exact_modulo_q(self, divisor: int) -> None:
        found = from_residues(PARAMS, monomial(PARAMS, 0, 7, divisor).residues)[0]
        assert int(found[7]) * divisor % PARAMS.primes[0] == 1
        assert np.count_nonzero(found) == 1


class TestKeys:
    def test_a_tile_comes_back(self) -> None:
        given = np.random.default_rng(3).normal(size=N)
        for shape in (VALUE, WEIGHT):
            found = owner().keys.decrypt(owner().keys.encrypt(given, shape), shape, coefficients=True)
            assert np.abs(found - given).max() < 8 * 3.2 / shape.scale

    def test_every_encryption_is_another(self) -> None:
        keys = owner().keys
        records = [unpack(PARAMS, keys.encrypt(np.zeros(N), VALUE), VALUE) for _ in range(2)]
        assert records[0].seed != records[1].seed
        assert (records[0].residues != records[1].residues).mean() > 0.99

    def test_a_ciphertext_is_the_plaintext_hidden(self) -> None:
        """Encrypting is SEAL's: what it decrypts is the plaintext and an error of its size."""
        given = np.random.default_rng(4).normal(size=N)
        data = owner().keys.encrypt(given, VALUE)
        found = owner().keys.decrypt(data, VALUE, coefficients=True)
        plain = from_residues(PARAMS, encoded(PARAMS, given, VALUE).residues)[0]
        noise = found * VALUE.scale - plain
        np.testing.assert_array_equal(noise, np.rint(noise))
        assert 3.0 < noise.std() < 3.4

    def test_plaintexts(self) -> None:
        given = np.random.default_rng(5).normal(size=N)
        shape = Shape(0, 1, VALUE_SCALE)
        record = unpack(PARAMS, owner().keys.encrypt(given, shape), shape)
        np.testing.assert_array_equal(from_residues(PARAMS, record.residues)[0], np.rint(given * VALUE_SCALE))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**29, 1e300])
    def test_values_that_do_not_fit(self, bad: float) -> None:
        given = np.zeros(N)
        given[7] = bad
        with pytest.raises(InputError, match="do not fit"):
            owner().keys.encrypt(given, VALUE)

    def test_slots_of_these_parameters_still_work(self) -> None:
        slots = np.random.default_rng(6).normal(size=N // 2)
        shape = Shape(0, 2, 2.0**30, seeded=True)
        found = owner().keys.decrypt(owner().keys.encrypt(slots, shape), shape)
        assert np.abs(found - slots).max() < 1e-5


@pytest.mark.parametrize("make", EVALUATORS)
@pytest.mark.parametrize("ring", [4096, 8192])
def test_products_are_those_of_polynomials(make: Make, ring: int) -> None:
    o, rng = owner(ring), np.random.default_rng(ring)
    evaluator = o.ready(make(o.params))
    xs, ws = [values(rng, ring) for _ in range(2)], [weights(rng, ring) for _ in range(4)]
    tiles = [evaluator.load(o.record(real(x, VALUE_UNIT), VALUE)) for x in xs]
    packed = [o.keys.encrypt(real(w, WEIGHT_UNIT), WEIGHT) for w in ws]
    held = [evaluator.load_packed(data, WEIGHT) for data in packed]
    groups = [([0, 1], [0, 1]), ([1], [2]), ([0, 1], [2, 3]), ([1, 0], [1, 1])]
    sums = [([tiles[i] for i in first], [held[j] for j in second]) for first, second in groups]
    for (first, second), answer in zip(groups, evaluator.products(sums), strict=True):
        expected = sum(convolved(xs[i], ws[j]) for i, j in zip(first, second, strict=True)) * UNIT
        assert np.abs(o.open(evaluator, answer) - expected).max() < close(ring, 2)
        assert np.abs(o.open(evaluator, answer, CUT) - expected).max() < close(ring, 2)


@pytest.mark.parametrize("make", EVALUATORS)
def test_moved_and_scaled(make: Make) -> None:
    o, x = owner(), values(np.random.default_rng(7), N)
    evaluator = make(o.params)
    tile = evaluator.load(o.record(real(x, VALUE_UNIT), VALUE))
    shape = Shape(0, 2, VALUE_SCALE)
    unit = np.zeros(N, np.int64)
    unit[3] = 1
    found = o.open(evaluator, evaluator.moved(tile, 3), shape)
    assert np.abs(found - convolved(x, unit) * VALUE_UNIT).max() < 30 / VALUE_SCALE
    (scaled,) = evaluator.scaled([tile], 4)
    again = evaluator.add(scaled, scaled)
    again = evaluator.add(again, again)
    np.testing.assert_array_equal(evaluator.dump(again).residues, evaluator.dump(tile).residues)


class TestCut:
    def test_both_evaluators_give_the_same_octets(self) -> None:
        rng = np.random.default_rng(8)
        q = PARAMS.primes[0]
        residues = rng.integers(0, q, (2, 1, N), dtype=np.uint64)
        residues[:, 0, :4] = 0, 1, q // 2, q - 1
        for scale in (ANSWER.scale, 2.0**30):
            record = Record(Shape(0, 2, scale), residues)
            shape = Shape(0, 2, scale, cut=True)
            first, second = (
                pack(PARAMS, e.sent(e.load(record), shape)) for e in (m(PARAMS) for m in EVALUATORS)
            )
            assert first == second
            assert len(first) == 40 + 2 * N * 4

    def test_a_coefficient_is_wrong_by_half_a_unit_at_most(self) -> None:
        q = PARAMS.primes[0]
        given = np.random.default_rng(9).integers(0, q, (2, N))
        given[0, :6] = 0, 1, 2**15, q - 2**15, q - 1, q // 2
        record = cut(PARAMS, given.astype(np.float64), 1.0)
        exact = [(2 * int(c) * 2**32 + q) // (2 * q) % 2**32 for c in given.ravel()]  # q is odd: no ties
        assert np.abs(record.residues.ravel().astype(np.int64) - exact).max() % (2**32 - 1) == 0
        wrong = (lifted(PARAMS, record).astype(np.int64) - given + q // 2) % q - q // 2
        assert np.abs(wrong).max() <= q / 2**33 + 1
        centred = np.where(given > q // 2, given - q, given).astype(np.float64)
        np.testing.assert_array_equal(cut(PARAMS, centred, 1.0).residues, record.residues)

    def test_a_cut_record_is_not_computed_on(self) -> None:
        o = owner()
        evaluator = VectorEvaluator(PARAMS)
        tile = evaluator.load(o.record(np.zeros(N), VALUE))
        shape = Shape(0, 2, VALUE_SCALE, cut=True)
        data = pack(PARAMS, evaluator.sent(tile, shape))
        with pytest.raises(FormatError, match="cannot be computed on"):
            evaluator.load_packed(data, shape)
