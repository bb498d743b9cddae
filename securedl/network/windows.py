"""Which inputs each output of a convolution or a pooling reads, axis by axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Taps:
    """Along one axis: output `out` reads input `source` with weight number `tap` of the kernel.

    Attributes:
        length: of the output. share: of each entry's output, its part of a mean; None for convolutions.
    """

    length: int
    out: Ints
    tap: Ints
    source: Ints
    share: NDArray[np.float64] | None = None


def convolved(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> Taps:
    """Of a convolution over `size` inputs between zeros."""
    length = (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1
    out, tap = (a.ravel() for a in np.mgrid[: max(length, 0), :kernel])
    return _inside(length, out, tap, out * stride + tap * dilation - padding[0], size)


def transposed(size: int, kernel: int, stride: int, padding: int, dilation: int, extra: int) -> Taps:
    """Of a transposed convolution, whose inputs spread over its outputs."""
    length = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    source, tap = (a.ravel() for a in np.mgrid[:size, :kernel])
    out = source * stride + tap * dilation - padding
    keep = (out >= 0) & (out < length)
    return Taps(length, out[keep], tap[keep], source[keep])


def pooled(size: int, kernel: int, stride: int, padding: int, ceil: bool, counted: bool) -> Taps:
    """Of an average pooling as torch does it: with `ceil` a last window may reach beyond the padding.

    counted: whether zeros of the padding count as values (`count_include_pad`).
    """
    span = size + 2 * padding - kernel
    length = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (length - 1) * stride >= size + padding:
        length -= 1
    start = np.arange(max(length, 0)) * stride - padding
    end = np.minimum(start + kernel, size + padding)
    among = end - start if counted else np.minimum(end, size) - np.maximum(start, 0)
    return _averaged(length, start, end, among, size)


def adaptive(size: int, length: int) -> Taps:
    """Of an adaptive pooling: windows from floor(i · size / length) to ceil((i + 1) · size / length)."""
    i = np.arange(length)
    start, end = i * size // length, -(-(i + 1) * size // length)
    return _averaged(length, start, end, end - start, size)


def _averaged(length: int, start: Ints, end: Ints, among: Ints, size: int) -> Taps:
    counts = np.maximum(end - start, 0)
    out = np.repeat(np.arange(len(start)), counts)
    tap = np.arange(len(out)) - np.repeat(np.cumsum(counts) - counts, counts)
    found = _inside(length, out, tap, start[out] + tap, size)
    return Taps(length, found.out, found.tap, found.source, 1.0 / among[found.out])


def _inside(length: int, out: Ints, tap: Ints, source: Ints, size: int) -> Taps:
    keep = (source >= 0) & (source < size)
    return Taps(length, out[keep], tap[keep], source[keep])


def joint(axes: Sequence[Taps], sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Ints, Ints, Ints, Any]:
    """Taps of all axes together: numbers of outputs, taps and inputs, row-major, and shares or None."""
    out = tap = source = np.zeros(1, dtype=np.int64)
    share: Any = None
    for taps, size, width in zip(axes, sizes, kernel, strict=True):
        out = (out[:, None] * taps.length + taps.out).ravel()
        tap = (tap[:, None] * width + taps.tap).ravel()
        source = (source[:, None] * size + taps.source).ravel()
        if taps.share is not None:
            share = taps.share if share is None else (share[:, None] * taps.share).ravel()
    return out, tap, source, share


def entries(axes: Sequence[Taps]) -> int:
    """How many taps there are in all."""
    return math.prod(len(taps.out) for taps in axes)
