"""Moves on what a server sends: changed, or crafted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.detection.moves import At, Scene
from bench.detection.records import added, constant, modulus, plus, times
from protocol.models import LoadedModel
from securedl.he.record import Record, Shape


@dataclass
class Echo(At):
    """The client is sent what it sent."""

    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        e, fresh = scene.model.evaluator, scene.now.fresh[-1]
        found = [e.mod_switch(e.load(fresh[k % len(fresh)]), 0) for k in range(len(tiles))]
        return [Record(t.shape, e.sent(h, t.shape).residues) for h, t in zip(found, tiles, strict=True)]


@dataclass
class Times(At):
    """Everything that is sent, times an integer."""

    factor: int = 2

    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        return [times(scene.params, tile, self.factor) for tile in tiles]


@dataclass
class Told(At):
    """Slots or coefficients [tiles, n] are added that somebody who knows the plan has chosen."""

    values: list[list[float]] = field(default_factory=list)

    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        pairs = zip(tiles, np.array(self.values), strict=True)
        return [added(scene.params, tile, values) for tile, values in pairs]


@dataclass
class Offset(At):
    """So much is added to every value of some random lanes (of all, for 0), or to some random slots; the same
    lanes at every checkpoint of a query.

    Attributes:
        among: the slots that are drawn from, the first so many; all for 0. part: in place of an amount, this
            part of the largest that can be decrypted.
    """

    amount: float = 0.0
    lanes: int = 0
    slots: int = 0
    among: int = 0
    part: float = 0.0

    def model(self, scene: Scene) -> LoadedModel:
        batch = scene.model.program.batch
        self._lanes = scene.random.choice(batch, self.lanes or batch, replace=False)
        return scene.model

    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        return [added(scene.params, tile, self._values(scene, tile.shape)) for tile in tiles]

    def _values(self, scene: Scene, shape: Shape) -> Any:
        params, batch = scene.params, scene.model.program.batch
        amount = self.part * params.primes[0] / shape.scale / 2 if self.part else self.amount
        values = np.zeros(params.ring if shape.cut else params.slots)
        if self.slots:
            values[scene.random.choice(self.among or len(values), self.slots, replace=False)] = amount
        elif self.lanes:
            values.reshape(-1, batch)[:, self._lanes] = amount
        else:
            values[:] = amount
        return values


@dataclass
class Noise(At):
    """Normal noise of this deviation in every slot or coefficient."""

    deviation: float = 0.0

    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        def drawn(shape: Shape) -> Any:
            size = scene.params.ring if shape.cut else scene.params.slots
            return scene.random.normal(0, self.deviation, size)

        return [added(scene.params, tile, drawn(tile.shape)) for tile in tiles]


@dataclass
class Crafted(At):
    """Ciphertexts that no evaluation gives. (0, 1) decrypts to the secret key."""

    how: str = ""

    def changed(self, scene: Scene, tiles: list[Record]) -> list[Record]:
        return [self._one(scene, tile) for tile in tiles]

    def _one(self, scene: Scene, tile: Record) -> Record:
        params, q = scene.params, int(modulus(scene.params, tile.shape))
        kept = tile.residues.copy()
        if self.how in ("c0 = 0", "c1 = 0"):
            kept[int(self.how == "c1 = 0")] = 0
            return Record(tile.shape, kept)
        if self.how == "random":
            return Record(tile.shape, scene.random.integers(0, q, kept.shape, dtype=np.uint64))
        if self.how in ("c0 + s", "c0 + 2^20 s"):
            return plus(params, tile, constant(params, tile, 0, 1 if self.how == "c0 + s" else 1 << 20))
        pairs = {"both 0": (0, 0), "s": (0, 1), "s q/2": (0, q // 2), "q - 1": (-1, -1), "q/2": (q // 2, 0)}
        return constant(params, tile, *pairs[self.how])
