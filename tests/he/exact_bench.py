"""Keys of BGV with both evaluators, programs of whole numbers, and SEAL's own measurement of their noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import tenseal.sealapi as seal

from securedl.client.keys import Keys
from securedl.he.arithmetic import Arithmetic, Evaluator, Group
from securedl.he.backends import backend
from securedl.he.noise import Noise, NoiseEvaluator
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, unpack, unpack_key
from securedl.he.schemes import scheme_of
from securedl.he.seal import SealContext, load_stream
from securedl.program.convolve import Convolve, Span
from securedl.program.drive import drive
from securedl.program.execute import execute
from securedl.program.program import Program
from securedl.program.steps import AddWeight, Block, Matvec, Multiply, Port, Step

#: Messages by name: of a ring and a plain modulus, whole numbers [N].
MESSAGES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "uniform": lambda random, ring, t: random.integers(-(t // 2), t // 2, ring, endpoint=True),
    "small": lambda random, ring, t: random.integers(-127, 127, ring, endpoint=True),
    "largest": lambda random, ring, t: random.choice([-(t // 2), t // 2], ring),
    "constant": lambda random, ring, t: np.full(ring, t // 2),
    "one slot": lambda random, ring, t: np.where(np.arange(ring) == random.integers(ring), t // 2, 0),
}


#: Of 12 bits, the largest number that a plan has in coefficients.
LARGEST = 2047


def built(
    params: Parameters,
    kinds: Sequence[str],
    samples: int,
    diagonals: int,
    giant: int,
    folds: int,
    encrypted: bool = True,
) -> Program:
    """One affine map, square or cubic after the other, from the top level down.

    Args:
        samples: of a ciphertext. diagonals, giant: of every affine map. folds: how many it has.
        encrypted: the weights.
    """
    scheme, rows = scheme_of(params), 2
    width = rows * params.slots // samples
    level, scale, register, weights, new = params.levels, 1.0, 0, 0, count(1)
    steps = list[Step]()
    for kind in kinds:
        if kind == "affine":
            factor = scheme.factor(params, level, scale, 1.0)
            block, scale = Block(0, 0, 0, tuple(range(diagonals))), 1.0
            turns = tuple(1 << k for k in range(folds))
            register, source = next(new), register
            steps.append(
                Matvec(register, (source,), (block,), 1, giant, turns, level, scale, (factor,), weights)
            )
            weights, level = weights + diagonals + 1, level - 1
            continue
        first = register
        for number in range({"square": 1, "cubic": 2}[kind]):
            other = scheme.lowered(params, 1.0, params.levels, level) if number else scale
            if number:
                register, source = next(new), register
                steps.append(AddWeight(register, source, level, scale, weights))
                weights += 1
            scale = scheme.product(params, level, scale, other)
            register, source = next(new), register
            steps.append(Multiply(register, source, first, level, scale))
            level -= 1
    query = Port(1, params.levels, 1.0, exact=True)
    return Program(params, samples, width, encrypted, query, tuple(steps), register)


def convolved(params: Parameters, inputs: int, answers: int, merge: int) -> Program:
    """One convolution in coefficients: so many tiles, and answers that are merged into one."""
    spans = (Span(0, inputs),) * answers
    step = Convolve(1, 0, 1, inputs, spans, merge, 1, 1.0, 1.0, 0)
    return Program(params, 1, 0, True, Port(inputs, 1, 1.0, True, True), (step,), 1)


@dataclass(frozen=True)
class Measured:
    """Bits of noise after one operation.

    Attributes:
        seen: SEAL says that it is at least so large. model: by the model.
        left: of the modulus, by SEAL, whole. modelled: the same by the model.
    """

    what: str
    level: int
    seen: float
    model: float
    left: int
    modelled: float


class Bench:
    """A key, and evaluators with its switch keys.

    Args:
        steps: left rotations that there are keys for.
    """

    def __init__(self, params: Parameters, steps: Sequence[int] = (), seed: int = 0) -> None:
        self.params, self.keys, self._steps = params, Keys(params), steps
        self.random, self.context = np.random.default_rng(seed), SealContext(params)
        secret = load_stream(seal.SecretKey(), self.context.context, self.keys.body())
        self._decryptor = seal.Decryptor(self.context.context, secret)

    @cached_property
    def _switch_keys(self) -> tuple[Any, Mapping[int, Any]]:
        turned = {step: unpack_key(self.params, self.keys.switch_key(step)) for step in self._steps}
        return unpack_key(self.params, self.keys.switch_key(None)), turned

    def evaluator(self, name: str) -> Evaluator[Any]:
        found: Evaluator[Any] = backend(name).open(self.params)
        found.set_keys(*self._switch_keys)
        return found

    def message(self, kind: str) -> np.ndarray:
        """Whole numbers [N]."""
        drawn = MESSAGES[kind](self.random, self.params.ring, self.params.plain_modulus)
        return drawn.astype(np.float64)

    def given(self, e: Evaluator[Any], values: np.ndarray, shape: Shape, coefficients: bool = False) -> Any:
        """What an owner makes of whole numbers [N], in slots or in coefficients."""
        values = values if coefficients else values.reshape(2, -1)
        return e.load(unpack(self.params, self.keys.encrypt(values, shape), shape))

    def budget(self, record: Record, times: int = 1) -> int:
        """Bits that SEAL says are left, whole, once the noise is so many times as large."""
        primes = np.array(self.params.primes[: record.shape.level + 1], np.uint64)[:, None]
        larger = Record(record.shape, record.residues * np.uint64(times) % primes)
        return int(self._decryptor.invariant_noise_budget(self.context.ciphertext(larger)))

    def measured(self, record: Record, model: Noise, what: str) -> Measured:
        """SEAL counts whole bits, so the noise is multiplied by a number that takes what the model says to
        just below a whole one: where there is room, seen exceeds the model once the noise does by a
        hundredth.
        """
        left, q = self.budget(record), math.prod(self.params.primes[: model.level + 1])
        finer = max(0, min(7, left - 2))
        times = int(2 ** (finer + math.ceil(model.bits) - model.bits))
        seen = q.bit_length() - 2 - self.budget(record, times) - math.log2(times)
        return Measured(what, model.level, seen, model.bits, left, math.log2(q) - 1 - model.bits)


Pair: TypeAlias = tuple[Any, Noise]


class Watched(Arithmetic[Pair]):
    """Every operation on ciphertexts and on the model of their noise at once; handles are (real, model).

    Products that an evaluator makes in one go are one operation.
    """

    def __init__(self, bench: Bench, name: str, model: type[NoiseEvaluator] = NoiseEvaluator) -> None:
        self.params, self._bench = bench.params, bench
        self.real, self.model = bench.evaluator(name), model(bench.params)
        self.seen = list[Measured]()

    def _measured(self, what: str, real: Any, model: Noise) -> Pair:
        self.seen.append(self._bench.measured(self.real.dump(real), model, what))
        return real, model

    def _both(self, what: str, *handles: Pair) -> Pair:
        real, model = (
            getattr(e, what)(*(one[which] for one in handles))
            for which, e in enumerate((self.real, self.model))
        )
        return self._measured(what, real, model)

    def given(self, values: np.ndarray, shape: Shape, coefficients: bool = False) -> Pair:
        """What an owner makes of whole numbers [N]; a plaintext has no noise that SEAL would measure."""
        encrypted = shape.size > 1
        real = self._bench.given(self.real, values, shape, coefficients)
        model = self.model.fresh(shape.level, encrypted)
        return self._measured("fresh", real, model) if encrypted else (real, model)

    def level(self, handle: Pair) -> int:
        return handle[1].level

    def scale(self, handle: Pair) -> float:
        return self.model.scale(handle[1])

    def add(self, a: Pair, b: Pair) -> Pair:
        return self._both("add", a, b)

    def multiply(self, a: Pair, b: Pair) -> Pair:
        return self._both("multiply", a, b)

    def square(self, a: Pair) -> Pair:
        return self._both("square", a)

    def relinearise(self, a: Pair) -> Pair:
        return self._both("relinearise", a)

    def rescale(self, a: Pair) -> Pair:
        return self._both("rescale", a)

    def multiply_rescale(self, a: Pair, b: Pair) -> Pair:
        return self._both("multiply_rescale", a, b)

    def dot(self, xs: Sequence[Pair], ws: Sequence[Pair]) -> Pair:
        (real, model), (real_weights, model_weights) = (zip(*pairs, strict=True) for pairs in (xs, ws))
        return self._measured("dot", self.real.dot(real, real_weights), self.model.dot(model, model_weights))

    def giant_steps(self, groups: Sequence[Group]) -> Pair:
        real, model = (
            e.giant_steps([Group([x[k] for x in xs], [w[k] for w in ws], step) for xs, ws, step in groups])
            for k, e in enumerate((self.real, self.model))
        )
        return self._measured("matrix", real, model)

    def rotate(self, a: Pair, steps: Sequence[int]) -> list[Pair]:
        pairs = zip(self.real.rotate(a[0], steps), self.model.rotate(a[1], steps), strict=True)
        return [self._measured("rotate", *pair) for pair in pairs]

    def mod_switch(self, a: Pair, level: int) -> Pair:
        return self._measured("switch", self.real.mod_switch(a[0], level), self.model.mod_switch(a[1], level))

    def moved(self, a: Pair, power: int, divisor: int = 1) -> Pair:
        raise NotImplementedError

    def scaled(self, handles: Sequence[Pair], divisor: int) -> list[Pair]:
        """Not measured: it means nothing before it is merged."""
        real, model = (
            e.scaled([a[k] for a in handles], divisor) for k, e in enumerate((self.real, self.model))
        )
        return list(zip(real, model, strict=True))

    def merged_products(self, sums: Sequence[tuple[Sequence[Pair], Sequence[Pair]]], of: int) -> list[Pair]:
        real, model = (
            e.merged_products([([x[k] for x in xs], [w[k] for w in ws]) for xs, ws in sums], of)
            for k, e in enumerate((self.real, self.model))
        )
        return [self._measured("merged", *pair) for pair in zip(real, model, strict=True)]

    def run(self, program: Program, kind: str) -> Pair:
        """The answer of a program without refreshes, all that it reads being messages of one kind."""
        query = program.query

        def message(kind: str) -> np.ndarray:
            found = self._bench.message(kind)
            return np.clip(found, -LARGEST, LARGEST) if query.coefficients else found

        weights = [self.given(message(kind), shape, query.coefficients) for shape in program.weight_shapes]
        tiles = [self.given(message(kind), query.fresh, query.coefficients) for _ in range(query.tiles)]
        (answer,) = drive(execute(program, self, weights, tiles), lambda shown: None)
        return answer
