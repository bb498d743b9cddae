"""What is public of a convolution: its sizes. A dense layer is a 1x1 convolution of a 1x1 image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from securedl.errors import CompileError
from securedl.network.graph import Array

Pair = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """One direction of a convolution.

    Attributes:
        size: of the image. taps: of the kernel. stride, padding (zeros at both ends), dilation: of the layer.

    Raises:
        CompileError: the kernel is longer than the padded image, or a number is out of range.

    Example:
        >>> Axis(28, 5, 2, 2).outputs
        14
    """

    size: int
    taps: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        if min(self.size, self.taps, self.stride, self.dilation) < 1 or self.padding < 0:
            raise CompileError(f"a convolution of these sizes is none: {self}")
        if self.outputs < 1:
            raise CompileError(
                f"a kernel that spans {self.span} is longer than {self.size} with padding {self.padding}"
            )

    @property
    def span(self) -> int:
        """Places from the first tap to the last."""
        return (self.taps - 1) * self.dilation + 1

    @property
    def outputs(self) -> int:
        """Places of the result."""
        return (self.size + 2 * self.padding - self.span) // self.stride + 1

    @cached_property
    def phases(self) -> tuple[int, ...]:
        """Remainders modulo the stride of the places that taps read: each is a channel of its own."""
        return tuple(sorted({tap * self.dilation % self.stride for tap in range(self.taps)}))

    @property
    def reach(self) -> int:
        """Taps of a phase, K: from the first to the last that some phase has."""
        return (self.span - 1) // self.stride + 1

    def tap(self, number: int) -> Pair:
        """Which phase (its place in `phases`) a tap belongs to, and which tap of it that is."""
        quotient, remainder = divmod(number * self.dilation, self.stride)
        return self.phases.index(remainder), quotient


@dataclass(frozen=True)
class Geometry:
    """A convolution of images of `channels`, to `maps`; `groups` of channels each make as many maps."""

    channels: int
    maps: int
    rows: Axis
    columns: Axis
    groups: int = 1

    def __post_init__(self) -> None:
        if min(self.channels, self.maps, self.groups) < 1 or self.channels % self.groups + (
            self.maps % self.groups
        ):
            raise CompileError(f"{self.groups} groups of {self.channels} channels and {self.maps} maps")

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of what it reads."""
        return self.channels, self.rows.size, self.columns.size

    @property
    def output(self) -> tuple[int, int, int]:
        """Maps, height and width of its result."""
        return self.maps, self.rows.outputs, self.columns.outputs

    @property
    def kernel(self) -> tuple[int, int, int, int]:
        """Shape of its weights."""
        return self.maps, self.channels // self.groups, self.rows.taps, self.columns.taps

    @property
    def entries(self) -> int:
        """Of the matrix that it is, those on padding among them."""
        _, reads, height, width = self.kernel
        return math.prod(self.output) * reads * height * width

    @property
    def phases(self) -> int:
        """Channels that one channel becomes."""
        return len(self.rows.phases) * len(self.columns.phases)

    def __str__(self) -> str:
        sizes = [" x ".join(map(str, shape)) for shape in (self.image, self.output)]
        if self.image[1:] == self.output[1:] == (1, 1):
            return f"{self.channels} -> {self.maps}"
        stride = max(self.rows.stride, self.columns.stride)
        extra = (f", stride {stride}" if stride > 1 else "") + (
            f", {self.groups} groups" if self.groups > 1 else ""
        )
        return f"{sizes[0]} -> {sizes[1]}, kernel {self.rows.taps}x{self.columns.taps}{extra}"

    def convolve(self, x: Array, kernel: Array) -> Array:
        """[samples, *image] to [samples, *output], in double precision, or in that of a kernel in single."""
        if self.dense:
            flat = x.reshape(len(x), -1).astype(kernel.dtype, copy=False) @ kernel.reshape(self.maps, -1).T
            return np.asarray(flat.reshape(len(x), *self.output))
        import torch  # a client that is never asked for this needs none

        dtype = np.float32 if kernel.dtype == np.float32 else np.float64
        found = torch.nn.functional.conv2d(
            torch.from_numpy(np.require(x, dtype, ["C", "W"])),
            torch.from_numpy(np.require(kernel, dtype, ["C", "W"])),
            stride=(self.rows.stride, self.columns.stride),
            padding=(self.rows.padding, self.columns.padding),
            dilation=(self.rows.dilation, self.columns.dilation),
            groups=self.groups,
        )
        return np.asarray(found)

    def back(self, y: Array, kernel: Array) -> Array:
        """The transposed map: [rows, *output] to [rows, *image], so that Σ y·convolve(x) = Σ back(y)·x."""
        if self.dense:
            flat = y.reshape(len(y), -1) @ kernel.reshape(self.maps, -1)
            return np.asarray(flat.reshape(len(y), *self.image))
        import torch
        from torch.nn.grad import conv2d_input

        found = conv2d_input(  # type: ignore[no-untyped-call]
            (len(y), *self.image),
            torch.from_numpy(np.require(kernel, kernel.dtype, ["C", "W"])),
            torch.from_numpy(np.require(y, kernel.dtype, ["C", "W"])),
            stride=(self.rows.stride, self.columns.stride),
            padding=(self.rows.padding, self.columns.padding),
            dilation=(self.rows.dilation, self.columns.dilation),
            groups=self.groups,
        )
        return np.asarray(found)

    @property
    def dense(self) -> bool:
        """Whether it is a product with a matrix, of images of one pixel."""
        return self.groups == 1 and self.image[1:] == self.output[1:] == (1, 1) == self.kernel[2:]

    def to_list(self) -> list[Any]:
        """For a file."""
        rows, columns = (
            [axis.size, axis.taps, axis.stride, axis.padding, axis.dilation]
            for axis in (self.rows, self.columns)
        )
        return [self.channels, self.maps, rows, columns, self.groups]

    @staticmethod
    def from_list(row: Any) -> Geometry:
        """The inverse of `to_list`.

        Raises:
            CompileError: no sizes of a convolution.
        """
        channels, maps, rows, columns, groups = row
        down, across = (Axis(*(int(number) for number in axis)) for axis in (rows, columns))
        return Geometry(int(channels), int(maps), down, across, int(groups))
