"""Pass 3: slots. Which diagonals each layer has, and the baby step that makes them cheapest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from securedl.plan.layouts import Interleaved, Sums, block_diagonals, diagonal_count, folds, longer
from securedl.plan.normalised import Layer, Normalised
from securedl.program.count import Counted, Counter, Counts, SameWeight
from securedl.program.steps import Block, Matvec

#: A term of a sum of products, in key switches (`cost.DOT_NTTS`).
TERM = 0.05


@dataclass(frozen=True)
class LayerLayout:
    """Blocks of one layer.

    Attributes:
        sources: how many registers it reads. giant: g of baby-step giant-step.
        counts: what its product takes, from the step itself on a counter. switches: the same in key switches.
    """

    source: Interleaved
    target: Interleaved
    sources: int
    blocks: tuple[Block, ...]
    folds: tuple[int, ...]
    giant: int
    counts: Counts
    switches: float

    @property
    def diagonals(self) -> int:
        """Encrypted diagonals."""
        return sum(len(block.diagonals) for block in self.blocks)


class Layouts:
    """The layouts that a layer may have, made when they are asked for.

    Where the client lays what the layer reads, and spare places hold copies, these are shifted, so that each
    meets other diagonals; where it gets what the layer gives, it adds up what is left in parts.
    """

    def __init__(self, layer: Layer, inputs: int, width: int, batch: int, encrypted: bool) -> None:
        self._layer, self._encrypted = layer, encrypted
        self._plain = Interleaved(inputs, width, batch), Interleaved(layer.features, width, batch)
        alone = all(one.tiles == 1 for one in self._plain)
        self._room = min(diagonal_count(*self._plain), width // longer(*self._plain)) if alone else 1
        self._made: dict[tuple[bool, bool], LayerLayout] = {}

    @property
    def sources(self) -> int:
        """Registers that the layer reads."""
        return len(self._layer.matrices)

    @property
    def plain(self) -> Interleaved:
        """Where what it gives stands when nothing is laid or summed."""
        return self._plain[1]

    @property
    def least(self) -> int:
        """Diagonals that it has at least: as many as hold all entries."""
        entries = sum(matrix.nnz for matrix in self._layer.matrices)
        return -(-entries // self._plain[0].width)

    @property
    def tiles(self) -> tuple[int, int]:
        """Of what it reads, each register's, and of what it gives."""
        source, target = self._plain
        return source.tiles, target.tiles

    def at(self, laid: bool, summed: bool) -> LayerLayout:
        """The cheapest layout.

        Args:
            laid: by the client, just before. summed: by the client, just after.
        """
        laid = laid and self._room > 1
        summed = summed and (self._room > 1 or bool(folds(*self._plain)))  # else nothing is left to be summed
        if (laid, summed) not in self._made:
            options = [self._layout(*ends) for ends in self._ends(laid, summed)]
            self._made[laid, summed] = min(options, key=lambda option: option.switches)
        return self._made[laid, summed]

    def _ends(self, laid: bool, summed: bool) -> Iterator[tuple[Interleaved, Interleaved]]:
        source, target = self._plain
        diagonals, long, most = (
            diagonal_count(source, target),
            longer(source, target),
            self._room.bit_length(),
        )
        for k in range(most - 1 if summed else 0, most if laid or summed else 1):
            count, shift = 1 << k, diagonals >> k if k else 0
            here = replace(source, copy=long, count=count, shift=shift) if laid and k else source
            sums = Sums(target.features, target.width, target.batch, long, count, 0 if laid else shift)
            yield here, sums if summed else target

    def _layout(self, source: Interleaved, target: Interleaved) -> LayerLayout:
        blocks = []
        for which, matrix in enumerate(self._layer.matrices):
            ones = matrix.copy()
            ones.data = np.ones_like(ones.data)
            for (output, tile), ks in sorted(block_diagonals(ones, source, target).items()):
                blocks.append(Block(output, which, tile, tuple(int(k) for k in ks)))
        missing = set(range(target.tiles)) - {b.output for b in blocks}
        blocks += [Block(output, 0, 0, (0,)) for output in sorted(missing)]  # rows without any entry
        steps = folds(source, target)
        found = _best_giant(tuple(blocks), target.tiles, steps, self.sources, self._encrypted)
        return LayerLayout(source, target, self.sources, tuple(blocks), steps, *found)


def lay_out(network: Normalised, width: int, batch: int, encrypted: bool) -> tuple[Layouts, ...]:
    """Those of each layer, dense in the tensor's own order."""
    sizes = [len(network.input_scale), *(layer.features for layer in network.layers)]
    return tuple(
        Layouts(layer, inputs, width, batch, encrypted)
        for layer, inputs in zip(network.layers, sizes, strict=False)
    )


def _best_giant(
    blocks: tuple[Block, ...], tiles: int, folds: tuple[int, ...], sources: int, encrypted: bool
) -> tuple[int, Counts, float]:
    """The g with the fewest key switches (a relinearisation for each giant step when encrypted); these."""
    top = max(k for b in blocks for k in b.diagonals) + 1
    best: tuple[float, int, Counts] | None = None
    giant = 1
    while True:
        counts = _count(blocks, tiles, giant, folds, sources, encrypted)
        # A baby rotation is hoisted (about half a key switch); a giant step also rescales.
        cost = 0.5 * counts.hoisted + counts.turns + counts.groups * (1.3 if encrypted else 0.3)
        cost += TERM * counts.terms
        if best is None or cost < best[0]:
            best = (cost, giant, counts)
        if giant >= top:
            return best[1], best[2], best[0]
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
