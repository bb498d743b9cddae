"""The giant step of a product: what baby-step giant-step takes with each, counted from its diagonals."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from securedl.program.count import Counts
from securedl.program.steps import Block

#: A term of a sum of products, in key switches (`cost.DOT_NTTS`).
TERM = 0.05


class Diagonals:
    """All diagonals of a step, as what `Counter` counts when the step runs on it with a batch of one.

    Args:
        tiles: of the result. folds: of each of them.
    """

    def __init__(self, blocks: tuple[Block, ...], tiles: int, folds: tuple[int, ...]) -> None:
        sizes = [len(block.diagonals) for block in blocks]
        self._k = np.fromiter((k for block in blocks for k in block.diagonals), np.int64, sum(sizes))
        self._output = np.repeat([block.output for block in blocks], sizes)
        reads = {key: n for n, key in enumerate(sorted({(b.source, b.tile) for b in blocks}))}
        self._read = np.repeat([reads[b.source, b.tile] for b in blocks], sizes)
        self._tiles, self._reads, self._folds = tiles, len(reads), folds
        #: Above all k.
        self.top = int(self._k.max()) + 1

    def counts(self, giant: int, encrypted: bool) -> Counts:
        """With this giant step."""
        i, j = np.divmod(self._k, giant)
        babies = np.zeros((self._reads, min(giant, self.top)), dtype=np.bool_)
        babies[self._read, j] = True
        groups = np.zeros((self._tiles, (self.top - 1) // giant + 1), dtype=np.bool_)
        groups[self._output, i] = True
        inner, outer = np.flatnonzero(babies.any(axis=0)), np.flatnonzero(groups.any(axis=0)) * giant
        return Counts(
            hoisted=int(babies[:, 1:].sum()),
            turns=int(groups[:, 1:].sum()) + self._tiles * len(self._folds),
            terms=len(self._k),
            groups=int(groups.sum()),
            rotations={*inner.tolist(), *outer.tolist(), *self._folds} - {0},
            relinearised=encrypted,
        )


def best_giant(
    blocks: tuple[Block, ...],
    tiles: int,
    folds: tuple[int, ...],
    encrypted: bool,
    others: Iterable[int] = (),
) -> tuple[int, Counts, float]:
    """The g with the fewest key switches (a relinearisation for each giant step when encrypted); these.

    Args:
        others: to be tried beside powers of two.
    """
    found = Diagonals(blocks, tiles, folds)
    powers = [1 << k for k in range((found.top - 1).bit_length() + 1)]
    best: tuple[float, int, Counts] | None = None
    for giant in sorted({*powers, *(one for one in others if one < found.top)}):
        counts = found.counts(giant, encrypted)
        # A baby rotation is hoisted (about half a key switch); a giant step also rescales.
        cost = 0.5 * counts.hoisted + counts.turns + counts.groups * (1.3 if encrypted else 0.3)
        cost += TERM * counts.terms
        if best is None or cost < best[0]:
            best = (cost, giant, counts)
    assert best is not None  # one is a power of two
    return best[1], best[2], best[0]
