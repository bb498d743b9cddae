"""Runs the vector evaluator, kernels and emitters included, on another machine than the processor.

Inside `interpreted` every emitter asks a `Machine` of the tests for its instructions; kernels run as the
Python that they are written in. So what a machine sees is what the product does, and an emitter that is new
is run with the kernel that uses it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
from numba.core.extending import _Intrinsic
from numpy.typing import NDArray

import securedl.he.vector as vector
from securedl.he.vector.kernels import buffers, cache, llvm, words
from securedl.he.vector.kernels.lanes import Lanes


class RefusedError(AssertionError):
    """An instruction that a machine cannot vouch for."""


class Memory:
    """The arrays whose addresses were asked for; no other address may be touched."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], object] = {}  # the last one used comes last
        self._last = (0, 0)

    def register(self, array: NDArray[Any]) -> int:
        start = int(array.__array_interface__["data"][0])
        self._known[start, start + array.nbytes] = array
        return start

    def check(self, address: int, octets: int) -> None:
        start, stop = self._last
        if start <= address and address + octets <= stop:
            return
        for start, stop in reversed(self._known):
            if start <= address and address + octets <= stop:
                self._last = start, stop
                self._known[self._last] = self._known.pop(self._last)
                return
        raise RefusedError(f"{octets} octets at {address:#x} are no memory of the evaluator")

    def read(self, address: int, octets: int) -> bytes:
        self.check(address, octets)
        return ctypes.string_at(address, octets)

    def write(self, address: int, data: bytes) -> None:
        self.check(address, len(data))
        ctypes.memmove(address, data, len(data))


class Machine(Protocol):
    """What runs emitters."""

    @property
    def memory(self) -> Memory:
        """What they may touch."""
        ...

    @property
    def ifma(self) -> bool:
        """Whether it has arithmetic on words."""
        ...

    @property
    def words(self) -> type[words.Words]:
        """What stands in for `words.Words`."""
        ...

    def lanes(self, q: float, q_inverse: float) -> Lanes:
        """The machine set to one prime."""
        ...


class _Arrays:
    """NumPy as kernels use it; the machine knows the memory that they make."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, *args: Any, **kwargs: Any) -> NDArray[Any]:
        # Zeros, as fresh memory of the system is: kernels compute on the padding of rows too, which nobody
        # reads, and what another test left there may be no integer.
        array = np.zeros(*args, **kwargs)
        self._memory.register(array)
        return array


def modules() -> list[ModuleType]:
    """Of the vector evaluator, kernels and all."""
    return [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(vector.__path__, vector.__name__ + ".")
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return type(value)(*map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def emitter_name(emitter: llvm.Emitter) -> str:
    """By the module's name for what kernels call."""
    for module in modules():
        for name, value in vars(module).items():
            if value is emitter.intrinsic and emitter.emit.__module__ == module.__name__:
                return f"{module.__name__.rsplit('.', 1)[1]}.{name}"
    raise LookupError(f"no kernel can call {emitter.emit}")


@contextmanager
def interpreted(machine: Machine, seen: set[str]) -> Iterator[Callable[[Any], Callable[..., Any]]]:
    """Let the machine run every emitter, and add the names of those that it ran to `seen`.

    Gives what makes a Python function from an intrinsic.
    """
    emitters = {id(emitter.intrinsic): (emitter, emitter_name(emitter)) for emitter in llvm.EMITTERS}
    functions: list[Callable[..., Any]] = []

    def entry(function: Callable[..., Any]) -> int:
        functions.append(function)  # a stand-in already
        return len(functions) - 1

    def call(at: int, *args: Any) -> Any:
        return functions[at](*args)

    def run(intrinsic: Any) -> Callable[..., Any]:
        emitter, name = emitters[id(intrinsic)]

        def runner(*args: Any) -> Any:
            *rest, q, q_inverse = map(_plain, args)
            if emitter.ifma and not machine.ifma:
                raise RefusedError(f"{name} needs arithmetic on words")
            seen.add(name)
            return emitter.emit(machine.lanes(q, q_inverse), *rest)

        return runner

    def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            for value in args:
                if isinstance(value, np.ndarray):
                    machine.memory.register(value)
            return function(*args)

        return called

    kernels = {id(dispatcher) for dispatcher, _ in cache._KERNELS}
    known = {
        id(np): _Arrays(machine.memory),
        id(buffers.address): machine.memory.register,
        id(cache.entry): entry,
        id(words.Words): machine.words,
    }

    def stand_in(name: str, value: Any) -> Any:
        if isinstance(value, _Intrinsic):
            if id(value) in emitters:
                return run(value)
            return call if value._name == "typing" else value  # `cache.caller`
        if hasattr(value, "py_func"):
            return kernel(value.py_func) if id(value) in kernels else value.py_func
        if isinstance(value, functools._lru_cache_wrapper) and name in (
            "chain_of",
            "switch_entries",
            "transform_entries",
        ):
            return value.__wrapped__  # of addresses
        return machine.ifma if name == "IFMA" else known.get(id(value), value)

    with ExitStack() as stack:
        for module in modules():
            for name, value in list(vars(module).items()):
                other = stand_in(name, value)
                if other is not value:
                    stack.enter_context(patch.object(module, name, other))
        yield run
