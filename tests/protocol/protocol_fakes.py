"""A small owner, inference and evaluator that work on records of random residues: no encryption.

The evaluator keeps every shape, level and scale as a real one does, so the protocol cannot tell; its
arithmetic is arbitrary but deterministic, so the fake inference can check answers by doing the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protocol import Client
from securedl.he.arithmetic import Evaluator
from securedl.he.backends import Backend
from securedl.he.ckks import ckks_parameters
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, chain, key_shape, pack, pack_key, unpack
from securedl.program.drive import advance
from securedl.program.execute import Shown, execute
from securedl.program.program import Program
from securedl.program.steps import Block, Matvec, Port, Refresh, Tap

PARAMS = ckks_parameters(4096, 1)


def small_program(diagonals: int = 4, width: int = 16, encrypted: bool = True) -> Program:
    """Affine, tap, refresh, affine at N = 4096; two query tiles."""
    scale, prime = 2.0**30, PARAMS.primes[1]
    weight = scale * prime / scale

    def affine(out: int, source: int, tiles: int, first: int) -> Matvec:
        blocks = tuple(Block(0, 0, tile, tuple(range(diagonals))) for tile in range(tiles))
        return Matvec(out, (source,), blocks, 1, 2, (), 1, scale, (weight,), first)

    steps = (
        affine(1, 0, 2, 0),
        Tap(2, 1, 0),
        Refresh(3, 2, 1, 1, scale),
        affine(4, 3, 1, 2 * diagonals + 1),
    )
    return Program(PARAMS, PARAMS.slots // width, width, encrypted, Port(2, 1, scale), steps, 4)


def random_record(params: Parameters, shape: Shape, rng: np.random.Generator) -> Record:
    """Uniform residues."""
    primes = np.array(chain(params, shape.level), dtype=np.uint64)[None, :, None]
    stored = shape.size - shape.seeded
    residues = rng.integers(0, primes, (stored, primes.shape[1], params.ring), dtype=np.uint64)
    return Record(shape, residues, rng.bytes(64) if shape.seeded else None)


@dataclass
class FakeEvaluator(Evaluator[Record]):
    """Arithmetic on residues; `delay_s` for each dot."""

    params: Parameters
    delay_s: float = 0.0
    keys: set[int | None] = field(default_factory=set)

    def _q(self, level: int) -> np.ndarray:
        return np.array(chain(self.params, level), dtype=np.uint64)[None, :, None]

    def set_keys(self, relinearisation, rotations) -> None:
        self.keys = set(rotations) | ({None} if relinearisation else set())

    def load(self, record: Record) -> Record:
        if record.seed is None:
            return record
        rng = np.random.default_rng(list(record.seed))
        shape = replace(record.shape, seeded=False)
        expanded = random_record(self.params, replace(shape, size=1), rng)
        return Record(shape, np.concatenate([record.residues, expanded.residues]))

    def dump(self, handle: Record) -> Record:
        return handle

    def level(self, handle: Record) -> int:
        return handle.shape.level

    def scale(self, handle: Record) -> float:
        return handle.shape.scale

    def add(self, a: Record, b: Record) -> Record:
        assert a.shape.level == b.shape.level
        assert math.isclose(a.shape.scale, b.shape.scale)
        out = a.residues.copy()
        out[: b.shape.size] += b.residues
        return Record(a.shape, out % self._q(a.shape.level))

    def multiply(self, a: Record, b: Record) -> Record:
        return self.dot([a], [b])

    def square(self, a: Record) -> Record:
        return self.multiply(a, a)

    def dot(self, xs, ws) -> Record:
        time.sleep(self.delay_s)
        shape = xs[0].shape
        total = np.zeros((3, shape.level + 1, self.params.ring), np.uint64)
        for x, w in zip(xs, ws, strict=True):
            assert x.shape.level == w.shape.level == shape.level
            total[: x.shape.size] += x.residues
            total[: w.shape.size] += np.uint64(3) * w.residues
        scale = xs[0].shape.scale * ws[0].shape.scale
        return Record(Shape(shape.level, 3, scale), total % self._q(shape.level))

    def relinearise(self, a: Record) -> Record:
        assert None in self.keys
        return Record(
            replace(a.shape, size=2), a.residues[:2] + a.residues[2:] // np.uint64(7) * np.uint64(0)
        )

    def rescale(self, a: Record) -> Record:
        level = a.shape.level - 1
        scale = a.shape.scale / self.params.primes[level + 1]
        return Record(replace(a.shape, level=level, scale=scale), a.residues[:, : level + 1] % self._q(level))

    def mod_switch(self, a: Record, level: int) -> Record:
        return Record(replace(a.shape, level=level), a.residues[:, : level + 1])

    def moved(self, a: Record, power: int, divisor: int = 1) -> Record:
        """None of the programs moves anything."""
        raise NotImplementedError

    def sent(self, handle: Record, shape: Shape) -> Record:
        """As it is."""
        return self.dump(handle)

    def rotate(self, a: Record, steps) -> list[Record]:
        assert set(steps) - {0} <= self.keys
        return [Record(a.shape, np.roll(a.residues, -step, 2)) for step in steps]


class FakeBackend(Backend[Record]):
    """Evaluators that `make` gives."""

    name = "fake"

    def __init__(self, make: Callable[[Parameters], Evaluator[Record]] = FakeEvaluator) -> None:
        self.make = make

    def open(self, params: Parameters, threads: int = 1) -> Evaluator[Record]:
        return self.make(params)


class FakeOwner:
    """Random keys and weights; equal seeds are equal owners. Weights differ at every call, as real ones do
    in their bytes only, unless `steady`."""

    def __init__(self, seed: int = 0, program: Program | None = None, delay_s: float = 0.0) -> None:
        self.program = program or small_program()
        self.seed, self.delay_s = seed, delay_s
        self.model_id = np.random.default_rng(seed).bytes(16)
        self.made: list[int | str | None] = []

    @property
    def channels(self) -> tuple[FakeOwner]:
        """Itself."""
        return (self,)

    def ask(self, x: Any, probes: Any = 0, *options: Any) -> Any:
        """x random batches."""
        return FakeInference(self, x, probes)

    def prepare(self, progress=None) -> None:
        pass

    def key(self, step: int | None) -> bytes:
        self.made.append(f"key {step}")
        params = self.program.params
        rng = np.random.default_rng([self.seed, 1, 0 if step is None else step])
        digits = [random_record(params, key_shape(params), rng) for _ in params.primes]
        return pack_key(params, digits)

    def weight(self, index: int) -> bytes:
        self.made.append(index)
        time.sleep(self.delay_s)
        rng = np.random.default_rng([self.seed, 2, index])
        return pack(
            self.program.params,
            random_record(self.program.params, self.program.weight_shapes[index], rng),
        )

    def weights(self, indices):
        return (self.weight(index) for index in indices)


class FakeBatch:
    """One query; `matches` tells whether the answer is what the honest evaluation gives."""

    def __init__(self, owner: FakeOwner, seed: int) -> None:
        self.owner, self.rng = owner, np.random.default_rng([owner.seed, 3, seed])
        self.params = owner.program.params
        self.matches: list[bool] = []
        self.done = False
        self.evaluator = FakeEvaluator(self.params)
        self.evaluator.keys = {None, *owner.program.rotations}

    def _fresh(self, port: Port) -> list[bytes]:
        shape = Shape(port.level, 2, port.scale, True)
        return [pack(self.params, random_record(self.params, shape, self.rng)) for _ in range(port.tiles)]

    def _load(self, tiles: list[bytes], port: Port, seeded: bool) -> list[Record]:
        shape = Shape(port.level, 2, port.scale, seeded)
        return [self.evaluator.load(unpack(self.params, tile, shape)) for tile in tiles]

    def query(self) -> list[bytes]:
        program = self.owner.program
        shapes = program.weight_shapes
        weights = [
            self.evaluator.load(unpack(self.params, self.owner.weight(i), s)) for i, s in enumerate(shapes)
        ]
        tiles = self._fresh(program.query)
        self.run = execute(program, self.evaluator, weights, self._load(tiles, program.query, True))
        self._go_on()
        return tiles

    def _go_on(self, fresh: list[Record] | None = None) -> None:
        """As far as the next tiles that the client should be sent."""
        found = advance(self.run, fresh)
        self.due = found.tiles if isinstance(found, Shown) else found

    def _compare(self, tiles: list[bytes], port: Port) -> None:
        found = self._load(tiles, port, False)
        self.matches += [bool((a.residues == b.residues).all()) for a, b in zip(found, self.due, strict=True)]

    def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
        down, up = self.owner.program.shown[index]
        assert up is not None
        self._compare(tiles, down)
        fresh = self._fresh(up)
        self._go_on(self._load(fresh, up, True))
        return fresh

    def tap(self, index: int, tiles: list[bytes]) -> None:
        down, back = self.owner.program.shown[index]
        assert back is None
        self._compare(tiles, down)
        self._go_on()

    def settle(self) -> None:
        pass

    def finish(self, tiles: list[bytes]) -> None:
        self._compare(tiles, self.owner.program.answer)
        self.done = True


class FakeAnswer:
    """What `predict` returns here."""

    def __init__(self, batches, timings, traffic) -> None:
        self.timings, self.traffic = timings, traffic
        self.matches = [match for batch in batches for match in batch.matches]
        self.passed = bool(self.matches) and all(self.matches)


class FakeInference:
    """x is the number of batches."""

    def __init__(self, owner: FakeOwner, x: int, probes: int = 0) -> None:
        self.batches = [FakeBatch(owner, number) for number in range(x)]

    @property
    def unanswered(self) -> list[int]:
        return [number for number, batch in enumerate(self.batches) if not batch.done]

    def again(self, numbers: list[int]) -> list[list[FakeBatch]]:
        return [[self.batches[number] for number in numbers]]

    def part(self, number: int) -> FakeBatch:
        return self.batches[number]

    def broken_off(self) -> str:
        return ""

    def answer(self, timings, traffic) -> FakeAnswer:
        return FakeAnswer(self.batches, timings, traffic)


def predict(client: Client, x: int) -> FakeAnswer:
    """What the client of a fake owner predicts."""
    answer: object = client.predict(x)
    assert isinstance(answer, FakeAnswer)
    return answer
