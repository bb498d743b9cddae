"""PyTorch to graph: torch.fx, straight-line networks, one registered function a layer."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import fx, nn
from torch.nn import functional

from polyapprox import ACTIVATIONS
from securedl.errors import UnsupportedLayerError
from securedl.network.graph import Affine, Graph, Node, Polynomial
from securedl.network.polynomial import PolynomialActivation

Dims = tuple[int, ...]
Importer = Callable[[Any, Dims, str], tuple[list[Node], Dims]]
_IMPORTERS: dict[type[nn.Module], Importer] = {}
#: Functional forms that stand for a module.
FUNCTIONS: dict[Any, Callable[[], nn.Module]] = {
    torch.relu: nn.ReLU,
    torch.sigmoid: nn.Sigmoid,
    torch.tanh: nn.Tanh,
    functional.relu: nn.ReLU,
    functional.sigmoid: nn.Sigmoid,
    functional.tanh: nn.Tanh,
    functional.silu: nn.SiLU,
    functional.gelu: nn.GELU,
    functional.softplus: nn.Softplus,
}
METHODS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def layer(*kinds: type[nn.Module]) -> Callable[[Importer], Importer]:
    """Register how modules of these classes become nodes."""

    def register(function: Importer) -> Importer:
        _IMPORTERS.update(dict.fromkeys(kinds, function))
        return function

    return register


class _UnsupportedError(UnsupportedLayerError):
    """Why one layer cannot be imported."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m) in _IMPORTERS or isinstance(m, PolynomialActivation)
        return known or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """The model as torch.fx sees it.

    Raises:
        UnsupportedLayerError: control flow that depends on data.
    """
    try:
        root = nn.Sequential(model) if _Tracer().is_leaf_module(model, "") else model
        return fx.GraphModule(root, _Tracer().trace(root), type(model).__name__)
    except Exception as error:
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {error}. Write the network as layers in a row, "
            "without control flow that depends on data"
        ) from error


def import_torch(model: nn.Module, input_shape: Dims) -> Graph:
    """The graph of a straight-line network.

    Args:
        model: in evaluation mode or not: dropout is left out and batch norm uses its running statistics.
        input_shape: of one sample, without the batch axis.

    Raises:
        UnsupportedLayerError: with every layer that cannot be imported, and why.
    """
    traced = trace(model)
    nodes: list[Node] = []
    problems: list[str] = []
    shape: Dims | None = tuple(input_shape)
    previous: fx.Node | None = None
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            if previous is not None:
                problems.append(f"{node.name}: a network has one input")
            previous = node
            continue
        if _is_size(node):
            continue
        inputs = [i for i in node.all_input_nodes if not _is_size(i)]
        if inputs != [previous]:
            problems.append(f"{node.name}: branches are not supported, only layers in a row")
        if node.op == "output":
            break
        previous = node
        path = str(node.target) if node.op == "call_module" else f"{node.name} ({_called(node)})"
        try:
            module = module_of(traced, node)
            if shape is not None:
                found, shape = _import(module, shape, path)
                nodes += found
            elif type(module) not in _IMPORTERS and not isinstance(module, PolynomialActivation):
                _refuse(module)
        except _UnsupportedError as reason:
            problems.append(f"{path}: {reason}")
            if not _keeps_shape(traced, node):
                shape = None
    if problems:
        raise UnsupportedLayerError(
            f"{len(problems)} layer(s) of {type(model).__name__} cannot be encrypted:\n  "
            + "\n  ".join(problems)
        )
    return Graph(tuple(input_shape), tuple(nodes))


def _is_size(node: fx.Node) -> bool:
    """x.size(0), which only a view to [samples, -1] uses."""
    return node.op == "call_method" and node.target == "size"


