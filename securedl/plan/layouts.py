"""Where values sit in slots: features to tiles and back.

A layout is an array, not a formula; `Interleaved` is the one that generalised diagonals (`plan.diagonals`)
know: features at positions, one after another or on a grid, and copies of them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.plan.grid import Grid, Positions, grid_of
from securedl.program.program import Program
from securedl.program.steps import MAX_TILES

Indices: TypeAlias = NDArray[np.int64]
#: A place where nothing stands.
NOTHING = -1


class Layout(ABC):
    """Where the features of a value stand: an array that both sides derive from a small public descriptor."""

    @property
    @abstractmethod
    def tiles(self) -> int:
        """Ciphertexts."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Samples and features."""

    @abstractmethod
    def pack(self, values: Array) -> Array:
        """[samples, features] to what is encrypted: slots or coefficients [tiles, n]."""

    @abstractmethod
    def unpack(self, tiles: Array) -> Array:
        """The inverse of `pack`, from what was decrypted."""


class SlotLayout(Layout):
    """Slots: each sample of a batch has a lane of its own.

    Attributes:
        batch: samples in a ciphertext. width: places of a tile; slot = place · batch + sample.
    """

    batch: int
    width: int

    @property
    @abstractmethod
    def content(self) -> Indices:
        """int64 [tiles, width]: the feature at each place, or NOTHING. One may stand in several places."""

    @property
    def tiles(self) -> int:
        """Ciphertexts."""
        return len(self.content)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and features."""
        return self.batch, len(self.place)

    @cached_property
    def place(self) -> Indices:
        """int64 [features, 2]: tile and place of each feature, the first of them where there are several."""
        tiles, places = np.nonzero(self.content != NOTHING)
        _, first = np.unique(self.content[tiles, places], return_index=True)
        return np.stack([tiles[first], places[first]], axis=1)

    @cached_property
    def read(self) -> Indices:
        """int64 [tiles, width · batch]: where in its tile `unpack` reads what stands in a slot, the first of
        several copies. A slot where nothing stands is its own.
        """
        places = np.append(self.place[:, 1], 0)[self.content]  # NOTHING is the last one
        places = np.where(self.content == NOTHING, np.arange(self.width), places)
        return (places[:, :, None] * self.batch + np.arange(self.batch)).reshape(self.tiles, -1)

    def pack(self, values: Array) -> Array:
        """[batch, features] to slots [tiles, width · batch]; zero where nothing stands."""
        whole = np.concatenate([values, np.zeros((len(values), 1))], axis=1)  # NOTHING is the last column
        slots: Array = whole.T[self.content].reshape(self.tiles, self.width * self.batch)
        return slots

    def unpack(self, slots: Array) -> Array:
        """Slots [tiles, width · batch] to [batch, features]."""
        by_place = slots.reshape(self.tiles, self.width, self.batch)
        return np.ascontiguousarray(by_place[self.place[:, 0], self.place[:, 1]].T)


@dataclass(frozen=True)
class Interleaved(SlotLayout):
    """Features at positions, repeated with the period P: slot f · batch + s holds what has position f mod P.

    Where the client lays them, copies may be shifted, so that each of them meets other diagonals of a matrix:
    place i · copy + f holds position f + (i mod count) · shift mod P.

    Attributes:
        features: real features. width: positions a tile holds. batch: samples a tile holds.
        copy: places of a copy, a multiple of P, or 0 for P. count: copies that differ. shift: of each from
            the one before. grid: what gives features their positions; None for one after another.
    """

    features: int
    width: int
    batch: int
    copy: int = 0
    count: int = 1
    shift: int = 0
    grid: Grid | None = None

    @property
    def tiles(self) -> int:
        """Ciphertexts."""
        return -(-self.features // self.width) if self.grid is None else self.grid.tiles(self.width)

    @property
    def flat(self) -> Interleaved:
        """The same features one after another."""
        return Interleaved(self.features, self.width, self.batch)

    @cached_property
    def positions(self) -> Positions:
        """int32 [features]: tile · width + place of the first copy."""
        if self.grid is None:
            return np.arange(self.features, dtype=np.int32)
        return self.grid.positions(self.width)

    @cached_property
    def span(self) -> int:
        """Positions up to the last that holds something."""
        return self.features if self.grid is None else int(self.positions.max()) + 1

    @property
    def period(self) -> int:
        """Positions after which a tile repeats: the next power of two, at most the width."""
        return self.width if self.tiles > 1 else 1 << (self.span - 1).bit_length()

    @cached_property
    def content(self) -> Indices:
        """See `Layout`."""
        place = np.arange(self.width)
        moved = (place + place // (self.copy or self.period) % self.count * self.shift) % self.period
        return self._features(moved)

    def _features(self, moved: Indices) -> Indices:
        """What stands at these places [width] of every tile; NOTHING where they are NOTHING."""
        at = np.full(self.tiles * self.width, NOTHING)
        at[self.positions] = np.arange(self.features)
        return np.where(moved == NOTHING, NOTHING, at.reshape(self.tiles, self.width)[:, moved])


@dataclass(frozen=True)
class Sums(Interleaved):
    """Parts of features, which whoever decrypts adds up: sums that the server need not form by rotations.

    Place i · copy + f holds a part of what has position f - i · shift mod P, in the first `count` copies; the
    others hold nothing.
    """

    @cached_property
    def content(self) -> Indices:
        """See `Layout`."""
        place, copy = np.arange(self.width), self.copy or self.period
        moved = (place - place // copy * self.shift) % self.period
        return self._features(np.where(place < self.count * copy, moved, NOTHING))

    def pack(self, values: Array) -> Array:
        """[batch, features] to slots, each value at one place."""
        slots = np.zeros((self.tiles, self.width, self.batch))
        slots[self.place[:, 0], self.place[:, 1]] = values.T
        return slots.reshape(self.tiles, -1)

    def unpack(self, slots: Array) -> Array:
        """The sums of all parts."""
        here = self.content != NOTHING
        total = np.zeros((self.features, self.batch))
        np.add.at(total, self.content[here], slots.reshape(self.tiles, self.width, self.batch)[here])
        return np.ascontiguousarray(total.T)


def in_rows(slots: Array, rows: int, batch: int) -> Array:
    """Slots [tiles, width · batch] as a scheme with several rows has them, [tiles, rows, n]: each row has all
    features of its samples.
    """
    if rows == 1:
        return slots
    apart = slots.reshape(len(slots), -1, rows, batch // rows)
    return np.ascontiguousarray(apart.swapaxes(1, 2).reshape(len(slots), rows, -1))


def out_of_rows(slots: Array, rows: int, batch: int) -> Array:
    """The inverse of `in_rows`."""
    if rows == 1:
        return slots
    apart = slots.reshape(len(slots), rows, -1, batch // rows)
    return np.ascontiguousarray(apart.swapaxes(1, 2).reshape(len(slots), -1))


def descriptor(layout: Interleaved) -> tuple[bool | int, ...]:
    """What tells a layout to who knows the program: width and batch are in that."""
    parts = layout.features, layout.copy, layout.count, layout.shift
    return isinstance(layout, Sums), *parts, *(() if layout.grid is None else layout.grid.numbers)


def described(parts: Sequence[Any], program: Program) -> Interleaved:
    """The inverse of `descriptor`.

    Raises:
        InputError: no such layout of the program's slots.
    """
    sums, features, copy, count, shift, *rest = parts
    whole = all(type(one) is int and one >= 0 for one in parts[1:])
    if whole and type(sums) is bool and 1 <= features <= MAX_TILES * program.width:
        grid = grid_of(rest, features, program.width, MAX_TILES) if rest else None
        if grid is not None or not rest:
            kind = Sums if sums else Interleaved
            found = kind(features, program.width, program.batch, copy, count, shift, grid)
            room = found.copy or found.period
            if 1 <= count * room <= program.width and room % found.period == 0 and shift < found.period:
                return found
    raise InputError(f"{list(parts)} is no layout of {program.width} places in a ciphertext")


def diagonal_count(source: Interleaved, target: Interleaved) -> int:
    """Generalised diagonals that one block can have at most."""
    return min(source.period, target.period)


def longer(source: Interleaved, target: Interleaved) -> int:
    """Places of a copy of both: the longer period."""
    return max(source.period, target.period)


def copies(source: Interleaved, target: Interleaved) -> int:
    """Copies among which the diagonals are shared; each has every so many-th run of them."""
    return max(source.count if source.shift else 1, target.count if target.shift else 1)


def folds(source: Interleaved, target: Interleaved) -> tuple[int, ...]:
    """Rotate-and-sum steps, in places, that finish a product: over copies that share its diagonals, and
    from a longer to a shorter period. None where the parts are left to the client.
    """
    if isinstance(target, Sums):
        return ()
    steps = [longer(source, target) << k for k in range(copies(source, target).bit_length() - 1)]
    step = target.period
    while step < source.period:
        steps.append(step)
        step *= 2
    return tuple(steps)
