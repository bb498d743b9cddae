"""ONNX's operators that work number by number: arithmetic and activations."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from securedl.errors import InputError
from securedl.network.onnx_build import ModuleBuilder, operator, with_values
from securedl.network.onnx_values import Fixed, OnnxOperation, OnnxValue, Running

#: Operators that are a layer of torch without options.
_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "HardSwish": nn.Hardswish,
    "Mish": nn.Mish,
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": python.neg,
    "Pow": python.pow,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Sub": python.sub,
    "Tan": torch.tan,
}
#: torch.nn.Hardsigmoid's; ONNX writes it as a float32.
_SIXTH = 1 / 6
_LEAST = -(2**63)


@operator(*_LAYERS)
def _activation(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return build.module(_LAYERS[op.kind](), op.input(0))


@operator(*_FUNCTIONS)
def _function(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return build.call(_FUNCTIONS[op.kind], *(op.input(index) for index in range(len(op.inputs))))


@operator("Add")
def _add(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """A dense layer without a bias, and a vector after it, are one layer."""
    for first, second in ((0, 1), (1, 0)):
        value, other = op.input(first), op.input(second)
        layer = build.layer(value)
        if (
            isinstance(layer, nn.Linear)
            and layer.bias is None
            and op.single[first]
            and isinstance(other, Fixed)
            and other.tensor.shape == (layer.out_features,)
        ):
            with_values(layer, bias=other.tensor)
            return value
    return build.call(python.add, op.input(0), op.input(1))


@operator("Sum", "Mean")
def _sum(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    total = op.input(0)
    for index in range(1, len(op.inputs)):
        total = build.call(python.add, total, op.input(index))
    return total if op.kind == "Sum" else build.call(python.truediv, total, len(op.inputs))


@operator("Mod")
def _mod(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """With the sign of the divisor, or with fmod of what is divided."""
    a, b = op.input(0), op.input(1)
    _check_quotient(a, b)
    if not op.attributes.get("fmod", 0):
        return build.call(python.mod, a, b)
    if isinstance(a, Fixed) and isinstance(b, Running):
        a = Fixed(a.tensor.reshape(a.tensor.shape or (1,)), True)  # of a number torch takes none
    return build.call(torch.fmod, a, b)


def _check_quotient(a: OnnxValue, b: OnnxValue) -> None:
    """The least integer by -1 is none of 64 bits: a processor stops there, and with it the program."""
    if not isinstance(a, Fixed) or not isinstance(b, Fixed) or a.tensor.is_floating_point():
        return
    if bool((a.tensor == _LEAST).any()):
        raise InputError(f"it divides {_LEAST}, the least integer")


@operator("Div")
def _div(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    a, b = op.input(0), op.input(1)
    _check_quotient(a, b)
    if isinstance(a, Fixed) and isinstance(b, Fixed) and not a.tensor.is_floating_point():
        return build.call(torch.div, a, b, rounding_mode="trunc")
    return build.call(python.truediv, a, b)


@operator("Mul")
def _mul(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """Products that older exporters write activations as become those again."""
    for value, other in ((op.input(0), op.input(1)), (op.input(1), op.input(0))):
        if isinstance(value, Running):
            layer = _gate(build, value.node, other)
            if layer is not None:
                return build.module(layer, value)
            x = _erf_gated(value, other)
            if x is not None:
                return build.module(nn.GELU(), x)
    return build.call(python.mul, op.input(0), op.input(1))


def _gate(build: ModuleBuilder, x: fx.Node, factor: OnnxValue) -> nn.Module | None:
    """The activation that x · factor is, where factor is a function of x."""
    layer = build.layer(factor)
    if layer is None or not isinstance(factor, Running):
        return None
    source = factor.node.args[0]
    if isinstance(layer, nn.Sigmoid) and source is x:
        return nn.SiLU()
    if isinstance(layer, nn.Hardsigmoid) and source is x:
        return nn.Hardswish()
    if isinstance(layer, nn.Tanh) and isinstance(source, fx.Node) and source.args == (x,):
        inner = build.root.get_submodule(str(source.target)) if source.op == "call_module" else None
        return nn.Mish() if isinstance(inner, nn.Softplus) else None
    return None


def _erf_gated(value: Running, other: OnnxValue) -> Running | None:
    """x where value · other is 0.5 · x · (1 + erf(x / √2)), in any order of the three factors."""
    factors = [*_factors(value), *_factors(other)]
    halves = [f for f in factors if isinstance(f, float) and f == 0.5]
    nodes = [f for f in factors if isinstance(f, fx.Node)]
    if len(factors) != 3 or len(halves) != 1 or len(nodes) != 2:
        return None
    for x, gate in (nodes, nodes[::-1]):
        scaled = _erf_plus_one(gate)
        if scaled is None or not scaled.args or scaled.args[0] is not x:
            continue
        by = scaled.args[1] if len(scaled.args) == 2 else None
        root = {python.truediv: math.sqrt(2), python.mul: math.sqrt(0.5)}.get(scaled.target)  # type: ignore[arg-type]
        if root is not None and isinstance(by, float) and math.isclose(by, root, rel_tol=1e-6):
            return Running(x, value.meta)
    return None


def _factors(value: OnnxValue) -> list[Any]:
    """Of a product that no other value is."""
    if isinstance(value, Fixed):
        return [value.tensor.item()] if value.tensor.numel() == 1 else []
    node = value.node
    return list(node.args) if node.target is python.mul else [node]


def _erf_plus_one(node: fx.Node) -> fx.Node | None:
    """y of 1 + erf(y)."""
    if node.target is not python.add or 1.0 not in [a for a in node.args if isinstance(a, float)]:
        return None
    for part in node.args:
        if isinstance(part, fx.Node) and part.target is torch.erf and isinstance(part.args[0], fx.Node):
            return part.args[0]
    return None


@operator("LeakyRelu")
def _leaky(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return build.module(nn.LeakyReLU(op.attributes.get("alpha", 0.01)), op.input(0))


@operator("Elu")
def _elu(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return build.module(nn.ELU(op.attributes.get("alpha", 1.0)), op.input(0))


@operator("Celu")
def _celu(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    alpha = op.attributes.get("alpha", 1.0)
    if alpha == 0:
        raise InputError("its alpha is 0, by which it divides")
    return build.module(nn.CELU(alpha), op.input(0))


@operator("Selu")
def _selu(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    alpha = op.attributes.get("alpha", 1.6732632423543772)
    gamma = op.attributes.get("gamma", 1.0507009873554805)
    if math.isclose(alpha, 1.6732632423543772, rel_tol=1e-6) and math.isclose(
        gamma, 1.0507009873554805, rel_tol=1e-6
    ):
        return build.module(nn.SELU(), op.input(0))
    return build.call(python.mul, build.module(nn.ELU(alpha), op.input(0)), gamma)


@operator("Gelu")
def _gelu(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return build.module(nn.GELU(op.attributes.get("approximate", "none")), op.input(0))


@operator("Swish")
def _swish(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    alpha, x = op.attributes.get("alpha", 1.0), op.input(0)
    if alpha == 1:
        return build.module(nn.SiLU(), x)
    return build.call(python.mul, x, build.module(nn.Sigmoid(), build.call(python.mul, x, alpha)))


@operator("HardSigmoid")
def _hard_sigmoid(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    alpha, beta = op.attributes.get("alpha", 0.2), op.attributes.get("beta", 0.5)
    if math.isclose(alpha, _SIXTH, rel_tol=1e-6) and beta == 0.5:
        return build.module(nn.Hardsigmoid(), op.input(0))
    line = build.call(python.add, build.call(python.mul, op.input(0), alpha), beta)
    return build.module(nn.Hardtanh(0.0, 1.0), line)


@operator("ThresholdedRelu")
def _thresholded(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    return build.module(nn.Threshold(op.attributes.get("alpha", 1.0), 0.0), op.input(0))


@operator("Shrink")
def _shrink(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    bias, limit = op.attributes.get("bias", 0.0), op.attributes.get("lambd", 0.5)
    if bias not in (0.0, limit):
        raise InputError("a shrink with a bias that is neither 0 nor lambd is not supported")
    return build.module(nn.Softshrink(limit) if bias else nn.Hardshrink(limit), op.input(0))


@operator("PRelu")
def _prelu(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    x, slope = op.running(0), op.input(1)
    if isinstance(slope, Fixed) and (along := _per_channel(slope.tensor, x)) is not None:
        return build.module(with_values(nn.PReLU(len(along), device="meta"), weight=along), x)
    below = build.call(functional.relu, build.call(python.neg, x))
    return build.call(python.sub, build.call(functional.relu, x), build.call(python.mul, slope, below))


def _per_channel(slope: Tensor, x: Running) -> Tensor | None:
    """[channels] or [1] where the slopes are so; None where they are others for each place."""
    rank = len(x.shape)
    one = slope.numel() == 1 and slope.ndim <= rank
    aligned = (1,) * (rank - slope.ndim) + tuple(slope.shape)
    channels = len(aligned) == rank and all(n == 1 or axis == 1 for axis, n in enumerate(aligned))
    return slope.reshape(-1) if one or (channels and slope.numel() == x.shape[1]) else None


@operator("Clip")
def _clip(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    low, high = (_bound(op, index, name) for index, name in ((1, "min"), (2, "max")))
    if low is None and high is None:
        return op.input(0)
    if low is not None and high is not None and low < high:
        layer = nn.ReLU6() if (low, high) == (0, 6) else nn.Hardtanh(low, high)
        return build.module(layer, op.input(0))
    if low == 0 and high is None:
        return build.module(nn.ReLU(), op.input(0))
    return build.call(torch.clamp, op.input(0), low, high)


def _bound(op: OnnxOperation, index: int, name: str) -> float | None:
    if op.optional(index) is None:
        found = op.attributes.get(name)
        return None if found is None else float(found)
    tensor = op.fixed(index)
    if tensor.numel() != 1:
        raise InputError(f"its {name} is no single number")
    return float(tensor.item())


@operator("Softmax", "LogSoftmax")
def _softmax(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """Before opset 13 over all axes from the given one on."""
    x = op.running(0)
    rank, axis = len(x.shape), op.attributes.get("axis", -1 if op.opset >= 13 else 1)
    if not -rank <= axis < rank:
        raise InputError(f"it has no axis {axis}")
    kind = nn.Softmax if op.kind == "Softmax" else nn.LogSoftmax
    axis %= rank
    if op.opset >= 13 or axis == rank - 1:
        return build.module(kind(axis), x)
    if axis != 1:
        raise InputError(f"a softmax over the axes from {axis} on is not supported")
    flat = build.module(kind(1), build.module(nn.Flatten(), x))
    return build.call(torch.reshape, flat, (-1, *x.shape[1:]))
