"""ONNX's layers: dense, convolutions, batch norm, pooling."""

from __future__ import annotations

import operator as python
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator, with_values
from securedl.network.onnx_values import Fixed, OnnxOperation, OnnxValue, Running

_CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d}
_TRANSPOSED: dict[int, type[nn.Module]] = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d}
_NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
_AVERAGES: dict[int, type[nn.Module]] = {3: nn.AvgPool1d, 4: nn.AvgPool2d}
_LARGEST: dict[int, type[nn.Module]] = {3: nn.MaxPool1d, 4: nn.MaxPool2d}
_GLOBAL: dict[int, type[nn.Module]] = {3: nn.AdaptiveAvgPool1d, 4: nn.AdaptiveAvgPool2d}


def dense(build: ModuleBuilder, x: OnnxValue, weight: Tensor, bias: Tensor | None) -> OnnxValue:
    """x · weightᵀ + bias. weight: [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return build.module(with_values(layer, weight=weight, bias=bias), x)


@operator("Gemm")
def _gemm(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    a, b, c = op.input(0), op.input(1), op.optional(2)
    alpha, beta = op.attributes.get("alpha", 1.0), op.attributes.get("beta", 1.0)
    turned, weight_out_first = op.attributes.get("transA", 0), op.attributes.get("transB", 0)
    if isinstance(a, Running) and isinstance(b, Fixed) and not turned and (c is None or isinstance(c, Fixed)):
        weight = alpha * (b.tensor if weight_out_first else torch.t(b.tensor))
        if c is None or c.tensor.numel() == 1 or c.tensor.squeeze(0).shape == (len(weight),):
            bias = None if c is None else beta * c.tensor.reshape(-1).expand(len(weight))
            return dense(build, a, weight, bias)
    a = build.call(torch.t, a) if turned else a
    b = build.call(torch.t, b) if weight_out_first else b
    product = build.call(python.mul, build.call(torch.matmul, a, b), alpha)
    return product if c is None else build.call(python.add, product, build.call(python.mul, c, beta))


@operator("MatMul")
def _matmul(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    a, b = op.input(0), op.input(1)
    if isinstance(a, Running) and isinstance(b, Fixed) and b.tensor.ndim == 2 and len(a.shape) > 1:
        return dense(build, a, b.tensor.T, None)
    return build.call(torch.matmul, a, b)


def _of_rank(kinds: dict[int, type[nn.Module]], x: Running) -> Any:
    """The class for values of so many axes."""
    if len(x.shape) not in kinds:
        wanted = " or ".join(map(str, kinds))
        raise InputError(
            f"it is for values with {wanted} axes, samples and channels among them; got {len(x.shape)}"
        )
    return kinds[len(x.shape)]


class _Window:
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
        pads = list(op.attributes.get("pads", [0] * 2 * axes))
        if len(pads) != 2 * axes or min(pads) < 0:
            raise InputError(f"its pads {pads[:8]} are not two numbers from 0 for each axis")
        self.before, self.after = pads[:axes], pads[axes:]

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
    window, groups = _Window(op, x, weight.shape[2:]), op.attributes.get("group", 1)
    window.place(op, x.shape[2:])
    even = window.before == window.after
    source: OnnxValue = x if even else window.padded(build, x)
    layer = _of_rank(_CONVOLUTIONS, x)(
        weight.shape[1] * groups, weight.shape[0], window.kernel, window.stride,
        tuple(window.before) if even else 0, window.dilation, groups, bias is not None, device="meta",
    )  # fmt: skip
    return build.module(with_values(layer, weight=weight, bias=bias), source)


@operator("ConvTranspose")
def _conv_transpose(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x, weight = op.running(0), op.fixed(1)
    bias = op.fixed(2) if op.optional(2) else None
    window, groups = _Window(op, x, weight.shape[2:]), op.attributes.get("group", 1)
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
    layer = _of_rank(_TRANSPOSED, x)(
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
    layer = _of_rank(_NORMS, x)(len(mean), op.attributes.get("epsilon", 1e-5), device="meta")
    with_values(layer, weight=scale, bias=shift, running_mean=mean, running_var=variance)
    return build.module(with_values(layer, num_batches_tracked=torch.tensor(0)), x)


@operator("AveragePool")
def _average(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    window = _Window(op, x, op.attributes["kernel_shape"])
    if max(window.dilation) > 1:
        raise InputError("dilations of an average are not supported")
    window.place(op, x.shape[2:])
    options = {"ceil_mode": bool(op.attributes.get("ceil_mode", 0))}
    counted = bool(op.attributes.get("count_include_pad", 0))
    kind = _of_rank(_AVERAGES, x)
    if _torch_pads(window):
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


def _torch_pads(window: _Window) -> bool:
    """Whether pooling layers of torch have such a padding."""
    halves = all(2 * pad <= size for pad, size in zip(window.before, window.kernel, strict=True))
    return window.before == window.after and halves


@operator("MaxPool")
def _max(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    window = _Window(op, x, op.attributes["kernel_shape"])
    window.place(op, x.shape[2:])
    if not _torch_pads(window):
        raise InputError("pads of a maximum that differ, or are more than half the kernel, are not supported")
    ceil = bool(op.attributes.get("ceil_mode", 0))
    kind = _of_rank(_LARGEST, x)
    return build.module(
        kind(window.kernel, window.stride, tuple(window.before), window.dilation, ceil_mode=ceil), x
    )


@operator("GlobalAveragePool")
def _global_average(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x = op.running(0)
    return build.module(_of_rank(_GLOBAL, x)(1), x)
