"""ONNX networks against onnx's own evaluator, and torch networks against what their exports become."""

from __future__ import annotations

import contextlib
import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

import securedl
from securedl.errors import InputError
from securedl.network import onnx_build, onnx_file, onnx_values
from securedl.network.onnx_build import OPERATORS

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import (  # found by path, not by package
    close,
    exported,
    kinds,
    matches,
    net,
    newly_exported,
    node,
    random,
    refused,
    run,
    seeded,
)

# --- one operator after another ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "Abs",
        "Elu",
        "Celu",
        "Erf",
        "Exp",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Mish",
        "Neg",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Tanh",
        "Dropout",
    ],
)
def test_functions_of_one_value(kind):
    matches(net([node(kind, "x")]), (4,))
    matches(net([node(kind, "x")], ("n", 2, 3, 3)), (2, 3, 3))


@pytest.mark.parametrize("kind", ["Log", "Sqrt", "Reciprocal"])
def test_functions_of_positive_values(kind):
    matches(net([node(kind, "x")]), (4,), low=0.1)


@pytest.mark.parametrize(
    ("kind", "attributes", "opset"),
    [
        ("LeakyRelu", {"alpha": 0.3}, 18),
        ("Elu", {"alpha": 0.7}, 18),
        ("Celu", {"alpha": 0.7}, 18),
        ("Selu", {"alpha": 1.5, "gamma": 2.0}, 18),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, 18),
        ("Gelu", {}, 20),
        ("Gelu", {"approximate": "tanh"}, 20),
        ("Swish", {}, 24),
        ("Swish", {"alpha": 1.5}, 24),
        ("Clip", {"min": -0.5, "max": 0.5}, 9),
        ("Clip", {"min": 0.0}, 9),
        ("Clip", {"max": 0.3}, 9),
        ("Clip", {}, 9),
    ],
)
def test_functions_with_options(kind, attributes, opset):
    matches(net([node(kind, "x", **attributes)], opset=opset), (4,))


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.5), (0.0, 6.0), (0.0, None), (None, 0.1), (0.5, -0.5)])
def test_clip(low, high):
    constants = {k: np.float64(v) for k, v in (("low", low), ("high", high)) if v is not None}
    names = [name if name in constants else "" for name in ("low", "high")]
    network = matches(net([node("Clip", "x", *names)], constants=constants), (4,))
    first = {(0.0, 6.0): "ReLU6", (0.0, None): "ReLU", (-0.5, 0.5): "Hardtanh"}.get((low, high), "clamp")
    assert kinds(network) == [first]


@pytest.mark.parametrize("shape", [(1,), (2, 1, 1), (1, 2, 1, 1), (2, 3, 3), (3,), (1, 1, 1)])
def test_prelu(shape):
    network = matches(net([node("PRelu", "x", "s")], ("n", 2, 3, 3), {"s": random(*shape)}), (2, 3, 3))
    assert ("PReLU" in kinds(network)) == (shape not in [(2, 3, 3), (3,)])


def test_prelu_of_features():
    assert kinds(matches(net([node("PRelu", "x", "s")], constants={"s": random(4)}), (4,))) == ["PReLU"]


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1)])
def test_arithmetic(kind, shape):
    for inputs in (("x", "c"), ("c", "x")):
        matches(net([node(kind, *inputs)], constants={"c": random(*shape) + 2}), (4,))
    matches(net([node(kind, "x", "x")]), (4,))


def test_choices():
    constants = {"c": random(4), "d": random(4)}
    matches(
        net([node("Greater", "x", "c", out="g"), node("Where", "g", "x", "d")], constants=constants), (4,)
    )


@pytest.mark.parametrize("exponent", [2, 2.0, 3.0, np.float64(0.5), [2.0]])
def test_powers(exponent):
    matches(net([node("Pow", "x", "c")], constants={"c": exponent}), (4,), low=0.2)


def test_sum():
    matches(net([node("Sum", "x", "x", "c")], constants={"c": random(4)}), (4,))


@pytest.mark.parametrize("out_first", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (3,), (1, 3)])
@pytest.mark.parametrize("factors", [{}, {"alpha": 0.5, "beta": 2.0}])
def test_gemm(out_first, bias, factors):
    constants = {"w": random(*((3, 4) if out_first else (4, 3)))}
    if bias is not None:
        constants["b"] = random(*bias)
    model = net([node("Gemm", "x", *constants, transB=out_first, **factors)], constants=constants)
    network = matches(model, (4,))
    assert kinds(network) == ["Linear"]


def test_gemm_of_two_values_that_depend_on_samples():
    nodes = [node("Gemm", "w", "x", "x", out="t", transB=1), node("Transpose", "t", perm=[1, 0])]
    refused(net(nodes, constants={"w": random(4, 4)}), "the_Gemm (Gemm)")
    nodes[0] = node("Gemm", "w", "x", out="t", transA=1, transB=1, alpha=0.3)
    matches(net(nodes, constants={"w": random(4, 5)}), (4,))


@pytest.mark.parametrize("opset", [9, 12, 13, 18, 21])
def test_dense_layers_as_products_and_sums(opset):
    """As scikit-learn's exporters and older ones of torch write them."""
    nodes = [
        node("MatMul", "x", "w", out="a"),
        node("Add", "a", "b", out="c"),
        node("Relu", "c", out="d"),
        node("MatMul", "d", "v", out="e"),
        node("Add", "u", "e", out="f"),
        node("Softmax", "f", axis=1),
    ]
    constants = {"w": random(4, 6), "b": random(6), "v": random(6, 3), "u": random(3)}
    network = matches(net(nodes, constants=constants, opset=opset), (4,))
    assert kinds(network) == ["Linear", "ReLU", "Linear", "Softmax"]


def test_a_product_that_is_used_twice_keeps_its_values():
    nodes = [node("MatMul", "x", "w", out="a"), node("Add", "a", "b", out="c"), node("Mul", "a", "c")]
    matches(net(nodes, constants={"w": random(4, 6), "b": random(6)}), (4,))


@pytest.mark.parametrize("w", [(5, 3), (5,), (1, 5, 3)])
def test_products(w):
    matches(net([node("MatMul", "x", "w")], ("n", 4, 5), {"w": random(*w)}), (4, 5))


