"""A network as the client replays it: operations of torch, and layers that somebody else computes for it.

A file may hold any text where an operation stands, so only operations that change nothing, draw nothing at
random and belong to torch's own `aten` are accepted.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from securedl.errors import InputError
from securedl.network.geometry import Geometry
from securedl.network.graph import Array, Graph
from securedl.network.script_operations import aten

if TYPE_CHECKING:  # it needs torch
    from securedl.network.script_sizes import Meter

#: In place of an operation: what the layer of that number is sent is the argument.
LAYER = "layer"
#: Operations of Python on numbers of samples, and on results that are lists.
PYTHON: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "getitem")
}
#: Polynomials that the server computes with one result: squares and cubes, completed.
POLYNOMIAL_DEGREES = (2, 3)
#: Numbers of samples and places are smaller.
LARGEST_NUMBER = 1 << 48
#: What the types of torch are that an argument may name.
_TYPES = ("dtype", "layout", "memory_format")


@dataclass(frozen=True)
class LinearLayer:
    """A linear map without its bias.

    Attributes:
        name: path of its module. repeat: images of a sample that go through it one by one.
    """

    name: str
    geometry: Geometry
    repeat: int = 1

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of what it gives, without the samples."""
        return self.geometry.output

    def apply(self, sent: Array, weights: Array) -> Array:
        """[images, channels, rows, columns] to [images, maps, rows, columns] with a kernel."""
        return self.geometry.convolve(sent, weights)

    def to_list(self) -> list[Any]:
        """For a file."""
        return ["linear", self.name, self.repeat, self.geometry.to_list()]


@dataclass(frozen=True)
class PolynomialLayer:
    """A polynomial of every value.

    Attributes:
        name: path of its module. shape: of what it is sent and gives, without the samples; channels first.
        degree: 2 or 3. repeat: rows of a sample that go through it.
    """

    name: str
    shape: tuple[int, ...]
    degree: int
    repeat: int = 1

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of what it gives, without the samples."""
        return self.shape

    def apply(self, sent: Array, weights: Array) -> Array:
        """[rows, *shape] to the same, by Horner's rule; weights [degree + 1, channels or 1], ascending."""
        table = weights.reshape(len(weights), -1, *[1] * (len(self.shape) - 1))
        total = np.broadcast_to(table[-1], sent.shape)
        for row in table[-2::-1]:
            total = total * sent + row
        return total

    def to_list(self) -> list[Any]:
        """For a file."""
        return ["polynomial", self.name, self.repeat, [self.degree, *self.shape]]


@dataclass(frozen=True)
class ChainLayer:
    """Affine maps and polynomials one after another, which nothing parts: weights are their graph.

    Attributes:
        name: path of its first module. shape, output: of what it is sent and gives, without the samples.
    """

    name: str
    shape: tuple[int, ...]
    output: tuple[int, ...]

    repeat: ClassVar[int] = 1

    def apply(self, sent: Array, weights: Graph) -> Array:
        """[samples, *shape] to [samples, *output]."""
        return weights(sent).reshape(len(sent), *self.output)

    def to_list(self) -> list[Any]:
        """For a file."""
        return ["chain", self.name, 1, [len(self.shape), *self.shape, *self.output]]


#: What a server computes for a script.
ServerLayer: TypeAlias = LinearLayer | PolynomialLayer | ChainLayer


def layer_from(row: Sequence[Any]) -> ServerLayer:
    """The inverse of `to_list`.

    Raises:
        InputError: it is none.
    """
    kind, name, repeat, sizes = row
    if kind == "linear":
        return LinearLayer(str(name), Geometry.from_list(sizes), int(repeat))
    if kind == "chain":
        rank, *both = map(int, sizes)
        if not 0 < rank < len(both) or min(both) < 1:
            raise InputError(f"a chain of layers from and to the sizes {both} is none")
        return ChainLayer(str(name), tuple(both[:rank]), tuple(both[rank:]))
    degree, *shape = map(int, sizes)
    if kind != "polynomial" or degree not in POLYNOMIAL_DEGREES or min([*shape, int(repeat)]) < 1:
        raise InputError(f"a layer of kind {kind!r}, degree {degree} and shape {shape} is none")
    return PolynomialLayer(str(name), tuple(shape), degree, int(repeat))


