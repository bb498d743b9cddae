"""ONNX's comparisons, choices, and the larger or smaller of several values."""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator
from securedl.network.onnx_values import Fixed, OnnxOperation, OnnxValue, Running, shape_of

_COMPARISONS: dict[str, Callable[..., Any]] = {
    "And": python.and_,
    "Equal": python.eq,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "IsNaN": torch.isnan,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Not": torch.logical_not,
    "Or": python.or_,
    "Xor": python.xor,
}


@operator(*_COMPARISONS)
def _compare(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    values = [op.input(index) for index in range(len(op.inputs))]
    if op.kind in ("And", "Not", "Or", "Xor") and any(_dtype(value) != torch.bool for value in values):
        raise InputError("it takes truth values, and not all of these are")
    return build.call(_COMPARISONS[op.kind], *values)


def _dtype(value: OnnxValue) -> torch.dtype:
    return value.meta.dtype if isinstance(value, Running) else value.tensor.dtype


@operator("Where")
def _where(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """x where it is above 20, else softplus: so newer exporters write torch's softplus."""
    above, x, other = op.input(0), op.input(1), op.input(2)
    if _dtype(above) != torch.bool:
        raise InputError("it chooses by truth values, and these are numbers")
    if isinstance(x, Running) and isinstance(above, Running) and isinstance(other, Running):
        soft = isinstance(build.layer(other), nn.Softplus) and other.node.args == (x.node,)
        if soft and above.node.target is python.gt and above.node.args == (x.node, 20.0):
            return other
    if isinstance(x, Fixed) and isinstance(other, Fixed) and isinstance(above, Running):
        x = Fixed(x.tensor.reshape(x.tensor.shape or (1,)), True)  # torch makes float32 of two numbers
    if isinstance(above, Fixed) and above.tensor.ndim == 0:
        above = Fixed(above.tensor.reshape(1))
    return build.call(torch.where, above, x, other)


@operator("Max", "Min")
def _extreme(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    found = op.input(0)
    for index in range(1, len(op.inputs)):
        found = _extreme_of_two(build, op.kind, found, op.input(index))
    return found


def _extreme_of_two(build: ModuleBuilder, kind: str, a: OnnxValue, b: OnnxValue) -> OnnxValue:
    for value, other in ((a, b), (b, a)):
        if isinstance(value, Running) and isinstance(other, Fixed) and other.tensor.numel() == 1:
            if other.tensor.ndim > len(shape_of(value)):
                continue
            number = other.tensor.item()
            if kind == "Max" and number == 0:
                return build.module(nn.ReLU(), value)
            return build.call(torch.clamp, value, **{"min" if kind == "Max" else "max": number})
    return build.call(torch.maximum if kind == "Max" else torch.minimum, a, b)
