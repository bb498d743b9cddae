"""What each operation is in an encrypted network: a move, polynomials, sums over features; or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from securedl.network import windows
from securedl.network.tensors import Builder, RefusedError, Relation, Samples, Traced, flat_numbers

#: Of an operation without a matrix of its own, the most that applying it to a basis may give.
MAX_BASIS = 1 << 26


@dataclass
class Call:
    """One operation on tensors of which at least one is traced.

    Attributes:
        builder: what collects nodes. name: of the nodes that it makes.
        target: what torch would call. args, kwargs: traced tensors, constant tensors, numbers.
    """

    builder: Builder
    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, given by place or by name."""
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)


Rule: TypeAlias = Callable[[Call], Any]
OPERATIONS: dict[str, Rule] = {}
#: Operations that only move, copy or leave out elements.
MOVING = frozenset(
    [
        "view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t",
        "movedim", "squeeze", "unsqueeze", "expand", "select", "slice", "narrow", "flip", "roll",
        "index_select", "repeat", "tile", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
        "clone", "detach", "alias", "contiguous", "lift_fresh_copy", "chunk", "split", "split_with_sizes",
        "unbind", "tensor_split", "unsafe_split", "unsafe_chunk", "upsample_nearest1d",
        "upsample_nearest2d", "upsample_nearest3d", "reflection_pad1d", "reflection_pad2d",
        "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
        "diagonal", "swapaxes", "swapdims", "numpy_T", "adjoint", "mT", "mH", "rot90", "unfold",
        "index", "view_as", "expand_as", "moveaxis", "squeeze_copy", "ravel", "repeat_interleave",
    ]
)  # fmt: skip
#: The same, with zeros for new elements.
ZERO_FILLED = frozenset(
    [
        "im2col", "tril", "triu",
    ]
)  # fmt: skip
#: Linear ones without weights, found out by applying them to a basis.
WITHOUT_WEIGHTS = frozenset(
    [
        "cumsum", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
        "upsample_trilinear3d", "col2im", "diff", "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa", "lerp",
    ]
)  # fmt: skip
#: The same with constants: an entry is stored wherever constants that are all ones would have one.
WITH_WEIGHTS = frozenset(
    [
        "matmul", "mm", "bmm", "mv", "einsum", "tensordot", "inner", "bilinear", "baddbmm",
        "addbmm", "kron", "dot", "linalg_multi_dot",
    ]
)  # fmt: skip
_STATISTICS = (
    "normalises by each sample's own mean and variance, which no polynomial of low degree does; use "
    "BatchNorm, whose statistics are constants"
)
_RECURRENT = (
    "a recurrent layer multiplies its gates; use convolutions over time, or unroll it with polynomials"
)
#: What to do instead of what cannot be encrypted, by the name of the operation.
REMEDIES = {
    "layer_norm": _STATISTICS,
    "native_layer_norm": _STATISTICS,
    "group_norm": _STATISTICS,
    "native_group_norm": _STATISTICS,
    "rms_norm": _STATISTICS,
    "softmax": "Softmax inside a network is no polynomial; at its end the client applies it",
    "_softmax": "Softmax inside a network is no polynomial; at its end the client applies it",
    "log_softmax": "LogSoftmax inside a network is no polynomial; at its end the client applies it",
    "_log_softmax": "LogSoftmax inside a network is no polynomial; at its end the client applies it",
    "embedding": "rows are looked up by number, which an encrypted sample does not show; pass one-hot "
    "samples and use nn.Linear(..., bias=False) with the same weights transposed",
    "scaled_dot_product_attention": "attention needs a softmax of products of two values",
    "lstm": _RECURRENT,
    "gru": _RECURRENT,
    "rnn_tanh": _RECURRENT,
    "rnn_relu": _RECURRENT,
    "argmax": "a comparison; leave it to the client, who has the logits",
    "topk": "a comparison; leave it to the client, who has the logits",
    "sort": "a comparison; leave it to the client, who has the logits",
}
MAX_POOLS = frozenset(
    [
        "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices",
        "max_pool3d_with_indices", "max_pool1d_with_indices", "adaptive_max_pool1d",
        "adaptive_max_pool2d", "adaptive_max_pool3d",
    ]
)  # fmt: skip
#: Element by element, beside what torch itself marks so.
ELEMENTWISE = frozenset(
    [
        "prelu", "log_sigmoid", "log_sigmoid_forward", "hardsigmoid", "hardswish", "softsign",
        "threshold", "rrelu", "relu6", "selu", "celu", "tanhshrink", "logit",
        "zeros_like", "ones_like", "full_like", "to", "_to_copy",
    ]
)  # fmt: skip