@dataclass(frozen=True)
class Instruction:
    """register `out` = operation(*args, **kwargs).

    Attributes:
        operation: "aten.NAME.OVERLOAD", a name of `PYTHON`, or `LAYER`.
        args, kwargs: numbers, texts, None, lists; {"r": k} is register k, {"c": name} a constant, {"d": name}
            a type of torch. Of a layer: its number and what it is sent.
    """

    out: int
    operation: str
    args: list[Any]
    kwargs: dict[str, Any]


def resolved(operation: str) -> Callable[..., Any]:
    """What an operation's name stands for.

    Raises:
        InputError: nothing that a script may do.
    """
    return partial(_python, PYTHON[operation]) if operation in PYTHON else aten(operation)


def _python(operation: Callable[..., Any], *args: Any) -> Any:
    """An operation of Python on what it is for: lists and texts could be multiplied to any length, too.

    Raises:
        InputError: it is given anything else, or a number becomes too large.
    """
    if operation is operator.getitem:
        if len(args) == 2 and isinstance(args[0], list | tuple) and type(args[1]) is int:
            return args[0][args[1]]
    elif all(type(one) in (int, float) and abs(one) <= LARGEST_NUMBER for one in args):
        return operation(*args)
    raise InputError(f"a script cannot do {operation.__name__} with {str(args)[:80]}")


def _check_argument(value: Any) -> None:
    """Refuse what no argument is.

    Raises:
        InputError: so it is.
    """
    if isinstance(value, list):
        for one in value:
            _check_argument(one)
        return
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if (kind == "r" and type(name) is int) or (kind == "c" and isinstance(name, str)):
            return
        if kind == "d" and isinstance(name, str) and _is_type(name):
            return
    elif value is None or isinstance(value, bool | int | float | str):
        return
    raise InputError(f"a script has no argument such as {str(value)[:80]}")


def _is_type(name: str) -> bool:
    import torch

    return isinstance(getattr(torch, name, None), tuple(getattr(torch, kind) for kind in _TYPES))


def references(value: Any, kind: str) -> list[Any]:
    """Registers ("r"), constants ("c") or types ("d") in arguments."""
    if isinstance(value, dict):
        return [value[kind]] if kind in value else []
    return [found for one in value for found in references(one, kind)] if isinstance(value, list) else []


