"""What operators of ONNX are given and give: constants, or what depends on the samples.

The number of samples is not known while a file is read; `SAMPLES` stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, fx

from securedl.errors import InputError

#: A prime that no size of a network is a multiple of.
SAMPLES = 1_000_003
#: Axes, sizes and places that one operator may name.
MAX_SIZES = 1024
#: Places of an axis that is made, or written out place by place.
MAX_AXIS = 1 << 20


def counted(size: int) -> bool:
    """Whether a size is a number of samples, or a multiple of it."""
    return bool(size) and size % SAMPLES == 0


@dataclass(frozen=True, eq=False)
class Fixed:
    """A constant.

    Attributes:
        weight: whether it is one of the file's, which training may move.
    """

    tensor: Tensor
    weight: bool = False

    @property
    def counts(self) -> bool:
        """Whether it holds the number of samples."""
        whole = not self.tensor.is_floating_point()
        return whole and bool(((self.tensor != 0) & (self.tensor % SAMPLES == 0)).any())


@dataclass(frozen=True, eq=False)
class Running:
    """What depends on the samples. meta: of its shape and type, without numbers."""

    node: fx.Node
    meta: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """With multiples of SAMPLES where samples are counted."""
        return tuple(self.meta.shape)


OnnxValue: TypeAlias = Fixed | Running


def shape_of(value: OnnxValue) -> list[int]:
    """With multiples of SAMPLES where samples are counted."""
    return list(value.shape if isinstance(value, Running) else value.tensor.shape)


def axes_of(value: OnnxValue, axes: Sequence[int]) -> list[int]:
    """Counted from the first one."""
    rank = len(shape_of(value))
    if any(not -rank <= axis < rank for axis in axes):
        raise InputError(f"it has axes {list(axes[:8])} of a value with {rank}")
    return [axis % rank for axis in axes]


def free(sizes: Sequence[int]) -> tuple[int, ...]:
    """For torch: -1 where samples are counted."""
    return tuple(-1 if counted(size) else size for size in sizes)


def shown_sizes(sizes: Sequence[int]) -> str:
    """For a sentence."""
    return "[" + ", ".join("samples" if size == SAMPLES else str(size) for size in sizes[:8]) + "]"


@dataclass(frozen=True)
class OnnxOperation:
    """One operator.

    Attributes:
        inputs: None where one is left out.
        single: of each input, whether no other operator uses it.
        outputs: how many it has.
    """

    kind: str
    name: str
    opset: int
    inputs: tuple[OnnxValue | None, ...]
    single: tuple[bool, ...]
    attributes: dict[str, Any]
    outputs: int

    def input(self, index: int) -> OnnxValue:
        """One that has to be there."""
        value = self.optional(index)
        if value is None:
            raise InputError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> OnnxValue | None:
        """One that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def running(self, index: int = 0) -> Running:
        """One that depends on the samples."""
        value = self.input(index)
        if not isinstance(value, Running):
            raise InputError(f"input {index} does not depend on the samples: fold the constants first")
        return value

    def fixed(self, index: int) -> Tensor:
        """A constant."""
        value = self.input(index)
        if not isinstance(value, Fixed):
            raise InputError(f"input {index} depends on the samples, and has to be a constant")
        return value.tensor

    def numbers(self, index: int, attribute: str) -> list[int] | None:
        """Integers that are an input in newer opsets and were an attribute in older ones; None without."""
        found = self.attributes.get(attribute)
        if self.optional(index) is not None:
            found = self.fixed(index).reshape(-1)
        if found is not None and len(found) > MAX_SIZES:
            raise InputError(
                f"input {index} has {len(found)} sizes or axes, and at most {MAX_SIZES} are read"
            )
        return None if found is None else [int(number) for number in found]
