"""A PyTorch network as one flat graph of tensor operations, whatever style it is written in.

`torch.export` runs the network once on symbols, in evaluation mode: hooks, parametrisations and Python code
run as they do in a call. Operations in place become ordinary ones. Polynomial activations stay modules.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions

from securedl.errors import UnsupportedLayerError
from securedl.network.any_number import BATCH, OTHER, count_samples
from securedl.network.evaluation import evaluation
from securedl.network.polynomial import PolynomialActivation


@dataclass(frozen=True)
class Origin:
    """Where an operation comes from.

    Attributes:
        path: of its module; with the operation's own name where several belong to the module.
        line: file, number and text of the user's line, "" if it is not known.
    """

    path: str
    line: str = ""


class Captured(fx.GraphModule):
    """A network whose nodes are the samples, constants, operations of `torch.ops`, and polynomial
    activations.

    Attributes:
        origins: by the name of a node. title: of the class that it was. sample_shape: of one sample. Copies
            and pickled ones keep them.
    """

    origins: dict[str, Origin]
    title: str
    sample_shape: tuple[int, ...]

    def origin(self, node: fx.Node) -> Origin:
        """Of one node."""
        return self.origins.get(node.name) or Origin(node.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = super().__deepcopy__(memo)  # fx keeps its own attributes only
        copied.__dict__.update(self._kept())
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments = super().__reduce__()[:2]  # which would make an fx.GraphModule
        kept = {**self._kept(), "origins": [self.origin(node) for node in _calls(self.graph)]}
        kind = type(self).__mro__[1]  # each graph module has a class of its own
        return _rebuilt, (kind, rebuild, arguments, kept)

    def _kept(self) -> dict[str, Any]:
        """Attributes of our own."""
        return {"origins": dict(self.origins), "title": self.title, "sample_shape": self.sample_shape}


def _rebuilt(
    kind: type[Captured],
    rebuild: Callable[..., fx.GraphModule],
    arguments: tuple[Any, ...],
    kept: dict[str, Any],
) -> Captured:
    module = rebuild(*arguments)
    network = kind(module, module.graph, type(module).__name__)
    names = [node.name for node in _calls(network.graph)]  # new ones, in the old order
    network.__dict__.update({**kept, "origins": dict(zip(names, kept["origins"], strict=True))})
    return network


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op.startswith("call")]


def capture(model: nn.Module, shape: tuple[int, ...]) -> Captured:
    """The network's operations on samples of a shape, for any number of samples; weights are shared.

    Args:
        model: in any mode; it is in evaluation mode meanwhile. shape: of one sample.

    Raises:
        UnsupportedLayerError: control flow that depends on data or on the number of samples, a network
            that changes itself when it runs, or one whose result is not one tensor.
    """
    if isinstance(model, Captured):
        if model.sample_shape != shape:
            raise UnsupportedLayerError(
                f"{model.title} takes samples of shape {list(model.sample_shape)}, got {list(shape)}"
            )
        return model
    if isinstance(model, PolynomialActivation):
        model = nn.Sequential(model)
    if any(tensor.is_inference() for tensor in [*model.parameters(), *model.buffers()]):
        model = copy.deepcopy(model)  # torch.export takes no tensors of torch.inference_mode; copies are none
    with evaluation(model), torch.no_grad(), _quiet():
        program = _exported(model, shape, BATCH)
        captured, fixed = _flat(model, program)
        if fixed:
            other, _ = _flat(model, _exported(model, shape, OTHER))
            if not count_samples(captured.graph, other.graph):
                raise UnsupportedLayerError(
                    f"{captured.title} fixes the number of samples, or runs over them one by one"
                    f"{_where_fixed(program)}: use x.shape[0] or -1 where it counts samples"
                )
            captured.recompile()
    captured.sample_shape = shape
    return captured


def _exported(model: nn.Module, shape: tuple[int, ...], count: int) -> Any:
    """The network as `torch.export` gives it, run on so many samples."""
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    sample = torch.zeros((count, *shape), dtype=first.dtype, device=first.device)
    try:
        program = torch.export.export(model, (sample,), dynamic_shapes=_any_number(model))
        if any(_mutates(node) or node.target in _WRITTEN_OUT for node in _all_nodes(program.graph_module)):
            program = program.run_decompositions(get_decompositions(_WRITTEN_OUT))
    except Exception as error:
        raise UnsupportedLayerError(_why(model, shape, error)) from error
    return program


#: Operations that are taken as the ones they are made of.
_WRITTEN_OUT = [torch.ops.aten.glu.default]
_LOGGERS = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch prints meanwhile, a graph for each failure, our own errors say better."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _any_number(model: nn.Module) -> tuple[Any, ...]:
    """Of samples, as `torch.export` wants it said for the arguments of `forward`."""
    samples = {0: torch.export.Dim.AUTO}
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return ((samples,),) if first is not None and first.kind is first.VAR_POSITIONAL else (samples,)


def _all_nodes(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Those of graphs inside it too."""
    for one in module.modules():
        if isinstance(one, fx.GraphModule):
            yield from one.graph.nodes


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _changed(node: fx.Node) -> str:
    """What an operation in place that is left over changes."""
    what, origin = node.args[0], _origin(node)
    if isinstance(what, fx.Node) and what.op == "get_attr":
        return f"changes {what.target} when it runs: {_STAYS}"
    where = f" ({origin.line})" if origin.line else ""
    return f"changes a tensor in place in {origin.path}{where}, which cannot be followed: make a new tensor"


