"""ONNX's Resize: along each axis, every new place is a weighted sum of a few old ones."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator
from securedl.network.onnx_file import MAX_NUMBERS
from securedl.network.onnx_values import (
    MAX_AXIS,
    SAMPLES,
    Fixed,
    OnnxOperation,
    OnnxValue,
    Running,
    axes_of,
    counted,
    shape_of,
)

_Floats: TypeAlias = NDArray[np.float64]
#: Old places and their shares, [old ones of each new one, new places].
_Taps: TypeAlias = tuple[NDArray[np.int64], _Floats]
_TORCH_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
#: Relative, of scales that are float32 in files.
_NEAR = 1e-6


@dataclass(frozen=True)
class _Axis:
    """An axis of `before` places that gets `after`.

    Attributes:
        scale: after / before, before after was rounded.
    """

    number: int
    before: int
    after: int
    scale: float

    @property
    def length(self) -> float:
        """after, before it was rounded."""
        return self.scale * self.before

    def sources(self, mode: str) -> _Floats:
        """[after]: where each new place lies among the old ones."""
        place = np.arange(self.after, dtype=np.float64)
        if mode == "align_corners":
            return place * (self.before - 1) / (self.length - 1) if self.length != 1 else 0 * place
        if mode == "asymmetric":
            return self._shrunk(place)
        if mode == "tf_half_pixel_for_nn":
            return self._shrunk(place + 0.5)
        if mode == "pytorch_half_pixel" and self.length == 1:
            return 0 * place
        middle = self._shrunk(place + 0.5) - 0.5
        if mode in ("half_pixel", "pytorch_half_pixel"):
            return middle
        if mode == "half_pixel_symmetric":
            return middle + self.before / 2 * (1 - self.after / self.length)
        raise InputError(
            f"coordinate_transformation_mode {mode} is not supported: export with half_pixel, align_corners "
            "or asymmetric"
        )

    def _shrunk(self, place: _Floats) -> _Floats:
        """place / scale; exact where the scale is a ratio of sizes, for rounding follows."""
        if math.isclose(self.length, self.after, rel_tol=_NEAR):
            return place * self.before / self.after
        return place / self.scale


@operator("Resize", "Upsample")
def _resize(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value, mode = op.input(0), op.attributes.get("mode", "nearest")
    if op.attributes.get("antialias", 0):
        raise InputError("antialias is not supported: export with antialias=False, or pool before")
    axes = [axis for axis in _axes(build, op, value) if axis.before != axis.after or axis.scale != 1]
    old = op.kind == "Upsample" or op.opset < 11
    way = op.attributes.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    where = [axis.sources(way) for axis in axes]
    if mode == "nearest":
        rounding = op.attributes.get("nearest_mode", "floor" if old else "round_prefer_floor")
        taps = [_nearest(rounding, s, axis.before) for s, axis in zip(where, axes, strict=True)]
    elif mode == "linear":
        taps = [_linear(s, axis.before) for s, axis in zip(where, axes, strict=True)]
    elif mode == "cubic":
        steepness = op.attributes.get("cubic_coeff_a", -0.75)
        outside = not op.attributes.get("exclude_outside", 0)
        taps = [_cubic(s, axis.before, steepness, outside) for s, axis in zip(where, axes, strict=True)]
    else:
        raise InputError(f"mode {mode} is not supported: export with nearest, linear or cubic")
    layer = _as_layer(value, axes, mode, taps)
    if layer is not None:
        return build.module(layer, value)
    for axis, (places, shares) in zip(axes, taps, strict=True):
        value = _along(build, value, axis.number, places, shares)
    return value


def _axes(build: ModuleBuilder, op: OnnxOperation, value: OnnxValue) -> list[_Axis]:
    """Of which the operator gives the new size or the scale.

    Raises:
        InputError: samples are among them, or the result would be too large.
    """
    sizes = shape_of(value)
    numbers = axes_of(value, op.attributes.get("axes", range(len(sizes))))
    single = op.kind == "Upsample" or op.opset < 11
    given = None if single or op.optional(3) is None else op.numbers(3, "")
    if given:
        found = _sized(op, [sizes[number] for number in numbers], given)
    else:
        scales = op.fixed(1 if single else 2).reshape(-1).double()
        if len(scales) != len(numbers) or not bool(((scales <= MAX_AXIS) & (scales > 0)).all()):
            raise InputError(f"it has no scale above 0 and below {MAX_AXIS} for each of {len(numbers)} axes")
        # In float32, as ONNX Runtime multiplies: 0.7 · 10 is 7 there.
        found = [
            (int(np.floor(np.float32(sizes[number]) * np.float32(scale))), float(scale))
            for number, scale in zip(numbers, scales.tolist(), strict=True)
        ]
    axes = []
    for number, (after, scale) in zip(numbers, found, strict=True):
        before = sizes[number]
        if counted(before):
            if (given is None and scale != 1) or (given and after not in (before, build.exported or before)):
                raise InputError("it makes more or fewer samples")
            continue
        axes.append(_Axis(number, before, after, scale))
        sizes[number] = after
    if any(axis.after < 1 or axis.before < 1 for axis in axes):
        raise InputError("it leaves an axis without places")
    each = math.prod(size // SAMPLES if counted(size) else size for size in sizes)
    if each > MAX_NUMBERS or any(axis.after > MAX_AXIS for axis in axes):
        raise InputError(f"it gives more than {MAX_NUMBERS} numbers a sample, or {MAX_AXIS} along an axis")
    return axes


def _sized(op: OnnxOperation, sizes: Sequence[int], given: list[int]) -> list[tuple[int, float]]:
    """New size and scale of axes of these sizes."""
    if len(given) != len(sizes) or min(given) < 1 or min(sizes) < 1:
        raise InputError(f"it has no new size of 1 or more for each of {len(sizes)} axes")
    scales = [after / before for after, before in zip(given, sizes, strict=True)]
    policy = op.attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return list(zip(given, scales, strict=True))
    scale = {"not_larger": min, "not_smaller": max}[policy](scales)
    return [(math.floor(scale * size + 0.5), scale) for size in sizes]


# --- weights -----------------------------------------------------------------------------------------


def _nearest(rounding: str, source: _Floats, before: int) -> _Taps:
    rounds: dict[str, Callable[[_Floats], _Floats]] = {
        "round_prefer_floor": lambda s: np.ceil(s - 0.5),
        "round_prefer_ceil": lambda s: np.floor(s + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    places = np.clip(rounds[rounding](source), 0, before - 1).astype(np.int64)[None]
    return places, np.ones(places.shape)


def _linear(source: _Floats, before: int) -> _Taps:
    """Beside the outermost places is their own value."""
    source = np.clip(source, 0, before - 1)
    low = np.floor(source).astype(np.int64)
    return np.stack([low, np.minimum(low + 1, before - 1)]), np.stack([1 - (source - low), source - low])


def _cubic(source: _Floats, before: int, steepness: float, outside: bool) -> _Taps:
    """Keys' kernel. outside: whether places there have the outermost value, or else no share."""
    low = np.floor(source)
    places = np.stack([low + k for k in (-1, 0, 1, 2)])
    far, a = np.abs(source - places), steepness
    shares = np.where(
        far <= 1,
        ((a + 2) * far - (a + 3)) * far**2 + 1,
        ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
    )
    if not outside:
        shares = np.where((places >= 0) & (places < before), shares, 0)
        shares = shares / shares.sum(0)
    return np.clip(places, 0, before - 1).astype(np.int64), shares


