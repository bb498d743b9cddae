"""Pooling of ONNX networks, and layers on three axes, against onnx's evaluator and torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import securedl
from securedl.network.from_torch import import_torch

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import close, kinds, matches, net, node, random, refused, run  # found by path, not by package

WINDOWS: list[dict[str, Any]] = [
    {"kernel_shape": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 3], "strides": [2, 2]},
]


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
def test_averages(window, ceil, counted, size):
    options = {**window, "ceil_mode": ceil, "count_include_pad": counted}
    matches(net([node("AveragePool", "x", **options)], ("n", 2, *size), opset=19), (2, *size))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("size", [(7, 8), (6, 5)])
def test_maxima(window, ceil, size):
    network = matches(net([node("MaxPool", "x", ceil_mode=ceil, **window)], ("n", 2, *size)), (2, *size))
    assert kinds(network) == ["MaxPool2d"]


@pytest.mark.parametrize("kind", ["AveragePool", "LpPool", "MaxPool"])
@pytest.mark.parametrize("ceil", [0, 1])
def test_no_room_for_windows_beyond(kind, ceil):
    """With auto_pad ceil_mode has no meaning; onnx's evaluator refuses it, or takes it at its word."""
    model = net([node(kind, "x", kernel_shape=[2, 3], strides=[2, 2], auto_pad="VALID")], ("n", 2, 7, 8))
    network = matches(model, (2, 7, 8))
    if ceil:
        attribute = model.graph.node[0].attribute.add()
        attribute.name, attribute.i, attribute.type = "ceil_mode", 1, attribute.INT
        x = random(3, 2, 7, 8)
        close(run(securedl.from_onnx(model), x), run(network, x))


@pytest.mark.parametrize("way", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("size", [6, 7, 8])
def test_maxima_of_the_same_size(way, kernel, size):
    """As other frameworks export them. Padding that is larger before than after torch has not."""
    options = {"kernel_shape": [kernel] * 2, "strides": [2, 2], "auto_pad": way}
    model = net([node("MaxPool", "x", **options)], ("n", 2, size, size))
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    if total % 2 and way == "SAME_LOWER" and kernel == 3:
        pads = [1, 0]
    else:
        pads = [total // 2, total - total // 2] if way == "SAME_UPPER" else [total - total // 2, total // 2]
    x = random(3, 2, size, size)
    padded = functional.pad(torch.tensor(x), [*pads, *pads], value=-np.inf)
    close(run(securedl.from_onnx(model), x), functional.max_pool2d(padded, kernel, 2))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("ceil", [0, 1])
def test_norms(order, window, ceil):
    """Past the padding are zeros, which onnx's evaluator leaves out of its shape."""
    model = net([node("LpPool", "x", p=order, ceil_mode=ceil, **window)], ("n", 2, 7, 8))
    x = random(3, 2, 7, 8)
    pads = window.get("pads", [0, 0, 0, 0])
    padded = functional.pad(torch.tensor(np.abs(x) ** order), [pads[1], pads[3], pads[0], pads[2]])
    stride = window.get("strides", [1, 1])
    found = run(securedl.from_onnx(model), x)
    whole = functional.avg_pool2d(
        functional.pad(padded, [0, 3, 0, 3]), window["kernel_shape"], stride
    ) * np.prod(window["kernel_shape"])
    want = whole[:, :, : found.shape[2], : found.shape[3]] ** (1 / order)
    close(found, want)
    want = functional.max_pool2d(padded, window["kernel_shape"], stride, ceil_mode=bool(ceil))
    assert found.shape == tuple(want.shape)
    if not ceil:
        matches(model, (2, 7, 8))


@pytest.mark.parametrize("kind", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 4), (2, 3, 2, 2)])
def test_of_all_places(kind, shape):
    x = random(3, *shape)
    network = securedl.from_onnx(net([node(kind, "x")], ("n", *shape)))
    axes = tuple(range(2, len(shape) + 1))
    if kind == "GlobalLpPool":  # which onnx's evaluator has not
        close(run(network, x), np.sqrt((x**2).sum(axes, keepdims=True)))
    elif kind == "GlobalMaxPool":  # for which onnx's evaluator knows images only
        close(run(network, x), x.max(axes, keepdims=True))
    if kind == "GlobalAveragePool" or (kind == "GlobalMaxPool" and len(shape) == 3):
        matches(net([node(kind, "x")], ("n", *shape)), shape)


def test_layers_on_three_axes():
    constants = {"w": random(3, 2, 2, 2, 2), "b": random(3)}
    nodes = [
        node("Conv", "x", "w", "b", out="c", pads=[1, 0, 1, 1, 0, 1]),
        node("MaxPool", "c", out="m", kernel_shape=[2, 2, 2]),
        node("AveragePool", "m", kernel_shape=[2, 1, 1]),
    ]
    matches(net(nodes, ("n", 2, 4, 5, 4), constants), (2, 4, 5, 4))
    x, w = random(2, 2, 3, 3, 3), random(2, 3, 2, 2, 2)
    network = securedl.from_onnx(net([node("ConvTranspose", "x", "w")], ("n", 2, 3, 3, 3), {"w": w}))
    close(run(network, x), functional.conv_transpose3d(torch.tensor(x), torch.tensor(w)))


def test_they_can_be_encrypted():
    nodes = [node("GlobalMaxPool", "x", out="g"), node("Flatten", "g")]
    poly = securedl.approximate(securedl.from_onnx(net(nodes, ("n", 2, 4, 4))), random(64, 2, 4, 4))
    assert isinstance(poly, nn.Module)
    found = import_torch(poly, (2, 4, 4))
    x = random(3, 2, 4, 4)
    np.testing.assert_allclose(found.graph(x), x.mean((2, 3)), atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 1]}, "dilations of an average"),
        ("LpPool", {"kernel_shape": [2, 2], "dilations": [2, 1]}, "dilations of a norm"),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [2, 2, 2, 2]}, "pads of a maximum"),
        ("LpPool", {"kernel_shape": [2]}, "does not fit values with 4 axes"),
        ("AveragePool", {"kernel_shape": [9, 9]}, "the_AveragePool (AveragePool)"),
        ("LpPool", {"kernel_shape": [2**40, 1]}, "have to be 268435456 or less"),
        ("MaxPool", {"kernel_shape": [2**20, 1]}, "the_MaxPool (MaxPool)"),
        ("AveragePool", {"kernel_shape": [1, 1], "strides": [2**62, 1]}, "or less"),
        ("AveragePool", {"kernel_shape": [1, 1], "pads": [0, 0, 2**40, 2**40]}, "the_AveragePool"),
        ("LpPool", {"kernel_shape": [2, 2], "pads": [0, 0, 2**30, 0]}, "numbers a sample"),
        ("LpPool", {"kernel_shape": [2, 2], "pads": [0, 0, 2**40, 0]}, "the_LpPool (LpPool)"),
        ("LpPool", {"kernel_shape": [2, 2], "p": 0}, "the_LpPool (LpPool)"),
    ],
)
def test_what_is_refused(kind, options, words):
    refused(net([node(kind, "x", **options)], ("n", 1, 4, 4), opset=22), words)