@pytest.mark.parametrize("w", [(3, 4), (4,), (2, 3, 4)])
def test_products_from_the_left(w):
    shape = (2, 4, 5) if len(w) == 3 else (4, 5)
    matches(net([node("MatMul", "w", "x")], ("n", *shape), {"w": random(*w)}), shape)


def test_attention_like_products():
    nodes = [
        node("Transpose", "x", out="t", perm=[0, 2, 1]),
        node("MatMul", "x", "t", out="s"),
        node("Softmax", "s", out="p", axis=-1),
        node("MatMul", "p", "x"),
    ]
    matches(net(nodes, ("n", 3, 4)), (3, 4))


WINDOWS_2D: list[dict[str, Any]] = [
    {},
    {"strides": [2, 1]},
    {"pads": [1, 1, 1, 1]},
    {"pads": [0, 1, 2, 1], "strides": [2, 3]},
    {"dilations": [2, 1], "pads": [2, 0, 2, 0]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
    {"auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", WINDOWS_2D, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_2d(attributes, bias):
    constants = {"w": random(3, 2, 3, 2)} | ({"b": random(3)} if bias else {})
    matches(net([node("Conv", "x", *constants, **attributes)], ("n", 2, 7, 8), constants), (2, 7, 8))


@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2]}, {"pads": [2, 1]}, {"auto_pad": "SAME_UPPER"}], ids=str
)
def test_convolution_1d(attributes):
    matches(net([node("Conv", "x", "w", **attributes)], ("n", 2, 9), {"w": random(3, 2, 4)}), (2, 9))


def test_groups():
    model = net(
        [node("Conv", "x", "w", group=2, kernel_shape=[3, 3])], ("n", 4, 5, 5), {"w": random(6, 2, 3, 3)}
    )
    matches(model, (4, 5, 5))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
        {"strides": [2, 2], "pads": [0, 1, 1, 0]},
        {"dilations": [2, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
    ids=str,
)
def test_transposed_convolution(attributes):
    model = net(
        [node("ConvTranspose", "x", "w", "b", **attributes)],
        ("n", 2, 4, 4),
        {"w": random(2, 3, 3, 3), "b": random(3)},
    )
    matches(model, (2, 4, 4))


def test_transposed_convolution_in_groups():
    """Which onnx's evaluator computes for one group only."""
    w, x = random(4, 2, 3), random(3, 4, 5)
    network = securedl.from_onnx(net([node("ConvTranspose", "x", "w", group=2)], ("n", 4, 5), {"w": w}))
    close(run(network, x), functional.conv_transpose1d(torch.tensor(x), torch.tensor(w), groups=2))


@pytest.mark.parametrize("way", ["NOTSET", "SAME_LOWER", "SAME_UPPER"])
def test_transposed_convolution_to_a_size(way):
    """Which onnx's evaluator mistakes for no padding. Of three rows one goes before, or two."""
    w, x = random(2, 3, 3, 3), random(3, 2, 4, 4)
    attributes = {"strides": [2, 2], "output_shape": [6, 8], "auto_pad": way}
    network = securedl.from_onnx(
        net([node("ConvTranspose", "x", "w", **attributes)], ("n", 2, 4, 4), {"w": w})
    )
    whole = functional.conv_transpose2d(torch.tensor(x), torch.tensor(w), stride=2)
    close(run(network, x), whole[:, :, 1:7, :8] if way == "SAME_UPPER" else whole[:, :, 2:8, 1:9])


@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 2)])
def test_batch_norm(shape):
    constants = {"s": random(4), "b": random(4), "m": random(4), "v": random(4) ** 2}
    model = net([node("BatchNormalization", "x", *constants, epsilon=1e-3)], ("n", *shape), constants)
    network = matches(model, shape)
    assert {name.split(".")[-1] for name, _ in network.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("attributes", WINDOWS_2D[:4] + WINDOWS_2D[5:], ids=str)
def test_average_pooling(attributes, counted):
    options = {"kernel_shape": [3, 2], "count_include_pad": counted} | attributes
    matches(net([node("AveragePool", "x", **options)], ("n", 2, 7, 8)), (2, 7, 8))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize(
    "attributes", [{}, {"pads": [1, 1]}, {"pads": [0, 1]}, {"ceil_mode": 1, "strides": [2]}], ids=str
)
def test_average_pooling_1d(attributes, counted):
    options = {"kernel_shape": [3], "count_include_pad": counted} | attributes
    matches(net([node("AveragePool", "x", **options)], ("n", 2, 8)), (2, 8))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 2]},
        {"pads": [1, 1, 1, 1]},
        {"auto_pad": "VALID"},
        {"ceil_mode": 1, "strides": [2, 2]},
        {"dilations": [2, 1]},
    ],
    ids=str,
)
def test_maximum_pooling(attributes):
    matches(net([node("MaxPool", "x", kernel_shape=[2, 3], **attributes)], ("n", 2, 7, 8)), (2, 7, 8))


@pytest.mark.parametrize("shape", [(2, 7), (2, 7, 8)])
def test_global_average_pooling(shape):
    matches(net([node("GlobalAveragePool", "x")], ("n", *shape)), shape)


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_softmax(kind, opset):
    for axis in (2, -1, *([1] if opset >= 13 else [])):
        matches(net([node(kind, "x", axis=axis)], ("n", 3, 4), opset=opset), (3, 4))
    if opset >= 13:
        matches(net([node(kind, "x")], ("n", 3, 4), opset=opset), (3, 4))


@pytest.mark.parametrize("attributes", [{}, {"axis": 1}, {"axis": -2}])
def test_softmax_of_old_is_over_all_axes_from_one_on(attributes):
    """Which onnx's evaluator does not know."""
    x = random(3, 3, 4)
    network = securedl.from_onnx(net([node("Softmax", "x", **attributes)], ("n", 3, 4), opset=11))
    close(run(network, x), torch.softmax(torch.tensor(x).flatten(1), 1).reshape(3, 3, 4))
    refused(net([node("Softmax", "x", axis=0)], ("n", 3, 4), opset=11), "over the axes from 0 on")


