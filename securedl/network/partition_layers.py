"""Operations of torch that are layers: convolutions, and products with a constant matrix."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from securedl.errors import UnsupportedLayerError
from securedl.network.geometry import Axis, Geometry
from securedl.network.partition_transposed import Spread, flipped, spread
from securedl.network.partition_whose import moved, samples_first

_aten = torch.ops.aten


class Emits(Protocol):
    """What collects instructions (`partition.Emitter`)."""

    def operation(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """One operation."""

    def layer(self, name: str, x: Any, geometry: Geometry, kernel: Tensor) -> Any:
        """One layer."""


def as_layer(emit: Emits, kind: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The operation's result as a layer and what the client adds; None where it is no layer.

    Raises:
        UnsupportedLayerError: a convolution that the server cannot compute; says why.
    """

    def get(place: int, word: str, default: Any = None) -> Any:
        return args[place] if place < len(args) else kwargs.get(word, default)

    if kind in ("conv1d", "conv2d"):
        options = [get(3, "stride", 1), get(4, "padding", 0), get(5, "dilation", 1), get(6, "groups", 1)]
        return _convolution(emit, name, get(0, "input"), get(1, "weight"), get(2, "bias"), *options)
    if kind in ("conv_transpose1d", "conv_transpose2d"):
        options = [get(3, "stride", 1), get(4, "padding", 0), get(7, "dilation", 1), get(6, "groups", 1)]
        extra = get(5, "output_padding", 0)
        return _transposed(emit, name, extra, get(0, "input"), get(1, "weight"), get(2, "bias"), *options)
    if kind == "convolution" and get(0, "input").value.ndim in (3, 4):
        options = [get(3, "stride"), get(4, "padding"), get(5, "dilation"), get(8, "groups")]
        if get(6, "transposed"):
            extra = get(7, "output_padding")
            return _transposed(emit, name, extra, get(0, "input"), get(1, "weight"), get(2, "bias"), *options)
        return _convolution(emit, name, get(0, "input"), get(1, "weight"), get(2, "bias"), *options)
    if kind == "linear":
        weight = get(1, "weight")
        return _linear(emit, name, get(0, "input"), weight, get(2, "bias")) if _constant(weight) else None
    if kind in ("mm", "matmul"):
        return _product(emit, name, args[0], args[1])
    if kind == "addmm" and _constant(args[0]) and not {"alpha", "beta"} & set(kwargs):
        return _product(emit, name, args[1], args[2], args[0])
    return _einsum(emit, name, *args) if kind == "einsum" and len(args) == 2 else None


def _constant(one: Any) -> bool:
    return one is None or (one.register is None and isinstance(one.value, Tensor))


def _product(emit: Emits, name: str, x: Any, matrix: Any, bias: Any = None) -> Any:
    """x times a constant matrix [in, out], or one [out, in] times it."""
    if bias is None and matrix.register is not None and _constant(x) and x.value.ndim == 2:
        if matrix.value.ndim < 2:
            return None
        turned = emit.operation(_aten.transpose.int, matrix, -2, -1)
        found = _linear(emit, name, turned, x, None)
        return None if found is None else emit.operation(_aten.transpose.int, found, -2, -1)
    if x.register is None or not _constant(matrix) or matrix.value.ndim != 2:
        return None
    return _linear(emit, name, x, type(x)(matrix.value.T), bias)


def _einsum(emit: Emits, name: str, equation: str, operands: list[Any]) -> Any:
    """A sum over one index that a constant matrix and a value share; None for any other."""
    given, arrow, result = equation.replace(" ", "").partition("->")
    names = given.split(",")
    if not arrow or len(names) != 2 or len(operands) != 2 or "." in equation:
        return None
    pairs = sorted(zip(names, operands, strict=True), key=lambda pair: pair[1].register is not None)
    (own, matrix), (axes, x) = pairs
    shared = [index for index in own if index in axes]
    if not _constant(matrix) or x.register is None or len(set(own)) != 2 or len(shared) != 1:
        return None
    over = shared[0]
    new = own.replace(over, "")
    kept = axes.replace(over, "")
    if len(own) != 2 or len(set(axes)) != len(axes) or sorted(result) != sorted(kept + new):
        return None
    turned = emit.operation(_aten.permute.default, x, [axes.index(index) for index in kept + over])
    weight = matrix.value if own == new + over else matrix.value.T
    found = _linear(emit, name, turned, type(x)(weight), None)
    order = [(kept + new).index(index) for index in result]
    return None if found is None else emit.operation(_aten.permute.default, found, order)