@dataclass(frozen=True, eq=False, repr=False)
class Script:
    """Instructions in their order; register 0 holds the samples.

    Attributes:
        constants: arrays by name. output: the register of the logits.

    Raises:
        InputError: an instruction that is none, or reads what is not there yet.
    """

    instructions: tuple[Instruction, ...]
    constants: Mapping[str, np.ndarray[Any, Any]]
    layers: tuple[ServerLayer, ...]
    output: int

    def __post_init__(self) -> None:
        written, layers = {0}, list[int]()
        for one in self.instructions:
            given = [*one.args, *one.kwargs.values()]
            _check_argument(given)
            if not set(references(given, "r")) <= written or one.out in written:
                raise InputError(f"the instruction for register {one.out} reads or writes a wrong register")
            if not set(references(given, "c")) <= set(self.constants):
                raise InputError(f"the instruction for register {one.out} reads an unknown constant")
            if one.operation == LAYER:
                number, sent = one.args if len(one.args) == 2 else (None, None)
                if type(number) is not int or not isinstance(sent, dict) or "r" not in sent or one.kwargs:
                    raise InputError(f"the instruction for register {one.out} sends nothing to a layer")
                layers.append(number)
            written.add(one.out)
        if layers != list(range(len(self.layers))) or self.output not in written:
            raise InputError("a script meets each of its layers once, in their order, and has an answer")
        self._steps  # noqa: B018 - resolved now

    @property
    def alive(self) -> Script:
        """Without operations that nobody reads; layers stay."""
        needed, kept = {self.output}, list[Instruction]()
        for one in reversed(self.instructions):
            if one.out in needed or one.operation == LAYER:
                needed |= set(references([*one.args, *one.kwargs.values()], "r"))
                kept.append(one)
        kept.reverse()
        used = {name for one in kept for name in references([*one.args, *one.kwargs.values()], "c")}
        constants = {name: value for name, value in self.constants.items() if name in used}
        return Script(tuple(kept), constants, self.layers, self.output)

    @cached_property
    def _steps(self) -> list[tuple[Instruction, Callable[..., Any] | None, list[int]]]:
        """Each with what it stands for, and the registers that nobody reads afterwards."""
        last: dict[int, int] = {}
        for number, one in enumerate(self.instructions):
            registers = references([*one.args, *one.kwargs.values()], "r")
            last.update(dict.fromkeys([*registers, one.out], number))
        last.pop(self.output, None)
        ends: dict[int, list[int]] = {}
        for register, number in last.items():
            ends.setdefault(number, []).append(register)
        return [
            (one, None if one.operation == LAYER else resolved(one.operation), ends.get(number, []))
            for number, one in enumerate(self.instructions)
        ]

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        import torch

        return {name: torch.from_numpy(np.array(value)) for name, value in self.constants.items()}

    def run(self, x: Array, meter: Meter | None = None) -> Generator[tuple[int, Array], Array, Array]:
        """Replay it for samples float64 [samples, *shape].

        Args:
            meter: is asked before each operation.

        Yields:
            A layer's number and what it is sent, float64 [samples · repeat, channels, rows, columns]; send()
            what the layer makes of it, float64 [samples · repeat, maps, rows, columns].

        Returns:
            Logits float64 [samples, ...].
        """
        import torch

        registers: dict[int, Any] = {0: torch.from_numpy(np.array(x, dtype=np.float64))}
        for one, target, ends in self._steps:
            if target is None:
                number, given = one.args
                sent = self._numbers(registers[given["r"]])
                found = yield number, np.ascontiguousarray(sent, dtype=np.float64)
                registers[one.out] = torch.from_numpy(np.array(found, dtype=np.float64))
            else:
                with torch.inference_mode():
                    args = self._read(one.args, registers)
                    kwargs = {name: self._read(given, registers) for name, given in one.kwargs.items()}
                    if meter is not None:
                        meter.check(target, args, kwargs, registers.values())
                    registers[one.out] = target(*args, **kwargs)
            for register in ends:
                del registers[register]
        return self._numbers(registers[self.output]).astype(np.float64)

    @staticmethod
    def _numbers(value: Any) -> Array:
        """Of a tensor.

        Raises:
            InputError: it is none, or complex.
        """
        import torch

        if not isinstance(value, torch.Tensor) or value.is_complex():
            raise InputError("what a layer is sent, and the logits, are tensors of real numbers")
        return np.asarray(value.numpy())

    def _read(self, value: Any, registers: Mapping[int, Any]) -> Any:
        if isinstance(value, list):
            return [self._read(one, registers) for one in value]
        if not isinstance(value, dict):
            return value
        if "r" in value:
            return registers[value["r"]]
        if "c" in value:
            return self._tensors[value["c"]]
        if "d" in value:
            import torch

            return getattr(torch, value["d"])
        raise InputError(f"a script has no argument such as {str(value)[:80]}")

    def values(self, x: Array, kernels: Sequence[Any]) -> list[tuple[Array, Array]]:
        """What each layer is sent and makes of it, with these kernels, in the clear."""
        return self._whole(x, kernels)[0]

    def logits(self, x: Array, kernels: Sequence[Any]) -> Array:
        """Logits float64 [samples, ...], with these kernels, in the clear."""
        return self._whole(x, kernels)[1]

    def _whole(self, x: Array, kernels: Sequence[Any]) -> tuple[list[tuple[Array, Array]], Array]:
        running, found = self.run(x), list[tuple[Array, Array]]()
        try:
            number, sent = next(running)
            while True:
                found.append((sent, self.layers[number].apply(sent, kernels[number])))
                number, sent = running.send(found[-1][1])
        except StopIteration as end:
            return found, end.value

    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """For a file: what JSON can hold, and arrays."""
        instructions = [(one.out, one.operation, one.args, one.kwargs) for one in self.instructions]
        layers = [layer.to_list() for layer in self.layers]
        names = {f"c{number}": value for number, value in enumerate(self.constants.values())}
        meta = {
            "instructions": instructions,
            "layers": layers,
            "constants": list(self.constants),
            "output": self.output,
        }
        return meta, names

    @staticmethod
    def from_parts(meta: Any, arrays: Mapping[str, Any]) -> Script:
        """The inverse of `to_parts`.

        Raises:
            InputError: not such parts.
        """
        instructions = tuple(
            Instruction(int(out), str(operation), list(args), dict(kwargs))
            for out, operation, args, kwargs in meta["instructions"]
        )
        layers = tuple(layer_from(row) for row in meta["layers"])
        constants = {str(name): arrays[f"c{number}"] for number, name in enumerate(meta["constants"])}
        return Script(instructions, constants, layers, int(meta["output"]))
