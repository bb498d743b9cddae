"""Where values sit in slots: features to tiles and back, matrices to generalised diagonals.

slot = feature · batch + sample. A value of `features` features with period P fills a tile by
repetition: slot f · batch + s holds feature f mod P of sample s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from securedl.network.graph import Array
from securedl.program.steps import Matvec


@dataclass(frozen=True)
class Packing:
    """How one value is laid out.

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

    def pack(self, values: Array) -> Array:
        """[batch, features] to slots [tiles, width · batch]."""
        padded = np.zeros((self.batch, self.tiles * self.period))
        padded[:, : self.features] = values
        tiles = padded.reshape(self.batch, self.tiles, self.period).transpose(1, 2, 0)
        repeated = np.tile(tiles, (1, self.width // self.period, 1))
        return repeated.reshape(self.tiles, self.width * self.batch)

    def unpack(self, slots: Array) -> Array:
        """Slots [tiles, width · batch] to [batch, features]."""
        tiles = slots.reshape(self.tiles, self.width, self.batch)[:, : self.period]
        values: Array = tiles.transpose(2, 0, 1).reshape(self.batch, -1)[:, : self.features]
        return values


def diagonal_count(source: Packing, target: Packing) -> int:
    """Generalised diagonals that one block can have at most."""
    return min(source.period, target.period)


def folds(source: Packing, target: Packing) -> tuple[int, ...]:
    """Rotate-and-sum steps, in features, that finish a product from a longer to a shorter period."""
    steps, step = [], target.period
    while step < source.period:
        steps.append(step)
        step *= 2
    return tuple(steps)


def block_diagonals(
    pattern: sparse.csr_matrix, source: Packing, target: Packing
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
    source: Packing
    target: Packing

    def diagonals(self, step: Matvec) -> Iterator[Array]:
        """Slots [n] of every diagonal, in the step's order."""
        return diagonals(step, self.matrices, self.source, self.target)

    def vector(self) -> Iterator[Array]:
        """Slots [n] of each tile of the addend."""
        whole = np.broadcast_to(self.addend, (self.target.batch, self.target.features))
        return iter(self.target.pack(whole))


def diagonals(
    step: Matvec, matrices: Sequence[sparse.csr_matrix], source: Packing, target: Packing
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
    matrix: sparse.csr_matrix, output: int, tile: int, ks: Sequence[int], source: Packing, target: Packing
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
