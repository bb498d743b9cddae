"""ONNX's operators that make constants, tell sizes, or repeat a value."""

from __future__ import annotations

import math

import torch

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator
from securedl.network.onnx_values import (
    MAX_AXIS,
    SAMPLES,
    Fixed,
    OnnxOperation,
    OnnxValue,
    Running,
    counted,
    free,
    shape_of,
    shown_sizes,
)


@operator("Constant")
def _constant(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in op.attributes:
            return build.constant(op.attributes[name])
    raise InputError("it holds no numbers")


@operator("ConstantOfShape")
def _constant_of_shape(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = build.constant(op.attributes.get("value", [0.0])).tensor.reshape(())
    sizes = op.numbers(0, "") or []
    if any(map(counted, sizes)):
        return build.for_each_sample(Fixed(value), sizes)
    return build.call(torch.Tensor.expand, Fixed(value), sizes)


@operator("Range")
def _range(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    parts = [op.fixed(index) for index in range(3)]
    if any(part.numel() != 1 for part in parts):
        raise InputError("start, limit and delta have to be single numbers")
    start, limit, delta = (part.item() for part in parts)
    if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
        raise InputError("start, limit and delta have to be finite, and delta not 0")
    count = max(math.ceil((limit - start) / delta), 0)
    if count > MAX_AXIS:
        raise InputError(f"it gives {count} numbers, and at most {MAX_AXIS} are made")
    build.bound(count)
    return Fixed(start + delta * torch.arange(count, dtype=parts[0].dtype))


@operator("Shape")
def _sizes(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    part = slice(op.attributes.get("start"), op.attributes.get("end"))
    return Fixed(torch.tensor(shape_of(op.input(0))[part], dtype=torch.int64))


@operator("Size")
def _size(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return Fixed(torch.tensor(math.prod(shape_of(op.input(0)))))


@operator("Expand")
def _expand(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """Sizes of 1 to larger ones, and new axes before."""
    value = op.input(0)
    sizes, target = shape_of(value), op.numbers(1, "") or []
    rank = max(len(sizes), len(target))
    sizes, target = ([1] * (rank - len(some)) + some for some in (sizes, target))
    whole = []
    for size, want in zip(sizes, target, strict=True):
        kept = want in (1, size) or (size == SAMPLES and want == build.exported)
        if (not kept and (size != 1 or (counted(want) and isinstance(value, Running)))) or want < 0:
            raise InputError(f"values of shape {shown_sizes(sizes)} have no shape {shown_sizes(target)}")
        whole.append(size if kept else want)
    if whole == shape_of(value):
        return value
    if isinstance(value, Fixed) and any(map(counted, whole)):
        return build.for_each_sample(value, whole)
    return build.call(torch.broadcast_to, value, free(whole) if isinstance(value, Running) else tuple(whole))


@operator("Tile")
def _tile(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value, times = op.input(0), op.numbers(1, "") or []
    sizes = shape_of(value)
    if len(times) != len(sizes) or min(times, default=1) < 0:
        raise InputError(f"its repeats {times[:8]} are not one from 0 for each of {len(sizes)} axes")
    if any(counted(size) and count != 1 for size, count in zip(sizes, times, strict=True)):
        raise InputError("it repeats samples")
    return build.call(torch.tile, value, tuple(times))
