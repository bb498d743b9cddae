"""What may be computed from the number of samples, which is not known while a file is read."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from securedl.errors import InputError
from securedl.network.onnx_values import SAMPLES, Fixed, OnnxOperation, Running

#: Operators that keep multiples of the number of samples apart from other integers.
_KEEPING = {
    "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Mul", "ReduceProd", "Reshape", "Shape",
    "Size", "Slice", "Split", "Squeeze", "Unsqueeze", "Where",
}  # fmt: skip


def check_counts(operation: OnnxOperation) -> None:
    """Refuse what would make wrong sizes of the number of samples.

    Raises:
        InputError: so it would.
    """
    given = [v for v in operation.inputs if isinstance(v, Fixed) and v.counts]
    if not given or any(isinstance(v, Running) for v in operation.inputs):
        return
    kind = operation.kind
    if kind not in _KEEPING and (kind not in _RULES or not _RULES[kind](operation)):
        raise InputError("it computes with the number of samples")


def _counts(numbers: Tensor) -> Tensor:
    return (numbers != 0) & (numbers % SAMPLES == 0)


def _cast(op: OnnxOperation) -> bool:
    """To integers; as a fraction nobody could tell it any more."""
    from onnx import TensorProto

    return op.attributes["to"] in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def _sum(op: OnnxOperation) -> bool:
    a, b = op.fixed(0), op.fixed(1)
    return bool(((a % SAMPLES == 0) == (b % SAMPLES == 0)).all())


def _quotient(op: OnnxOperation) -> bool:
    a, b = op.fixed(0), op.fixed(1)
    return bool(((b > 0) & (a % b.clamp(min=1) == 0)).all())


def _equal(op: OnnxOperation) -> bool:
    """No number of samples is 0 or less, as the sizes that stand for others are."""
    a, b = op.fixed(0), op.fixed(1)
    return not bool(((_counts(a) & ~_counts(b) & (b > 0)) | (_counts(b) & ~_counts(a) & (a > 0))).any())


_RULES: dict[str, Callable[[OnnxOperation], bool]] = {
    "Add": _sum, "Cast": _cast, "Div": _quotient, "Equal": _equal, "Sub": _sum,
}  # fmt: skip
