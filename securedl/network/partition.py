"""Which operations of a network are layers that a server computes; all others are a script for the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from securedl.errors import CompileError, InputError, UnsupportedLayerError
from securedl.network.any_number import BATCH
from securedl.network.capture import Captured, capture, leaves
from securedl.network.ending import ending_of
from securedl.network.geometry import Geometry
from securedl.network.graph import Array
from securedl.network.operations import is_random, kind_of
from securedl.network.outputs import Head
from securedl.network.partition_whose import samples_first
from securedl.network.polynomial import PolynomialActivation
from securedl.network.script import (
    LAYER,
    POLYNOMIAL_DEGREES,
    PYTHON,
    Instruction,
    LinearLayer,
    PolynomialLayer,
    Script,
    ServerLayer,
    resolved,
)  # fmt: skip

#: Operations that are nothing in evaluation.
_NOTHING = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")

#: Where a random ReLU has the ends of its slopes, and what they are where it has none.
_SLOPES = ((1, 1 / 8), (2, 1 / 3))


@dataclass(frozen=True, eq=False)
class Partitioned:
    """A network, its layers apart.

    Attributes:
        kernels: of the script's layers, float64 [maps, channels / groups, rows, columns]; of polynomials
            their coefficients [degree + 1, channels or 1]; of chains their graphs.
        output_shape: of one sample's logits. head: what the network ends in, for the client.
        captured: where it is from.
    """

    script: Script
    kernels: tuple[Any, ...]
    output_shape: tuple[int, ...]
    head: Head
    captured: Captured


@dataclass(frozen=True, eq=False)
class Followed:
    """What is known of a node's value.

    Attributes:
        value: for `BATCH` random samples, in double precision. register: that holds it; None for a constant.
        changed: the same with other numbers in sample 1, which shows whose each number is.
    """

    value: Any
    register: int | None = None
    changed: Any = None

    def other(self) -> Any:
        """`changed`; of a constant, itself."""
        return self.value if self.register is None else self.changed


@dataclass(eq=False)
class ScriptWriter:
    """Collects instructions."""

    instructions: list[Instruction] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    layers: list[ServerLayer] = field(default_factory=list)
    kernels: list[Array] = field(default_factory=list)
    registers: int = 1

    def operation(self, target: Any, *args: Any, **kwargs: Any) -> Followed:
        """One operation; arguments may hold `Followed`.

        Raises:
            UnsupportedLayerError: no script may do it.
        """
        name = target.__name__ if target in PYTHON.values() else str(target)
        try:
            resolved(name)
        except InputError as reason:
            raise UnsupportedLayerError(str(reason)) from reason
        value, changed = (
            target(*_mapped(args, which), **_mapped(kwargs, which)) for which in (_value, _changed)
        )
        written = _mapped(list(args), self._written), _mapped(kwargs, self._written)
        return self._emit(value, changed, name, *written)

    def layer(self, name: str, x: Followed, geometry: Geometry, kernel: Tensor) -> Followed:
        """One layer; x is [samples · repeat, channels, rows, columns]."""
        repeat, rest = divmod(len(x.value), BATCH)
        assert not rest
        return self._layer(LinearLayer(name, geometry, repeat), x, np.ascontiguousarray(kernel.numpy()))

    def polynomial(self, name: str, x: Followed, coefficients: Array) -> Followed:
        """One polynomial; x is [samples · repeat, channels, ...]."""
        shape = tuple(x.value.shape[1:])
        layer = PolynomialLayer(name, shape, len(coefficients) - 1, len(x.value) // BATCH)
        return self._layer(layer, x, coefficients)

    def _layer(self, layer: LinearLayer | PolynomialLayer, x: Followed, weights: Array) -> Followed:
        value, changed = (torch.from_numpy(layer.apply(one.numpy(), weights)) for one in (x.value, x.changed))
        self.layers.append(layer)
        self.kernels.append(weights)
        return self._emit(value, changed, LAYER, [len(self.layers) - 1, {"r": x.register}], {})

    def _emit(self, value: Any, changed: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Followed:
        found = Followed(value, self.registers, changed)
        self.instructions.append(Instruction(self.registers, name, args, kwargs))
        self.registers += 1
        return found

    def _written(self, one: Any) -> Any:
        """An argument as an instruction has it."""
        if isinstance(one, Followed) and one.register is not None:
            return {"r": one.register}
        value = _value(one)
        if isinstance(value, Tensor):
            name = f"k{len(self.constants)}"
            self.constants[name] = value.numpy()
            return {"c": name}
        if isinstance(value, torch.dtype):
            return {"d": str(value).rpartition(".")[2]}
        if isinstance(value, torch.layout | torch.memory_format):
            return {"d": str(value).rpartition(".")[2]}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise UnsupportedLayerError(f"an argument of type {type(value).__name__} cannot be kept in a plan")


def _value(one: Any) -> Any:
    return one.value if isinstance(one, Followed) else one


def _changed(one: Any) -> Any:
    return one.other() if isinstance(one, Followed) else one


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_mapped(one, change) for one in value]
    if isinstance(value, dict):
        return {name: _mapped(one, change) for name, one in value.items()}
    return change(value)


def partition(
    model: nn.Module, shape: Sequence[int], polynomials: bool = False, samples: Array | None = None
) -> Partitioned:
    """The layers of a network, and a script of the rest.

    Args:
        model: in any mode; evaluation mode counts. shape: of one sample.
        polynomials: whether polynomial activations are layers too; their degree is 3 at most then.
        samples: [samples, *shape], to follow the network with where it takes no random numbers, as tables
            do not.

    Raises:
        UnsupportedLayerError: what cannot be replayed, where it is, and what to do; or no layer at all.
    """
    captured = capture(model, tuple(shape))
    with torch.no_grad():
        run = _Run(captured, *_random(shape), polynomials)
        try:
            answer = run.run()
        except UnsupportedLayerError:
            if samples is None or len(samples) <= BATCH:
                raise
            run = _Run(captured, *_given(samples), polynomials)
            answer = run.run()
    emitted = run.emitter
    if not emitted.layers:
        raise UnsupportedLayerError(
            f"{captured.title} has no convolution or linear layer that a server could compute"
        )
    script = Script(
        tuple(emitted.instructions), emitted.constants, tuple(emitted.layers), answer.register or 0
    )
    return Partitioned(
        script.alive, tuple(emitted.kernels), tuple(answer.value.shape[1:]), run.head, captured
    )


def _random(shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Samples [BATCH, *shape], and the same with another sample 1: random, as zeros have many results that no
    other samples have; the same at each call.
    """
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn((BATCH, *shape), generator=random, dtype=torch.float64) for _ in range(2))
    return _marked(x, y[1])


