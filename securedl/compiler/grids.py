"""Which grids are worth a try for the values around a layer: few, and all follow from shapes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from securedl.plan.grid import Grid
from securedl.program.steps import MAX_TILES

Image = tuple[int, int, int]
#: (down, up), one of them 1: a layer goes on by so many rows or columns from one result to the next, or gives
#: so many results before it does. (2, 1) is a stride of 2, (1, 2) an upsampling.
Stride = tuple[int, int]


def image_of(shape: tuple[int, ...]) -> Image | None:
    """Channels, rows and columns; None for a vector, or for more axes. A row of values is one of an image."""
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return shape if len(shape) == 3 else None


@dataclass(frozen=True)
class Sweep:
    """How a layer goes over an image.

    Attributes:
        source, target: of what it reads and gives. steps: of rows and of columns.
    """

    source: Image
    target: Image
    steps: tuple[Stride, Stride]


def sweep_of(pattern: sparse.csr_matrix, before: tuple[int, ...], after: tuple[int, ...]) -> Sweep | None:
    """That of a layer with these stored entries; None where it has none, as a dense layer."""
    source, target = image_of(before), image_of(after)
    if source is None or target is None or pattern.nnz == 0:
        return None
    steps = [_step(pattern, source, target, axis) for axis in (1, 2)]
    rows, columns = steps
    return None if rows is None or columns is None else Sweep(source, target, (rows, columns))


def _step(pattern: sparse.csr_matrix, source: Image, target: Image, axis: int) -> Stride | None:
    """From the middles of what results along an axis read, in the inner half, where no padding tells."""
    count = target[axis]
    if count == 1 or source[axis] == 1:
        return (1, 1)
    first, last = (count // 4, count - 1 - count // 4) if count > 3 else (0, count - 1)
    middles = []
    for at in (first, last):
        spot = [0, target[1] // 2, target[2] // 2]
        spot[axis] = at
        row = int(np.ravel_multi_index(spot, target))
        read = np.unravel_index(pattern.indices[pattern.indptr[row] : pattern.indptr[row + 1]], source)[axis]
        if not len(read):
            return None
        middles.append((int(read.min()) + int(read.max())) / 2)
    slope = (middles[1] - middles[0]) / (last - first)
    if slope < 0.2:
        return None
    return (round(slope), 1) if slope > 0.7 else (1, round(1 / slope))


def starts(over: Sweep, width: int) -> Iterator[Grid]:
    """Grids that the client may lay what the layer reads on: its results then lie in the same places."""
    (_, rows, columns), down = over.source, (over.steps[0][0], over.steps[1][0])
    for phases in dict.fromkeys(((1, 1), down)):
        if phases[0] > rows or phases[1] > columns:
            continue
        grid = Grid(over.source, 1, 1, phases)
        after = _through(grid, over)
        if after is None:
            continue
        stride = max(grid.extent[0], after.extent[0])
        ends = [replace(one, stride=stride) for one in (grid, after)]
        for plane in _planes(max(one.extent[1] for one in ends), width):
            yield replace(ends[0], plane=plane)


def results(source: Grid, over: Sweep, width: int) -> Iterator[Grid]:
    """Grids for what the layer gives from what it reads on one, with the same rows and planes."""
    grid = _through(source, over)
    if grid is not None:
        for filled in dict.fromkeys((False, grid.gaps != (1, 1))):
            found = replace(grid, filled=filled)
            if found.fits and found.tiles(width) <= MAX_TILES:
                yield found


def _through(source: Grid, over: Sweep) -> Grid | None:
    """Phases and gaps after the layer's steps, or None where a phase has no part of a step's size."""
    phases, gaps = [], []
    for phase, gap, (down, up) in zip(source.phases, source.gaps, over.steps, strict=True):
        if phase % down == 0:
            phase //= down
        elif phase == 1:
            gap *= down
        else:
            return None
        if gap % up == 0:
            gap //= up
        elif gap == 1:
            phase *= up
        else:
            return None
        phases.append(phase)
        gaps.append(gap)
    return replace(source, shape=over.target, phases=(phases[0], phases[1]), gaps=(gaps[0], gaps[1]))


def _planes(size: int, width: int) -> Iterator[int]:
    """Places for planes of at least this size: a power of two, and what as many planes share evenly."""
    if size > width:
        yield from dict.fromkeys((-(-size // width) * width, size))
    else:
        yield from dict.fromkeys((1 << (size - 1).bit_length(), width // (width // size)))
