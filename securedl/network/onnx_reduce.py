"""ONNX's sums, means, norms and extremes along axes."""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from typing import Any

import torch

from securedl.network.onnx_build import ModuleBuilder, operator
from securedl.network.onnx_values import OnnxOperation, OnnxValue, axes_of, shape_of

Total = Callable[[OnnxValue], OnnxValue]
#: What is one function of torch, of a value, its axes and whether they are kept.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceSum": torch.sum,
}


def norm(build: ModuleBuilder, value: OnnxValue, order: int, total: Total) -> OnnxValue:
    """(Σ |x|^order)^(1 / order). total: the sum."""
    if order == 1:
        return total(build.call(torch.abs, value))
    if order == 2:
        return build.call(torch.sqrt, total(build.call(python.mul, value, value)))
    powers = build.call(python.pow, build.call(torch.abs, value), order)
    return build.call(python.pow, total(powers), 1 / order)


@operator(*_FUNCTIONS, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceProd", "ReduceSumSquare")
def _reduce(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    value, kind = op.input(0), op.kind
    rank = len(shape_of(value))
    axes = op.numbers(1, "axes") or []
    nothing = rank == 0 or (not axes and bool(op.attributes.get("noop_with_empty_axes", 0)))
    places = tuple(dict.fromkeys(axes_of(value, axes or list(range(rank)))))
    keep = bool(op.attributes.get("keepdims", 1))

    def total(some: OnnxValue, function: Callable[..., Any] = torch.sum) -> OnnxValue:
        return some if nothing else build.call(function, some, places, keep)

    if kind in _FUNCTIONS:
        return total(value, _FUNCTIONS[kind])
    if kind in ("ReduceL1", "ReduceL2"):
        return norm(build, value, int(kind[-1]), total)
    if kind == "ReduceLogSum":
        return build.call(torch.log, total(value))
    if kind == "ReduceSumSquare":
        return total(build.call(python.mul, value, value))
    for axis in () if nothing else sorted(places, reverse=True):
        value = build.call(torch.prod, value, axis, keep)
    return value
