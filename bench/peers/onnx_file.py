"""A network with squares as an ONNX file, for HElayers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.peers.networks import Squared

OPSET, IR_VERSION = 13, 8


def padded(network: Squared) -> NDArray[np.float64]:
    """The sample with the first convolution's margin, as far as it is read.

    Its owner can add the margin, and HElayers packs convolutions without one better: half the time.
    """
    first = network.model[0]
    if not isinstance(first, nn.Conv2d):
        return network.x
    size, stride, margin = first.kernel_size[0], first.stride[0], int(first.padding[0])
    read = (network.x.shape[1] + 2 * margin - size) // stride * stride + size
    after = max(0, read - margin - network.x.shape[1])
    return np.pad(network.x, ((0, 0), (margin, after), (margin, after)))


def write(network: Squared, path: Path, channels_last: bool = False) -> None:
    """For samples as `padded` gives them.

    Args:
        channels_last: dense layers after a convolution take their inputs by row, column, channel.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save

    x = torch.from_numpy(padded(network))[None]
    model = _prepared(network.model, x, channels_last)
    nodes, constants, name = [], [], "x"
    for number, layer in enumerate(model):
        kind, options, weights = _operation(layer)
        given = [name] * (2 if kind == "Mul" else 1)
        for part, weight in enumerate(weights):
            given.append(f"weight{number}.{part}")
            constants.append(numpy_helper.from_array(weight.detach().numpy().astype(np.float32), given[-1]))
        name = f"layer{number}"
        nodes.append(helper.make_node(kind, given, [name], **options))
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))
    end = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, len(network.logits)])
    graph = helper.make_graph(nodes, "squared", [start], [end], constants)
    opset = helper.make_opsetid("", OPSET)
    written = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    checker.check_model(written)
    save(written, path)


def _operation(layer: nn.Module) -> tuple[str, dict[str, Any], list[Tensor]]:
    """ONNX's name, its options and its weights."""
    if isinstance(layer, nn.Linear):
        return "Gemm", {"transB": 1}, [layer.weight, layer.bias]
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None
        pads = [int(layer.padding[0])] * 4
        sizes = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride)}
        return "Conv", {"pads": pads, **sizes}, [layer.weight, layer.bias]
    if isinstance(layer, nn.AvgPool2d):
        size = [int(str(layer.kernel_size))] * 2
        return "AveragePool", {"kernel_shape": size, "strides": size}, []
    return ("Flatten", {"axis": 1}, []) if isinstance(layer, nn.Flatten) else ("Mul", {}, [])


def _prepared(model: nn.Sequential, x: Tensor, channels_last: bool) -> nn.Sequential:
    """A copy without the first convolution's margin, that takes flattened channels in the given order."""
    model = copy.deepcopy(model)
    if isinstance(model[0], nn.Conv2d):
        model[0].padding = (0, 0)
    shape: torch.Size | None = None
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Flatten):
                shape = x.shape[1:]
            elif isinstance(layer, nn.Linear) and shape and channels_last:
                by_channel = layer.weight.reshape(-1, *shape).permute(0, 2, 3, 1)
                layer.weight.copy_(by_channel.reshape(layer.weight.shape))
                break
            x = layer(x)
    return model