def _linear(emit: Emits, name: str, x: Any, weight: Any, bias: Any) -> Any:
    """A 1x1 convolution of one pixel, or of a row of them where a sample has several rows of features."""
    if x.register is None or x.value.ndim < 2 or weight.value.ndim != 2:
        return None
    if (placed := moved(emit, x)) is None:
        return None
    x, back = placed
    maps, features = weight.value.shape
    inner = list(x.value.shape[1:-1])
    count = math.prod(inner)
    kernel = weight.value[:, :, None, None]
    geometry = Geometry(features, maps, Axis(1, 1), Axis(count, 1))
    if inner:
        rows = emit.operation(_aten.reshape.default, x, [-1, count, features])
        x = emit.operation(_aten.transpose.int, rows, 1, 2)
    image = emit.operation(_aten.reshape.default, x, [-1, features, 1, count])
    found = emit.layer(name, image, geometry, kernel)
    if inner:
        rows = emit.operation(_aten.reshape.default, found, [-1, maps, count])
        found = emit.operation(_aten.transpose.int, rows, 1, 2)
    found = back(emit.operation(_aten.reshape.default, found, [-1, *inner, maps]))
    return found if bias is None else emit.operation(_aten.add.Tensor, found, bias)


def _convolution(
    emit: Emits,
    name: str,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    """One or two directions; what padding on one side only brings is laid by the client."""
    if not _constant(weight) or x.register is None:
        return None
    dims = weight.value.ndim - 2
    if x.value.ndim != dims + 2 or not samples_first(x):
        raise UnsupportedLayerError(
            f"a convolution of {list(x.value.shape[1:])} without an axis of samples: put the samples first"
        )
    strides, dilations = _each(stride, dims), _each(dilation, dims)
    taps, sizes = weight.value.shape[2:], x.value.shape[2:]
    if isinstance(padding, str):
        spans = [
            (tap - 1) * wide if padding == "same" else 0 for tap, wide in zip(taps, dilations, strict=True)
        ]
        paddings = [span // 2 for span in spans]
        extra = [span % 2 for span in spans]
        if any(extra):
            around = [side for one in reversed(extra) for side in (0, one)]
            x = emit.operation(_aten.constant_pad_nd.default, x, around)
            sizes = x.value.shape[2:]
    else:
        paddings = _each(padding, dims)
    axes = [Axis(*each) for each in zip(sizes, taps, strides, paddings, dilations, strict=True)]
    axes = [Axis(1, 1)] * (2 - dims) + axes
    geometry = Geometry(x.value.shape[1], weight.value.shape[0], axes[0], axes[1], int(groups))
    if dims == 1:
        x = emit.operation(_aten.reshape.default, x, [-1, *geometry.image])
    found = emit.layer(name, x, geometry, weight.value.reshape(geometry.kernel))
    if dims == 1:
        found = emit.operation(_aten.reshape.default, found, [-1, geometry.maps, geometry.output[2]])
    return _shifted(emit, found, bias, dims)


def _transposed(
    emit: Emits,
    name: str,
    extra: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    """A transposed convolution in one or two directions."""
    if not _constant(weight) or x.register is None:
        return None
    dims = weight.value.ndim - 2
    if x.value.ndim != dims + 2 or not samples_first(x):
        raise UnsupportedLayerError(
            f"a convolution of {list(x.value.shape[1:])} without an axis of samples: put the samples first"
        )
    options = [_each(option, dims) for option in (stride, padding, extra, dilation)]
    ways = [Spread(*each) for each in zip(x.value.shape[2:], weight.value.shape[2:], *options, strict=True)]
    rows, columns = [Spread(1, 1, 1, 0, 0, 1)] * (2 - dims) + ways
    kernel = flipped(weight.value.reshape(*weight.value.shape[:2], rows.taps, columns.taps), groups)
    if dims == 1:
        x = emit.operation(_aten.reshape.default, x, [-1, x.value.shape[1], 1, columns.size])
    x = spread(emit, x, rows, columns)
    axes = [
        Axis(size, way.taps, 1, way.common, way.dilation)
        for size, way in zip(x.value.shape[2:], (rows, columns), strict=True)
    ]
    geometry = Geometry(x.value.shape[1], kernel.shape[0], axes[0], axes[1], int(groups))
    found = emit.layer(name, x, geometry, kernel)
    if dims == 1:
        found = emit.operation(_aten.reshape.default, found, [-1, geometry.maps, geometry.output[2]])
    return _shifted(emit, found, bias, dims)


def _shifted(emit: Emits, found: Any, bias: Any, dims: int) -> Any:
    """With its bias [maps]."""
    if bias is None:
        return found
    if _constant(bias):
        bias = type(bias)(bias.value.reshape(-1, *[1] * dims))
    else:
        bias = emit.operation(_aten.reshape.default, bias, [-1, *[1] * dims])
    return emit.operation(_aten.add.Tensor, found, bias)


def _each(value: Any, dims: int) -> list[int]:
    """A number for each direction."""
    numbers = [value] if isinstance(value, int) else list(value)
    return [int(number) for number in numbers] * (dims if len(numbers) == 1 else 1)