def _why(model: nn.Module, shape: tuple[int, ...], error: Exception) -> str:
    """What export says, in one sentence with the user's line."""
    name, text = type(model).__name__, str(error).strip()
    line = _user_line(text) or _raised_at(error)
    at = f" ({line})" if line else ""
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__ or "unbacked" in text:
        return (
            f"{name} decides by the values of its data{at}: an encrypted network does the same for every "
            "sample; write it without `if`, `while`, `.item()` or masks on tensors"
        )
    if "fake tensor in the exported program constant" in text:
        return f"{name} reads or sets .data of a tensor{at}, which cannot be followed: use .detach() instead"
    reason = _SYMBOL.sub("samples", text.splitlines()[0]) if text else type(error).__name__
    return f"{name} does not run on samples of shape {list(shape)}{at}: {type(error).__name__}: {reason}"


#: How torch calls the number of samples; a quoted name is somebody's own.
_SYMBOL = re.compile(r"""(?<![\w.'"])s\d+(?![\w.'"(])""")
_FRAME = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<number>\d+), in (?P<function>[^\n]+)\n\s*(?P<text>[^\n]*)'
)


def _user_line(stack: str) -> str:
    """The innermost line of a stack that is not torch's."""
    found = [m for m in _FRAME.finditer(stack) if not _is_torch(m["file"])]
    return f"{_short(found[-1]['file'])}:{found[-1]['number']}: {found[-1]['text'].strip()}" if found else ""


def _is_torch(file: str) -> bool:
    return "/torch/" in file or file.startswith(("torch/", "<")) or "/securedl/network/" in file


def _short(file: str) -> str:
    return file.replace("\\", "/").rsplit("/", 1)[-1]


def _raised_at(error: Exception) -> str:
    """The innermost line of the user's that an exception passed."""
    line, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not _is_torch(file):
            line = f"{_short(file)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return line


_STAYS = "what the server runs stays as it is; let forward change nothing"
_ASSERTIONS = ("aten._assert", "aten.sym_constrain_range")


def _flat(model: nn.Module, program: Any) -> tuple[Captured, bool]:
    """The operations of an exported network, and whether they are for one number of samples only."""
    name = type(model).__name__
    signature = program.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise UnsupportedLayerError(
            f"{name} changes {', '.join(map(str, changed))} when it runs in evaluation mode: {_STAYS}"
        )
    with _quiet():
        module = program.module()
    graph, origins = fx.Graph(), dict[str, Origin]()
    results = leaves(_Copy(name, graph, origins).of(module, {}))
    fixed = _is_fixed(name, program, next(node for node in graph.nodes if node.op == "placeholder"))
    if (
        len(results) != 1
        or not isinstance(results[0], fx.Node)
        or not isinstance(results[0].meta.get("val"), Tensor)
    ):
        raise UnsupportedLayerError(
            f"{name} gives {len(results)} results: return one tensor, the rest concatenated or left out"
        )
    graph.output(results[0])
    for node in list(graph.nodes):
        if node.target is torch.ops.securedl.polynomial.default:
            _as_module(graph, node, origins)
    captured = Captured(_held(module, model), graph, name)
    captured.graph.eliminate_dead_code()
    captured.recompile()
    captured.origins, captured.title = origins, name
    captured.eval()
    return captured, fixed


#: Contexts that export keeps as a graph of their own: where their arguments have it.
_CONTEXTS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


