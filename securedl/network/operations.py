"""What an operation of a network becomes: a rule for each, from `moves`, `arithmetic`, `sums`; or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, fx

from securedl.network.tensors import Builder, RefusedError, Traced


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
SomeRule = TypeVar("SomeRule", bound=Rule)
OPERATIONS: dict[str, Rule] = {}
STATISTICS = (
    "normalises by each sample's own mean and variance, which no polynomial of low degree does; use "
    "BatchNorm, whose statistics are constants"
)
_COMPARED = (
    "a comparison of values that depend on the sample; leave it to the client, who has the logits, or use "
    "their mean"
)
_NORM = (
    "a square root of a sum of squares, in which no polynomial of low degree comes close; use the sum of "
    "squares"
)
_RECURRENT = (
    "a recurrent layer runs on its own answers, step by step; use convolutions over time, or write the steps "
    "out as a few layers"
)
#: What to do instead of what cannot be encrypted, by the name of the operation.
REMEDIES = {
    "layer_norm": STATISTICS,
    "native_layer_norm": STATISTICS,
    "group_norm": STATISTICS,
    "native_group_norm": STATISTICS,
    "rms_norm": STATISTICS,
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
    **dict.fromkeys(
        ("fft_fft", "fft_rfft", "fft_fft2", "fft_rfft2", "fft_fftn", "fft_rfftn", "stft", "view_as_complex"),
        "complex numbers; a Fourier transform is two matrices, of cosines and sines: use nn.Linear for each",
    ),
    **dict.fromkeys(
        (
            "argmax",
            "argmin",
            "topk",
            "sort",
            "argsort",
            "median",
            "kthvalue",
            "max",
            "amax",
            "min",
            "amin",
            "maximum",
            "minimum",
            "fmax",
            "fmin",
            "cummax",
            "cummin",
        ),
        _COMPARED,
    ),
    **dict.fromkeys(
        (
            "norm",
            "linalg_norm",
            "linalg_vector_norm",
            "std",
            "std_mean",
            "hypot",
            "cosine_similarity",
            "pairwise_distance",
            "cdist",
            "_cdist_forward",
        ),
        _NORM,
    ),
    "logsumexp": "it is no polynomial of several values; leave it to the client, who has the answer",
    **dict.fromkeys(
        ("prod", "cumprod"), "multiply the values by each other, two at a time, as in x[:, 0] * x[:, 1]"
    ),
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
        "special_expit",
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


def operation(*names: str) -> Callable[[SomeRule], SomeRule]:
    """Register what an operation of `torch.ops.aten` becomes, by its name without overload.

    Example: `@operation("neg")` over a function of a `Call` that returns a `Traced`.
    """

    def register(function: SomeRule) -> SomeRule:
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
    if kind in MAX_POOLS:
        raise RefusedError(f"{kind}: use average pooling (securedl.approximate replaces it)")
    if kind in REMEDIES:
        raise RefusedError(f"{kind}: {REMEDIES[kind]}")
    if is_elementwise(call.target) and sum(isinstance(a, Traced) for a in call.args) == 1:
        raise RefusedError(f"{kind} is not a polynomial yet: call securedl.approximate first")
    raise RefusedError(
        f"{kind} is not among the operations that can be encrypted, such as sums with constant weights, "
        "products, and functions of one feature; leave it out or replace it"
    )


def applied(call: Call, tensor: Tensor, constants: Callable[[Tensor], Tensor] = lambda c: c) -> Any:
    """What torch gives with `tensor` in place of the traced argument."""

    def put(value: Any) -> Any:
        if isinstance(value, Traced):
            return tensor
        if isinstance(value, list | tuple):
            return type(value)(map(put, value))
        return constants(value) if isinstance(value, Tensor) else value

    return call.target(*put(call.args), **{name: put(value) for name, value in call.kwargs.items()})


def only_traced(call: Call) -> Traced:
    """The only traced argument."""
    found = [a for a in _leaves(call.args) if isinstance(a, Traced)]
    if len(found) != 1:
        raise RefusedError(
            f"{kind_of(call.target)} of {len(found)} values that depend on the sample; of such values only "
            "sums, products element by element, and matmul are supported"
        )
    return found[0]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in _leaves(one)]
    return [value]


def constant(value: Any) -> Tensor:
    """A constant argument in double precision."""
    if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
        raise RefusedError("a complex number: real and imaginary parts must be features of their own")
    return (
        value.detach().cpu().double()
        if isinstance(value, Tensor)
        else torch.tensor(float(value), dtype=torch.float64)
    )


def finite(value: Tensor, what: str) -> Tensor:
    """The same; NaN and infinities are refused."""
    if not bool(torch.isfinite(value).all()):
        raise RefusedError(f"{what} is not finite: look for zeros and NaN among the network's constants")
    return value


def traced_arguments(node: fx.Node, known: dict[fx.Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's arguments as far as they are known."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: known[other])
    return tuple(args), dict(kwargs)
