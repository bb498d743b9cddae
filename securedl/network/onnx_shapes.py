"""ONNX's operators that move numbers without changing them, and sums and means along axes."""

from __future__ import annotations

import math
import operator as python
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator
from securedl.network.onnx_values import (
    MAX_AXIS,
    SAMPLES,
    Fixed,
    OnnxOperation,
    OnnxValue,
    Running,
    axes_of,
    counted,
    free,
    shape_of,
    shown_sizes,
)

#: Names of torch and of numpy.
_PADDING = {"reflect": "reflect", "edge": "replicate"}
_BY_PLACE: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Identity", "Dropout")
def _same(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return op.input(0)


@operator("Cast")
def _cast(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """All numbers with fractions are of the network's one type."""
    from onnx import TensorProto

    to, value = op.attributes["to"], op.input(0)
    if to in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        same = isinstance(value, Running) and value.meta.dtype == build.dtype
        return value if same else build.call(torch.Tensor.to, value, build.dtype)
    whole = to in (TensorProto.INT64, TensorProto.INT32)
    if isinstance(value, Running) or not (whole or to == TensorProto.BOOL):
        raise InputError("casts of samples to whole numbers or truth values are not supported")
    return build.call(torch.Tensor.to, value, torch.int64 if whole else torch.bool)


@operator("Flatten")
def _flatten(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    sizes, axis = shape_of(value), op.attributes.get("axis", 1)
    if axis not in (1, 1 - len(sizes)):
        return build.call(torch.reshape, value, free([math.prod(sizes[:axis]), math.prod(sizes[axis:])]))
    return build.module(nn.Flatten(), value)


@operator("Reshape")
def _reshape(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    target = op.numbers(1, "shape") or []
    sizes = shape_of(value)
    if not op.attributes.get("allowzero", 0):
        if any(size == 0 and axis >= len(sizes) for axis, size in enumerate(target)):
            raise InputError(f"its shape {target[:8]} copies a size of an axis that is not there")
        target = [size or sizes[axis] for axis, size in enumerate(target)]
    if isinstance(value, Fixed):
        return build.call(torch.reshape, value, target)
    target = _for_any_count(build, sizes, target)
    if len(sizes) > 2 and target == [SAMPLES, math.prod(sizes[1:])]:
        return build.module(nn.Flatten(), value)
    if target == sizes:
        return value
    several = target[0] // SAMPLES if target and target[0] % SAMPLES == 0 else 0
    if several > 1:  # in two steps, for torch.export doubts that one is right for any number of samples
        split = build.call(torch.reshape, value, (-1, several, *free(target[1:])))
        return build.call(torch.flatten, split, 0, 1)
    return build.call(torch.reshape, value, free(target))


def _for_any_count(build: ModuleBuilder, sizes: list[int], target: list[int]) -> list[int]:
    """The shape with SAMPLES where the file has the number of samples that it was exported with."""
    target, rest = list(target), target[1:]
    counted = any(size and size % SAMPLES == 0 for size in target)
    if target and sizes[0] and sizes[0] % SAMPLES == 0 and not counted:
        each, known = math.prod(sizes) // SAMPLES, math.prod(size for size in rest if size != -1)
        times = each // known if known and each % known == 0 else 0
        if -1 in rest:
            times = min(times, int(target[0] == build.exported))
        elif target[0] != times * (build.exported or 0) and times != 1:
            times = 0
        target[0] = times * SAMPLES or target[0]
    if target.count(-1) == 1:
        known = -math.prod(target)
        total = math.prod(sizes)
        if known < 1 or total % known:
            raise InputError(f"values of shape {shown_sizes(sizes)} have no shape {shown_sizes(target)}")
        target[target.index(-1)] = total // known
    return target


@operator("Transpose")
def _transpose(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    order = op.attributes.get("perm", list(range(len(shape_of(value))))[::-1])
    return build.call(torch.permute, value, tuple(order))


@operator("Squeeze")
def _squeeze(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    sizes, axes = shape_of(value), op.numbers(1, "axes")
    axes = [i for i, n in enumerate(sizes) if n == 1] if axes is None else axes_of(value, axes)
    if any(sizes[axis] != 1 for axis in axes):
        raise InputError(f"axes {axes[:8]} of {shown_sizes(sizes)} are not all of size 1")
    for axis in sorted(set(axes), reverse=True):
        value = build.call(torch.squeeze, value, axis)
    return value


@operator("Unsqueeze")
def _unsqueeze(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value, axes = op.input(0), op.numbers(1, "axes") or []
    rank = len(shape_of(value)) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        value = build.call(torch.unsqueeze, value, axis)
    return value


@operator("Concat")
def _concat(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    values = [op.input(index) for index in range(len(op.inputs))]
    (axis,) = axes_of(values[0], [op.attributes["axis"]])
    if axis and any(shape_of(value)[:1] == [SAMPLES] for value in values):
        values = [_for_each_sample(build, value) for value in values]
    return build.call(torch.cat, values, axis)


def _for_each_sample(build: ModuleBuilder, value: OnnxValue) -> OnnxValue:
    """A constant that the export wrote out for its number of samples, for any number of them."""
    if not isinstance(value, Fixed) or value.tensor.shape[:1] != (build.exported,):
        return value
    first = value.tensor[:1]
    same = bool((value.tensor == first).all())
    return build.for_each_sample(Fixed(first), [SAMPLES, *first.shape[1:]]) if same else value


@operator("Split")
def _split(build: ModuleBuilder, op: OnnxOperation) -> list[OnnxValue]:
    value = op.input(0)
    (axis,) = axes_of(value, [op.attributes.get("axis", 0)])
    size = shape_of(value)[axis]
    parts = op.numbers(1, "split")
    if parts is None:
        each = -(-size // op.outputs)
        parts = [min(each, size - each * index) for index in range(op.outputs)]
    if size % SAMPLES == 0 or min(parts) < 0 or sum(parts) != size:
        raise InputError(f"its parts {parts[:8]} do not make {shown_sizes([size])}")
    starts = [sum(parts[:index]) for index in range(len(parts))]
    return [build.call(torch.narrow, value, axis, *part) for part in zip(starts, parts, strict=True)]


@operator("Slice")
def _slice(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    sizes = shape_of(value)
    starts, ends = op.numbers(1, "starts") or [], op.numbers(2, "ends") or []
    axes = op.numbers(3, "axes")
    axes = axes_of(value, list(range(len(starts))) if axes is None else axes)
    steps = op.numbers(4, "steps") or [1] * len(starts)
    for axis, *part in zip(axes, starts, ends, steps, strict=True):
        kept = range(*slice(*_ends(part, sizes[axis])).indices(sizes[axis]))
        if len(kept) == sizes[axis] and kept.step == 1:
            continue
        if sizes[axis] % SAMPLES == 0:
            raise InputError("it takes some of the samples")
        if kept.step > 0:
            places = (slice(None),) * axis + (slice(kept.start, kept.stop, kept.step),)
            value = build.call(python.getitem, value, places)
        else:
            value = build.call(torch.index_select, value, axis, build.places(kept))
    return value


def _ends(part: list[int], size: int) -> tuple[int, int | None, int]:
    """As Python has them: backwards, an end before the first place is none."""
    start, end, step = part
    return start, None if step < 0 and end < -size else end, step


@operator("Gather")
def _gather(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value, places = op.input(0), op.fixed(1)
    (axis,) = axes_of(value, [op.attributes.get("axis", 0)])
    sizes = shape_of(value)
    if sizes[axis] % SAMPLES == 0 and sizes[axis]:
        raise InputError("it takes some of the samples")
    if bool(((places < -sizes[axis]) | (places >= sizes[axis])).any()):
        raise InputError(f"it takes places that an axis of size {sizes[axis]} has not")
    places = places % sizes[axis]
    if places.ndim == 0:
        return build.call(torch.select, value, axis, int(places))
    found = build.call(torch.index_select, value, axis, Fixed(places.reshape(-1)))
    if places.ndim == 1:
        return found
    return build.call(torch.reshape, found, free([*sizes[:axis], *places.shape, *sizes[axis + 1 :]]))


@operator("Pad")
def _pad(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    sizes, pads = shape_of(value), op.numbers(1, "pads") or []
    axes = op.numbers(3, "axes")
    axes = list(range(len(sizes))) if axes is None else axes_of(value, axes)
    fill = float(op.fixed(2).item()) if op.optional(2) else float(op.attributes.get("value", 0.0))
    sides = [(0, 0)] * len(sizes)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        sides[axis] = (before, after)
    if any(counted(size) and any(pair) for size, pair in zip(sizes, sides, strict=True)):
        raise InputError("it pads the samples")
    mode = op.attributes.get("mode", "constant")
    if mode == "constant":
        flat = [side for pair in sides[::-1] for side in pair]
        return build.call(functional.pad, value, flat[: 2 * len(sizes) - 2 * counted(sizes[0])], value=fill)
    return _padded_with_own(build, value, sides, mode)


def _padded_with_own(
    build: ModuleBuilder, value: OnnxValue, sides: list[tuple[int, int]], mode: str
) -> OnnxValue:
    """With values of the axis itself; by torch's padding for images, else place by place."""
    sizes = shape_of(value)
    inner = [pair for pair in sides[2:] if any(pair)]
    fits = all(0 <= side < size for size, pair in zip(sizes[2:], sides[2:], strict=True) for side in pair)
    if inner and fits and not any(map(any, sides[:2])) and len(sizes) in (3, 4, 5) and mode in _PADDING:
        flat = [side for pair in sides[:1:-1] for side in pair]
        return build.call(functional.pad, value, flat, _PADDING[mode])
    for axis, (before, after) in enumerate(sides):
        if not before and not after:
            continue
        if max(sizes[axis] + before + after, before, after) > MAX_AXIS or not sizes[axis]:
            raise InputError(f"it pads to more than {MAX_AXIS} numbers along an axis, or an empty one")
        kept = np.pad(np.arange(sizes[axis]), (max(before, 0), max(after, 0)), _BY_PLACE[mode])
        kept = kept[max(-before, 0) : len(kept) - max(-after, 0)]
        value = build.call(torch.index_select, value, axis, build.places(kept))
    return value


@operator("DepthToSpace", "SpaceToDepth")
def _blocks(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """Blocks of places to channels, or back; among channels a block's places are outside, or inside (CRD)."""
    value, block = op.input(0), op.attributes["blocksize"]
    sizes = shape_of(value)
    if len(sizes) != 4 or not 1 <= block <= MAX_AXIS:
        raise InputError("it needs images and a blocksize of 1 or more")
    first, channels, height, width = sizes
    if op.kind == "SpaceToDepth":
        split = [first, channels, height // block, block, width // block, block]
        order: tuple[int, ...] = (0, 3, 5, 1, 2, 4)
        whole = [first, channels * block**2, height // block, width // block]
    else:
        inner = op.attributes.get("mode", "DCR") == "CRD"
        each = channels // block**2
        split = [first, *([each, block, block] if inner else [block, block, each]), height, width]
        order = (0, 1, 4, 2, 5, 3) if inner else (0, 3, 4, 1, 5, 2)
        whole = [first, each, height * block, width * block]
    if math.prod(split) != math.prod(sizes):
        raise InputError(f"values of shape {shown_sizes(sizes)} have no blocks of {block}")
    value = build.call(torch.permute, build.call(torch.reshape, value, free(split)), order)
    return build.call(torch.reshape, value, free(whole))


@operator("Trilu")
def _triangle(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value, places = op.input(0), op.numbers(1, "") or [0]
    if any(map(counted, shape_of(value)[-2:])):
        raise InputError("it treats each sample in another way")
    return build.call(torch.triu if op.attributes.get("upper", 1) else torch.tril, value, places[0])


@operator("CumSum")
def _running_sum(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value = op.input(0)
    (axis,) = axes_of(value, op.numbers(1, "") or [])
    if counted(shape_of(value)[axis]):
        raise InputError("it mixes samples")
    back = bool(op.attributes.get("reverse", 0))
    total = build.call(torch.flip, value, (axis,)) if back else value
    total = build.call(torch.cumsum, total, axis)
    total = build.call(torch.flip, total, (axis,)) if back else total
    return build.call(python.sub, total, value) if op.attributes.get("exclusive", 0) else total