class _Copy:
    """Copies the operations of an exported network into one graph, each computation once."""

    def __init__(self, name: str, graph: fx.Graph, origins: dict[str, Origin]) -> None:
        self.name, self.graph, self.origins = name, graph, origins
        self.made: dict[str, fx.Node] = {}

    def of(self, module: nn.Module, known: dict[fx.Node, Any]) -> Any:
        """What a graph gives. known: its placeholders, if they are not the network's own."""
        assert isinstance(module, fx.GraphModule)
        for node in module.graph.nodes:
            if node.op == "output":
                return fx.map_arg(node.args[0], known.__getitem__)
            if node.op == "call_module" or str(node.target).startswith(_ASSERTIONS):  # guards of export
                continue
            if node not in known:
                known[node] = self._one(module, node, known)
        raise AssertionError("a graph without an output")

    def _one(self, module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        kind = getattr(node.target, "__name__", "")
        if node.op == "call_function" and kind in _CONTEXTS:
            return self._context(module, node, known, _CONTEXTS[kind])
        if kind == "getitem" and isinstance(node.args[0], fx.Node):
            several = known[node.args[0]]
            if not isinstance(several, fx.Node):
                return several[node.args[1]]
        if _mutates(node):
            raise UnsupportedLayerError(f"{self.name} {_changed(node)}")
        again = self.made.get(key) if (key := _key(node, known)) else None
        new = again or self.graph.node_copy(node, known.__getitem__)
        if node.op == "call_function" and again is None:
            self.origins[new.name] = _origin(node)
        if key is not None:
            self.made[key] = new
        return new

    def _context(self, module: fx.GraphModule, node: fx.Node, known: dict[fx.Node, Any], place: int) -> Any:
        """What is computed inside `with torch.no_grad()` and the like."""
        if place == _CONTEXTS["wrap_with_autocast"] and node.args[2]:
            raise UnsupportedLayerError(
                f"{self.name} computes with {node.args[1]} inside torch.autocast, too coarse to compare "
                "encrypted answers with: leave the autocast out"
            )
        inner, *given = node.args[place:]
        assert isinstance(inner, fx.Node)
        body = module.get_submodule(str(inner.target))
        assert isinstance(body, fx.GraphModule)
        inputs = [one for one in body.graph.nodes if one.op == "placeholder"]
        values = fx.map_arg(given, known.__getitem__)
        return self.of(body, dict(zip(inputs, values, strict=True)))


def _is_fixed(name: str, program: Any, given: fx.Node) -> bool:
    """Whether a network was captured for one number of samples; for some others only it is refused."""
    size = given.meta["val"].shape[0]
    if isinstance(size, int) or size.node.expr.is_number:
        return True
    allowed = program.range_constraints.get(size.node.expr)
    if allowed is not None and (allowed.lower > 2 or allowed.upper < 1 << 30):
        raise UnsupportedLayerError(
            f"{name} decides by the number of samples (what it does for {BATCH} it does for "
            f"{allowed.lower} to {allowed.upper}): an encrypted network treats each sample by itself"
        )
    return False


def _key(node: fx.Node, known: dict[fx.Node, fx.Node]) -> str | None:
    """Equal for operations that give the same; None where two calls may differ."""
    if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda old: known[old])
    return repr((node.target, args, kwargs))


def _held(module: nn.Module, model: nn.Module) -> nn.Module:
    """The constants of an exported module, with the polynomial activations of the model in their places."""
    for path, activation in model.named_modules():
        if isinstance(activation, PolynomialActivation):
            parent, _, leaf = path.rpartition(".")
            holder = module
            for part in parent.split(".") if parent else []:
                if not hasattr(holder, part):
                    setattr(holder, part, nn.Module())
                holder = getattr(holder, part)
            setattr(holder, leaf, activation)
    return module


def leaves(value: Any) -> list[Any]:
    """What is in lists and dictionaries, without None."""
    if isinstance(value, tuple | list):
        return [leaf for one in value for leaf in leaves(one)]
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    return [] if value is None else [value]


def _as_module(graph: fx.Graph, node: fx.Node, origins: dict[str, Origin]) -> None:
    """A call of the polynomial activation whose coefficients the operation reads."""
    x, coefficients = node.args[:2]
    assert isinstance(x, fx.Node)
    assert isinstance(coefficients, fx.Node)
    path = str(coefficients.target).rpartition(".")[0]
    with graph.inserting_before(node):
        new = graph.call_module(path, (x,))
    new.meta = dict(node.meta)
    origins[new.name] = Origin(path)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _origin(node: fx.Node) -> Origin:
    line = _user_line(node.meta.get("stack_trace") or "")
    stack = [entry for entry in (node.meta.get("nn_module_stack") or {}).values() if entry[0] != entry[1]]
    if not stack:
        return Origin(node.name, line)
    path, kind = stack[-1][0], str(stack[-1][1])
    if kind.startswith("torch.nn.") and path and not kind.endswith(".Sequential"):
        return Origin(path, line)
    return Origin(f"{path}.{node.name}" if path else node.name, line)


def _where_fixed(program: Any) -> str:
    """The line of a view with a fixed number of samples, if there is one."""
    for node in program.graph.nodes:
        sizes = node.args[1] if node.op == "call_function" and len(node.args) > 1 else None
        if isinstance(sizes, list | tuple) and sizes and sizes[0] == BATCH:
            line = _user_line(node.meta.get("stack_trace") or "")
            return f" ({line})" if line else ""
    return ""


def owned(network: Captured) -> Captured:
    """A copy with weights of its own that can be trained."""
    copied: Captured = copy.deepcopy(network)
    for module in copied.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_inference():
                setattr(module, name, nn.Parameter(parameter.detach().clone(), parameter.requires_grad))
    return copied


def alike(network: Captured) -> Captured:
    """A copy of the operations alone: changing it leaves the network as it is; weights are shared."""
    graph = fx.Graph()
    places: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(network.graph, places))
    copied = Captured(network, graph)
    copied.title, copied.sample_shape = network.title, network.sample_shape
    copied.origins = {
        places[node].name: network.origin(node) for node in places if node.op.startswith("call")
    }
    return copied