# --- shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_flatten(axis):
    nodes = [node("Flatten", "x", out="f", axis=axis), node("Reshape", "f", "s")]
    matches(net(nodes, ("n", 2, 3), {"s": np.array([-1, 6])}), (2, 3))


@pytest.mark.parametrize("target", [[0, -1], [-1, 24], [0, 3, 8], [0, 0, -1], [-1, 3, 2, 4], [0, 2, 3, 4]])
@pytest.mark.parametrize("samples", [1, 5])
def test_reshape(target, samples):
    matches(net([node("Reshape", "x", "s")], ("n", 2, 3, 4), {"s": np.array(target)}), (2, 3, 4), samples)


@pytest.mark.parametrize("exported_for", [1, 2, 6, 24])
@pytest.mark.parametrize("rest", [[24], [-1], [3, 8], [-1, 4], [2, -1, 3]])
def test_reshape_with_the_number_of_samples_of_the_export(exported_for, rest):
    model = net([node("Reshape", "x", "s")], (exported_for, 2, 3, 4), {"s": np.array([exported_for, *rest])})
    matches(model, (2, 3, 4), exported_for)
    network = securedl.from_onnx(model)
    for samples in (1, 5):
        x = random(samples, 2, 3, 4)
        close(run(network, x), x.reshape(samples, *rest))


def test_flattening_becomes_the_layer():
    for target in ([0, -1], [-1, 6], [1, 6], [1, -1]):
        model = net([node("Reshape", "x", "s")], (1, 2, 3), {"s": np.array(target)})
        assert kinds(securedl.from_onnx(model)) == ["Flatten"]


@pytest.mark.parametrize("perm", [[0, 2, 1, 3], [0, 3, 1, 2], None])
def test_transpose(perm):
    attributes = {} if perm is None else {"perm": perm}
    nodes = [node("Transpose", "x", out="t", **attributes), node("Transpose", "t", perm=[3, 1, 2, 0])]
    nodes = nodes if perm is None else nodes[:1]
    nodes[-1].output[0] = "y"
    matches(net(nodes, ("n", 2, 3, 4)), (2, 3, 4))


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset):
    def axes(*numbers: int) -> tuple[list[str], dict[str, Any], dict[str, Any]]:
        if opset < 13:
            return [], {"axes": list(numbers)}, {}
        name = f"a{len(numbers)}{abs(numbers[0])}"
        return [name], {}, {name: np.array(numbers)}

    more, attributes, constants = axes(1, -1)
    less, others, more_constants = axes(1)
    nodes = [node("Unsqueeze", "x", *more, out="t", **attributes), node("Squeeze", "t", *less, **others)]
    matches(net(nodes, constants=constants | more_constants, opset=opset), (4,))
    matches(net([nodes[0], node("Squeeze", "t")], constants=constants, opset=opset), (4,))


def test_a_squeeze_leaves_the_samples():
    network = securedl.from_onnx(net([node("Squeeze", "x")], (1, 4, 1)))
    assert run(network, random(1, 4, 1)).shape == (1, 4)
    refused(net([node("Squeeze", "x", "a")], (1, 4, 1), {"a": np.array([0])}), "axes [0] of [samples, 4, 1]")


def test_concat():
    nodes = [node("Relu", "x", out="a"), node("Neg", "x", out="b"), node("Concat", "a", "b", "x", axis=-1)]
    matches(net(nodes), (4,))


@pytest.mark.parametrize(
    ("opset", "parts"), [(9, [1, 2, 3]), (13, [1, 2, 3]), (18, [1, 2, 3]), (9, None), (18, None)]
)
def test_split(opset, parts):
    outs = ["a", "b", "c"] if parts else ["a", "b"]
    attributes, constants = {"axis": 1}, {}
    if parts and opset >= 13:
        constants["p"] = np.array(parts)
    elif parts:
        attributes["split"] = parts
    elif opset >= 18:
        attributes["num_outputs"] = 2
    nodes = [node("Split", "x", *constants, out=outs, **attributes), node("Concat", *outs[::-1], axis=1)]
    matches(net(nodes, ("n", 6, 2), constants, opset), (6, 2))


def test_an_uneven_split():
    nodes = [node("Split", "x", out=["a", "b"], axis=1, num_outputs=2), node("Concat", "b", "a", axis=1)]
    matches(net(nodes, ("n", 5)), (5,))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], [1], None),
        ([0, 1], [2**63 - 1, -1], [0, 2], None),
        ([-3], [2**63 - 1], [-1], [2]),
        ([-1], [-(2**63)], [1], [-1]),
        ([3], [0], [2], [-2]),
        ([0, 1], [2**31 - 1, 3], None, None),
    ],
)
def test_slice(starts, ends, axes, steps):
    given = {"s": starts, "e": ends, "a": axes, "t": steps}
    constants = {name: np.array(value) for name, value in given.items() if value is not None}
    names = ["s", "e", "a" if axes else "", "t" if steps else ""]
    while not names[-1]:
        names.pop()
    matches(net([node("Slice", "x", *names)], ("n", 4, 5), constants), (4, 5))


def test_slice_of_old():
    matches(net([node("Slice", "x", starts=[1], ends=[3], axes=[1])], ("n", 4, 5), opset=9), (4, 5))


@pytest.mark.parametrize("places", [2, -1, [0, 2], [[0, -1], [1, 1]], [1]])
@pytest.mark.parametrize("axis", [1, -1])
def test_gather(places, axis):
    matches(net([node("Gather", "x", "i", axis=axis)], ("n", 3, 4), {"i": np.array(places)}), (3, 4))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode):
    pads = np.array([0, 0, 1, 0, 0, 0, 2, 1])
    matches(net([node("Pad", "x", "p", mode=mode)], ("n", 2, 4, 4), {"p": pads}), (2, 4, 4))
    old = net([node("Pad", "x", mode=mode, pads=pads.tolist())], ("n", 2, 4, 4), opset=9)
    close(
        run(securedl.from_onnx(old), random(3, 2, 4, 4)),
        np.pad(random(3, 2, 4, 4), [(0, 0), (0, 0), (1, 2), (0, 1)], mode),
    )


