"""PyTorch to graph: a captured network, operation by operation, on tensors without values.

The rules for operations are in `arithmetic`, `moves` and `sums`, which register them when imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from securedl.errors import CompileError, UnsupportedLayerError
from securedl.network import arithmetic, moves, sums  # noqa: F401
from securedl.network.any_number import BATCH
from securedl.network.capture import Captured, capture, leaves
from securedl.network.ending import ending_of
from securedl.network.graph import Graph
from securedl.network.operations import (
    OPERATIONS,
    REMEDIES,
    Call,
    apply,
    is_random,
    kind_of,
    traced_arguments,
)
from securedl.network.outputs import Head
from securedl.network.polynomial import PolynomialActivation
from securedl.network.tensors import Builder, RefusedError, Traced

Dims = tuple[int, ...]
#: Entries that the matrices of a network may have: 16 bytes each, and as much again while they are
#: multiplied.
MAX_ENTRIES = 1 << 28


@dataclass(frozen=True, eq=False)
class Imported:
    """A network as the compiler takes it.

    Attributes:
        graph: up to the head. output_shape: of one sample's answer. head: what the network ends in, for the
            client.
        captured: the operations it was made from.
        upto: the graph of one node's value, None where it is no value; to find where a difference begins.
    """

    graph: Graph
    output_shape: Dims
    head: Head
    captured: Captured
    upto: Callable[[fx.Node], Graph | None]


def import_torch(model: nn.Module, input_shape: Dims) -> Imported:
    """The graph of a network.

    Args:
        model: in any mode; evaluation mode counts. input_shape: of one sample, without the axis of samples.

    Raises:
        UnsupportedLayerError: with every operation that cannot be encrypted, where it is, and what to do.
        CompileError: matrices that are too large to be built.
    """
    captured = capture(model, tuple(input_shape))
    found = _Import(captured, tuple(input_shape), lambda node: False)
    answer = found.run()
    entries = sum(count for _, count in found.builder.sizes)
    if entries > MAX_ENTRIES:
        name, count = max(found.builder.sizes, key=lambda row: row[1])
        raise CompileError(
            f"the matrices of {captured.title} have {entries:,} entries, of which {name} has {count:,}; at "
            f"most {MAX_ENTRIES:,} can be compiled: use smaller images, fewer channels, or strides"
        )
    try:
        graph, shape = found.builder.graph(answer)
    except RefusedError as reason:
        raise UnsupportedLayerError(f"{captured.title}: {reason}") from reason

    def upto(node: fx.Node) -> Graph | None:
        value = found.known.get(node)
        if not isinstance(value, Traced) or node in found.ending:
            return None
        try:
            return found.builder.graph(value)[0]
        except RefusedError:  # samples elsewhere than first
            return None

    return Imported(graph, shape, found.head, captured, upto)


def check_importable(captured: Captured, input_shape: Dims, activations: Callable[[fx.Node], bool]) -> Head:
    """Run the importer without building anything; returns what the network ends in.

    Args:
        activations: which nodes will become polynomials.

    Raises:
        UnsupportedLayerError: see `import_torch`.
    """
    found = _Import(captured, tuple(input_shape), activations)
    found.run()
    return found.head


class _Import:
    """One run over the nodes of a captured network."""

    def __init__(self, captured: Captured, shape: Dims, activations: Callable[[fx.Node], bool]) -> None:
        self.captured = captured
        self.activations = activations
        self.builder = Builder(shape)
        self.known: dict[fx.Node, Any] = {}
        self.problems: list[str] = []
        ending = ending_of(captured)
        self.head, self.ending = ending.head, ending.nodes

    def run(self) -> Traced:
        """What the network gives."""
        graph = self.captured.graph
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1:
            raise UnsupportedLayerError(f"the network takes {len(inputs)} inputs: give one tensor of samples")
        answer: Any = None
        for node in graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self.builder.input()
            elif node.op == "get_attr":
                self.known[node] = _attribute(self.captured, str(node.target))
            elif node.op == "output":
                answer = self.known[node.args[0]]
            else:
                self._step(node)
        if isinstance(answer, Traced) and not self.problems:
            try:
                self.builder.check_answer(answer)
            except RefusedError as reason:
                self.problems.append(str(reason))
        if self.problems:
            raise UnsupportedLayerError(
                f"{len(self.problems)} operation(s) of {self.captured.title} cannot be encrypted:\n  "
                + "\n  ".join(self.problems)
            )
        if not isinstance(answer, Traced):
            raise UnsupportedLayerError("what the network gives does not depend on the samples")
        if self.head.kind and self.head.kind != "sigmoid":
            axis = self.head.axis % len(answer.shape)
            if axis == 0:
                raise UnsupportedLayerError(
                    f"{self.head.kind} across samples: give it the axis of the classes, as in dim=1"
                )
            self.head = Head(self.head.kind, axis - 1)
        return answer

    def _step(self, node: fx.Node) -> None:
        origin = self.captured.origin(node)
        try:
            self.known[node] = self._result(node, origin.path)
        except Exception as error:
            reason = str(error) if isinstance(error, RefusedError) else _not_followed(node, error)
            where = f" ({origin.line})" if origin.line else ""
            named = reason if reason.startswith(f"{origin.path}: ") else f"{origin.path}: {reason}"
            self.problems.append(f"{named}{where}")
            self.known[node] = self._unknown(node)

    def _result(self, node: fx.Node, name: str) -> Any:
        args, kwargs = traced_arguments(node, self.known)
        if node in self.ending:
            return args[0]
        if is_random(node) and kind_of(node.target) not in (*OPERATIONS, *REMEDIES):
            raise RefusedError(f"{kind_of(node.target)} gives other values at each call")
        if self.activations(node):
            return self.builder.opaque(name, next(a for a in args if isinstance(a, Traced)))
        if node.op == "call_module":
            return self._polynomial(node, args[0], name)
        if not any(isinstance(leaf, Traced) for leaf in leaves((args, kwargs))):
            return _mapped(node.target(*args, **kwargs), _exact)  # type: ignore[operator]
        if kind_of(node.target) == "getitem" and isinstance(args[0], list | tuple):
            return args[0][args[1]]
        return apply(Call(self.builder, name, node.target, args, kwargs))

    def _polynomial(self, node: fx.Node, x: Traced, name: str) -> Traced:
        module = self.captured.get_submodule(str(node.target))
        if not isinstance(module, PolynomialActivation):
            raise RefusedError(f"{type(module).__name__} is not an operation of torch")
        table = module.power()
        if table.shape[1] not in (1, x.shape[1]):
            raise RefusedError(f"{table.shape[1]} polynomials for {x.shape[1]} channels")
        source = node.all_input_nodes[0]
        base = self.known[source] = self.builder.dense(name, x)
        form = (-1, *[1] * (len(x.shape) - 2))
        rows = [torch.as_tensor(row).reshape(form) if len(row) > 1 else torch.as_tensor(row) for row in table]
        found = Traced(base.source, base.index, torch.stack([row.expand(base.shape) for row in rows]))
        meets = set(source.users) & set(node.users)
        return found if meets else self.builder.linear(name, found)

    def _unknown(self, node: fx.Node) -> Any:
        """What is put for a refused operation: something of its shape, so that the rest is looked at too."""

        def zeros(value: Any) -> Any:
            if isinstance(value, Traced):
                return torch.zeros(value.shape, dtype=torch.float64)
            return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

        args, kwargs = traced_arguments(node, self.known)
        try:
            made = _mapped(args, zeros), {name: _mapped(value, zeros) for name, value in kwargs.items()}
            found = node.target(*made[0], **made[1])  # type: ignore[operator]
        except Exception as error:
            raise UnsupportedLayerError("\n  ".join(self.problems)) from error
        return _mapped(found, self._like)

    def _like(self, result: Any) -> Any:
        if isinstance(result, Tensor) and result.ndim and result.shape[0] == BATCH:
            return self.builder.unknown(tuple(result.shape))
        return result


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_mapped(one, change) for one in value)
    return change(value)


def _exact(value: Any) -> Any:
    """Constants are computed in double precision: weights that are made of others, as a weight norm does."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().double() if value.is_floating_point() else value.detach()


def _not_followed(node: fx.Node, error: Exception) -> str:
    """What to say of an operation that the importer takes for another than it is."""
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{kind_of(node.target)} cannot be followed ({type(error).__name__}: {reason})"


def _attribute(module: nn.Module, path: str) -> Any:
    """A constant; what is no tensor, as a random generator, is no operation's constant."""
    holder: Any = module
    for part in path.split("."):
        holder = getattr(holder, part)
    return _exact(holder)
