"""Where values sit in slots: features to tiles and back, matrices to generalised diagonals.

A layout is an array, not a formula, so that convolutions, gaps and copies can have others; `Interleaved` is
the one for dense networks, and generalised diagonals are its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.program.program import Program
from securedl.program.steps import MAX_TILES, Matvec

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
    """Features one after another, repeated with the period P: slot f · batch + s holds feature f mod P.

    Where the client lays them, copies may be shifted, so that each of them meets other diagonals of a matrix:
    place i · copy + f holds feature f + (i mod count) · shift mod P.

    Attributes:
        features: real features. width: features a tile holds. batch: samples a tile holds.
        copy: places of a copy, a multiple of P, or 0 for P. count: copies that differ. shift: of each from
            the one before.
    """

    features: int
    width: int
    batch: int
    copy: int = 0
    count: int = 1
    shift: int = 0

    @property
    def tiles(self) -> int:
        """Ciphertexts."""
        return -(-self.features // self.width)

    @property
    def period(self) -> int:
        """Features after which a tile repeats: the next power of two, at most the width."""
        return self.width if self.tiles > 1 else 1 << (self.features - 1).bit_length()

    @property
    def plain(self) -> Interleaved:
        """The same features without shifts, each place the whole of one."""
        return Interleaved(self.features, self.width, self.batch)

    @cached_property
    def content(self) -> Indices:
        """See `Layout`."""
        place = np.arange(self.width)
        moved = (place + place // (self.copy or self.period) % self.count * self.shift) % self.period
        return self._features(moved)

    def _features(self, moved: Indices) -> Indices:
        feature = np.arange(self.tiles)[:, None] * self.width + moved
        return np.where((feature < self.features) & (moved >= 0), feature, NOTHING)


@dataclass(frozen=True)
class Sums(Interleaved):
    """Parts of features, which whoever decrypts adds up: sums that the server need not form by rotations.

    Place i · copy + f holds a part of feature f - i · shift mod P, in the first `count` copies; the others
    hold nothing.
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


def descriptor(layout: Interleaved) -> tuple[bool, int, int, int, int]:
    """What tells a layout to who knows the program: width and batch are in that."""
    parts = layout.features, layout.copy, layout.count, layout.shift
    return isinstance(layout, Sums), *parts


def described(parts: Sequence[Any], program: Program) -> Interleaved:
    """The inverse of `descriptor`.

    Raises:
        InputError: no such layout of the program's slots.
    """
    sums, features, copy, count, shift = parts
    whole = all(type(one) is int and one >= 0 for one in parts[1:])
    if whole and type(sums) is bool and 1 <= features <= MAX_TILES * program.width:
        kind = Sums if sums else Interleaved
        found = kind(features, program.width, program.batch, copy, count, shift)
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
    """Rotate-and-sum steps, in features, that finish a product: over copies that share its diagonals, and
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


def block_diagonals(
    pattern: sparse.csr_matrix, source: Interleaved, target: Interleaved
) -> dict[tuple[int, int], Array]:
    """(output tile, input tile) to the ascending k of diagonals that the layer's shape allows."""
    found = pattern.tocoo()
    count = diagonal_count(source, target)
    rows, cols = found.row.astype(np.int64), found.col.astype(np.int64)
    k = (cols % source.width - rows % target.width) % count % (count // copies(source, target))
    key = ((rows // target.width) * source.tiles + cols // source.width) * count + k
    blocks: dict[tuple[int, int], list[int]] = {}
    for value in np.unique(key):
        block, diagonal = divmod(int(value), count)
        blocks.setdefault(divmod(block, source.tiles), []).append(diagonal)
    return {block: np.array(ks) for block, ks in blocks.items()}


@dataclass(frozen=True, eq=False)
class LayerValues:
    """What the owner puts into the weights of one step (`steps.Values`).

    Attributes:
        matrices: CSR [out, in], one for each source. addend: [out], the bias or an inner constant.
    """

    matrices: Sequence[sparse.csr_matrix]
    addend: Array
    source: Interleaved
    target: Interleaved

    def diagonals(self, step: Matvec) -> Iterator[Array]:
        """Slots [n] of every diagonal, in the step's order."""
        return diagonals(step, self.matrices, self.source, self.target)

    def polynomials(self) -> Iterator[Array]:
        """None: these are slots."""
        return iter(())

    def vector(self) -> Iterator[Array]:
        """Slots [n] of each tile of the addend."""
        whole = np.broadcast_to(self.addend, (self.target.batch, self.target.features))
        return iter(self.target.pack(whole))


def diagonals(
    step: Matvec, matrices: Sequence[sparse.csr_matrix], source: Interleaved, target: Interleaved
) -> Iterator[Array]:
    """Slot vectors [n] of every diagonal, in the step's order, rotated back by their giant step."""
    tables = {}
    for block in step.blocks:
        tables[block.output, block.source, block.tile] = _block(
            matrices[block.source], block.output, block.tile, block.diagonals, source, target
        )
    ranks = {(b.output, b.source, b.tile): {k: n for n, k in enumerate(b.diagonals)} for b in step.blocks}
    for output, i, terms in step.groups():
        for which, tile, j in terms:
            key = (output, which, tile)
            diagonal = tables[key][ranks[key][i * step.giant + j]]
            yield np.repeat(np.roll(diagonal, i * step.giant), source.batch)


def _block(
    matrix: sparse.csr_matrix,
    output: int,
    tile: int,
    ks: Sequence[int],
    source: Interleaved,
    target: Interleaved,
) -> Array:
    """diag_k[f] = M[f mod P_out, (f + k) mod P_in], as [diagonals, width], shifted copies apart."""
    part = matrix[
        output * target.width : (output + 1) * target.width, tile * source.width : (tile + 1) * source.width
    ]
    found = part.tocoo()
    count, long, shared = diagonal_count(source, target), longer(source, target), copies(source, target)
    rows, cols = found.row.astype(np.int64), found.col.astype(np.int64)
    number, k = np.divmod((cols - rows) % count, count // shared)
    rank = np.zeros(count, dtype=np.int64)
    rank[list(ks)] = np.arange(len(ks))
    # Entry (r, c) sits where the layouts have f = r (mod P_out) and, k places further, c (mod P_in): once in
    # each longer period, of the copies whose shift makes up for the rest of c - r.
    moved = number * (count // shared)
    if target.period >= source.period:
        first = (rows + moved) % target.period if target.shift else rows
    else:
        first = (cols - k - (0 if target.shift else moved)) % source.period
    over = (first + k >= long) & bool(source.shift)  # it is read from the next copy
    table = np.zeros((len(ks), source.width))
    whole = not isinstance(target, Sums)  # every copy then has the sum
    for copy in range(source.width // long if whole else shared):
        here = (copy + over) % shared == number
        table[rank[k[here]], first[here] + copy * long] = found.data[here]
    return table
