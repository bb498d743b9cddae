"""Pass 3: slots. Which diagonals each layer has, and the baby step that makes them cheapest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from securedl.plan.layouts import Interleaved, block_diagonals, folds
from securedl.plan.normalised import Normalised
from securedl.program.count import Counted, Counter, Counts, SameWeight
from securedl.program.steps import Block, Matvec


@dataclass(frozen=True)
class LayerLayout:
    """Blocks of one layer.

    Attributes:
        sources: how many registers it reads. giant: g of baby-step giant-step.
        counts: what its product takes, from the step itself on a counter.
    """

    source: Interleaved
    target: Interleaved
    sources: int
    blocks: tuple[Block, ...]
    folds: tuple[int, ...]
    giant: int
    counts: Counts


def lay_out(network: Normalised, width: int, batch: int, encrypted: bool) -> tuple[LayerLayout, ...]:
    """A layout for each layer, dense in the tensor's own order."""
    packing = Interleaved(len(network.input_scale), width, batch)
    layouts = []
    for layer in network.layers:
        target = Interleaved(layer.features, width, batch)
        blocks = []
        for which, matrix in enumerate(layer.matrices):
            ones = matrix.copy()
            ones.data = np.ones_like(ones.data)
            for (output, tile), ks in sorted(block_diagonals(ones, packing, target).items()):
                blocks.append(Block(output, which, tile, tuple(int(k) for k in ks)))
        missing = set(range(target.tiles)) - {b.output for b in blocks}
        blocks += [Block(output, 0, 0, (0,)) for output in sorted(missing)]  # rows without any entry
        steps = folds(packing, target)
        giant, counts = _best_giant(tuple(blocks), target.tiles, steps, len(layer.matrices), encrypted)
        layouts.append(LayerLayout(packing, target, len(layer.matrices), tuple(blocks), steps, giant, counts))
        packing = target
    return tuple(layouts)


def _best_giant(
    blocks: tuple[Block, ...], tiles: int, folds: tuple[int, ...], sources: int, encrypted: bool
) -> tuple[int, Counts]:
    """The g with the fewest key switches (a relinearisation for each giant step when encrypted)."""
    top = max(k for b in blocks for k in b.diagonals) + 1
    best: tuple[float, int, Counts] | None = None
    giant = 1
    while True:
        counts = _count(blocks, tiles, giant, folds, sources, encrypted)
        giants = counts.turns - len(folds) * tiles
        # A baby rotation is hoisted (about half a key switch); a giant step also rescales.
        cost = 0.5 * counts.hoisted + giants + counts.groups * (1.3 if encrypted else 0.3)
        if best is None or cost < best[0]:
            best = (cost, giant, counts)
        if giant >= top:
            return best[1], best[2]
        giant *= 2


def _count(
    blocks: tuple[Block, ...], tiles: int, giant: int, folds: tuple[int, ...], sources: int, encrypted: bool
) -> Counts:
    """What the product takes: the step itself on a counter; its level and scales do not matter."""
    step = Matvec(1, (0,) * sources, blocks, tiles, giant, folds, 1, 1.0, (1.0,) * sources, 0)
    inputs = [[Counted(1)] * (1 + max(b.tile for b in blocks))] * sources
    counter = Counter()
    step.run(counter, 1, inputs, SameWeight(encrypted))
    return counter.counts