def _called(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def module_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module:
    """The module that a traced node stands for, functional forms included."""
    if node.op == "call_module":
        module: nn.Module = traced.get_submodule(str(node.target))
        return module
    if node.op == "call_function":
        if node.target in FUNCTIONS:
            if len(node.args) > 1 or set(node.kwargs) - {"inplace"}:
                raise _UnsupportedError(f"{_called(node)} with options is not supported; use its defaults")
            return FUNCTIONS[node.target]()
        if node.target is torch.flatten and _flattens(node.args[1:], node.kwargs):
            return nn.Flatten()
        squares = node.target is torch.square or (
            node.target in (operator.pow, torch.pow) and node.args[1:] == (2,)
        )
        twice = len(node.args) == 2 and node.args[0] is node.args[1]
        product = node.target in (operator.mul, torch.mul) and twice
        if squares or product:
            return PolynomialActivation(np.array([0.5, 0.0, 0.5]), (-1.0, 1.0), name="square")
    if node.op == "call_method":
        if node.target in METHODS:
            return METHODS[str(node.target)]()
        if node.target == "flatten" and _flattens(node.args[1:], node.kwargs):
            return nn.Flatten()
        if node.target in ("view", "reshape") and len(node.args) == 3 and node.args[2] == -1:
            samples = node.args[1]
            if isinstance(samples, fx.Node) and _is_size(samples) and samples.args[1:] == (0,):
                return nn.Flatten()
    raise _UnsupportedError(f"{_called(node)} is not supported; use the corresponding module of torch.nn")


def _flattens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    start = args[0] if args else kwargs.get("start_dim", 0)
    end = args[1] if len(args) > 1 else kwargs.get("end_dim", -1)
    return bool(start == 1 and end == -1)


def _keeps_shape(traced: fx.GraphModule, node: fx.Node) -> bool:
    try:
        module = module_of(traced, node)
    except _UnsupportedError:
        return False
    return activation_name(module) is not None or isinstance(module, nn.Softmax | nn.LogSoftmax)


def _import(module: nn.Module, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    if isinstance(module, PolynomialActivation):
        return _polynomial(module, shape, path)
    importer = _IMPORTERS.get(type(module))
    if importer is None:
        _refuse(module)
    assert importer is not None
    return importer(module, shape, path)


def _refuse(module: nn.Module) -> None:
    kind = type(module).__name__
    if activation_name(module):
        raise _UnsupportedError(f"{kind} is not a polynomial yet: call securedl.approximate first")
    if isinstance(module, nn.Softmax | nn.LogSoftmax):
        raise _UnsupportedError(f"{kind}: leave it out, the client applies it to the logits")
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        raise _UnsupportedError(f"{kind}: use average pooling (securedl.approximate replaces it)")
    known = sorted({k.__name__ for k in _IMPORTERS} | {"PolynomialActivation"})
    raise _UnsupportedError(f"{kind} is not supported; supported are {', '.join(known)}")


def activation_name(module: nn.Module) -> str | None:
    """Name in polyapprox's table, or None if the module is not one of its activations."""
    kind = type(module)
    full = f"torch.nn.{kind.__name__}"
    if (isinstance(module, nn.Softplus) and module.beta != 1) or (
        isinstance(module, nn.GELU) and module.approximate != "none"
    ):
        return None  # the table's function is another one
    for name, row in ACTIVATIONS.items():
        if row.torch_class == full and kind.__module__.startswith("torch.nn") and name != "identity":
            return name
    return None


def _array(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _polynomial(module: PolynomialActivation, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    table = module.power()
    if table.shape[1] not in (1, shape[0]):
        raise _UnsupportedError(f"{table.shape[1]} polynomials for {shape[0]} channels")
    per_channel = np.broadcast_to(table, (table.shape[0], shape[0]))
    return [Polynomial(np.repeat(per_channel, int(np.prod(shape[1:])), axis=1), path)], shape


def _want(shape: Dims, axes: int, channels: int | None, kind: str) -> None:
    if len(shape) != axes or (channels is not None and shape[0] != channels):
        want = f"[{channels or 'channels'}{', length' * (axes == 2)}{', height, width' * (axes == 3)}]"
        raise _UnsupportedError(f"{kind} expects samples of shape {want}, got {list(shape)}")


@layer(nn.Linear)
def _linear(module: nn.Linear, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    if len(shape) != 1 or shape[0] != module.in_features:
        raise _UnsupportedError(
            f"Linear expects samples of shape [{module.in_features}], got {list(shape)}; flatten first"
        )
    weight = _array(module.weight)
    rows, cols = np.indices(weight.shape).reshape(2, -1)
    matrix = _stored(weight.ravel(), rows, cols, weight.shape)
    bias = _array(module.bias) if module.bias is not None else np.zeros(module.out_features)
    return [Affine(matrix, bias, path)], (module.out_features,)


def _stored(values: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any], shape: Any) -> sparse.csr_matrix:
    """CSR with every given entry stored, zeros too: the pattern must not show pruned weights."""
    order = np.lexsort((cols, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return sparse.csr_matrix((values[order], cols[order], indptr), shape=shape)


def _window(
    weight: NDArray[np.float64],
    shape: Dims,
    stride: Dims,
    padding: Dims,
    dilation: Dims,
    groups: int,
) -> tuple[sparse.csr_matrix, Dims]:
    """The matrix of a 2-d convolution. weight: [out, in / groups, kh, kw]; shape: [in, h, w]."""
    channels, height, width = shape
    out, per_group, kh, kw = weight.shape
    rows_out = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    cols_out = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    if rows_out < 1 or cols_out < 1:
        raise _UnsupportedError(f"the kernel {kh}x{kw} is larger than its input {height}x{width}")
    o, i, a, b, y, x = np.ogrid[:out, :per_group, :kh, :kw, :rows_out, :cols_out]
    source_y = y * stride[0] + a * dilation[0] - padding[0]
    source_x = x * stride[1] + b * dilation[1] - padding[1]
    inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)
    group = o // (out // groups)
    col = ((group * per_group + i) * height + source_y) * width + source_x
    row = (o * rows_out + y) * cols_out + x
    full = np.broadcast_shapes(col.shape, row.shape, inside.shape)
    keep = np.broadcast_to(inside, full).ravel()
    values = np.broadcast_to(weight[..., None, None], full).ravel()[keep]
    matrix = _stored(
        values, np.broadcast_to(row, full).ravel()[keep], np.broadcast_to(col, full).ravel()[keep],
        (out * rows_out * cols_out, channels * height * width),
    )  # fmt: skip
    return matrix, (out, rows_out, cols_out)


@layer(nn.Conv1d, nn.Conv2d)
def _conv(module: nn.Conv1d | nn.Conv2d, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    flat = isinstance(module, nn.Conv1d)
    _want(shape, 2 if flat else 3, module.in_channels, type(module).__name__)
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise _UnsupportedError(f"padding {module.padding!r} ({module.padding_mode}); use numbers and zeros")
    weight = _array(module.weight)
    stride = (1, *module.stride) if flat else module.stride
    padding = (0, *module.padding) if flat else module.padding
    dilation = (1, *module.dilation) if flat else module.dilation
    if flat:
        weight, shape = weight[:, :, None, :], (shape[0], 1, shape[1])
    matrix, out = _window(weight, shape, stride, padding, dilation, module.groups)
    positions = out[1] * out[2]
    bias = _array(module.bias) if module.bias is not None else np.zeros(module.out_channels)
    return [Affine(matrix, np.repeat(bias, positions), path)], ((out[0], out[2]) if flat else out)


def _pair(value: Any, flat: bool, fill: int = 1) -> Dims:
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * (1 if flat else 2)
    return (fill, *values) if flat else values


@layer(nn.AvgPool1d, nn.AvgPool2d)
def _average(module: nn.AvgPool1d | nn.AvgPool2d, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    flat = isinstance(module, nn.AvgPool1d)
    _want(shape, 2 if flat else 3, None, type(module).__name__)
    kernel, stride = _pair(module.kernel_size, flat), _pair(module.stride, flat)
    padding = _pair(module.padding, flat, fill=0)
    if module.ceil_mode or (any(padding) and not module.count_include_pad):
        raise _UnsupportedError("ceil_mode, and padding that is not counted, are not supported")
    divisor = getattr(module, "divisor_override", None) or int(np.prod(kernel))
    return _pool(shape, flat, kernel, stride, padding, 1 / divisor, path)


@layer(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
def _adaptive(
    module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d, shape: Dims, path: str
) -> tuple[list[Node], Dims]:
    flat = isinstance(module, nn.AdaptiveAvgPool1d)
    _want(shape, 2 if flat else 3, None, type(module).__name__)
    size = (1, *shape[1:]) if flat else shape[1:]
    want = tuple(w or s for w, s in zip(_pair(module.output_size, flat), size, strict=True))
    if any(s % w for s, w in zip(size, want, strict=True)):
        raise _UnsupportedError(f"the output size {want} does not divide the input size {size}")
    kernel = tuple(s // w for s, w in zip(size, want, strict=True))
    return _pool(shape, flat, kernel, kernel, (0, 0), 1 / int(np.prod(kernel)), path)


def _pool(
    shape: Dims,
    flat: bool,
    kernel: Dims,
    stride: Dims,
    padding: Dims,
    factor: float,
    path: str,
) -> tuple[list[Node], Dims]:
    planes = (shape[0], 1, shape[1]) if flat else shape
    weight = np.full((shape[0], 1, *kernel), factor)
    matrix, out = _window(weight, planes, stride, padding, (1, 1), shape[0])
    return [Affine(matrix, np.zeros(matrix.shape[0]), path)], ((out[0], out[2]) if flat else out)


@layer(nn.BatchNorm1d, nn.BatchNorm2d)
def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    if shape[0] != module.num_features:
        raise _UnsupportedError(
            f"{type(module).__name__} of {module.num_features} channels got {list(shape)}"
        )
    if module.running_mean is None or module.running_var is None:
        raise _UnsupportedError("batch norm without running statistics")
    gain = 1 / np.sqrt(_array(module.running_var) + module.eps)
    if module.affine:
        gain = gain * _array(module.weight)
    shift = -_array(module.running_mean) * gain + (_array(module.bias) if module.affine else 0.0)
    positions = int(np.prod(shape[1:]))
    count = np.arange(shape[0] * positions)
    matrix = _stored(np.repeat(gain, positions), count, count, (len(count), len(count)))
    return [Affine(matrix, np.repeat(shift, positions), path)], shape


@layer(nn.Flatten)
def _flatten(module: nn.Flatten, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    if module.start_dim != 1 or module.end_dim not in (-1, len(shape)):
        raise _UnsupportedError("only Flatten() of all axes but the first is supported")
    return [], (int(np.prod(shape)),)


@layer(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
def _nothing(module: nn.Module, shape: Dims, path: str) -> tuple[list[Node], Dims]:
    return [], shape
