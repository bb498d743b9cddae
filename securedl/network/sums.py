"""Operations that sum over features with constant weights: a matrix each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securedl.network import windows
from securedl.network.arithmetic import product
from securedl.network.operations import (
    OPERATIONS,
    STATISTICS,
    Call,
    applied,
    constant,
    finite,
    kind_of,
    only_traced,
    operation,
)
from securedl.network.tensors import RefusedError, Relation, Samples, Traced, flat_numbers

#: Most products that a matrix product of two values may take, for all samples of the importer.
MAX_PRODUCTS = 1 << 22
#: Of an operation without a matrix of its own, the most that applying it to a basis may give.
MAX_BASIS = 1 << 26
#: Linear ones without weights, found out by applying them to a basis.
WITHOUT_WEIGHTS = frozenset(
    [
        "cumsum", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
        "upsample_trilinear3d", "col2im", "diff", "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
    ]
)  # fmt: skip
#: The same with constants: an entry is stored wherever constants that are all ones would have one.
WITH_WEIGHTS = frozenset(
    [
        "matmul", "mm", "bmm", "mv", "tensordot", "inner", "bilinear", "baddbmm",
        "addbmm", "kron", "dot", "linalg_multi_dot",
    ]
)  # fmt: skip


def _weights(value: Any) -> NDArray[np.float64]:
    if not isinstance(value, Tensor):
        raise RefusedError("weights that depend on the sample; they must be constants")
    weights: NDArray[np.float64] = finite(value.detach().cpu().double(), "a weight").numpy()
    return weights


def _needs(samples: Samples, axes: Sequence[int], what: str) -> None:
    """Refuse where the samples lie along one of these axes."""
    if samples.axis in axes:
        raise RefusedError(f"{what} across samples: an encrypted network treats each sample by itself")


@operation("linear")
def _linear(call: Call) -> Traced:
    return _dense(call, call.args[0], _weights(call.args[1]), call.get(2, "bias"))


@operation("addmm")
def _addmm(call: Call) -> Traced:
    bias, x, weight = call.args[:3]
    if not isinstance(x, Traced) or isinstance(bias, Traced):
        raise RefusedError("addmm with weights that depend on the sample")
    beta, alpha = (float(call.kwargs.get(name, 1)) for name in ("beta", "alpha"))
    return _dense(call, x, alpha * _weights(weight).T, None).plus(constant(bias) * beta)


@operation("matmul", "mm", "bmm")
def _matmul(call: Call) -> Traced:
    x, weight = call.args[:2]
    if isinstance(x, Traced) and isinstance(weight, Traced):
        return _two_matrices(call, x, weight)
    if isinstance(x, Traced) and isinstance(weight, Tensor) and weight.ndim == 2:
        return _dense(call, x, _weights(weight).T, None)
    return _by_basis(call)


def _two_matrices(call: Call, a: Traced, b: Traced) -> Traced:
    """[..., n, k] · [..., k, m], both of which depend on the sample: products, and sums of them."""
    kind = kind_of(call.target)
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] != b.shape[-2]:
        raise RefusedError(f"{kind} of {list(a.shape)} and {list(b.shape)} that both depend on the sample")
    if math.prod(a.shape) * b.shape[-1] > MAX_PRODUCTS:
        raise RefusedError(f"{kind} of {list(a.shape)} and {list(b.shape)} has too many products")
    wide = a.moved(lambda row: row.unsqueeze(-1)), b.moved(lambda row: row.unsqueeze(-3))
    products = product(call, *wide)
    return _mean(Call(call.builder, call.name, torch.ops.aten.sum.dim_IntList, (products, [-2]), {}))


@operation("bilinear")
def _bilinear(call: Call) -> Traced:
    a, b, weight = call.args[:3]
    if not (isinstance(a, Traced) and isinstance(b, Traced)):
        return _by_basis(call)
    wide = a.moved(lambda row: row.unsqueeze(-1)), b.moved(lambda row: row.unsqueeze(-2))
    products = product(call, *wide).moved(lambda row: row.flatten(-2))
    table = _weights(weight)
    return _dense(call, products, table.reshape(len(table), -1), call.get(3, "bias"))


@operation("einsum")
def _einsum(call: Call) -> Traced:
    """Of two values that depend on the sample their products, summed; else a matrix."""
    equation, operands = call.args[:2]
    if sum(isinstance(one, Traced) for one in operands) != 2 or len(operands) != 2:
        return _by_basis(call)
    terms, arrow, result = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if "." in equation or any(len(set(term)) < len(term) for term in names):
        raise RefusedError(f"einsum {equation} of two values that depend on the sample: name each axis once")
    if not arrow:
        result = "".join(sorted(letter for letter in set(terms) - {","} if terms.count(letter) == 1))
    axes = result + "".join(sorted(set(terms) - {","} - set(result)))

    def laid(x: Traced, term: str) -> Traced:
        order = [term.index(letter) for letter in axes if letter in term]
        places = tuple(slice(None) if letter in term else None for letter in axes)
        return x.moved(lambda row: row.permute(order)[places])

    products = product(call, *(laid(x, term) for x, term in zip(operands, names, strict=True)))
    summed = list(range(len(result), len(axes)))
    if not summed:
        return products
    return _mean(Call(call.builder, call.name, torch.ops.aten.sum.dim_IntList, (products, summed), {}))


@operation("var")
def _var(call: Call) -> Traced:
    """The mean square of the distances from the mean."""
    x = call.args[0]
    keep = bool(call.get(3, "keepdim", False))
    given = call.get(1, "dim")
    if isinstance(given, bool):
        raise RefusedError("var across samples: give it the axes, as in dim=1")
    axes = _each(given, 1) if given else list(range(len(x.shape)))
    less = call.kwargs.get("correction", call.get(2, "unbiased", True))
    count = math.prod(x.shape[axis] for axis in axes)
    if count <= (less := 1.0 if less is None else float(less)):
        raise RefusedError(f"var of {count} value(s)")
    mean = _mean(Call(call.builder, call.name, torch.ops.aten.mean.dim, (x, axes, True), {}))
    apart = call.builder.total(call.name, x, mean.times(torch.tensor(-1.0, dtype=torch.float64)))
    target = torch.ops.aten.sum.dim_IntList
    total = _mean(Call(call.builder, call.name, target, (product(call, apart, apart), axes, keep), {}))
    return total.times(torch.tensor(1.0 / (count - less), dtype=torch.float64))


def _dense(call: Call, x: Any, weight: NDArray[np.float64], bias: Any) -> Traced:
    """x [..., in] · weight [out, in], plus bias [out]."""
    if not isinstance(x, Traced):
        raise RefusedError("weights that depend on the sample; they must be constants")
    outputs, inputs = weight.shape

    def relation(shape: tuple[int, ...], samples: Samples) -> Relation:
        _needs(samples, [len(shape) - 1], "a sum")
        if shape[-1] != inputs:
            raise RefusedError(f"{inputs} weights a row for {shape[-1]} features")
        rows_before = math.prod(shape[:-1])

        def entries() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
            lead, out, place = (a.ravel() for a in np.indices((rows_before, outputs, inputs)))
            return lead * outputs + out, lead * inputs + place, np.tile(weight.ravel(), rows_before)

        added = None if bias is None else _weights(bias)
        return Relation(
            (*shape[:-1], outputs), rows_before * outputs * inputs, entries,
            None if added is None else lambda: np.tile(added, rows_before),
        )  # fmt: skip

    return call.builder.affine(call.name, x, relation)


def _each(value: Any, count: int, default: Any = None) -> list[int]:
    """One number for each axis."""
    value = default if value is None or (isinstance(value, list | tuple) and not value) else value
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (values * count if len(values) == 1 else values)]


@operation("conv1d", "conv2d", "conv3d")
def _conv(call: Call) -> Traced:
    x, weight = call.args[:2]
    return _convolved(
        call, x, _weights(weight), call.get(2, "bias"), call.get(3, "stride", 1), call.get(4, "padding", 0),
        call.get(5, "dilation", 1), call.get(6, "groups", 1),
    )  # fmt: skip


@operation("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(call: Call) -> Traced:
    x, weight = call.args[:2]
    return _spread(
        call, x, _weights(weight), call.get(2, "bias"), call.get(3, "stride", 1), call.get(4, "padding", 0),
        call.get(7, "dilation", 1), call.get(6, "groups", 1), call.get(5, "output_padding", 0),
    )  # fmt: skip


@operation("convolution")
def _convolution(call: Call) -> Traced:
    x, weight, bias, stride, padding, dilation, transposed, extra, groups = call.args[:9]
    if transposed:
        return _spread(call, x, _weights(weight), bias, stride, padding, dilation, groups, extra)
    return _convolved(call, x, _weights(weight), bias, stride, padding, dilation, groups)


def _convolved(
    call: Call,
    x: Any,
    weight: NDArray[np.float64],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Traced:
    kernel = weight.shape[2:]
    axes = len(kernel)
    stride, dilation = _each(stride, axes, 1), _each(dilation, axes, 1)
    if isinstance(padding, str):
        both = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        around = [(total // 2, total - total // 2) for total in both]
    else:
        around = [(p, p) for p in _each(padding, axes, 0)]

    def taps(sizes: Sequence[int]) -> list[windows.Taps]:
        return [
            windows.convolved(*some) for some in zip(sizes, kernel, stride, around, dilation, strict=True)
        ]

    # [groups, out of one, in of one, taps]
    table = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return _over_channels(call, x, table, bias, kernel, taps)


def _spread(
    call: Call, x: Any, weight: NDArray[np.float64], bias: Any, stride: Any, padding: Any, dilation: Any,
        groups: int,
    extra: Any,
) -> Traced:  # fmt: skip
    kernel = weight.shape[2:]
    axes = len(kernel)
    rest = [_each(stride, axes, 1), _each(padding, axes, 0), _each(dilation, axes, 1), _each(extra, axes, 0)]

    def taps(sizes: Sequence[int]) -> list[windows.Taps]:
        return [windows.transposed(*some) for some in zip(sizes, kernel, *rest, strict=True)]

    table = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).swapaxes(1, 2)
    return _over_channels(call, x, table, bias, kernel, taps)


def _over_channels(
    call: Call,
    x: Any,
    table: NDArray[np.float64],
    bias: Any,
    kernel: Sequence[int],
    taps: Callable[[Sequence[int]], list[windows.Taps]],
) -> Traced:
    """A convolution of either kind. table: weights [groups, out of one, in of one, taps]."""
    if not isinstance(x, Traced):
        raise RefusedError("a convolution whose weights depend on the sample")
    groups, outs, ins, _ = table.shape

    def relation(shape: tuple[int, ...], samples: Samples) -> Relation:
        if len(shape) != 2 + len(kernel) or samples.axis != 0 or shape[1] != groups * ins:
            raise RefusedError(
                f"a convolution needs samples [channels, {', '.join(['length'] * len(kernel))}], got "
                f"{list(shape[1:])}"
            )
        sizes = shape[2:]
        axes = taps(sizes)
        lengths = [axis.length for axis in axes]
        if min(lengths) < 1:
            raise RefusedError(f"the kernel {list(kernel)} is larger than its input {list(sizes)}")

        def entries() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
            out, tap, source, _ = windows.joint(axes, sizes, kernel)
            n, g, o, i = np.ogrid[: shape[0], :groups, :outs, :ins]
            row = ((n * groups + g) * outs + o)[..., None] * math.prod(lengths) + out
            place = ((n * groups + g) * ins + i)[..., None] * math.prod(sizes) + source
            full = (shape[0], groups, outs, ins, len(out))
            values = np.broadcast_to(table[None, ..., tap], full)
            return (np.broadcast_to(row, full).ravel(), np.broadcast_to(place, full).ravel(), values.ravel())

        count = shape[0] * groups * outs * ins * windows.entries(axes)
        added = None if bias is None else _weights(bias)
        return Relation(
            (shape[0], groups * outs, *lengths), count, entries,
            None if added is None else lambda: np.tile(np.repeat(added, math.prod(lengths)), shape[0]),
        )  # fmt: skip

    return call.builder.affine(call.name, x, relation)


@operation("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> Traced:
    count = int(kind_of(call.target)[-2])
    kernel = _each(call.args[1], count)
    stride = _each(call.get(2, "stride"), count, kernel)
    padding = _each(call.get(3, "padding", 0), count, 0)
    ceil, counted = call.get(4, "ceil_mode", False), call.get(5, "count_include_pad", True)
    divisor = call.get(6, "divisor_override")

    def taps(sizes: Sequence[int]) -> list[windows.Taps]:
        return [
            windows.pooled(*some, ceil, counted) for some in zip(sizes, kernel, stride, padding, strict=True)
        ]

    return _averaged(call, call.args[0], taps, count, divisor)


@operation(*(f"{lead}adaptive_avg_pool{count}d" for lead in ("", "_") for count in (1, 2, 3)))
def _adaptive(call: Call) -> Traced:
    count = int(kind_of(call.target)[-2])
    wanted = call.args[1] if isinstance(call.args[1], list | tuple) else [call.args[1]]

    def taps(sizes: Sequence[int]) -> list[windows.Taps]:
        lengths = list(wanted) * (count if len(wanted) == 1 else 1)
        return [
            windows.adaptive(size, size if want is None else want)
            for size, want in zip(sizes, lengths, strict=True)
        ]

    return _averaged(call, call.args[0], taps, count, None)


def _averaged(
    call: Call,
    x: Traced,
    taps: Callable[[Sequence[int]], list[windows.Taps]],
    count: int,
    divisor: int | None,
) -> Traced:
    """Means over windows of the last `count` axes."""

    def relation(shape: tuple[int, ...], samples: Samples) -> Relation:
        before, sizes = shape[: len(shape) - count], shape[len(shape) - count :]
        _needs(samples, range(len(before), len(shape)), "pooling")
        axes = taps(sizes)
        lengths = [axis.length for axis in axes]
        if min(lengths) < 1:
            raise RefusedError(f"the window is larger than its input {list(sizes)}")
        lead = math.prod(before)

        def entries() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
            out, _, source, share = windows.joint(axes, sizes, [1] * count)
            values = share if divisor is None else np.full(len(out), 1 / divisor)
            each = np.arange(lead)[:, None]
            rows, places = each * math.prod(lengths) + out, each * math.prod(sizes) + source
            return rows.ravel(), places.ravel(), np.tile(values, lead)

        return Relation((*before, *lengths), lead * windows.entries(axes), entries)

    return call.builder.affine(call.name, x, relation)


@operation("mean", "sum")
def _mean(call: Call) -> Traced:
    x = call.args[0]
    given = call.get(1, "dim")
    axes = _each(given, 1) if given is not None and given != [] else list(range(len(x.shape)))
    axes = sorted(axis % len(x.shape) for axis in axes)
    keep = bool(call.get(2, "keepdim", False))

    def relation(shape: tuple[int, ...], samples: Samples) -> Relation:
        _needs(samples, axes, "a sum")
        small = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
        share = 1.0 / math.prod(shape[axis] for axis in axes) if kind_of(call.target) == "mean" else 1.0
        places = flat_numbers(shape)

        def entries() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
            rows = np.broadcast_to(flat_numbers(small), shape).ravel()
            return rows, places.ravel(), np.full(places.size, share)

        return Relation(small, places.size, entries)

    found = call.builder.affine(call.name, x, relation)
    return found if keep else found.moved(lambda row: row.squeeze(axes))


@operation("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm", "cudnn_batch_norm")
def _batch_norm(call: Call) -> Any:
    """By constant statistics: with weight and bias, mean and variance, [channels] each."""
    kind = kind_of(call.target)
    x, weight, bias, mean, variance = call.args[:5]
    single = kind == "_native_batch_norm_legit_no_training"
    own = False if single else call.args[5]
    if mean is None or variance is None or own:
        raise RefusedError(f"{kind} without running statistics {STATISTICS}")
    gain = 1 / (constant(variance) + call.args[6 if single else 7]).sqrt()
    gain = gain if weight is None else gain * constant(weight)
    shift = -constant(mean) * gain + (0.0 if bias is None else constant(bias))
    form = [1, -1, *[1] * (len(x.shape) - 2)]
    normal = x.times(finite(gain.reshape(form), "a gain")).plus(finite(shift.reshape(form), "a shift"))
    return [normal, None, None] if single else normal


@operation(*(WITHOUT_WEIGHTS | WITH_WEIGHTS) - set(OPERATIONS))
def _by_basis(call: Call) -> Traced:
    """A linear operation by what it gives for unit vectors; which entries are stored depends on shapes."""
    x, kind = only_traced(call), kind_of(call.target)

    def relation(shape: tuple[int, ...], samples: Samples) -> Relation:
        if samples.axis != 0 or shape[0] != 1:
            raise RefusedError(f"{kind} of a tensor whose first axis is not the samples")
        size = math.prod(shape)
        few = applied(call, torch.zeros(x.shape, dtype=torch.float64), torch.Tensor.double)
        if not isinstance(few, Tensor) or size * few.numel() > MAX_BASIS * len(few):
            raise RefusedError(f"{kind} of {size} features is too large to be looked into")
        if few.shape[0] != x.shape[0] or bool(few.any()):
            raise RefusedError(f"{kind} is not linear, or mixes samples")
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape[1:])
        values = applied(call, basis, torch.Tensor.double)
        pattern = applied(call, basis, lambda constant: torch.ones_like(constant, dtype=torch.float64))
        places, rows = np.nonzero(pattern.reshape(size, -1).numpy())
        return Relation(
            (1, *values.shape[1:]),
            len(rows),
            lambda: (rows, places, values.reshape(size, -1).numpy()[places, rows]),
        )

    return call.builder.affine(call.name, x, relation)
