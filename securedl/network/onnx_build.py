"""What operators of ONNX become: nodes of torch.fx, or constants where nothing depends on the samples.

Shapes are followed on the meta device, which holds no numbers, so no file can make the conversion large.
Integers that are computed from shapes become constants too, and those that count samples are told by SAMPLES.
"""

from __future__ import annotations

import keyword
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from securedl.errors import InputError
from securedl.network.onnx_counts import check_counts
from securedl.network.onnx_file import MAX_NUMBERS, first_line, name_of
from securedl.network.onnx_values import MAX_AXIS, SAMPLES, Fixed, OnnxOperation, OnnxValue, Running, counted

#: Of constants that are computed, read and made, and of those that the network keeps.
MAX_FOLDED = 4 * MAX_NUMBERS

Handler: TypeAlias = Callable[["ModuleBuilder", OnnxOperation], "OnnxValue | list[OnnxValue]"]
OPERATORS: dict[str, Handler] = {}


def operator(*kinds: str) -> Callable[[Handler], Handler]:
    """Register what operators of these names become."""

    def register(function: Handler) -> Handler:
        OPERATORS.update(dict.fromkeys(kinds, function))
        return function

    return register


def with_values(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """A module with its values; it was made on the meta device, hence without a draw of torch's generator."""
    for name, tensor in tensors.items():
        if name in dict(module.named_buffers()):
            setattr(module, name, tensor)
        else:
            setattr(module, name, None if tensor is None else _parameter(tensor))
    return module


def _parameter(tensor: Tensor) -> nn.Parameter:
    """With memory of its own: a file may use a constant in several places."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format))


class ModuleBuilder:
    """A network that grows by operators.

    Args:
        shape: of one sample. dtype: of all numbers that are no integers.
        exported: the number of samples that the file was written for, None if for any.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, exported: int | None) -> None:
        self.dtype = dtype
        self.exported = exported
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.input = Running(
            self.graph.placeholder("x"), torch.empty((SAMPLES, *shape), dtype=dtype, device="meta")
        )
        self._names: Counter[str] = Counter()
        self._reserved = {"self", *dir(fx.GraphModule(nn.Module(), fx.Graph()))}
        self._folded = 0
        self._kept: dict[Fixed, fx.Node] = {}
        self._samples: fx.Node | None = None
        self._prefix = ""

    def run(self, operation: OnnxOperation) -> list[OnnxValue]:
        """The values that an operator gives.

        Raises:
            InputError: it cannot be converted; the message names it.
        """
        self._prefix = operation.name or operation.kind
        try:
            check_counts(operation)
            found = OPERATORS[operation.kind](self, operation)
        except Exception as error:  # what torch says of shapes and attributes that fit no operator
            where = f"{name_of(operation.name) or 'without a name'} ({operation.kind})"
            reason = first_line(error).replace(str(SAMPLES), "samples")
            if "overflow" in reason:  # of the number of numbers, which torch counts in 64 bits
                reason = f"it gives more than {MAX_NUMBERS} numbers a sample"
            raise InputError(
                f"the operator {where} of the ONNX network cannot be converted: {reason}"
            ) from error
        return found if isinstance(found, list) else [found]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> OnnxValue:
        """A function of torch on values and plain arguments; at once where all values are constants."""
        parts = [args, kwargs]
        meta = function(*_mapped(args, _meta), **_mapped(kwargs, _meta))
        values = _values(parts)
        if not any(isinstance(value, Running) for value in values):
            self.bound(meta.numel(), *(_tensor(value).numel() for value in values))
            result = function(*_mapped(args, _tensor), **_mapped(kwargs, _tensor))
            return Fixed(result, any(isinstance(v, Fixed) and v.weight for v in values))
        if any(isinstance(value, Fixed) and value.counts for value in values):
            raise InputError("it computes with the number of samples")
        node = self.graph.call_function(function, _mapped(args, self._node), _mapped(kwargs, self._node))
        return Running(node, _checked(meta))

    def module(self, module: nn.Module, value: OnnxValue) -> OnnxValue:
        """A layer, in evaluation mode, on a value; at once where it is a constant."""
        module.eval()
        if isinstance(value, Fixed):
            self.bound(value.tensor.numel())
            with torch.no_grad():
                return Fixed(module(value.tensor), value.weight)
        if value.meta.dtype == torch.bool:
            raise InputError("it takes numbers, and these are truth values: cast them before")
        state = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
        meta = torch.func.functional_call(module, state, (value.meta,))
        self.bound(sum(tensor.numel() for tensor in module.state_dict().values()))
        name = self._name(self._prefix)
        self.root.add_module(name, module)
        return Running(self.graph.call_module(name, (value.node,)), _checked(meta.detach()))

    def layer(self, value: OnnxValue) -> nn.Module | None:
        """The layer that gave a value, if one did."""
        if isinstance(value, Running) and value.node.op == "call_module":
            return self.root.get_submodule(str(value.node.target))
        return None

    def constant(self, values: Any) -> Fixed:
        """Numbers of a file."""
        tensor = torch.as_tensor(values)
        return Fixed(tensor.to(self.dtype) if tensor.is_floating_point() else tensor)

    def places(self, numbers: Sequence[int] | NDArray[np.int64]) -> Fixed:
        """Places of an axis, one after another."""
        if len(numbers) > MAX_AXIS:
            raise InputError(f"it names {len(numbers)} places of an axis, and at most {MAX_AXIS} are read")
        return Fixed(torch.from_numpy(np.array(numbers, dtype=np.int64)))

    def for_each_sample(self, value: Fixed, sizes: Sequence[int]) -> Running:
        """A constant again for each sample. sizes: of the result, samples first, and nowhere else."""
        if sizes[0] != SAMPLES or any(map(counted, sizes[1:])):
            raise InputError("it computes with the number of samples")
        meta = _checked(torch.empty(tuple(sizes), dtype=value.tensor.dtype, device="meta"))
        if self._samples is None:
            self._samples = self.graph.call_method("size", (self.input.node, 0))
        whole = value.tensor.reshape((1,) * (len(sizes) - value.tensor.ndim) + value.tensor.shape)
        args: tuple[Any, ...] = (self._attribute(Fixed(whole)), self._samples, *sizes[1:])
        return Running(self.graph.call_method("expand", args), meta)

    def network(self, output: Running) -> fx.GraphModule:
        """All of it, in evaluation mode."""
        self.graph.output(output.node)
        self.graph.lint()
        whole = fx.GraphModule(self.root, self.graph)
        whole.graph.eliminate_dead_code()
        return fx.GraphModule(whole, whole.graph, "OnnxNetwork").eval()  # with what the graph still names

    def bound(self, *numbers: int) -> None:
        """Keep count of what is computed with or kept; a file may name the same numbers again and again."""
        self._folded += sum(numbers)
        if self._folded > MAX_FOLDED:
            raise InputError(
                f"constants would be computed from more than {MAX_FOLDED} numbers, or be so many"
            )

    def _node(self, value: OnnxValue) -> Any:
        """What stands for a value among a node's arguments."""
        if isinstance(value, Running):
            return value.node
        tensor = value.tensor
        number = tensor.ndim == 1 and tensor.numel() == 1 and tensor.is_floating_point() and not value.weight
        if tensor.ndim == 0 or number:
            return tensor.item()
        return self._attribute(value)

    def _attribute(self, value: Fixed) -> fx.Node:
        """A constant as a part of the network."""
        tensor = value.tensor
        if value not in self._kept:
            self.bound(tensor.numel())
            name = self._name(self._prefix)
            if tensor.is_floating_point():
                self.root.register_parameter(name, _parameter(tensor))
            else:
                self.root.register_buffer(name, tensor)
            self._kept[value] = self.graph.get_attr(name)
        return self._kept[value]

    def _name(self, text: str) -> str:
        """A new name of a part, after one that a file may hold."""
        name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:60] or "part"
        if name[0].isdigit() or name in self._reserved or keyword.iskeyword(name):
            name = f"onnx_{name}"
        while True:
            self._names[name] += 1
            new = name if self._names[name] == 1 else f"{name}_{self._names[name]}"
            if new == name or new not in self._names:
                self._names[new] += new != name
                return new


def _mapped(tree: Any, function: Callable[[OnnxValue], Any]) -> Any:
    """Tuples, lists and dictionaries with their values replaced."""
    if isinstance(tree, Fixed | Running):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(_mapped(part, function) for part in tree)
    if isinstance(tree, dict):
        return {name: _mapped(part, function) for name, part in tree.items()}
    return tree


def _values(tree: Any) -> list[OnnxValue]:
    found: list[OnnxValue] = []
    _mapped(tree, found.append)
    return found


def _meta(value: OnnxValue) -> Tensor:
    return value.meta if isinstance(value, Running) else value.tensor.to("meta")


def _tensor(value: OnnxValue) -> Tensor:
    assert isinstance(value, Fixed)
    return value.tensor


def _checked(meta: Tensor) -> Tensor:
    """The same, unless it mixes samples or is too large."""
    if sum(map(counted, meta.shape)) != 1:
        raise InputError("it mixes samples")
    if math.prod(meta.shape) // SAMPLES > MAX_NUMBERS:
        raise InputError(f"it gives more than {MAX_NUMBERS} numbers a sample")
    return meta