def kind_of(target: Any) -> str:
    """Name of an operation of `torch.ops`, or of a function of Python's."""
    packet = getattr(target, "overloadpacket", None)
    return str(packet).rpartition(".")[2] if packet is not None else getattr(target, "__name__", str(target))


def is_elementwise(target: Any) -> bool:
    """Whether each element of the result depends on the same element of the arguments alone."""
    return kind_of(target) in ELEMENTWISE or torch.Tag.pointwise in getattr(target, "tags", ())


def is_random(node: fx.Node) -> bool:
    """Whether two calls differ; what is random in training only does not say so otherwise."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    for place, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name in ("train", "training"):
            given = node.args[place:] or [node.kwargs.get(argument.name, argument.default_value)]
            return bool(given[0])
    return True


def operation(*names: str) -> Callable[[Rule], Rule]:
    """Register what an operation of `torch.ops.aten` becomes, by its name without overload.

    Example: `@operation("neg")` over a function of a `Call` that returns a `Traced`.
    """

    def register(function: Rule) -> Rule:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return register


def apply(call: Call) -> Any:
    """The result of one operation.

    Raises:
        RefusedError: it cannot be encrypted; says why and what to do.
    """
    kind = kind_of(call.target)
    if kind in OPERATIONS:
        return OPERATIONS[kind](call)
    if kind in MOVING:
        return _moved(call)
    if kind in ZERO_FILLED:
        return _zero_filled(call)
    if kind in WITHOUT_WEIGHTS or kind in WITH_WEIGHTS:
        return _by_basis(call)
    if kind in MAX_POOLS:
        raise RefusedError(f"{kind}: use average pooling (securedl.approximate replaces it)")
    if kind in REMEDIES:
        raise RefusedError(f"{kind}: {REMEDIES[kind]}")
    if is_elementwise(call.target) and sum(isinstance(a, Traced) for a in call.args) == 1:
        raise RefusedError(f"{kind} is not a polynomial yet: call securedl.approximate first")
    raise RefusedError(
        f"{kind} is neither a sum of features with constant weights nor a polynomial of one; leave it out or "
        "replace it"
    )


# --- moves -----------------------------------------------------------------------------------------


def _with(call: Call, tensor: Tensor, constants: Callable[[Tensor], Tensor] = lambda c: c) -> Any:
    """What torch gives with `tensor` in place of the traced argument."""

    def put(value: Any) -> Any:
        if isinstance(value, Traced):
            return tensor
        if isinstance(value, list | tuple):
            return type(value)(map(put, value))
        return constants(value) if isinstance(value, Tensor) else value

    return call.target(*put(call.args), **{name: put(value) for name, value in call.kwargs.items()})


def _one(call: Call) -> Traced:
    """The only traced argument."""
    found = [a for a in _flat(call.args) if isinstance(a, Traced)]
    if len(found) != 1:
        raise RefusedError(
            f"{kind_of(call.target)} of {len(found)} values that depend on the sample; only sums of such "
            "values are supported"
        )
    return found[0]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in _flat(one)]
    return [value]


def _moved(call: Call) -> Any:
    x = _one(call)
    index = _with(call, x.index)
    rows = [_with(call, row) for row in x.coefficients]
    if isinstance(index, Tensor):
        return Traced(x.source, index, torch.stack(rows))
    return [Traced(x.source, one, torch.stack(some)) for one, *some in zip(index, *rows, strict=True)]


def _zero_filled(call: Call) -> Traced:
    x = _one(call)
    return Traced(
        x.source, _with(call, x.index + 1) - 1, torch.stack([_with(call, row) for row in x.coefficients])
    )


@operation("constant_pad_nd", "pad")
def _pad(call: Call) -> Traced:
    x, sizes = _one(call), call.args[1]
    mode = call.get(2, "mode", "constant") if kind_of(call.target) == "pad" else "constant"
    value = call.get(3, "value") if kind_of(call.target) == "pad" else call.get(2, "value", 0.0)

    def pad(row: Tensor, fill: float) -> Tensor:
        if mode == "constant":
            return torch.nn.functional.pad(row, sizes, "constant", fill)
        return torch.nn.functional.pad(row, sizes, mode)

    return x.moved(lambda row: pad(row, float(value or 0.0)), pad)


@operation("to", "_to_copy", "type_as", "float", "double")
def _cast(call: Call) -> Traced:
    x = call.args[0]
    types = [a for a in (*call.args[1:], *call.kwargs.values()) if isinstance(a, torch.dtype)]
    if not isinstance(x, Traced) or any(some not in (torch.float32, torch.float64) for some in types):
        raise RefusedError(
            f"a cast to {types[0] if types else 'another type'}, which rounds: only single and double "
            "precision are supported"
        )
    return x


@operation("cat", "concat", "concatenate")
def _cat(call: Call) -> Traced:
    axis = call.get(1, "dim", 0)
    return call.builder.joined(call.name, call.args[0], axis)


@operation("stack")
def _stack(call: Call) -> Traced:
    axis = call.get(1, "dim", 0)
    parts = [
        some.moved(lambda row: row.unsqueeze(axis)) if isinstance(some, Traced) else some.unsqueeze(axis)
        for some in call.args[0]
    ]
    return call.builder.joined(call.name, parts, axis)


@operation("sym_size")
def _size(call: Call) -> Any:
    return call.args[0].shape[call.args[1]] if len(call.args) > 1 else call.args[0].shape


@operation("sym_numel")
def _numel(call: Call) -> int:
    return math.prod(call.args[0].shape)


@operation("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "empty_like")
def _like(call: Call) -> Any:
    return _with(call, torch.zeros(call.args[0].shape, dtype=torch.float64))


@operation("dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _dropout(call: Call) -> Any:
    if call.get(2, "train", False):
        raise RefusedError(
            "dropout that is always active: pass training=self.training to torch.nn.functional.dropout"
        )
    return [call.args[0], None] if kind_of(call.target) == "native_dropout" else call.args[0]


# --- element by element ----------------------------------------------------------------------------


def _constant(value: Any) -> Tensor:
    if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
        raise RefusedError("a complex number: real and imaginary parts must be features of their own")
    return (
        value.detach().cpu().double()
        if isinstance(value, Tensor)
        else torch.tensor(float(value), dtype=torch.float64)
    )


def _finite(value: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise RefusedError(f"{what} is not finite: look for zeros and NaN among the network's constants")
    return value


@operation("add", "sub", "subtract", "rsub", "__add__", "__sub__")
def _add(call: Call) -> Traced:
    a, b = call.args[:2]
    kind, alpha = kind_of(call.target), float(call.get(2, "alpha", 1.0))
    if kind == "rsub":
        a, b, alpha = b, a, alpha
    factor = alpha if kind == "add" else -alpha
    if not isinstance(a, Traced):
        return _scaled(b, factor).plus(_finite(_constant(a), "what is added"))
    if not isinstance(b, Traced):
        return a.plus(_finite(_constant(b), "what is added") * factor)
    return call.builder.total(call.name, a, _scaled(b, factor))


def _scaled(x: Traced, factor: float) -> Traced:
    return x if factor == 1.0 else x.times(torch.tensor(factor, dtype=torch.float64))


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
        scaled: Traced = a.times(_finite(_constant(b), "a factor"))
        return scaled
    return _product(a, b)


def _product(a: Traced, b: Traced) -> Traced:
    same = a.with_same(b)
    if same is None:
        raise RefusedError(
            "a product of two different values; only products of a value with itself, its polynomials, or "
            "constants are supported"
        )
    found: Traced = same[0].combined(same[1], add=False)
    return found


@operation("div", "divide", "true_divide")
def _div(call: Call) -> Traced:
    a, b = call.args[:2]
    if isinstance(b, Traced):
        raise RefusedError(
            "a division by a value that depends on the sample; divide by constants, or multiply"
        )
    if call.kwargs.get("rounding_mode") is not None:
        raise RefusedError("a division that rounds")
    divided: Traced = a.times(_finite(1.0 / _constant(b), "1 / divisor"))
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
        result = _product(result, x)
    return result


@operation("addcmul")
def _addcmul(call: Call) -> Any:
    a, b, c = call.args[:3]
    if isinstance(b, Traced) or isinstance(c, Traced):
        product: Any = _mul(Call(call.builder, call.name, torch.ops.aten.mul.Tensor, (b, c), {}))
    else:
        product = _constant(b) * _constant(c)
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
        some.times(factor) if isinstance(some, Traced) else _constant(some) * factor
        for some, factor in ((a, mask), (b, 1 - mask))
    ]
    chosen: Traced = _add(Call(call.builder, call.name, torch.ops.aten.add.Tensor, tuple(parts), {}))
    return chosen


# --- sums over features ----------------------------------------------------------------------------


def _weights(value: Any) -> NDArray[np.float64]:
    if not isinstance(value, Tensor):
        raise RefusedError("weights that depend on the sample; they must be constants")
    weights: NDArray[np.float64] = _finite(value.detach().cpu().double(), "a weight").numpy()
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
    return _dense(call, x, alpha * _weights(weight).T, None).plus(_constant(bias) * beta)


@operation("matmul", "mm")
def _matmul(call: Call) -> Traced:
    x, weight = call.args[:2]
    if isinstance(x, Traced) and isinstance(weight, Tensor) and weight.ndim == 2:
        return _dense(call, x, _weights(weight).T, None)
    return _by_basis(call)


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
        raise RefusedError(f"{kind} without running statistics {_STATISTICS}")
    gain = 1 / (_constant(variance) + call.args[6 if single else 7]).sqrt()
    gain = gain if weight is None else gain * _constant(weight)
    shift = -_constant(mean) * gain + (0.0 if bias is None else _constant(bias))
    form = [1, -1, *[1] * (len(x.shape) - 2)]
    normal = x.times(_finite(gain.reshape(form), "a gain")).plus(_finite(shift.reshape(form), "a shift"))
    return [normal, None, None] if single else normal


def _by_basis(call: Call) -> Traced:
    """A linear operation by what it gives for unit vectors; which entries are stored depends on shapes."""
    x, kind = _one(call), kind_of(call.target)

    def relation(shape: tuple[int, ...], samples: Samples) -> Relation:
        if samples.axis != 0 or shape[0] != 1:
            raise RefusedError(f"{kind} of a tensor whose first axis is not the samples")
        size = math.prod(shape)
        few = _with(call, torch.zeros(x.shape, dtype=torch.float64), torch.Tensor.double)
        if not isinstance(few, Tensor) or size * few.numel() > MAX_BASIS * len(few):
            raise RefusedError(f"{kind} of {size} features is too large to be looked into")
        if few.shape[0] != x.shape[0] or bool(few.any()):
            raise RefusedError(f"{kind} is not linear, or mixes samples")
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape[1:])
        values = _with(call, basis, torch.Tensor.double)
        pattern = _with(call, basis, lambda constant: torch.ones_like(constant, dtype=torch.float64))
        places, rows = np.nonzero(pattern.reshape(size, -1).numpy())
        return Relation(
            (1, *values.shape[1:]),
            len(rows),
            lambda: (rows, places, values.reshape(size, -1).numpy()[places, rows]),
        )

    return call.builder.affine(call.name, x, relation)


def traced_arguments(node: fx.Node, known: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments as far as they are known."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: known[other])
    return tuple(args), dict(kwargs)
