"""Matrices as generalised diagonals between two layouts: which there are, and what stands in them.

Which there are follows from the stored entries alone, never from their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from securedl.network.graph import Array
from securedl.plan.grid import Positions
from securedl.plan.layouts import (
    Indices,
    Interleaved,
    Sums,
    copies,
    diagonal_count,
    longer,
)
from securedl.program.steps import Matvec

#: Entries that are looked at together: their numbers stay in the second-level cache.
AT_A_TIME = 1 << 17


def block_diagonals(
    pattern: sparse.csr_matrix, source: Interleaved, target: Interleaved, rows: Positions | None = None
) -> dict[tuple[int, int], Indices]:
    """(output tile, input tile) to the ascending k of diagonals that the stored entries need.

    Ten million entries take 0.1 s and a few MB.

    Args:
        rows: positions of the pattern's rows, where these are not all of the target's.
    """
    rows = target.positions if rows is None else rows
    count, width = diagonal_count(source, target), np.int32(source.width)
    run = np.int32(count // copies(source, target) - 1)  # all of these are powers of two
    starts, columns = pattern.indptr, pattern.indices
    where = None if source.grid is None else source.positions
    tiles = rows // width
    if np.any(tiles[1:] < tiles[:-1]):
        order = np.argsort(tiles, kind="stable")
        part = sparse.csr_matrix((columns, columns, starts), shape=pattern.shape)[order]
        starts, columns = part.indptr, part.indices
    else:
        order = np.arange(len(tiles))
    rows, bounds = rows[order], np.searchsorted(tiles[order], np.arange(target.tiles + 1))
    blocks: dict[tuple[int, int], Indices] = {}
    for output in range(target.tiles):
        seen = np.zeros((source.tiles, count), dtype=np.bool_)
        for first, last in _runs(starts, int(bounds[output]), int(bounds[output + 1])):
            read = columns[starts[first] : starts[last]]
            read = read.astype(np.int32, copy=False) if where is None else where[read]
            k = read - np.repeat(rows[first:last], np.diff(starts[first : last + 1]))
            k &= np.int32(count - 1)
            k &= run
            if source.tiles > 1:
                k += read // width * np.int32(count)
            seen.reshape(-1)[k] = True
        for tile in np.flatnonzero(seen.any(axis=1)):
            blocks[output, int(tile)] = np.flatnonzero(seen[tile])
    return blocks


def _runs(starts: NDArray[np.int32], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Rows first..last in runs of about so many entries as are looked at together."""
    while first < last:
        end = int(np.searchsorted(starts, starts[first] + AT_A_TIME, side="right")) - 1
        end = min(max(end, first + 1), last)
        yield first, end
        first = end


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
    blocks: dict[int, dict[tuple[int, int], Sequence[int]]] = {}
    for block in step.blocks:
        blocks.setdefault(block.output, {})[block.source, block.tile] = block.diagonals
    held, tables, ranks = None, dict[tuple[int, int], Array](), dict[tuple[int, int], dict[int, int]]()
    for output, i, terms in step.groups():
        if output != held:  # those of one output tile at a time
            held, parts = output, blocks[output]
            tables = _tables(matrices, output, parts, source, target)
            ranks = {key: {k: n for n, k in enumerate(ks)} for key, ks in parts.items()}
        for which, tile, j in terms:
            diagonal = tables[which, tile][ranks[which, tile][i * step.giant + j]]
            yield np.repeat(np.roll(diagonal, i * step.giant), source.batch)


def _tables(
    matrices: Sequence[sparse.csr_matrix],
    output: int,
    parts: dict[tuple[int, int], Sequence[int]],
    source: Interleaved,
    target: Interleaved,
) -> dict[tuple[int, int], Array]:
    """Diagonals [diagonals, width] of each (source, tile) that an output tile reads."""
    rows = np.flatnonzero(target.positions // target.width == output)
    found: dict[tuple[int, int], Array] = {}
    for which in sorted({which for which, _ in parts}):
        entries = matrices[which][rows].tocoo()
        to, read = target.positions[rows[entries.row]].astype(np.int64), source.positions[entries.col]
        tiles = read // source.width
        for (one, tile), ks in parts.items():
            if one == which:
                here = tiles == tile
                places = to[here] % target.width, read[here].astype(np.int64) % source.width
                found[which, tile] = _block(*places, entries.data[here], ks, source, target)
    return found


def _block(
    rows: Indices, cols: Indices, data: Array, ks: Sequence[int], source: Interleaved, target: Interleaved
) -> Array:
    """diag_k[f] = M[f mod P_out, (f + k) mod P_in], as [diagonals, width], shifted copies apart.

    Args:
        rows, cols: places of the entries in their tiles.
    """
    count, long, shared = diagonal_count(source, target), longer(source, target), copies(source, target)
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
        table[rank[k[here]], first[here] + copy * long] = data[here]
    return table