def test_pad_with_a_value_on_some_axes():
    constants = {"p": np.array([1, 2]), "v": np.float64(0.5), "a": np.array([-1])}
    matches(net([node("Pad", "x", *constants)], ("n", 2, 4), constants), (2, 4))


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reductions(kind, keep, opset):
    as_input = opset >= (18 if kind == "ReduceMean" else 13)
    constants = {"a": np.array([2, -1])} if as_input else {}
    attributes = {} if as_input else {"axes": [2, -1]}
    model = net([node(kind, "x", *constants, keepdims=keep, **attributes)], ("n", 2, 3, 4), constants, opset)
    matches(model, (2, 3, 4))


def test_a_reduction_of_nothing():
    matches(net([node("ReduceSum", "x", noop_with_empty_axes=1)]), (4,))


# --- shapes that are computed ------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 17])
def test_a_view_as_torch_wrote_it(opset):
    """x.view(x.size(0), -1), by Shape, Gather, Unsqueeze and Concat."""
    unsqueeze = (
        [node("Unsqueeze", "n", out="u", axes=[0])]
        if opset < 13
        else [node("Unsqueeze", "n", "zero", out="u")]
    )
    nodes = [
        node("Shape", "x", out="s"),
        node("Constant", out="i", value=numpy_helper.from_array(np.array(0))),
        node("Gather", "s", "i", out="n", axis=0),
        *unsqueeze,
        node("Constant", out="rest", value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", "u", "rest", out="t", axis=0),
        node("Cast", "t", out="c", to=TensorProto.INT64),
        node("Reshape", "x", "c"),
    ]
    constants = {} if opset < 13 else {"zero": np.array([0])}
    network = matches(net(nodes, ("n", 2, 3), constants, opset), (2, 3))
    assert kinds(network) == ["Flatten"]


def test_sizes_are_computed():
    """[n, 4, 6] to [n · 4 · 2, 3] and back."""
    constants = {
        "0": np.array(0),
        "1": np.array(1),
        "2": np.array(2),
        "axis": np.array([0]),
        "three": np.array([3]),
        "rest": np.array([4, 6]),
        "first": np.array([0]),
    }
    nodes = [
        node("Shape", "x", out="s"),
        node("Gather", "s", "0", out="n"),
        node("Gather", "s", "1", out="c"),
        node("Mul", "n", "c", out="nc"),
        node("Mul", "nc", "2", out="nc2"),
        node("Unsqueeze", "nc2", "axis", out="u"),
        node("Concat", "u", "three", out="t", axis=0),
        node("Reshape", "x", "t", out="r"),
        node("Tanh", "r", out="h"),
        node("Div", "nc2", "c", out="n2"),
        node("Div", "n2", "2", out="back"),
        node("Unsqueeze", "back", "axis", out="b"),
        node("Slice", "s", "1s", "big", out="tail"),
        node("Concat", "b", "tail", out="v", axis=0),
        node("Reshape", "h", "v"),
    ]
    constants |= {"1s": np.array([1]), "big": np.array([9])}
    matches(net(nodes, ("n", 4, 6), constants), (4, 6))


def test_constants_are_computed():
    nodes = [
        node("Constant", out="s", value_ints=[2, 4]),
        node("ConstantOfShape", "s", out="o", value=numpy_helper.from_array(np.array([0.5]))),
        node("Constant", out="m", value_float=-1.5),
        node("Cast", "m", out="d", to=TensorProto.DOUBLE),
        node("Mul", "w", "d", out="v"),
        node("Sqrt", "o", out="r"),
        node("Transpose", "r", out="q"),
        node("MatMul", "v", "q", out="p"),
        node("Relu", "p", out="k"),
        node("MatMul", "x", "k"),
    ]
    assert kinds(matches(net(nodes, constants={"w": random(4, 4)}), (4,))) == ["Linear"]


@pytest.mark.parametrize(("kind", "a", "b"), [("Div", 9, 2), ("Mod", 9, 5)])
def test_quotients_and_rests_of_whole_numbers(kind, a, b):
    nodes = [
        node(kind, "a", "b", out="q"),
        node("Concat", "free", "q", axis=0, out="s"),
        node("Reshape", "x", "s"),
    ]
    constants = {"a": np.array([a]), "b": np.array([b]), "free": np.array([-1])}
    matches(net(nodes, ("n", 2, 2), constants), (2, 2))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Add", "n", "one", out="t")],
        [node("Sub", "n", "one", out="t")],
        [node("Div", "n", "two", out="t")],
        [node("Neg", "n", out="t")],
        [node("Cast", "n", out="f", to=TensorProto.DOUBLE), node("Mul", "x", "f", out="t")],
    ],
)
def test_the_number_of_samples_is_not_computed_with(nodes):
    nodes = [node("Shape", "x", out="s", end=1), node("Identity", "s", out="n"), *nodes]
    nodes += [node("Concat", "t", "one", out="v", axis=0), node("Reshape", "x", "v")]
    model = net(nodes, constants={"one": np.array([1]), "two": np.array([2])})
    assert "cannot be converted" in refused(model)


