"""Operations that move, copy, leave out, join and replace elements."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from securedl.network.capture import leaves
from securedl.network.operations import Call, applied, constant, kind_of, only_traced, operation
from securedl.network.tensors import RefusedError, Traced, raised

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
        "gather", "take_along_dim",
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


@operation(*MOVING)
def _moved(call: Call) -> Any:
    x = only_traced(call)
    index = applied(call, x.index)
    rows = [applied(call, row) for row in x.coefficients]
    if isinstance(index, Tensor):
        return Traced(x.source, index, torch.stack(rows))
    return [Traced(x.source, one, torch.stack(some)) for one, *some in zip(index, *rows, strict=True)]


@operation(*ZERO_FILLED)
def _zero_filled(call: Call) -> Traced:
    x = only_traced(call)
    return Traced(
        x.source, applied(call, x.index + 1) - 1, torch.stack([applied(call, row) for row in x.coefficients])
    )


#: Operations that put one tensor into another: where the arguments have what is put.
PLACING = {
    "slice_scatter": 1,
    "select_scatter": 1,
    "diagonal_scatter": 1,
    "copy": 1,
    "index_put": 2,
    "scatter": 3,
}


@operation(*PLACING)
def _placed(call: Call) -> Traced:
    """Assignments to slices: torch itself tells which element of the result comes from where."""
    place = PLACING[kind_of(call.target)]
    given = list(call.args)
    parts = given[0], given[place]
    rest = [*given[1:place], *given[place + 1 :], *call.kwargs.values()]
    if (
        any(isinstance(one, Traced) for one in leaves(rest))
        or any(one is True for one in rest)
        or (any(isinstance(one, str) for one in rest))
    ):
        raise RefusedError(
            f"{kind_of(call.target)} that adds, or whose places depend on the sample: assign at "
            "constant places, or choose with torch.where"
        )
    sizes = [math.prod(one.shape) if isinstance(one, Traced | Tensor) else 1 for one in parts]
    given[0] = torch.arange(sizes[0]).reshape(parts[0].shape)
    put = torch.arange(sizes[0], sum(sizes))
    given[place] = put.reshape(parts[1].shape) if isinstance(parts[1], Traced | Tensor) else sizes[0]
    places: Tensor = call.target(*given, **call.kwargs)
    whole = [one if isinstance(one, Traced) else constant(one) for one in parts]
    traced = [one for one in whole if isinstance(one, Traced)]
    if len({one.source for one in traced}) == 1:
        return _taken(whole, traced[0].source, max(one.degree for one in traced), places)
    kept, new = (
        _taken(
            [one if one is some else torch.zeros(one.shape) for one in traced],
            some.source,
            some.degree,
            places,
        )
        for some in traced
    )
    return call.builder.total(call.name, kept, new)


def _taken(parts: list[Traced | Tensor], source: int, degree: int, places: Tensor) -> Traced:
    """Elements of several tensors, which read one value or are constants, by their places."""
    whole = [raised(some, source, degree) for some in parts]
    index = torch.cat([some.index.reshape(-1) for some in whole])[places]
    rows = torch.cat([some.coefficients.reshape(degree + 1, -1) for some in whole], 1)
    return Traced(source, index, rows[:, places])


@operation("constant_pad_nd", "pad")
def _pad(call: Call) -> Traced:
    x, sizes = only_traced(call), call.args[1]
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


@operation("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "empty_like", "fill")
def _like(call: Call) -> Any:
    return applied(call, torch.zeros(call.args[0].shape, dtype=torch.float64))


@operation("dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _dropout(call: Call) -> Any:
    if call.get(2, "train", False):
        raise RefusedError(
            "dropout that is always active: pass training=self.training to torch.nn.functional.dropout"
        )
    return [call.args[0], None] if kind_of(call.target) == "native_dropout" else call.args[0]
