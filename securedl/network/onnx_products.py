"""ONNX's products of matrices: dense layers, and sums over named axes."""

from __future__ import annotations

import math
import operator as python

import torch
from torch import Tensor, nn

from securedl.errors import InputError
from securedl.network.onnx_build import MAX_FOLDED, ModuleBuilder, operator, with_values
from securedl.network.onnx_values import SAMPLES, Fixed, OnnxOperation, OnnxValue, Running, counted, shape_of


def dense(build: ModuleBuilder, x: OnnxValue, weight: Tensor, bias: Tensor | None) -> OnnxValue:
    """x · weightᵀ + bias. weight: [out, in]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return build.module(with_values(layer, weight=weight, bias=bias), x)


def _factor(value: OnnxValue) -> OnnxValue:
    """One that stays a tensor, also with a single number."""
    return Fixed(value.tensor, True) if isinstance(value, Fixed) else value


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
    product = build.call(python.mul, build.call(torch.matmul, _factor(a), _factor(b)), alpha)
    return product if c is None else build.call(python.add, product, build.call(python.mul, c, beta))


@operator("MatMul")
def _matmul(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    a, b = op.input(0), op.input(1)
    if isinstance(a, Running) and isinstance(b, Fixed) and b.tensor.ndim == 2 and len(a.shape) > 1:
        return dense(build, a, b.tensor.T, None)
    return build.call(torch.matmul, _factor(a), _factor(b))


@operator("Einsum")
def _einsum(build: ModuleBuilder, op: OnnxOperation) -> OnnxValue:
    """Bounded by the sizes of all its axes together, for torch may keep so many numbers in between."""
    values = [_factor(op.input(index)) for index in range(len(op.inputs))]
    equation = op.attributes["equation"].replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if len(terms) != len(values):
        raise InputError(f"its equation has {len(terms)} terms for {len(values)} values")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        shape = shape_of(value)
        if isinstance(value, Fixed) and value.tensor.ndim == 0:
            raise InputError("single numbers in an equation are not supported: multiply by them")
        for axis, size in zip(_axes_of_term(term, len(shape)), shape, strict=True):
            sizes[axis] = max(size, sizes.get(axis, 1))
    total = math.prod(size // SAMPLES if counted(size) else size for size in sizes.values())
    if not any(isinstance(value, Running) for value in values):
        build.bound(total)
    elif len(values) > 2 and total > MAX_FOLDED:
        raise InputError(f"it sums more than {MAX_FOLDED} products a sample: write it in steps of two values")
    return build.call(torch.einsum, equation, *values)


def _axes_of_term(term: str, rank: int) -> list[str]:
    """A name for each axis; those of an ellipsis by their place from the right."""
    head, dots, tail = term.partition("...")
    between = rank - len(head) - len(tail) if dots else 0
    return [*head, *(f"...{place}" for place in range(between, 0, -1)), *tail]