def _given(samples: Array) -> tuple[Tensor, Tensor]:
    """The same of samples [more than BATCH, *shape], sample 1 replaced by one that differs most from it."""
    x = torch.from_numpy(np.array(samples, dtype=np.float64))
    different = (x != x[1]).reshape(len(x), -1).sum(1)
    return _marked(x[:BATCH], x[int(different.argmax())])


def _marked(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    marked = x.clone()
    marked[1] = other
    return x, marked


class _Run:
    """One run over the nodes of a captured network."""

    def __init__(self, captured: Captured, x: Tensor, marked: Tensor, polynomials: bool) -> None:
        self.captured, self.samples, self.polynomials = captured, Followed(x, 0, marked), polynomials
        self.emitter = ScriptWriter()
        self.known: dict[fx.Node, Any] = {}
        self.problems: list[str] = []
        ending = ending_of(captured)
        self.head, self.ending = ending.head, ending.nodes

    def run(self) -> Followed:
        """What the network gives."""
        answer: Any = None
        inputs = [node for node in self.captured.graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise UnsupportedLayerError(f"the network takes {len(inputs)} inputs: give one tensor of samples")
        for node in self.captured.graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self.samples
            elif node.op == "get_attr":
                self.known[node] = Followed(_double(_attribute(self.captured, str(node.target))))
            elif node.op == "output":
                answer = self.known[node.args[0]]
            else:
                self._step(node)
        if self.problems:
            raise UnsupportedLayerError(
                f"{len(self.problems)} operation(s) of {self.captured.title} cannot be split between "
                "client and server:\n  " + "\n  ".join(self.problems)
            )
        if not isinstance(answer, Followed) or answer.register is None:
            raise UnsupportedLayerError("what the network gives does not depend on the samples")
        if self.head.kind and self.head.kind != "sigmoid":
            axis = self.head.axis % answer.value.ndim
            if axis == 0:
                raise UnsupportedLayerError(
                    f"{self.head.kind} across samples: give it the axis of the classes, as in dim=1"
                )
            self.head = Head(self.head.kind, axis - 1)
        return answer

    def _step(self, node: fx.Node) -> None:
        try:
            self.known[node] = self._result(node)
        except Exception as error:
            said = str(error).strip() or "no reason given"
            if not isinstance(error, UnsupportedLayerError | CompileError):
                said = f"{kind_of(node.target)} cannot be followed ({type(error).__name__}: {_first(said)})"
            origin = self.captured.origin(node)
            where = f" ({origin.line})" if origin.line else ""
            self.problems.append(f"{origin.path}: {said}{where}")
            self.known[node] = self._instead(node)

    def _instead(self, node: fx.Node) -> Followed:
        """What a refused operation gives, so that the rest is looked at too."""
        given = fx.map_arg((node.args, dict(node.kwargs)), lambda other: self.known[other])
        try:
            value, changed = (
                node.target(*_mapped(list(given[0]), which), **_mapped(given[1], which))  # type: ignore[operator]
                for which in (_value, _changed)
            )
        except Exception as error:
            raise UnsupportedLayerError("\n  ".join(self.problems)) from error
        return Followed(value, 0, changed)

    def _result(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: self.known[other])
        args, kwargs = _mapped(list(args), _in_double), _mapped(dict(kwargs), _in_double)
        kwargs.pop("device", None)
        kwargs.pop("pin_memory", None)
        kind, name = kind_of(node.target), self.captured.origin(node).path
        if node in self.ending or (kind in _NOTHING and not is_random(node)):
            return args[0]
        if kind == "rrelu" and not is_random(node):
            ends = [_value(args[place]) if place < len(args) else default for place, default in _SLOPES]
            return self.emitter.operation(torch.ops.aten.leaky_relu.default, args[0], sum(ends) / 2)
        if is_random(node) and kind != "scaled_dot_product_attention":
            raise UnsupportedLayerError(f"{kind} gives other values at each call")
        if node.op == "call_module":
            return self._polynomial(node, args[0])
        if not any(
            isinstance(leaf, Followed) and leaf.register is not None for leaf in leaves((args, kwargs))
        ):
            found = node.target(*_mapped(args, _value), **_mapped(kwargs, _value))  # type: ignore[operator]
            return Followed(_mapped(found, _double))
        from securedl.network.partition_layers import as_layer

        found = as_layer(self.emitter, kind, name, args, kwargs)
        return self.emitter.operation(node.target, *args, **kwargs) if found is None else found

    def _polynomial(self, node: fx.Node, x: Followed) -> Followed:
        """A layer, or by Horner's rule."""
        module = self.captured.get_submodule(str(node.target))
        if not isinstance(module, PolynomialActivation):
            raise UnsupportedLayerError(f"{type(module).__name__} is not an operation of torch")
        if self.polynomials and module.degree > 1:
            if module.degree not in POLYNOMIAL_DEGREES or not samples_first(x):
                raise UnsupportedLayerError(
                    f"a polynomial of degree {module.degree} has more than one result, or no axis of samples"
                )
            return self.emitter.polynomial(self.captured.origin(node).path, x, module.power())
        form = (-1, *[1] * (x.value.ndim - 2))
        rows = [torch.as_tensor(row).double() for row in module.power()]
        rows = [row.reshape(form) if len(row) > 1 else row for row in rows]
        aten, total = torch.ops.aten, Followed(rows[-1])
        for row in rows[-2::-1]:
            product = self.emitter.operation(aten.mul.Tensor, x, total)
            total = self.emitter.operation(aten.add.Tensor, product, Followed(row))
        return total


def _double(value: Any) -> Any:
    """Constants are in double precision, wherever they were."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.double() if value.is_floating_point() else value


def _in_double(value: Any) -> Any:
    """Casts to other precisions are none."""
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _first(text: str) -> str:
    return text.splitlines()[0]


def _attribute(module: nn.Module, path: str) -> Any:
    holder: Any = module
    for part in path.split("."):
        holder = getattr(holder, part)
    return holder