# --- whole networks ----------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = functional.silu(self.first(x))
        b = functional.gelu(self.norm(self.second(a))) + a
        b = functional.mish(torch.cat([b, a[:, 1:3]], 1)).split(4, 1)[0]
        return torch.log_softmax(self.last(b.mean((2, 3))), 1)


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x.view(x.shape[0] * 2, 6)).view(x.shape[0], -1, 5)
        return x.permute(0, 2, 1).reshape(x.size(0), -1).unsqueeze(1).squeeze(1) ** 2


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.last = nn.Linear(8, 24), nn.Linear(40, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.mixed(x).view(b, t, 3, 2, 4).permute(2, 0, 3, 1, 4)
        p = torch.softmax(q @ k.transpose(-2, -1) / 2, -1)
        return self.last((p @ v).transpose(1, 2).reshape(b, t * c))


NETWORKS = {
    "dense": (lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1)), (12,)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 4, 3, 2),
            nn.Hardswish(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        (1, 12, 12),
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3),
            nn.BatchNorm1d(4),
            nn.PReLU(4),
            nn.AvgPool1d(2, padding=1),
            nn.Dropout(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
            nn.LogSoftmax(-1),
        ),
        (2, 14),
    ),
    "activations": (
        lambda: nn.Sequential(
            nn.GELU(),
            nn.Mish(),
            nn.ELU(),
            nn.SELU(),
            nn.CELU(),
            nn.Softplus(),
            nn.Softsign(),
            nn.Tanh(),
            nn.Hardsigmoid(),
            nn.ReLU6(),
            nn.Hardtanh(-0.2, 0.4),
            nn.LeakyReLU(),
            nn.Sigmoid(),
            nn.SiLU(),
        ),
        (5,),
    ),
    "upwards": (
        lambda: nn.Sequential(
            nn.Flatten(),
            nn.Linear(8, 8),
            nn.Unflatten(1, (2, 2, 2)),
            nn.ConvTranspose2d(2, 3, 3, 2, output_padding=1),
            nn.Tanh(),
        ),
        (2, 4),
    ),
    "padding": (
        lambda: nn.Sequential(
            nn.ZeroPad2d((1, 0, 2, 1)),
            nn.Conv2d(1, 2, 3),
            nn.ReflectionPad2d(1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        (1, 6, 6),
    ),
    "residual": (Residual, (2, 6, 6)),
    "views": (Viewed, (3, 4)),
    "attention": (Attention, (5, 8)),
}


#: The oldest opset that the exporter can write them in, where that is not 9.
OLDEST = {"convolution": 11, "padding": 11, "activations": 14, "upwards": 14}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    ("name", "opset"), [(n, o) for n in NETWORKS for o in (9, 11, 14, 17, 20) if o >= OLDEST.get(n, 9)]
)
def test_exports_of_torch(name, opset, dynamic):
    """Any number of samples, also where the export was for another."""
    make, shape = NETWORKS[name]
    model = seeded(make)
    for exported_for in (1, 3) if not dynamic else (2,):
        found = exported(model, exported_for, *shape, opset=opset, dynamic=dynamic)
        network = securedl.from_onnx(found)
        for samples in (1, 2, 7):
            x = random(samples, *shape)
            close(run(network, x), run(model, x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["convolution", "activations", "residual", "views", "attention"])
def test_exports_of_newer_torch(name, dynamic):
    """Numbers in between are float32 there."""
    make, shape = NETWORKS[name]
    model = seeded(make)
    network = securedl.from_onnx(newly_exported(model, 2, *shape, dynamic=dynamic))
    for samples in (1, 2, 7):
        x = random(samples, *shape)
        close(run(network, x), run(model, x), 1e-6)
    if name == "activations":
        assert "where" not in kinds(network)


@pytest.mark.parametrize("opset", [14, 17, 20])
def test_activations_are_recognised(opset):
    model = nn.Sequential(nn.SiLU(), nn.GELU(), nn.Mish(), nn.Hardswish()).double()
    network = securedl.from_onnx(exported(model, 1, 5, opset=opset))
    assert kinds(network) == ["SiLU", "GELU", "Mish", "Hardswish"]
    assert [type(m).__name__ for m in network.children()] == kinds(network)


@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_ordinary_modules(name):
    """Copied, pickled, exported by torch for any number of samples, and trained."""
    make, shape = NETWORKS[name]
    model = seeded(make)
    state = torch.get_rng_state()
    network = securedl.from_onnx(exported(model, 1, *shape))
    assert torch.equal(state, torch.get_rng_state())
    x = torch.as_tensor(random(5, *shape))
    want = run(network, x)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(run(other, x), want)
    program = torch.export.export(network, (x[:3],), dynamic_shapes=({0: torch.export.Dim("samples")},))
    close(run(program.module(), x), want)
    weights = list(network.parameters())
    assert sum(w.numel() for w in weights) <= sum(w.numel() for w in model.parameters())
    if weights:
        network(x).square().sum().backward()
        assert all(w.requires_grad and w.grad is not None for w in weights)


def test_a_constant_in_two_places_is_two_weights():
    nodes = [node("Gemm", "x", "w", out="a"), node("Gemm", "a", "w")]
    network = matches(net(nodes, constants={"w": random(4, 4)}), (4,))
    first, second = network.parameters()
    with torch.no_grad():
        first.zero_()
    assert second.abs().sum() > 0


def test_half_precision_becomes_single():
    for kind in (np.float16, np.float32):
        w = random(4, 3).astype(kind)
        model = net(
            [node("MatMul", "x", "w")], constants={"w": w}, kind=helper.np_dtype_to_tensor_dtype(w.dtype)
        )
        network = securedl.from_onnx(model)
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        np.testing.assert_allclose(run(network, np.eye(4, dtype=np.float32)), w, rtol=1e-6)


def test_labels_are_left_out():
    """As exporters for scikit-learn give them, by operators that have no counterpart."""
    model = net([node("Softmax", "x", axis=1), node("ArgMax", "y", out="label", axis=1)])
    model.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, None))
    assert kinds(securedl.from_onnx(model)) == ["Softmax"]


def test_the_shape_of_a_sample_may_be_given():
    model = net([node("GlobalAveragePool", "x")], ("n", 2, "height", "width"))
    refused(model, "leaves the shape of a sample open ([2, None, None]): pass sample_shape")
    x = random(3, 2, 4, 5)
    close(run(securedl.from_onnx(model, sample_shape=(2, 4, 5)), x), x.mean((2, 3), keepdims=True))
    refused(model, "takes samples of shape [2, None, None]", sample_shape=(3, 4, 5))
    refused(model, "takes samples of shape", sample_shape=(2, 4))
    refused(model, "a size in sample_shape must be a whole number", sample_shape=(2, 4, 0))
    unknown = net([node("Relu", "x")], None)
    refused(unknown, "pass sample_shape")
    close(run(securedl.from_onnx(unknown, sample_shape=[2]), x[:, :, 0, 0]), np.maximum(x[:, :, 0, 0], 0))


