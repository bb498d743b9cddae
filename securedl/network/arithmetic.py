"""Operations element by element: sums, products with constants, powers, choices."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from securedl.network.operations import Call, constant, finite, kind_of, operation
from securedl.network.tensors import RefusedError, Traced


@operation("add", "sub", "subtract", "rsub", "__add__", "__sub__")
def _add(call: Call) -> Traced:
    a, b = call.args[:2]
    kind, alpha = kind_of(call.target), float(call.get(2, "alpha", 1.0))
    if kind == "rsub":
        a, b, alpha = b, a, alpha
    factor = alpha if kind == "add" else -alpha
    if not isinstance(a, Traced):
        return _scaled(b, factor).plus(finite(constant(a), "what is added"))
    if not isinstance(b, Traced):
        return a.plus(finite(constant(b), "what is added") * factor)
    return call.builder.total(call.name, a, _scaled(b, factor))


def _scaled(x: Traced, factor: float) -> Traced:
    return x if factor == 1.0 else x.times(torch.tensor(factor, dtype=torch.float64))


@operation("lerp")
def _lerp(call: Call) -> Traced:
    """a + w · (b - a), by constant weights w."""
    a, b, weight = call.args[:3]
    if isinstance(weight, Traced):
        raise RefusedError("lerp with weights that depend on the sample: write it as a + w * (b - a)")
    share = finite(constant(weight), "a weight")
    return _chosen(call, share, b, a)


@operation("neg", "negative")
def _neg(call: Call) -> Traced:
    return _scaled(call.args[0], -1.0)


@operation("positive")
def _positive(call: Call) -> Any:
    return call.args[0]


@operation("mul", "multiply")
def _mul(call: Call) -> Traced:
    a, b = call.args[:2]
    if not isinstance(a, Traced):
        a, b = b, a
    if not isinstance(b, Traced):
        scaled: Traced = a.times(finite(constant(b), "a factor"))
        return scaled
    return product(call, a, b)


def product(call: Call, a: Traced, b: Traced) -> Traced:
    """Of one feature each the product of polynomials; else ((a + b)² - (a - b)²) / 4, both in one value."""
    same = a.with_same(b)
    if same is not None:
        return same[0].combined(same[1], add=False)
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    a, b = (some.moved(lambda row: row.unsqueeze(-1).expand(*row.shape, 2)) for some in (a, b))
    both = call.builder.total(call.name, a, b.times(signs))
    squares = both.combined(both, add=False).times(signs / 4)
    first, second = (squares.moved(operator.itemgetter((..., k))) for k in (0, 1))
    return call.builder.total(call.name, first, second)


@operation("div", "divide", "true_divide")
def _div(call: Call) -> Traced:
    a, b = call.args[:2]
    if isinstance(b, Traced):
        raise RefusedError(
            "a division by a value that depends on the sample; divide by constants, or multiply"
        )
    if call.kwargs.get("rounding_mode") is not None:
        raise RefusedError("a division that rounds")
    divided: Traced = a.times(finite(1.0 / constant(b), "1 / divisor"))
    return divided


@operation("pow", "square")
def _pow(call: Call) -> Traced:
    x, power = call.args[0], 2 if kind_of(call.target) == "square" else call.args[1]
    if isinstance(power, Tensor) and power.numel() == 1:
        power = power.item()
    if not isinstance(x, Traced) or not isinstance(power, int | float) or power != int(power) or power < 1:
        raise RefusedError(
            f"pow with exponent {power if isinstance(power, int | float) else 'of several values'} is not a "
            "polynomial yet: call securedl.approximate first"
        )
    result = x
    for _ in range(int(power) - 1):
        result = product(call, result, x)
    return result


@operation("addcmul")
def _addcmul(call: Call) -> Any:
    a, b, c = call.args[:3]
    if isinstance(b, Traced) or isinstance(c, Traced):
        product: Any = _mul(Call(call.builder, call.name, torch.ops.aten.mul.Tensor, (b, c), {}))
    else:
        product = constant(b) * constant(c)
    return _add(
        Call(
            call.builder,
            call.name,
            torch.ops.aten.add.Tensor,
            (a, product),
            {"alpha": call.kwargs.get("value", 1)},
        )
    )


@operation("masked_fill")
def _masked_fill(call: Call) -> Traced:
    x, mask, value = call.args[:3]
    return _chosen(call, _mask(mask), value, x)


@operation("where")
def _where(call: Call) -> Traced:
    mask, a, b = call.args[:3]
    return _chosen(call, _mask(mask), a, b)


def _mask(mask: Any) -> Tensor:
    if not isinstance(mask, Tensor):
        raise RefusedError("a choice that depends on the sample is not a polynomial yet")
    return mask.detach().cpu().double()


def _chosen(call: Call, mask: Tensor, a: Any, b: Any) -> Traced:
    """a where the mask is 1, b where it is 0."""
    parts = [
        some.times(factor) if isinstance(some, Traced) else constant(some) * factor
        for some, factor in ((a, mask), (b, 1 - mask))
    ]
    return _add(Call(call.builder, call.name, torch.ops.aten.add.Tensor, tuple(parts), {}))
