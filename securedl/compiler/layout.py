"""Pass 3: slots. The layouts that each layer may have, its diagonals then, and the cheapest baby step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import NamedTuple

import numpy as np
from scipy import sparse

from securedl.compiler.giant import best_giant
from securedl.compiler.grids import Sweep, results, starts, sweep_of
from securedl.errors import InputError
from securedl.plan.diagonals import block_diagonals
from securedl.plan.grid import Grid
from securedl.plan.layouts import Interleaved, Sums, diagonal_count, folds, longer
from securedl.plan.normalised import Layer, Normalised
from securedl.program.count import Counts
from securedl.program.steps import MAX_TILES, Block

#: Entries of a layer that a first look takes: about so many, in rows that are spread over all of it.
SAMPLE = 1 << 17


def lanes(batch: int | str, slots: int) -> int:
    """Samples in a ciphertext of `slots` slots.

    Raises:
        InputError: no number from 1, nor "latency" (1) or "throughput" (as many as there are slots).
    """
    named = {"latency": 1, "throughput": slots}
    if isinstance(batch, str):
        if batch not in named:
            raise InputError(f"batch must be a number, 'latency' or 'throughput', got {batch!r}")
        return named[batch]
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or batch < 1:
        raise InputError(f"batch must be a number from 1, 'latency' or 'throughput', got {batch!r}")
    return 1 << (int(batch) - 1).bit_length()


@dataclass(frozen=True)
class LayerLayout:
    """Blocks of one layer.

    Attributes:
        sources: how many registers it reads. giant: g of baby-step giant-step.
        counts: what its product takes. switches: the same in key switches.
        exact: whether that is of all rows; of some it is a lower bound, and no layout to be used.
    """

    source: Interleaved
    target: Interleaved
    sources: int
    blocks: tuple[Block, ...]
    folds: tuple[int, ...]
    giant: int
    counts: Counts
    switches: float
    exact: bool

    @property
    def diagonals(self) -> int:
        """Encrypted diagonals."""
        return sum(len(block.diagonals) for block in self.blocks)


class Ends(NamedTuple):
    """What a layer reads and gives, without copies, and whose part they are.

    Attributes:
        laid: by the client, just before. summed: by the client, just after.
    """

    source: Interleaved
    target: Interleaved
    laid: bool
    summed: bool


class Layouts:
    """The layouts that a layer may have, made when they are asked for.

    Where the client lays what the layer reads, and spare places hold copies, these are shifted, so that each
    meets other diagonals; where it gets what the layer gives, it adds up what is left in parts.

    Args:
        inputs: features that it reads. before: their shape, () for a vector.
    """

    def __init__(
        self, layer: Layer, inputs: int, before: tuple[int, ...], width: int, batch: int, encrypted: bool
    ) -> None:
        self._layer, self._encrypted = layer, encrypted
        #: What it reads and gives, one feature after another.
        self.flat = Interleaved(inputs, width, batch), Interleaved(layer.features, width, batch)
        self._before = before
        self._made: dict[Ends, LayerLayout] = {}
        self._after: dict[Interleaved, tuple[Interleaved, ...]] = {}

    @property
    def sources(self) -> int:
        """Registers that the layer reads."""
        return len(self._layer.matrices)

    @property
    def least(self) -> int:
        """Diagonals that it has at least: as many as hold all entries."""
        entries = sum(matrix.nnz for matrix in self._layer.matrices)
        return -(-entries // self.flat[0].width)

    @cached_property
    def _sweep(self) -> Sweep | None:
        return sweep_of(self._layer.matrices[0], self._before, self._layer.shape)

    @cached_property
    def starts(self) -> tuple[Interleaved, ...]:
        """What it may read where the client lays that."""
        flat, over = self.flat[0], self._sweep
        grids = [] if over is None else starts(over, flat.width)
        return flat, *(replace(flat, grid=one) for one in grids if one.tiles(flat.width) <= MAX_TILES)

    def targets(self, source: Interleaved) -> tuple[Interleaved, ...]:
        """What it may give from that."""
        if source not in self._after:
            flat, grids = self.flat[1], list[Grid]()
            if source.grid is not None and self._sweep is not None:
                grids = list(results(source.grid, self._sweep, flat.width))
            self._after[source] = (flat, *(replace(flat, grid=one) for one in grids))
        return self._after[source]

    def at(self, laid: bool, summed: bool) -> LayerLayout:
        """The cheapest layout of all."""
        ends = [Ends(s, t, laid, summed) for s in self.starts for t in self.targets(s)]
        while True:
            found = min((self.look(one) for one in ends), key=lambda one: one[1].switches)
            if found[1].exact:
                return found[1]
            self.make(found[0])

    def look(self, ends: Ends) -> tuple[Ends, LayerLayout]:
        """A layout that costs no more than the cheapest with these ends, which it is if it is exact."""
        ends = self._plain(ends)
        if ends not in self._made:
            self._made[ends] = self._cheapest(ends, self._sample, len(self._order) == self._layer.features)
        return ends, self._made[ends]

    def make(self, ends: Ends) -> LayerLayout:
        """The cheapest layout with these ends."""
        ends, found = self.look(ends)
        if not found.exact:
            self._made[ends] = found = self._cheapest(ends, self._layer.matrices, True)
        return found

    @cached_property
    def _order(self) -> np.ndarray:
        """Rows of the sample: with a stride that shares no factor with any size."""
        rows, entries = self._layer.features, max(one.nnz for one in self._layer.matrices)
        step = max(1, entries // SAMPLE)
        while gcd(step, rows) > 1:
            step += 1
        return np.arange(0, rows, step)

    @cached_property
    def _sample(self) -> tuple[sparse.csr_matrix, ...]:
        if len(self._order) == self._layer.features:
            return self._layer.matrices
        return tuple(matrix[self._order] for matrix in self._layer.matrices)

    def _plain(self, ends: Ends) -> Ends:
        """What makes no difference is left out."""
        room = self._room(ends)
        # Else nothing is left to be summed.
        summed = ends.summed and (room > 1 or bool(folds(ends.source, ends.target)))
        return ends._replace(laid=ends.laid and room > 1, summed=summed)

    @staticmethod
    def _room(ends: Ends) -> int:
        """Copies that there is a place for."""
        source, target = ends.source, ends.target
        if source.tiles > 1 or target.tiles > 1:
            return 1
        return min(diagonal_count(source, target), source.width // longer(source, target))

    def _cheapest(self, ends: Ends, matrices: tuple[sparse.csr_matrix, ...], exact: bool) -> LayerLayout:
        options = [self._layout(*pair, matrices, exact) for pair in self._copies(ends)]
        return min(options, key=lambda option: option.switches)

    def _copies(self, ends: Ends) -> Iterator[tuple[Interleaved, Interleaved]]:
        source, target, laid, summed = ends
        diagonals, long = diagonal_count(source, target), longer(source, target)
        most = self._room(ends).bit_length()
        for k in range(most - 1 if summed else 0, most if laid or summed else 1):
            count, shift = 1 << k, diagonals >> k if k else 0
            here = replace(source, copy=long, count=count, shift=shift) if laid and k else source
            parts = target.features, target.width, target.batch, long, count, 0 if laid else shift
            yield here, Sums(*parts, target.grid) if summed else target

    def _layout(
        self,
        source: Interleaved,
        target: Interleaved,
        matrices: tuple[sparse.csr_matrix, ...],
        exact: bool,
    ) -> LayerLayout:
        blocks = []
        rows = target.positions if exact else target.positions[self._order]
        for which, matrix in enumerate(matrices):
            for (output, tile), ks in block_diagonals(matrix, source, target, rows).items():
                blocks.append(Block(output, which, tile, tuple(ks.tolist())))
        missing = set(range(target.tiles)) - {b.output for b in blocks}
        blocks += [Block(output, 0, 0, (0,)) for output in sorted(missing)]  # rows without any entry
        steps = folds(source, target)
        # Diagonals between grids lie at multiples of a row and of a plane.
        grids = [one.grid for one in (source, target) if one.grid is not None]
        others = {size for grid in grids for size in (grid.stride, grid.plane)}
        found = best_giant(tuple(blocks), target.tiles, steps, self._encrypted, others)
        return LayerLayout(source, target, self.sources, tuple(blocks), steps, *found, exact)


def lay_out(network: Normalised, width: int, batch: int, encrypted: bool) -> tuple[Layouts, ...]:
    """Those of each layer."""
    sizes = [len(network.input_scale), *(layer.features for layer in network.layers)]
    shapes = [network.input_shape, *(layer.shape for layer in network.layers)]
    return tuple(
        Layouts(layer, inputs, shape, width, batch, encrypted)
        for layer, inputs, shape in zip(network.layers, sizes, shapes, strict=False)
    )