NAMES = [
    "",
    "forward",
    "training",
    "meta",
    "if",
    "1/a.b",
    "ü",
    "x",
    "self",
    "import os",
    "a" * 100,
    "graph",
    "part",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds(name):
    nodes = [
        node("Relu", "x", out="a"),
        node("Neg", "a", out="b"),
        node("Add", "b", "c", out="d"),
        node("Tanh", "d"),
    ]
    nodes += [node("Relu", "y", out=f"y{i}") for i in range(3)]
    nodes.append(node("Sum", "y0", "y1", "y2", out="z"))
    for each in nodes:
        each.name = name
    model = net(nodes, constants={"c": random(4)}, output="z")
    network = matches(model, (4,))
    assert len(list(network.children())) == 5
    copy.deepcopy(network)


@settings(max_examples=60)
@given(st.data())
def test_random_graphs(data):
    """Chains with branches of random operators on [n, channels, length]."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    shape = tuple(data.draw(st.tuples(st.integers(1, 3), st.integers(3, 6)), label="shape"))
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    values = [("x", shape)]

    def constant(*sizes: int) -> str:
        name = f"c{len(constants)}"
        constants[name] = rng.normal(size=sizes)
        return name

    for step in range(data.draw(st.integers(1, 6))):
        kind = data.draw(
            st.sampled_from(
                [
                    "Relu",
                    "Tanh",
                    "Sigmoid",
                    "Add",
                    "Mul",
                    "Sub",
                    "Conv",
                    "MatMul",
                    "Transpose",
                    "AveragePool",
                    "Concat",
                    "Softmax",
                    "Reshape",
                    "BatchNormalization",
                    "Slice",
                    "ReduceMean",
                ]
            )
        )
        before, (channels, length) = data.draw(st.sampled_from(values[-3:]))
        others = [name for name, sizes in values if sizes == (channels, length)]
        after, inputs, attributes = (channels, length), [before], {}
        if kind in ("Add", "Mul", "Sub"):
            other = data.draw(st.sampled_from([*others, "channel", "number", "all"]))
            made = {"channel": (channels, 1), "number": (), "all": (1, channels, length)}
            inputs.append(constant(*made[other]) if other in made else other)
            inputs = inputs if data.draw(st.booleans()) else inputs[::-1]
        elif kind == "Conv":
            out, pads = (
                data.draw(st.integers(1, 3)),
                data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
            )
            inputs.append(constant(out, channels, 2))
            attributes = {"pads": list(pads)}
            after = (out, length + sum(pads) - 1)
        elif kind == "MatMul":
            inputs.append(constant(length, 4))
            after = (channels, 4)
        elif kind == "Transpose":
            attributes, after = {"perm": [0, 2, 1]}, (length, channels)
        elif kind == "AveragePool":
            attributes = {
                "kernel_shape": [2],
                "pads": [0, 1],
                "count_include_pad": data.draw(st.integers(0, 1)),
            }
        elif kind == "Concat":
            inputs.append(data.draw(st.sampled_from(others)))
            attributes, after = {"axis": 1}, (2 * channels, length)
        elif kind == "Softmax":
            attributes = {"axis": data.draw(st.sampled_from([1, 2, -1]))}
        elif kind == "Reshape":
            constants[f"s{step}"] = np.array(
                [0, 1, channels * length] if step % 2 else [-1, channels * length, 1]
            )
            inputs.append(f"s{step}")
            after = tuple(constants[f"s{step}"][1:].tolist())
        elif kind == "BatchNormalization":
            inputs += [constant(channels) for _ in range(4)]
            constants[inputs[-1]] = constants[inputs[-1]] ** 2 + 0.1
        elif kind == "Slice":
            constants |= {f"a{step}": np.array([0, 0]), f"b{step}": np.array([channels, length])}
            constants[f"d{step}"] = np.array([1, 2])
            inputs += [f"a{step}", f"b{step}", f"d{step}"]
        elif kind == "ReduceMean":
            constants[f"m{step}"] = np.array([2])
            inputs.append(f"m{step}")
            after = (channels, 1)
        if min(after) < 1 or (kind == "AveragePool" and length < 2):
            continue
        nodes.append(node(kind, *inputs, out=f"v{step}", **attributes))
        values.append((f"v{step}", after))
    nodes.append(node("Identity", values[-1][0]))
    exported_for = data.draw(st.sampled_from(["n", 2]))
    network = matches(net(nodes, (exported_for, *shape), constants), shape, 2)
    x = random(5, *shape)
    with torch.no_grad():
        rows = np.concatenate([run(network, x[i : i + 1]) for i in range(5)])
    close(run(network, x), rows)
    copy.deepcopy(network)


# --- files -------------------------------------------------------------------------------------------


def linear() -> onnx.ModelProto:
    return net([node("Gemm", "x", "w", "b")], constants={"w": random(4, 300), "b": random(300)})


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file(tmp_path, kind):
    onnx.save(linear(), tmp_path / "net.onnx")
    x = random(3, 4)
    close(run(securedl.from_onnx(kind(tmp_path / "net.onnx")), x), run(securedl.from_onnx(linear()), x))


def beside(folder: Path, **changes: str) -> Path:
    """A model whose weights are in another file."""
    onnx.save(linear(), folder / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(folder / "net.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = changes.get(entry.key, entry.value)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return folder / "net.onnx"


def test_weights_beside_the_file(tmp_path):
    x = random(3, 4)
    close(run(securedl.from_onnx(beside(tmp_path)), x), run(securedl.from_onnx(linear()), x))
    refused(
        onnx.load(beside(tmp_path), load_external_data=False),
        "is in another file: give the path of the model",
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"location": "/etc/passwd"},
        {"location": "../w.bin"},
        {"location": "gone.bin"},
        {"location": ""},
        {"offset": "-8"},
        {"offset": "99999999"},
        {"length": "8"},
        {"length": "99999999999"},
        {"length": "-1"},
        {"length": "many"},
    ],
    ids=str,
)
def test_weights_elsewhere(tmp_path, changes):
    (tmp_path / "folder").mkdir()
    path = beside(tmp_path / "folder", **changes)
    (tmp_path / "w.bin").write_bytes((path.parent / "w.bin").read_bytes())
    refused(path, "the constant w of the ONNX network cannot be read")


def test_a_link_to_weights_elsewhere(tmp_path):
    (tmp_path / "folder").mkdir()
    path = beside(tmp_path / "folder")
    (tmp_path / "folder/w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "folder/w.bin").symlink_to(tmp_path / "w.bin")
    refused(path, "the constant w of the ONNX network cannot be read")


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "gone.onnx", "is no file")
    refused(tmp_path, "is no file")
    refused("/dev/zero", "is no file")
    refused("a\0b", "text with a zero character")
    refused(3, "from_onnx takes the path of a file, got an int")
    refused(nn.Linear(2, 3), "from_onnx takes the path of a file, got a Linear")
    for data in (b"", b"hello", bytes(100), b"\x08\x07" * 50, pickle.dumps(3)):
        (tmp_path / "net.onnx").write_bytes(data)
        refused(tmp_path / "net.onnx", "is no ONNX file")


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    onnx.save(linear(), tmp_path / "net.onnx")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    refused(tmp_path / "net.onnx", "bytes, and an ONNX file at most 1000")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused("net.onnx", "pip install 'securedl[onnx]'")


def test_nothing_is_loaded_before_it_is_needed():
    import subprocess

    code = "import sys, securedl; securedl.from_onnx; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files(tmp_path_factory, data):
    """Bytes changed, cut or put in: refused in a sentence, or still a network."""
    make, shape = NETWORKS[data.draw(st.sampled_from(["convolution", "residual"]))]
    whole = _SMALL.setdefault(shape, exported(seeded(make), 1, *shape).SerializeToString())
    raw = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        what = data.draw(st.sampled_from(["byte", "cut", "put", "gone"]))
        if what == "byte":
            raw[place] = data.draw(st.integers(0, 255))
        elif what == "cut" and place > 10:
            del raw[place:]
        elif what == "put":
            raw[place:place] = data.draw(st.binary(max_size=4))
        else:
            del raw[place : place + data.draw(st.integers(0, 8))]
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(raw)
    with contextlib.suppress(InputError):
        securedl.from_onnx(path)


_SMALL: dict[tuple[int, ...], bytes] = {}


# --- what is refused ---------------------------------------------------------------------------------


class TestRefusals:
    def test_all_operators_without_a_counterpart_are_listed(self):
        nodes = [
            node("TopK", "x", "k", out=["a", "i"]),
            node("Relu", "a", out="b"),
            node("Hardmax", "b", out="c"),
            node("LRN", "c", size=3),
        ]
        text = refused(
            net(nodes, constants={"k": np.array([2])}), "3 operator(s)", "Supported are Abs, Acos,"
        )
        for line in ("  TopK, the_TopK", "  Hardmax, the_Hardmax", "  LRN, the_LRN"):
            assert line in text.splitlines()

    def test_a_long_list_is_cut(self):
        nodes = [node("Hardmax", f"v{i}", out=f"v{i + 1}") for i in range(50)]
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
        assert len(refused(net(nodes), "50 operator(s)", "... and 30 more").splitlines()) < 25

    def test_operators_of_other_domains(self):
        model = net([helper.make_node("Scaler", ["x"], ["y"], name="s", domain="ai.onnx.ml")])
        refused(model, "ai.onnx.ml.Scaler, s", "call securedl.from_sklearn on the estimator")
        model = net([helper.make_node("Gemm", ["x"], ["y"], name="s", domain="com.other")])
        refused(model, "com.other.Gemm, s")

    def test_a_quantised_network(self):
        nodes = [node("QuantizeLinear", "x", "s", "z", out="q"), node("DequantizeLinear", "q", "s", "z")]
        constants = {"s": np.float64(0.1), "z": np.int8(0)}
        refused(
            net(nodes, constants=constants), "QuantizeLinear, the", "is quantised: export the float network"
        )

    @pytest.mark.parametrize("opset", [1, 7, 8])
    def test_old_opsets(self, opset):
        refused(net([node("Relu", "x")], opset=opset), f"of opset {opset}, and those from 9 to ")

    def test_an_opset_of_the_future(self):
        refused(
            net([node("Relu", "x")], opset=9999), "of opset 9999, and those from 9 to", "upgrade the package"
        )

    def test_several_inputs_or_outputs(self):
        model = net([node("Add", "x", "z")])
        model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, ["n", 4]))
        refused(model, "needs one input of fractional numbers, and this one has x, z")
        model = net([node("Relu", "x"), node("Abs", "x", out="z")])
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.DOUBLE, None))
        refused(model, "needs one output of fractional numbers, and this one has y, z")

    def test_inputs_that_are_whole_numbers(self):
        model = net([node("Cast", "x", to=TensorProto.DOUBLE)])
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
        refused(model, "needs one input of fractional numbers")

    def test_an_input_without_samples(self):
        refused(net([node("Relu", "x")], (4,)), "leaves the shape of a sample open")
        refused(net([node("Relu", "x")], ()), "leaves the shape of a sample open")

    @pytest.mark.parametrize(
        ("nodes", "shape", "constants", "words"),
        [
            ([node("ReduceMean", "x", "a")], ("n", 4), {"a": [0]}, "it mixes samples"),
            ([node("ReduceSum", "x")], ("n", 4), {}, "it mixes samples"),
            ([node("Gather", "x", "a")], ("n", 4), {"a": [0]}, "it takes some of the samples"),
            ([node("Gather", "x", "a", axis=1)], ("n", 4), {"a": [4]}, "an axis of size 4 has not"),
            ([node("Slice", "x", "a", "b")], ("n", 4), {"a": [0], "b": [2]}, "it takes some of the samples"),
            ([node("Pad", "x", "a")], ("n", 4), {"a": [1, 0, 0, 0]}, "it pads the samples"),
            ([node("Split", "x", "a", out=["y"])], ("n", 4), {"a": [4]}, "do not make [samples]"),
            ([node("Flatten", "x", axis=0)], ("n", 4), {}, "does not have the samples first"),
            ([node("Reshape", "x", "a")], ("n", 4), {"a": [1, -1]}, "does not have the samples first"),
            ([node("Reshape", "x", "a")], ("n", 4), {"a": [0, 5]}, "the_Reshape (Reshape)"),
            ([node("Reshape", "x", "a")], ("n", 4), {"a": [0, 0, 0]}, "copies a size"),
            ([node("Reshape", "x", "a")], ("n", 4), {"a": [-1, -1]}, "the_Reshape (Reshape)"),
            ([node("Transpose", "x")], ("n", 4), {}, "does not have the samples first"),
            ([node("Identity", "c")], ("n", 4), {"c": [1.0]}, "does not depend on its samples"),
            ([node("Conv", "x", "x")], ("n", 2, 4, 4), {}, "input 1 depends on the samples"),
            ([node("MatMul", "x", "c")], ("n", 4), {"c": np.zeros((3, 2))}, "the_MatMul (MatMul)"),
            ([node("Conv", "x", "c")], ("n", 2, 4, 4), {"c": np.zeros((1, 2, 9, 9))}, "the_Conv (Conv)"),
            (
                [node("Conv", "x", "c")],
                ("n", 2, 4, 4, 4, 4),
                {"c": np.zeros((1, 2, 1, 1, 1, 1))},
                "with 3 to 5 axes",
            ),
            (
                [node("Conv", "x", "c", strides=[0, 1])],
                ("n", 1, 4, 4),
                {"c": np.zeros((1, 1, 1, 1))},
                "1 or more",
            ),
            (
                [node("Conv", "x", "c", strides=[1])],
                ("n", 1, 4, 4),
                {"c": np.zeros((1, 1, 1, 1))},
                "1 for 2 axes",
            ),
            (
                [node("Conv", "x", "c", pads=[-1, 0, 0, 0])],
                ("n", 1, 4, 4),
                {"c": np.zeros((1, 1, 1, 1))},
                "its pads",
            ),
            (
                [node("Conv", "x", "c", kernel_shape=[2, 2])],
                ("n", 1, 4, 4),
                {"c": np.zeros((1, 1, 1, 1))},
                "its kernel",
            ),
            (
                [node("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1])],
                ("n", 1, 4, 4),
                {},
                "pads of a maximum",
            ),
            (
                [node("Cast", "x", to=TensorProto.INT64, out="t"), node("Cast", "t", to=TensorProto.DOUBLE)],
                ("n", 4),
                {},
                "casts of samples",
            ),
            (
                [node("ConstantOfShape", "a", out="c"), node("Add", "x", "c")],
                ("n", 4),
                {"a": [2**40, 2**20]},
                "constants would be computed",
            ),
            ([node("Pad", "x", "a")], ("n", 4), {"a": [0, 2**40, 0, 0]}, "numbers a sample"),
            ([node("Unsqueeze", "x", "a")], ("n", 4), {"a": list(range(2, 3000))}, "2998 sizes or axes"),
            (
                [node("Slice", "x", "a", "b", "c", "d")],
                ("n", 2**21),
                {"a": [-1], "b": [-(2**62)], "c": [1], "d": [-1]},
                "2097152 places of an axis",
            ),
        ],
    )
    def test_what_cannot_be_converted(self, nodes, shape, constants, words):
        constants = {name: np.array(value) for name, value in constants.items()}
        assert "\n" not in refused(net(nodes, shape, constants), words)

    @pytest.mark.parametrize("size", [2**62, 2**40, onnx_values.SAMPLES])
    def test_samples_that_are_too_large(self, size):
        model = net([node("Relu", "x")], ("n", size))
        with pytest.raises(InputError, match="which is too large"):
            securedl.from_onnx(model)

    def test_a_batch_norm_in_training(self):
        constants = dict.fromkeys(("s", "t", "m", "v"), np.ones(4))
        model = net(
            [node("BatchNormalization", "x", *constants, training_mode=1, out=["y", "a", "b"])],
            constants=constants,
        )
        refused(model, "call model.eval() before exporting")

    @pytest.mark.parametrize("kind", [TensorProto.COMPLEX64, TensorProto.STRING, TensorProto.FLOAT8E4M3FN])
    def test_constants_of_other_kinds(self, kind):
        model = net([node("Add", "x", "c")])
        model.graph.initializer.append(TensorProto(name="c", data_type=kind, dims=[1]))
        refused(model)

    def test_constants_that_are_too_many(self, monkeypatch):
        model = net([node("Add", "x", "c")])
        model.graph.initializer.append(
            TensorProto(name="c", data_type=TensorProto.DOUBLE, dims=[2**31, 2**31])
        )
        refused(model, f"{2**62} numbers, and at most")
        model.graph.initializer[0].dims[:] = [-1]
        refused(model, "has a negative size")
        model.graph.initializer[0].dims[:] = [2**20]
        refused(model)
        monkeypatch.setattr(onnx_file, "MAX_NODES", 0)
        refused(model, "has 1 operators, and at most 0")

    def test_one_constant_again_and_again(self, monkeypatch):
        nodes = [node("ReduceSum", "w", out=f"s{i}", keepdims=0) for i in range(50)]
        nodes.append(node("Sum", "x", *(f"s{i}" for i in range(50))))
        matches(net(nodes, constants={"w": random(100)}), (4,))
        monkeypatch.setattr(onnx_build, "MAX_FOLDED", 3000)
        refused(net(nodes, constants={"w": random(100)}), "constants would be computed from more than 3000")

    def test_one_weight_in_many_layers(self, monkeypatch):
        nodes = [node("Gemm", f"v{k}", "w", out=f"v{k + 1}") for k in range(50)]
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
        monkeypatch.setattr(onnx_build, "MAX_FOLDED", 500)
        refused(net(nodes, constants={"w": random(4, 4)}), "constants would be computed from more than 500")

    def test_sparse_constants(self):
        model = linear()
        model.graph.sparse_initializer.append(onnx.SparseTensorProto())
        refused(model, "has sparse constants")

    def test_values_that_nothing_gives(self):
        refused(net([node("Add", "x", "gone")]), "gone")
        refused(net([node("Relu", "y", out="z"), node("Relu", "z")]), "breaks the rules of ONNX")

    def test_names_that_are_wicked(self):
        model = net([node("Hardmax", "x")])
        model.graph.node[0].name = "a\nb\x1b[2J" * 50
        text = refused(model, "1 operator(s)")
        assert all(len(line) < 110 for line in text.splitlines()[:2])
        assert "\x1b" not in text


def test_every_operator_is_tested():
    assert callable(securedl.from_onnx)  # operators register when it loads
    text = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*onnx*.py"))
    assert len(OPERATORS) > 55
    assert [name for name in OPERATORS if f'"{name}"' not in text] == []
