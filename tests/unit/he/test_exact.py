"""The simulator of BGV against SEAL, on random programs: the same messages, levels, sizes and factors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from securedl.client.keys import Keys
from securedl.errors import CompileError
from securedl.he.arithmetic import merge_step
from securedl.he.backends import backend
from securedl.he.bgv import bgv_parameters, plain_prime
from securedl.he.embedded import slots_of_polynomials
from securedl.he.exact import ExactEvaluator, ExactHandle
from securedl.he.noise import Noise, NoiseError, NoiseEvaluator
from securedl.he.params import Parameters
from securedl.he.record import Shape, pack, unpack, unpack_key
from securedl.he.roots import minimal_root

STEPS = (1, 64, 4095)
ROUNDS = 40


class Value(NamedTuple):
    exact: ExactHandle
    real: Any
    noise: Noise


class Program:
    """Random operations on all three evaluators; those that the noise model refuses are left out."""

    def __init__(self, params: Parameters, evaluator: str, seed: int) -> None:
        self.params, self.keys, self.random = params, Keys(params), np.random.default_rng(seed)
        real = backend(evaluator).open(params)
        turned = {step: unpack_key(params, self.keys.switch_key(step)) for step in STEPS}
        real.set_keys(unpack_key(params, self.keys.switch_key(None)), turned)
        self.evaluators = ExactEvaluator(params), real, NoiseEvaluator(params)
        self.values = [self.fresh(params.levels, factor) for factor in (1, 1, 31337)]

    def fresh(self, level: int, factor: int = 1, size: int = 2) -> Value:
        half = self.params.plain_modulus // 2
        shapes = (2, self.params.slots), (self.params.ring,)  # slots or coefficients
        drawn = self.random.integers(-half, half, shapes[self.random.integers(2)], endpoint=True)
        numbers = drawn.astype(np.float64)
        shape = Shape(level, size, 1.0, seeded=size == 2, correction=factor)
        exact, real, noise = self.evaluators
        record = unpack(self.params, self.keys.encrypt(numbers, shape), shape)
        return Value(exact.fresh(numbers, shape), real.load(record), noise.fresh(level, size == 2))

    def all(self, name: str, *values: Any) -> None:
        """One operation on every evaluator, and what it gives, compared."""

        def which(given: Any, k: int) -> Any:
            if isinstance(given, Value):
                return given[k]
            return [which(one, k) for one in given] if isinstance(given, list) else given

        try:
            found = [
                getattr(e, name)(*(which(one, k) for one in values)) for k, e in enumerate(self.evaluators)
            ]
        except NoiseError:
            return
        parts = zip(*found, strict=True) if name == "rotate" else [found]
        for part in parts:
            self.compare(name, value := Value(*part))
            self.values.append(value)
            self.done.add(name)

    def compare(self, name: str, value: Value) -> None:
        exact, real, _ = self.evaluators
        record, wanted = real.dump(value.real), value.exact
        found = record.shape
        assert (found.level, found.size, found.correction) == (wanted.level, wanted.size, wanted.factor), name
        assert exact.scale(wanted) == wanted.factor
        opened = self.keys.decrypt(pack(self.params, record), found)
        np.testing.assert_array_equal(opened, exact.slots(wanted), name)

    def alike(self, value: Value, factor: bool = False) -> Value:
        """Another one at the same level."""
        same = [
            one
            for one in self.values
            if one.exact.level == value.exact.level
            and (one.exact.factor == value.exact.factor if factor else one.exact.size == 2)
        ]
        return same[self.random.integers(len(same))]

    def step(self, kind: int) -> None:
        """Of one of eight kinds, on one of the values, as often as not a fresh one."""
        random = self.random
        value = self.values[random.integers(len(self.values) if random.integers(2) else 3)]
        level, size = value.exact.level, value.exact.size
        if size == 3:
            self.all(
                *(("relinearise", value) if random.integers(3) else ("add", value, self.alike(value, True)))
            )
            return
        match random.integers(8):
            case 0:
                self.all("add", value, self.alike(value, True))
            case 1:
                self.all("multiply", value, self.alike(value))
            case 2:
                self.all("square", value)
            case 3:
                xs = [value, self.alike(value, True)]
                xs = xs if xs[1].exact.size == 2 else [value, value]
                size = int(random.integers(1, 3))
                self.all("dot", xs, [self.fresh(level, 77, size) for _ in xs])
            case 4:
                self.all("rotate", value, [*STEPS, 0])
            case 5:
                self.all("rescale" if level else "add", *([value] if level else [value, value]))
            case 6:
                self.all("mod_switch", value, int(random.integers(level + 1)))
            case _:
                self.all(("add", "multiply")[random.integers(2)], value, self.fresh(level, 77, 1))

    def run(self, rounds: int) -> set[str]:
        self.done = set[str]()
        for kind in range(rounds):
            self.step(kind * 3 % 8)
        return self.done


@pytest.mark.he
@pytest.mark.parametrize(
    ("bits", "evaluator", "seed"),
    [(17, "seal", 0), (17, "vector", 1), (30, "seal", 2), (30, "vector", 3)],
)
def test_random_programs(bits, evaluator, seed):
    params = bgv_parameters(8192, plain_prime(8192, 1 << (bits - 1)), (47, 46, 45))
    done = Program(params, evaluator, seed).run(ROUNDS)
    assert done >= {"add", "multiply", "square", "dot", "relinearise", "rotate", "rescale", "mod_switch"}


PARAMS = bgv_parameters(4096, plain_prime(4096, 1 << 16), (30, 29))


def times_polynomial(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a · b modulo X^N + 1, of small whole numbers."""
    whole = np.convolve(a.astype(np.int64), b.astype(np.int64))
    found = whole[: len(a)].copy()
    found[: len(whole) - len(a)] -= whole[len(a) :]
    return found


