"""Which axis of a value runs over the samples: a layer's images belong to one sample each, in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from securedl.network.any_number import BATCH

_aten = torch.ops.aten


def samples_first(x: Any) -> bool:
    """Whether the first axis of a value has all rows of sample 0, then as many of sample 1, and so on."""
    count, rest = divmod(len(x.value), BATCH)
    if rest:
        return False
    rows = _rows(x, 0)
    return not bool(rows[:count].any() or rows[2 * count :].any())


def _rows(x: Any, axis: int) -> torch.Tensor:
    """Along an axis, whether anything belongs to sample 1: booleans [size]."""
    different = (x.value != x.changed) & ~(x.value.isnan() & x.changed.isnan())
    rows: torch.Tensor = different.movedim(axis, 0).reshape(x.value.shape[axis], -1).any(1)
    return rows


def moved(emit: Any, x: Any) -> tuple[Any, Callable[[Any], Any]] | None:
    """The value with the samples first, and what moves a result of as many axes back; None if they are
    in none but the last axis, or spread."""
    if samples_first(x):
        return x, lambda found: found
    shape = list(x.value.shape)
    for axis in range(1, len(shape) - 1):
        if shape[axis] == BATCH and _rows(x, axis).tolist() == [number == 1 for number in range(BATCH)]:
            first = emit.operation(_aten.transpose.int, x, 0, axis)
            return first, lambda found, axis=axis: emit.operation(_aten.transpose.int, found, 0, axis)
    owned = _rows(x, 0).nonzero().flatten()
    if len(shape) < 2 or shape[0] % BATCH or not bool((owned % BATCH == 1).all()):
        return None
    count = shape[0] // BATCH  # rows (0 of all samples), (1 of all samples), ...
    rows = emit.operation(_aten.reshape.default, x, [count, -1, *shape[1:]])
    first = emit.operation(_aten.transpose.int, rows, 0, 1)

    def back(found: Any) -> Any:
        rows = emit.operation(_aten.transpose.int, found, 0, 1)
        return emit.operation(_aten.reshape.default, rows, [-1, *found.value.shape[2:]])

    return first, back
