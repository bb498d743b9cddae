"""ONNX networks of a few operators, and their comparison with onnx's own evaluator."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import fx, nn

import securedl
from securedl.errors import InputError
from securedl.network import onnx_values

OPSET = 18


def node(kind: str, *inputs: str, out: str | list[str] = "y", **attributes: Any) -> onnx.NodeProto:
    outs = [out] if isinstance(out, str) else out
    return helper.make_node(kind, inputs, outs, name=f"the_{kind}", **attributes)


def net(
    nodes: list[onnx.NodeProto],
    shape: tuple[Any, ...] | None = ("n", 4),
    constants: dict[str, Any] | None = None,
    opset: int = OPSET,
    output: str = "y",
    kind: int = TensorProto.DOUBLE,
) -> onnx.ModelProto:
    """One input x, one output. Arrays keep their own types."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, kind, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def close(found, want, tolerance: float = 1e-9) -> None:
    want = np.asarray(want)
    assert tuple(found.shape) == want.shape
    scale = max(1.0, np.abs(want[np.isfinite(want)]).max(initial=0))
    np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance * scale / 10)


def run(network: nn.Module, x) -> np.ndarray:
    with torch.no_grad():
        return network(torch.as_tensor(x)).numpy()


def matches(
    model: onnx.ModelProto,
    shape: tuple[int, ...],
    samples: int = 3,
    low: float | None = None,
    tolerance: float = 1e-9,
) -> fx.GraphModule:
    """The network, after comparing it with onnx's evaluator on random samples."""
    x = random(samples, *shape)
    x = x if low is None else np.abs(x) + low
    network = securedl.from_onnx(model)
    assert isinstance(network, nn.Module)
    assert not network.training
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    single = {
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Selu",
    }  # whose numbers are float32 there
    close(run(network, x), want, 1e-6 if single & {n.op_type for n in model.graph.node} else tolerance)
    return network


def refused(given: Any, *words: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        securedl.from_onnx(given, **options)
    sentence = str(caught.value)
    for word in words:
        assert word in sentence
    assert str(onnx_values.SAMPLES) not in sentence
    return sentence


def kinds(network: fx.GraphModule) -> list[str]:
    """Its modules and functions, in order."""
    return [
        type(network.get_submodule(str(n.target))).__name__ if n.op == "call_module" else n.target.__name__
        for n in network.graph.nodes
        if n.op.startswith("call")
    ]


def newly_exported(model: nn.Module, *shape: int, dynamic: bool) -> onnx.ModelProto:
    sizes = ({0: torch.export.Dim("n")},) if dynamic else None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        x = torch.zeros(shape, dtype=torch.float64)
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=sizes, verbose=False)
    assert program is not None
    return program.model_proto


def exported(model: nn.Module, *shape: int, opset: int = 17, dynamic: bool = False) -> onnx.ModelProto:
    file: Any = io.BytesIO()
    axes = {"x": {0: "n"}, "y": {0: "n"}} if dynamic else None
    x = torch.zeros(shape, dtype=torch.float64)
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, which says that it is
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=opset, **names)
    return onnx.load_model_from_string(file.getvalue())


def seeded(make) -> nn.Module:
    """In evaluation mode, with normalisations that have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().double()
        for tensor in model.buffers():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
    return model.eval()
