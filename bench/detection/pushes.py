"""Pushes that find their victims by what is encrypted: polynomials of a query, added to its answer.

Both were seen to pass spot checks (`docs/security.md`). They spend the levels between a fresh ciphertext and
the next one that is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.detection.moves import Move, Scene
from bench.detection.records import plus
from securedl.he.arithmetic import Evaluator
from securedl.he.record import Record, Shape
from securedl.network.graph import Array


@dataclass
class Circuit:
    """Sums and products of handles that match each other's levels and scales."""

    evaluator: Evaluator[Any]
    rotations: tuple[int, ...]

    def plain(self, values: Array, level: int, scale: float) -> Any:
        """Slots [n] as a plaintext."""
        from securedl.client.coefficients import encoded

        return self.evaluator.load(encoded(self.evaluator.params, values, Shape(level, 1, scale)))

    def plus(self, a: Any, values: Array) -> Any:
        """a + slots."""
        return self.evaluator.add(a, self.plain(values, self.evaluator.level(a), self.evaluator.scale(a)))

    def times(self, a: Any, values: Array, scale: float) -> Any:
        """a · slots, a level below and at this scale."""
        e = self.evaluator
        level = e.level(a)
        factor = self.plain(values, level, scale * e.params.primes[level] / e.scale(a))
        return replace(e.rescale(e.multiply(a, factor)), scale=scale)

    def square(self, a: Any) -> Any:
        """a², a level below."""
        return self.evaluator.multiply_rescale(a, a)

    def turned(self, a: Any, steps: int) -> Any:
        """Rotated left by so many slots, by the keys that were uploaded for other steps."""
        for step in sorted(self.rotations, reverse=True):
            while steps >= step:
                (a,), steps = self.evaluator.rotate(a, [step]), steps - step
        assert steps == 0, "no sum of the uploaded rotations"
        return a

    def total(self, a: Any, batch: int) -> Any:
        """In each slot the sum of its lane's places, all copies of them."""
        step = batch
        while step < self.evaluator.params.slots:
            a, step = self.evaluator.add(a, self.turned(a, step)), 2 * step
        return a


@dataclass
class Push(Move, ABC):
    """Adds to some slots of what is sent, by what was sent to it before.

    Attributes:
        point: the checkpoint. target: slots [n] that are pushed by 1, and by nothing elsewhere.
    """

    point: int
    target: list[float]

    def sent(self, scene: Scene, point: int, tiles: list[Record]) -> list[Record]:
        if point != self.point:
            return tiles
        e, shape = scene.model.evaluator, tiles[0].shape
        circuit = Circuit(e, scene.model.program.rotations)
        size = self.size(circuit, e.load(scene.now.fresh[-1][0]), scene.model.program.batch)
        pushed = circuit.times(size, np.array(self.target), shape.scale)
        extra = e.sent(e.mod_switch(pushed, 0), shape)
        return [plus(scene.params, tiles[0], Record(shape, extra.residues)), *tiles[1:]]

    @abstractmethod
    def size(self, circuit: Circuit, fresh: Any, batch: int) -> Any:
        """How far each slot is pushed."""


@dataclass
class NormPush(Push):
    """By T_k(a · ‖x‖² + b): at most 1 where the norms of probes were expected to lie, and huge beyond.

    Attributes:
        slope, start: a and b. doublings: log2(k).
    """

    slope: float
    start: float
    doublings: int

    def size(self, circuit: Circuit, fresh: Any, batch: int) -> Any:
        norm, slots = circuit.total(circuit.square(fresh), batch), circuit.evaluator.params.slots
        here = circuit.times(norm, np.full(slots, self.slope), circuit.evaluator.scale(fresh))
        here = circuit.plus(here, np.full(slots, self.start))
        for _ in range(self.doublings):
            squared = circuit.square(here)
            here = circuit.plus(circuit.evaluator.add(squared, squared), np.full(slots, -1.0))
        return here


@dataclass
class VictimPush(Push):
    """By (u · x)^(2^squarings): 1 for the sample that is known, and little for others.

    Attributes:
        direction: slots [n] of u.
    """

    direction: list[float]
    squarings: int

    def size(self, circuit: Circuit, fresh: Any, batch: int) -> Any:
        scale = circuit.evaluator.scale(fresh)
        here = circuit.total(circuit.times(fresh, np.array(self.direction), scale), batch)
        for _ in range(self.squarings):
            here = circuit.square(here)
        return here
