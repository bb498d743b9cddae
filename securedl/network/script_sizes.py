"""What a script's operations take of memory, before they take it.

A file may ask for any sizes, by numbers in an instruction or by what other operations give. So each operation
is done on shapes alone first, which torch calls its "meta" device, with all that it is made of in view.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from securedl.errors import InputError

#: Operations that give lists are refused tensors longer than that, and larger numbers.
MOST_RESULTS = 1 << 16
#: They read masks as places, how many is not known of shapes.
_BY_PLACES = ("index", "index_put")
#: Before these multiply they write down every place of a kernel by itself.
_CONVOLUTIONS = ("convolution", "_convolution")


class Meter:
    """Refuses operations with too large results.

    Args:
        limit: bytes of all that a script holds at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def check(self, target: Any, args: list[Any], kwargs: dict[str, Any], held: Iterable[Any]) -> None:
        """Refuse an operation that would take too much beside what is held already.

        Raises:
            InputError: so it would, or its sizes cannot be told from shapes; or whatever torch raises.
        """
        if not isinstance(target, torch._ops.OpOverload):  # numbers, and what is held already
            return
        if {"device", "pin_memory"} & set(kwargs):
            raise InputError(f"a script cannot choose where {target} is done")
        name = target.overloadpacket.__name__
        if any("[]" in str(one.type) or "List" in str(one.type) for one in target._schema.returns):
            _check_results(target, [*args, *kwargs.values()])
        if name in _BY_PLACES:
            args = [args[0], _places(args[1]), *args[2:]]
        shapes = {key: _shape(value) for key, value in kwargs.items()}
        if any(one.name == "device" for one in target._schema.arguments) and not _tensors(args):
            shapes["device"] = "meta"
        with _Watch(self.limit - sum(map(_bytes, held))):
            try:
                target(*_shape(args), **shapes)
            except NotImplementedError as error:
                raise InputError(f"a script cannot do {target}: its sizes are not known before") from error


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the results of operations and of all that these are made of."""

    def __init__(self, left: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = left

    def __torch_dispatch__(self, target: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            found = target.decompose(*args, **kwargs)
        if found is NotImplemented:
            found = target(*args, **kwargs)
        taken = _bytes(found)
        if target.overloadpacket.__name__ in _CONVOLUTIONS:
            taken += _columns(args[1] if len(args) > 1 else kwargs["weight"], found)
        if taken > self.left:
            raise InputError(f"{target} would take {taken:.3g} bytes beside what the script holds already")
        return found


def _columns(kernel: Tensor, result: Tensor) -> int:
    """Bytes of what a convolution multiplies its kernel with."""
    return math.prod(kernel.shape[1:]) * (result.numel() // max(result.shape[1], 1)) * result.element_size()


def _check_results(target: Any, given: list[Any]) -> None:
    """Refuse lists of so many results that they take memory whatever their sizes are."""
    sizes = [size for one in _tensors(given) for size in one.shape]
    numbers = [abs(one) for one in _leaves(given) if type(one) is int]
    if max([*sizes, *numbers], default=0) > MOST_RESULTS:
        raise InputError(f"{target} would give a list that is too long")


def _places(indices: Any) -> Any:
    """Masks as the places where they are true."""
    if not isinstance(indices, list | tuple):
        return indices
    found = list[Any]()
    for one in indices:
        mask = isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)
        found += one.nonzero().unbind(1) if mask else [one]
    return found


def _shape(value: Any) -> Any:
    """The same, of tensors only the shapes."""
    if isinstance(value, list | tuple):
        return [_shape(one) for one in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def _leaves(value: Any) -> list[Any]:
    return [leaf for one in value for leaf in _leaves(one)] if isinstance(value, list | tuple) else [value]


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _bytes(value: Any) -> int:
    """Of tensors, as if none shared its memory with another."""
    return sum(one.numel() * one.element_size() for one in _tensors(value))