@pytest.mark.he
@pytest.mark.parametrize("of", [1, 4, 8])
@pytest.mark.parametrize("evaluator", ["vector", "seal"])
def test_products_of_polynomials_are_merged(evaluator, of):
    """As a convolution does it, against sums over integers; number k stands k lanes further, its bits
    reversed, and SEAL still has room for the noise.
    """
    random, ring, count = np.random.default_rng(of), PARAMS.ring, max(1, of - 1)
    t, keys, real = PARAMS.plain_modulus, Keys(PARAMS), backend(evaluator).open(PARAMS)
    steps = [merge_step(ring, of >> k) for k in range(of.bit_length() - 1)]
    turned = {step: unpack_key(PARAMS, keys.switch_key(step)) for step in steps}
    real.set_keys(unpack_key(PARAMS, keys.switch_key(None)), turned)
    shape, simulator = Shape(1, 2, 1.0, seeded=True), ExactEvaluator(PARAMS)
    xs, ws = random.integers(-20, 20, (2, ring)), random.integers(-9, 9, (count, 2, ring))

    def both(values):
        values = values.astype(np.float64)
        record = unpack(PARAMS, keys.encrypt(values, shape), shape)
        return simulator.fresh(values, shape), real.load(record)

    opened = []
    held = [[both(x) for x in xs], *([both(w) for w in row] for row in ws)]
    for k, e in enumerate((simulator, real)):
        tiles, *rows = [[pair[k] for pair in row] for row in held]
        tiles = e.scaled(tiles, of) if of > 1 else tiles
        (merged,) = e.merged_products([(tiles, row) for row in rows], of)
        low = e.mod_switch(merged, 0)
        opened.append(low)
    exact, record = simulator.coefficients(opened[0]), real.dump(opened[1])
    assert record.shape.correction == opened[0].factor
    found = keys.decrypt(pack(PARAMS, record), record.shape, coefficients=True)
    np.testing.assert_array_equal(found, exact)
    for k, row in enumerate(ws):
        wanted = sum(times_polynomial(x, w) for x, w in zip(xs, row, strict=True))
        place = int(f"{k:0{of.bit_length() - 1}b}"[::-1], 2) if of > 1 else 0
        np.testing.assert_array_equal((found[place::of] - wanted[::of]) % t, 0)


@pytest.mark.parametrize(("ring", "bits"), [(4096, 17), (8192, 33)])
def test_slots_of_polynomials(ring, bits):
    """Values at odd powers of the smallest root, by Horner's rule in Python's integers; and back."""
    t = plain_prime(ring, 1 << (bits - 1))
    polynomials, random = slots_of_polynomials(ring, t), np.random.default_rng(bits)
    coefficients = random.integers(0, t, ring)
    found, root = polynomials.values(coefficients), minimal_root(t, ring)
    for row, j in [(0, 0), (0, 5), (1, 0), (1, ring // 2 - 1)]:
        at, value = pow(root, pow(3, j, 2 * ring) * (1 - 2 * row), t), 0
        for one in coefficients[::-1].tolist():
            value = (value * at + one) % t
        assert found[row, j] == value
    np.testing.assert_array_equal(polynomials.coefficients(found), coefficients)


SIMULATOR = ExactEvaluator(PARAMS)


def simulated(level: int = 1, factor: int = 1, size: int = 2) -> ExactHandle:
    return SIMULATOR.fresh(np.arange(4096.0).reshape(2, -1), Shape(level, size, 1.0, correction=factor))


def test_slots_by_hand():
    """Two rows that rotate by themselves, and residues of least magnitude."""
    t = PARAMS.plain_modulus
    np.testing.assert_array_equal(SIMULATOR.slots(simulated()).ravel(), np.arange(4096))
    (turned,) = SIMULATOR.rotate(simulated(), [3])
    wanted = np.concatenate([np.roll(np.arange(2048), -3), np.roll(np.arange(2048, 4096), -3)])
    np.testing.assert_array_equal(SIMULATOR.slots(turned).ravel(), wanted)
    square = SIMULATOR.slots(SIMULATOR.square(simulated())).ravel()
    assert (np.abs(square) <= t // 2).all()
    assert [int(one) % t for one in square] == [k * k % t for k in range(4096)]


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("operands at levels 1 and 0", lambda e: e.add(simulated(), simulated(0))),
        ("operands at levels 1 and 0", lambda e: e.multiply(simulated(), simulated(0))),
        ("adding correction factors 1 and 2", lambda e: e.add(simulated(), simulated(1, 2))),
        (
            "adding correction factors",
            lambda e: e.dot([simulated(), simulated()], [simulated(1, 2), simulated(1, 3)]),
        ),
        ("relinearise before multiplying", lambda e: e.square(e.square(simulated()))),
        ("relinearise before rescaling", lambda e: e.rescale(e.square(simulated()))),
        ("relinearise before rotating", lambda e: e.rotate(e.square(simulated()), [1])),
        ("no level is left", lambda e: e.rescale(simulated(0))),
        ("cannot raise level 0 to 1", lambda e: e.mod_switch(simulated(0), 1)),
        ("two rows of 2048 slots expected", lambda e: e.fresh(np.zeros(2048), Shape(0, 2, 1.0))),
    ],
)
def test_what_is_refused(message, wrong):
    with pytest.raises(CompileError, match=message):
        wrong(SIMULATOR)
