"""Where values sit in slots: features to tiles and back, matrices to generalised diagonals.

A layout is an array, not a formula, so that convolutions, gaps and copies can have others; `Interleaved` is
the one for dense networks, and generalised diagonals are its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from securedl.network.graph import Array
from securedl.program.steps import Matvec

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

    Attributes:
        features: real features. width: features a tile holds. batch: samples a tile holds.
    """

    features: int
    width: int
    batch: int

    @property
    def tiles(self) -> int:
        """Ciphertexts."""
        return -(-self.features // self.width)

    @property
    def period(self) -> int:
        """Features after which a tile repeats: the next power of two, at most the width."""
        return self.width if self.tiles > 1 else 1 << (self.features - 1).bit_length()

    @cached_property
    def content(self) -> Indices:
        """See `Layout`."""
        feature = np.arange(self.tiles)[:, None] * self.width + np.arange(self.width) % self.period
        return np.where(feature < self.features, feature, NOTHING)


def diagonal_count(source: Interleaved, target: Interleaved) -> int:
    """Generalised diagonals that one block can have at most."""
    return min(source.period, target.period)


def folds(source: Interleaved, target: Interleaved) -> tuple[int, ...]:
    """Rotate-and-sum steps, in features, that finish a product from a longer to a shorter period."""
    steps, step = [], target.period
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
    k = (cols % source.width - rows % target.width) % count
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
    """diag_k[f] = M[f mod P_out, (f + k) mod P_in], as [diagonals, width]."""
    part = matrix[
        output * target.width : (output + 1) * target.width, tile * source.width : (tile + 1) * source.width
    ]
    found = part.tocoo()
    count = diagonal_count(source, target)
    rows, cols = found.row.astype(np.int64), found.col.astype(np.int64)
    k = (cols - rows) % count
    rank = np.zeros(count, dtype=np.int64)
    rank[list(ks)] = np.arange(len(ks))
    long = max(source.period, target.period)
    # Entry (r, c) sits where f = r (mod P_out) and f + k = c (mod P_in): once in each longer period.
    first = rows if target.period >= source.period else (cols - k) % source.period
    table = np.zeros((len(ks), source.width))
    for copy in range(source.width // long):
        table[rank[k], first + copy * long] = found.data
    return table