def _as_layer(value: OnnxValue, axes: list[_Axis], mode: str, taps: list[_Taps]) -> nn.Module | None:
    """torch.nn.Upsample where it does the same."""
    sizes = shape_of(value)
    inner = all(axis.number >= 2 for axis in axes) and counted(sizes[0])
    if not isinstance(value, Running) or not inner or len(sizes) not in _TORCH_LINEAR or not axes:
        return None
    for axis in axes:
        sizes[axis.number] = axis.after
    size = tuple(sizes[2:])
    if mode == "nearest":
        whole = all(
            axis.after % axis.before == 0
            and np.array_equal(places[0], np.arange(axis.after) // (axis.after // axis.before))
            for axis, (places, _) in zip(axes, taps, strict=True)
        )
        return nn.Upsample(size) if whole else None
    if mode == "linear":
        for way in ("half_pixel", "align_corners"):
            own = [_Axis(a.number, a.before, a.after, a.after / a.before) for a in axes]
            same = [
                _alike(tap, _linear(a.sources(way), a.before), a.before)
                for tap, a in zip(taps, own, strict=True)
            ]
            if all(same):
                return nn.Upsample(size, mode=_TORCH_LINEAR[len(sizes)], align_corners=way == "align_corners")
    return None


def _alike(found: _Taps, other: _Taps, before: int) -> bool:
    """Whether linear weights are the same: by the places between which they lie."""
    one, two = (places[0] + shares[1] for places, shares in (found, other))
    return bool(np.allclose(one, two, rtol=0, atol=_NEAR * before))


def _along(
    build: ModuleBuilder, value: OnnxValue, axis: int, places: NDArray[np.int64], shares: _Floats
) -> OnnxValue:
    """The sum of moved values, each with its share."""
    total: OnnxValue | None = None
    form = (-1,) + (1,) * (len(shape_of(value)) - axis - 1)
    for row, share in zip(places, shares, strict=True):
        if not share.any():
            continue
        part = build.call(torch.index_select, value, axis, build.places(row))
        if (share != 1).any():
            part = build.call(python.mul, part, Fixed(build.constant(share.reshape(form)).tensor, True))
        total = part if total is None else build.call(python.add, total, part)
    assert total is not None
    return total
