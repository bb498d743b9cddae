"""A transposed convolution as a convolution of an image that the client spreads with zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


@dataclass(frozen=True)
class Spread:
    """One direction of a transposed convolution.

    Attributes:
        size: of the image. taps, stride, padding, extra (at the end of the result), dilation: of the layer.
    """

    size: int
    taps: int
    stride: int
    padding: int
    extra: int
    dilation: int

    @property
    def ends(self) -> tuple[int, int]:
        """Zeros before and after the spread image; fewer than none are cut off."""
        before = self.dilation * (self.taps - 1) - self.padding
        return before, before + self.extra

    @property
    def common(self) -> int:
        """Zeros at both ends that the layer itself pads."""
        return max(0, min(self.ends))


def spread(emit: Any, x: Any, rows: Spread, columns: Spread) -> Any:
    """The image [samples, channels, rows, columns], spread and padded, but for what the layer pads."""
    channels = x.value.shape[1]
    if max(rows.stride, columns.stride) > 1:
        apart = emit.operation(_aten.reshape.default, x, [-1, channels, rows.size, 1, columns.size, 1])
        zeros = [0, columns.stride - 1, 0, 0, 0, rows.stride - 1]
        apart = emit.operation(_aten.constant_pad_nd.default, apart, zeros)
        sizes = [rows.size * rows.stride, columns.size * columns.stride]
        x = emit.operation(_aten.reshape.default, apart, [-1, channels, *sizes])
    around = [
        side
        for one in (columns, rows)
        for side in (one.ends[0] - one.common, one.ends[1] - one.common - (one.stride - 1))
    ]
    return emit.operation(_aten.constant_pad_nd.default, x, around) if any(around) else x


def flipped(weight: Tensor, groups: int) -> Tensor:
    """[channels, maps / groups, rows, columns] as [maps, channels / groups, rows, columns]."""
    channels, maps, *taps = weight.shape
    apart = weight.reshape(groups, channels // groups, maps, *taps).transpose(1, 2)
    return apart.reshape(groups * maps, channels // groups, *taps).flip(2, 3)
