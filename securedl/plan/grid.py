"""Where the values of an image stand: rows, planes, parity phases and gaps, told by a few numbers.

A grid is a function from features to positions, position = tile · width + place; what a layout does with
positions (periods, shifted copies, sums) it does not know. A convolution between two grids with equal rows
and planes has few generalised diagonals: one for each tap and each distance of channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Positions: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True)
class Grid:
    """Positions of the features of a value (channels, rows, columns), which are in row-major order.

    Each axis has `phases` p and `gaps` g. Pixel y is y' = y // p of the sub-channel y mod p: where a layer of
    stride 2 reads phases of 2, all that one tap reads lies side by side. Pixel y' stands at y' · g: so the
    results of a stride of g lie where its inputs lay, and other channels may fill what is between.

        sub-channel c' = (c · p_rows + y mod p_rows) · p_columns + x mod p_columns
        place in a plane = (y' · g_rows + i) · stride + x' · g_columns + j
        plane q, i, j = c', 0, 0, or where the gaps are filled c' = (q · g_rows + i) · g_columns + j

    Planes follow one another. A tile holds as many whole ones as fit; a plane that is wider than a tile goes
    on in the next.

    Attributes:
        shape: channels, rows, columns. stride: places of a row. plane: places of a plane.
        phases, gaps: of rows and of columns. filled: whether other channels stand in the gaps.
    """

    shape: tuple[int, int, int]
    stride: int
    plane: int
    phases: tuple[int, int] = (1, 1)
    gaps: tuple[int, int] = (1, 1)
    filled: bool = False

    @property
    def features(self) -> int:
        """Values that stand somewhere."""
        return math.prod(self.shape)

    @property
    def _pixels(self) -> tuple[int, int]:
        """Rows and columns of a sub-channel."""
        (_, rows, columns), (down, across) = self.shape, self.phases
        return -(-rows // down), -(-columns // across)

    @property
    def planes(self) -> int:
        """Planes that hold something."""
        found = self.shape[0] * math.prod(self.phases)
        return -(-found // math.prod(self.gaps)) if self.filled else found

    @property
    def extent(self) -> tuple[int, int]:
        """Places that a row takes, and a plane."""
        (rows, columns), (down, across) = self._pixels, self.gaps
        row = (columns - 1) * across + (across if self.filled else 1)
        return row, ((rows - 1) * down + (down - 1 if self.filled else 0)) * self.stride + row

    @property
    def fits(self) -> bool:
        """Whether no two features share a place: rows fit their stride, planes their size."""
        row, plane = self.extent
        return row <= self.stride and plane <= self.plane

    def tiles(self, width: int) -> int:
        """Tiles of `width` places that it spans."""
        if self.plane <= width:
            return -(-self.planes // (width // self.plane))
        return -(-((self.planes - 1) * self.plane + self.extent[1]) // width)

    def positions(self, width: int) -> Positions:
        """int32 [features]: tile · width + place."""
        (channels, rows, columns), (down, across) = self.shape, self.phases
        c, y, x = (np.arange(size, dtype=np.int32) for size in (channels, rows, columns))
        sub = (c[:, None, None] * down + (y % down)[:, None]) * across + x % across
        i = j = np.int32(0)
        if self.filled:
            sub, inner = np.divmod(sub, math.prod(self.gaps))
            i, j = np.divmod(inner, self.gaps[1])
        pixel = ((y // down)[:, None] * self.gaps[0] + i) * self.stride + x // across * self.gaps[1] + j
        if self.plane <= width:
            tile, sub = np.divmod(sub, width // self.plane)
            pixel = pixel + tile * width
        return np.asarray(sub * self.plane + pixel, dtype=np.int32).reshape(-1)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The descriptor: all it is, for a file."""
        return *self.shape, self.stride, self.plane, *self.phases, *self.gaps, int(self.filled)


#: How many numbers tell a grid.
NUMBERS = 10


def grid_of(numbers: Sequence[int], features: int, width: int, most: int) -> Grid | None:
    """The inverse of `numbers`, or None: no grid of so many features in `most` tiles of `width` places.

    Nothing is allocated: the numbers may be from anywhere.
    """
    if len(numbers) != NUMBERS or not all(type(one) is int and 0 <= one <= most * width for one in numbers):
        return None
    *sizes, filled = numbers
    if filled > 1 or min(sizes) < 1:
        return None
    channels, rows, columns, stride, plane, *steps = sizes
    grid = Grid(
        (channels, rows, columns), stride, plane, (steps[0], steps[1]), (steps[2], steps[3]), filled == 1
    )
    inside = grid.features == features and max(steps) <= max(rows, columns) * 2
    return grid if inside and grid.fits and grid.tiles(width) <= most else None
