"""ONNX's convolutions and batch norm, and the windows of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator, with_values
from securedl.network.onnx_file import MAX_NUMBERS
from securedl.network.onnx_values import OnnxOperation, OnnxValue, Running

_CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {
    3: nn.ConvTranspose1d,
    4: nn.ConvTranspose2d,
    5: nn.ConvTranspose3d,
}
_NORMS: dict[int, type[nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def of_rank(kinds: dict[int, type[nn.Module]], x: Running) -> Any:
    """The class for values of so many axes."""
    if len(x.shape) not in kinds:
        wanted = f"{min(kinds)} to {max(kinds)}"
        raise InputError(
            f"it is for values with {wanted} axes, samples and channels among them; got {len(x.shape)}"
        )
    return kinds[len(x.shape)]


class Window:
    """Kernel, stride, dilation and padding of an operator on axes behind samples and channels."""

    def __init__(self, op: OnnxOperation, x: Running, kernel: Sequence[int]) -> None:
        axes = len(kernel)
        self.kernel = tuple(kernel)
        self.stride = self._of(op, "strides", axes)
        self.dilation = self._of(op, "dilations", axes)
        if axes != len(x.shape) - 2 or list(op.attributes.get("kernel_shape", kernel)) != list(kernel):
            raise InputError(f"its kernel {list(kernel)} does not fit values with {len(x.shape)} axes")
        if min(self.kernel + self.stride + self.dilation) < 1:
            raise InputError("kernel, strides and dilations have to be 1 or more")
        if max(self.kernel + self.stride + self.dilation) > MAX_NUMBERS:
            raise InputError(f"kernel, strides and dilations have to be {MAX_NUMBERS} or less")
        pads = list(op.attributes.get("pads", [0] * 2 * axes))
        if len(pads) != 2 * axes or min(pads) < 0:
            raise InputError(f"its pads {pads[:8]} are not two numbers from 0 for each axis")
        self.before, self.after = pads[:axes], pads[axes:]
        #: Whether a last window may reach beyond the padding; auto_pad leaves no room for one.
        self.ceil = (
            bool(op.attributes.get("ceil_mode", 0)) and op.attributes.get("auto_pad", "NOTSET") == "NOTSET"
        )

    @staticmethod
    def _of(op: OnnxOperation, name: str, axes: int) -> tuple[int, ...]:
        found = tuple(op.attributes.get(name, [1] * axes))
        if len(found) != axes:
            raise InputError(f"its {name} are {len(found)} for {axes} axes")
        return found

    def place(self, op: OnnxOperation, sizes: Sequence[int]) -> None:
        """Padding by auto_pad, for a convolution or a pooling of these sizes."""
        way = op.attributes.get("auto_pad", "NOTSET")
        if way == "NOTSET":
            return
        axes = range(len(sizes))
        total = [0] * len(sizes)
        if way != "VALID":
            reach = [(self.kernel[i] - 1) * self.dilation[i] + 1 for i in axes]
            steps = [-(-sizes[i] // self.stride[i]) for i in axes]
            total = [max((steps[i] - 1) * self.stride[i] + reach[i] - sizes[i], 0) for i in axes]
        self.spread(total, way)

    def spread(self, total: Sequence[int], way: str) -> None:
        """Halves; of an odd number the larger one after, or before with SAME_LOWER."""
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        self.before, self.after = (large, small) if way == "SAME_LOWER" else (small, large)

    def lengths(self, sizes: Sequence[int], after: Sequence[int], up: bool) -> list[int]:
        """Windows along each axis of these sizes. up: also one that begins inside and ends beyond."""
        found = []
        for i, size in enumerate(sizes):
            room = size + self.before[i] + after[i] - (self.kernel[i] - 1) * self.dilation[i] - 1
            count = (-(-room // self.stride[i]) if up else room // self.stride[i]) + 1
            found.append(count - (up and (count - 1) * self.stride[i] >= size + self.before[i]))
        return found

    def padded(self, build: ModuleBuilder, x: OnnxValue, value: float = 0.0) -> OnnxValue:
        """x with the padding around it."""
        return build.call(functional.pad, x, self._sides(), value=value) if any(self._sides()) else x

    def _sides(self) -> list[int]:
        """As torch has them: the last axis first."""
        pairs = list(zip(self.before, self.after, strict=True))[::-1]
        return [side for pair in pairs for side in pair]


@operator("Conv")
def _conv(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x, weight = op.running(0), op.fixed(1)
    bias = op.fixed(2) if op.optional(2) else None
    window, groups = Window(op, x, weight.shape[2:]), op.attributes.get("group", 1)
    window.place(op, x.shape[2:])
    even = window.before == window.after
    source: OnnxValue = x if even else window.padded(build, x)
    layer = of_rank(_CONVOLUTIONS, x)(
        weight.shape[1] * groups, weight.shape[0], window.kernel, window.stride,
        tuple(window.before) if even else 0, window.dilation, groups, bias is not None, device="meta",
    )  # fmt: skip
    return build.module(with_values(layer, weight=weight, bias=bias), source)


@operator("ConvTranspose")
def _conv_transpose(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x, weight = op.running(0), op.fixed(1)
    bias = op.fixed(2) if op.optional(2) else None
    window, groups = Window(op, x, weight.shape[2:]), op.attributes.get("group", 1)
    axes = range(len(window.kernel))
    more = tuple(op.attributes.get("output_padding", [0 for _ in axes]))
    way, sizes = op.attributes.get("auto_pad", "NOTSET"), op.attributes.get("output_shape")
    if sizes is not None or way.startswith("SAME"):
        want = sizes or [x.shape[2 + i] * window.stride[i] for i in axes]
        reach = [(window.kernel[i] - 1) * window.dilation[i] + 1 for i in axes]
        full = [window.stride[i] * (x.shape[2 + i] - 1) + more[i] + reach[i] for i in axes]
        # SAME_UPPER alone has the larger half after.
        window.spread([full[i] - want[i] for i in axes], way if way == "SAME_UPPER" else "SAME_LOWER")
    cut = [min(pair) for pair in zip(window.before, window.after, strict=True)]
    layer = of_rank(_TRANSPOSED, x)(
        weight.shape[0], weight.shape[1] * groups, window.kernel, window.stride, tuple(cut), more, groups,
        bias is not None, window.dilation, device="meta",
    )  # fmt: skip
    result = build.module(with_values(layer, weight=weight, bias=bias), x)
    for i in axes:
        low, high = window.before[i] - cut[i], window.after[i] - cut[i]
        if low or high:
            assert isinstance(result, Running)
            result = build.call(torch.narrow, result, 2 + i, low, result.shape[2 + i] - low - high)
    return result


@operator("BatchNormalization")
def _batch_norm(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    if op.attributes.get("training_mode", 0):
        raise InputError("it was exported in training mode: call model.eval() before exporting")
    scale, shift, mean, variance = (op.fixed(index) for index in range(1, 5))
    layer = of_rank(_NORMS, x)(len(mean), op.attributes.get("epsilon", 1e-5), device="meta")
    with_values(layer, weight=scale, bias=shift, running_mean=mean, running_var=variance)
    return build.module(with_values(layer, num_batches_tracked=torch.tensor(0)), x)
