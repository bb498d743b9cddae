"""What a dishonest server does to one query, move by move. None needs a key.

A server is given its moves by name, with what they need to be told: `hostile` runs them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protocol.models import LoadedModel
from securedl.demo.dishonest import Tampered, targets
from securedl.he.params import Parameters
from securedl.he.record import Record
from securedl.he.weights import ModelWeights, Records
from securedl.program.steps import Port, Setting, Step

#: Queries that a server remembers.
REMEMBERED = 8


@dataclass
class Seen:
    """Ciphertexts of one query: what the client sent before each segment, and what was due after it."""

    fresh: list[list[Record]] = field(default_factory=list)
    due: list[list[Record]] = field(default_factory=list)


@dataclass
class Scene:
    """What a move may use.

    Attributes:
        records: its model's weights as they were uploaded, and by the names of their folders all models'.
        now: this query. past: those before it, the latest first.
    """

    model: LoadedModel
    records: Records
    others: dict[str, Records]
    now: Seen
    past: deque[Seen]
    random: np.random.Generator

    @property
    def params(self) -> Parameters:
        """Of the ciphertexts."""
        return self.model.program.params

    def at(self, wanted: int, point: int) -> bool:
        """Whether a checkpoint is the one that is wanted: any of them for 0, the answer for -1."""
        return wanted in (0, point) or (wanted == -1 and point == len(self.model.program.shown) + 1)


class Move:
    """A server's dishonesty; honest where it overrides nothing."""

    def model(self, scene: Scene) -> LoadedModel:
        """Program and weights that are run."""
        return scene.model

    def fresh(self, scene: Scene, point: int, tiles: list[Record]) -> list[Record]:
        """What is computed on instead of what the client sent at a checkpoint, from 0."""
        return tiles

    def sent(self, scene: Scene, point: int, tiles: list[Record]) -> list[Record]:
        """What is sent instead of what is due at a checkpoint, from 1."""
        return tiles


class Honest(Move):
    """Does what is due."""


class _Weights(ModelWeights[Any]):
    """Handles made of other records, or of several handles, when they are asked for."""

    def __init__(self, scene: Scene, records: Tampered | Records, doubled: Sequence[int] = ()) -> None:
        self.room, self._evaluator = 0, scene.model.evaluator
        self._records, self._doubled = records, frozenset(doubled)

    def __getitem__(self, index: int) -> Any:
        handle = self._evaluator.load_weight(self._records.record(index))
        return self._evaluator.add(handle, handle) if index in self._doubled else handle

    def warm(self, alive: Any) -> None:
        """Nothing is kept."""


@dataclass
class Reweighted(Move):
    """Diagonals of one layer: dropped, swapped, moved by an offset ("noise") or doubled ("scale")."""

    how: str

    def model(self, scene: Scene) -> LoadedModel:
        layers, seed = targets(scene.model.program), int(scene.random.integers(1 << 30))
        if self.how == "scale":
            layer = layers[seed % len(layers)]
            few = scene.random.choice(layer, 1 + len(layer) // 20).tolist()
            weights = _Weights(scene, scene.records, few)
        else:
            weights = _Weights(scene, Tampered(scene.records, layers, self.how, seed))
        return replace(scene.model, weights=weights)


@dataclass
class Older(Move):
    """The weights of another model, of the same program and keys."""

    folder: str

    def model(self, scene: Scene) -> LoadedModel:
        return replace(scene.model, weights=_Weights(scene, scene.others[self.folder]))


@dataclass(frozen=True)
class _Skipped(Step):
    """A step that gives what it reads."""

    step: Step
    out: int
    level: int
    scale: float
    tiles: int

    def reads(self) -> tuple[int, ...]:
        return self.step.reads()

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        return self.step.port(setting, inputs, where)

    def weights(self, port: Port) -> int:
        return self.step.weights(port)

    @property
    def first_weight(self) -> int | None:
        return self.step.first_weight

    def run(self, e: Any, batch: int, inputs: Sequence[list[Any]], weights: Any) -> list[Any]:
        tiles = [inputs[0][number % len(inputs[0])] for number in range(self.tiles)]
        return [replace(e.mod_switch(tile, self.level), scale=self.scale) for tile in tiles]


@dataclass
class Skip(Move):
    """A random step of a kind is left out: its result is what it reads."""

    kind: str

    def model(self, scene: Scene) -> LoadedModel:
        program, ports = scene.model.program, scene.model.program.ports()
        at = scene.random.choice([k for k, s in enumerate(program.steps) if type(s).__name__ == self.kind])
        step, steps = program.steps[at], list(program.steps)
        port = ports[step.out]
        steps[at] = _Skipped(step, step.out, port.level, port.scale, port.tiles)
        return replace(scene.model, program=replace(program, steps=tuple(steps)))


@dataclass(frozen=True)
class _Doubled(Step):
    """A step that reads twice what it should."""

    step: Step
    out: int
    level: int

    def reads(self) -> tuple[int, ...]:
        return self.step.reads()

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        return self.step.port(setting, inputs, where)

    def run(self, e: Any, batch: int, inputs: Sequence[list[Any]], weights: Any) -> list[Any]:
        return self.step.run(e, batch, [[e.add(tile, tile) for tile in tiles] for tiles in inputs], weights)


@dataclass
class Behind(Move):
    """What a tap shows is honest; what is computed on after one of them is twice that."""

    def model(self, scene: Scene) -> LoadedModel:
        steps = list(scene.model.program.steps)
        taps = {step.out for step in steps if step.shows and not step.refreshes}
        readers = [k for k, step in enumerate(steps) if taps & {*step.reads()} and step.first_weight is None]
        at = int(scene.random.choice(readers))
        steps[at] = _Doubled(steps[at], steps[at].out, steps[at].level)
        return replace(scene.model, program=replace(scene.model.program, steps=tuple(steps)))


@dataclass
class Replay(Move):
    """Ciphertexts of an earlier query at a checkpoint, as of `At`.

    Attributes:
        what: "due" for what the server sends, "fresh" for what it computes on. ago: queries.
    """

    what: str
    point: int
    ago: int

    def _earlier(self, scene: Scene, seen: str, at: int, tiles: list[Record]) -> list[Record]:
        if len(scene.past) < self.ago:
            return tiles
        found: list[Record] = getattr(scene.past[self.ago - 1], seen)[at]
        return found

    def fresh(self, scene: Scene, point: int, tiles: list[Record]) -> list[Record]:
        if (self.what, self.point) != ("fresh", point):
            return tiles
        return self._earlier(scene, "fresh", point, tiles)

    def sent(self, scene: Scene, point: int, tiles: list[Record]) -> list[Record]:
        if self.what != "due" or not scene.at(self.point, point):
            return tiles
        return self._earlier(scene, "due", point - 1, tiles)


@dataclass
class At(Move, ABC):
    """One that changes what is sent, at one checkpoint, at all (0) or in the answer (-1)."""

    point: int = 0

    def sent(self, scene: Scene, point: int, tiles: list[Record]) -> list[Record]:
        return self.changed(scene, tiles) if scene.at(self.point, point) else tiles

    @abstractmethod
    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        """What is sent there."""
