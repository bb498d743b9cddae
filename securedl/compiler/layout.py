"""Pass 3: slots. Which diagonals each layer has, and the baby step that makes them cheapest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from securedl.plan.layouts import Interleaved, block_diagonals, folds
from securedl.plan.normalised import Normalised
from securedl.program.steps import Block


@dataclass(frozen=True)
class LayerLayout:
    """Blocks of one layer.

    Attributes:
        sources: how many registers it reads. giant: g of baby-step giant-step.
        babies, giants: rotations of inputs and of results. groups: relinearisations.
    """

    source: Interleaved
    target: Interleaved
    sources: int
    blocks: tuple[Block, ...]
    folds: tuple[int, ...]
    giant: int
    babies: int
    giants: int
    groups: int

    @property
    def diagonals(self) -> int:
        """Weights of the layer, without biases."""
        return sum(len(b.diagonals) for b in self.blocks)


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
        giant, counts = _best_giant(blocks, encrypted)
        layouts.append(
            LayerLayout(
                packing, target, len(layer.matrices), tuple(blocks), folds(packing, target), giant, *counts
            )
        )
        packing = target
    return tuple(layouts)


def _best_giant(blocks: list[Block], encrypted: bool) -> tuple[int, tuple[int, int, int]]:
    """The g with the fewest key switches (a relinearisation for each giant step when encrypted)."""
    top = max(k for b in blocks for k in b.diagonals) + 1
    best: tuple[float, int, tuple[int, int, int]] | None = None
    giant = 1
    while True:
        babies = {(b.source, b.tile, k % giant) for b in blocks for k in b.diagonals if k % giant}
        groups = {(b.output, k // giant) for b in blocks for k in b.diagonals}
        giants = sum(1 for _, i in groups if i)
        # A baby rotation is hoisted (about half a key switch); a giant step also rescales.
        cost = 0.5 * len(babies) + giants + len(groups) * (1.3 if encrypted else 0.3)
        if best is None or cost < best[0]:
            best = (cost, giant, (len(babies), giants, len(groups)))
        if giant >= top:
            return best[1], best[2]
        giant *= 2
