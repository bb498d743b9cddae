"""ONNX files as torch networks."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from securedl import arguments
from securedl.errors import InputError
from securedl.network import (  # noqa: F401  operators register there
    onnx_constants,
    onnx_layers,
    onnx_logic,
    onnx_pointwise,
    onnx_pools,
    onnx_products,
    onnx_reduce,
    onnx_resize,
    onnx_shapes,
)
from securedl.network.onnx_build import ModuleBuilder
from securedl.network.onnx_file import MAX_NUMBERS, array_of, check_model, name_of, read_model
from securedl.network.onnx_refused import LISTED, STANDARD, refuse_unknown
from securedl.network.onnx_values import SAMPLES, Fixed, OnnxOperation, OnnxValue, Running

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto


def from_onnx(
    model: str | os.PathLike[str] | ModelProto, *, sample_shape: Sequence[int] | None = None
) -> fx.GraphModule:
    """A network from an ONNX file as a torch network, for `approximate` and `compile`.

    Layers become modules of torch.nn, other operators functions of torch; weights are parameters, which can
    be trained. The first axis is that of the samples: any number of them, also where the file was exported
    for one number. Outputs that hold no fractions, such as labels, are left out. float64 where the input is
    so, else float32. Opset 9 and newer.

    Args:
        model: path of the file, or what onnx.load gives.
        sample_shape: of one sample, without the first axis, where the file leaves sizes open.

    Raises:
        InputError: no file, a broken one, or a network with operators that have no counterpart: all of them
            are listed, with the reason and what to do. Without the package onnx: how to install it.
    """
    read = read_model(model)
    graph = read.graph
    output = _the_output(graph)
    nodes = _needed(graph.node, output)
    refuse_unknown(nodes)
    check_model(read)
    given = _the_input(graph)
    constants = {tensor.name: array_of(tensor) for tensor in graph.initializer}
    attributes = [_attributes(node) for node in nodes]
    shape, exported = _sizes(given, sample_shape)
    build = ModuleBuilder(shape, torch.float64 if _is_double(given) else torch.float32, exported)
    values: dict[str, OnnxValue] = {given.name: build.input}
    values |= {name: Fixed(build.constant(array).tensor, True) for name, array in constants.items()}
    uses = Counter(name for node in nodes for name in node.input)
    uses[output] += 1
    for node, found in zip(nodes, attributes, strict=True):
        results = build.run(_operation(read, node, found, values, uses))
        values.update(zip(node.output, results, strict=False))
    return build.network(_answer(values, output))


def _the_output(graph: GraphProto) -> str:
    """The one that holds numbers with fractions."""
    names = [output.name for output in graph.output if _is_float(output)]
    if len(names) != 1:
        found = ", ".join(map(name_of, names[:LISTED])) or "none"
        raise InputError(
            f"an ONNX network needs one output of fractional numbers, and this one has {found}: keep one, "
            "with onnx.utils.extract_model or when exporting"
        )
    return str(names[0])


def _is_float(value: ValueInfoProto) -> bool:
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return value.type.tensor_type.elem_type in kinds


def _is_double(value: ValueInfoProto) -> bool:
    from onnx import TensorProto

    return value.type.tensor_type.elem_type == TensorProto.DOUBLE


def _the_input(graph: GraphProto) -> ValueInfoProto:
    constants = {tensor.name for tensor in graph.initializer}
    given: list[ValueInfoProto] = [value for value in graph.input if value.name not in constants]
    if len(given) != 1 or not _is_float(given[0]):
        found = ", ".join(name_of(value.name) for value in given[:LISTED]) or "none"
        raise InputError(f"an ONNX network needs one input of fractional numbers, and this one has {found}")
    return given[0]


def _sizes(given: ValueInfoProto, sample_shape: Sequence[int] | None) -> tuple[tuple[int, ...], int | None]:
    """The shape of a sample, and the number of samples that the file was exported for."""
    sizes = [axis.dim_value or None for axis in given.type.tensor_type.shape.dim]
    declared = sizes[1:]
    if sample_shape is not None:
        for size in sample_shape:
            arguments.count(size, "a size in sample_shape", least=1)
        want = list(sample_shape)
        fits = len(want) == len(declared) and all(s in (None, w) for s, w in zip(declared, want, strict=True))
        if sizes and not fits:
            raise InputError(
                f"sample_shape is {want}, and the ONNX network takes samples of shape {declared}"
            )
        declared = [*want]
    known = [size for size in declared if size is not None and size > 0]
    if not known or len(known) != len(declared):
        raise InputError(
            f"the input {name_of(given.name)} of the ONNX network leaves the shape of a sample open "
            f"({declared}): pass sample_shape, the sizes behind the axis of the samples"
        )
    if math.prod(known) > MAX_NUMBERS or any(size % SAMPLES == 0 for size in known):
        raise InputError(f"the ONNX network takes samples of shape {known}, which is too large")
    return tuple(known), sizes[0] if sizes else None


def _needed(nodes: Iterable[NodeProto], output: str) -> list[NodeProto]:
    """Those that the output depends on, in order."""
    wanted, found = {output}, []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            wanted |= set(node.input) - {""}
            found.append(node)
    return found[::-1]


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx import AttributeProto, helper

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            found[attribute.name] = array_of(attribute.t)
        else:
            value = helper.get_attribute_value(attribute)
            found[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def _operation(
    model: ModelProto,
    node: NodeProto,
    attributes: dict[str, Any],
    values: dict[str, OnnxValue],
    uses: Counter[str],
) -> OnnxOperation:
    missing = [name for name in node.input if name and name not in values]
    if missing:
        raise InputError(
            f"the operator {name_of(node.name)} ({node.op_type}) of the ONNX network takes "
            f"{name_of(missing[0])}, which nothing before it gives"
        )
    opset = max(o.version for o in model.opset_import if o.domain in STANDARD)
    inputs = tuple(values[name] if name else None for name in node.input)
    single = tuple(uses[name] == 1 for name in node.input)
    return OnnxOperation(node.op_type, node.name, opset, inputs, single, attributes, len(node.output))


def _answer(values: dict[str, OnnxValue], output: str) -> Running:
    found = values.get(output)
    if not isinstance(found, Running):
        raise InputError(f"the output {name_of(output)} of the ONNX network does not depend on its samples")
    if found.shape[0] != SAMPLES or any(size % SAMPLES == 0 for size in found.shape[1:] if size):
        raise InputError(f"the output {name_of(output)} of the ONNX network does not have the samples first")
    return found
