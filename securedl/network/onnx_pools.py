"""ONNX's pooling: averages, maxima and norms over windows, and over all places."""

from __future__ import annotations

import operator as python

import torch
from torch import nn

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator
from securedl.network.onnx_layers import Window, of_rank
from securedl.network.onnx_reduce import norm
from securedl.network.onnx_values import Fixed, OnnxOperation, OnnxValue

_AVERAGES: dict[int, type[nn.Module]] = {3: nn.AvgPool1d, 4: nn.AvgPool2d, 5: nn.AvgPool3d}
_LARGEST: dict[int, type[nn.Module]] = {3: nn.MaxPool1d, 4: nn.MaxPool2d, 5: nn.MaxPool3d}
_GLOBAL: dict[int, type[nn.Module]] = {
    3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d, 5: nn.AdaptiveAvgPool3d,
}  # fmt: skip
_GLOBAL_LARGEST: dict[int, type[nn.Module]] = {
    3: nn.AdaptiveMaxPool1d, 4: nn.AdaptiveMaxPool2d, 5: nn.AdaptiveMaxPool3d,
}  # fmt: skip


@operator("AveragePool")
def _average(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    window = Window(op, x, op.attributes["kernel_shape"])
    if max(window.dilation) > 1:
        raise InputError("dilations of an average are not supported")
    window.place(op, x.shape[2:])
    options = {"ceil_mode": window.ceil}
    counted = bool(op.attributes.get("count_include_pad", 0))
    kind = of_rank(_AVERAGES, x)
    if _torch_pads(window) and window.before == window.after:
        options["count_include_pad"] = counted
        return build.module(kind(window.kernel, window.stride, tuple(window.before), **options), x)
    layer = kind(window.kernel, window.stride, **options)
    mean = build.module(layer, window.padded(build, x))
    if counted:
        return mean
    ones = torch.ones(1, 1, *x.shape[2:], dtype=build.dtype)
    shares = build.module(layer, window.padded(build, Fixed(ones)))
    assert isinstance(shares, Fixed)
    return build.call(python.mul, mean, Fixed(1 / shares.tensor))


def _torch_pads(window: Window) -> bool:
    """Whether pooling layers of torch have so much padding before."""
    return all(2 * pad <= size for pad, size in zip(window.before, window.kernel, strict=True))


@operator("MaxPool")
def _max(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """Padding is never the largest, so as many windows from the same first place on are the same."""
    x = op.running(0)
    window = Window(op, x, op.attributes["kernel_shape"])
    window.place(op, x.shape[2:])
    kind = of_rank(_LARGEST, x)
    wanted = window.lengths(x.shape[2:], window.after, window.ceil)
    for up in (window.ceil, not window.ceil) if _torch_pads(window) else ():
        if window.lengths(x.shape[2:], window.before, up) == wanted:
            layer = kind(window.kernel, window.stride, tuple(window.before), window.dilation, ceil_mode=up)
            return build.module(layer, x)
    raise InputError("pads of a maximum that differ, or are more than half the kernel, are not supported")


@operator("LpPool")
def _norm(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """From averages over windows; where they reach beyond the padding there are zeros as well."""
    x = op.running(0)
    window = Window(op, x, op.attributes["kernel_shape"])
    if max(window.dilation) > 1:
        raise InputError("dilations of a norm are not supported")
    window.place(op, x.shape[2:])
    lengths = window.lengths(x.shape[2:], window.after, window.ceil)
    for axis, (length, size) in enumerate(zip(lengths, x.shape[2:], strict=True)):
        reach = (length - 1) * window.stride[axis] + window.kernel[axis]
        window.after[axis] = max(window.after[axis], reach - size - window.before[axis])
    layer = of_rank(_AVERAGES, x)(window.kernel, window.stride)

    def total(value: OnnxValue) -> OnnxValue:
        mean = build.module(layer, window.padded(build, value))
        return build.call(python.mul, mean, torch.Size(window.kernel).numel())

    return norm(build, x, op.attributes.get("p", 2), total)


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    kinds = _GLOBAL if op.kind == "GlobalAveragePool" else _GLOBAL_LARGEST
    return build.module(of_rank(kinds, x)(1), x)


@operator("GlobalLpPool")
def _global_norm(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    axes = tuple(range(2, len(x.shape)))
    if not axes:
        raise InputError("it is for values with axes behind samples and channels")
    order = op.attributes.get("p", 2)
    return norm(build, x, order, lambda value: build.call(torch.sum, value, axes, True))
