"""Sums, means, norms and extremes of ONNX networks, against onnx's evaluator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import matches, net, node, random, refused  # found by path, not by package

KINDS = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip


def reduction(kind, axes, opset, inputs="x", constants=None, out="y", **options):
    """One network. axes: in the form of its opset."""
    as_input = opset >= (13 if kind == "ReduceSum" else 18)
    constants = dict(constants or {})
    if axes is not None and as_input:
        constants["a"] = np.array(axes)
    elif axes is not None:
        options["axes"] = axes
    names = [inputs, *(["a"] if "a" in constants else [])]
    return [node(kind, *names, out=out, **options)], constants


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_of_samples(kind, keep, opset):
    for axes in ([2, -1], [1], [1, 2, 3]):
        nodes, constants = reduction(kind, axes, opset, keepdims=keep)
        matches(net(nodes, ("n", 2, 3, 4), constants, opset), (2, 3, 4), low=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 1]])
@pytest.mark.parametrize("keep", [0, 1])
def test_of_constants(kind, axes, keep):
    weights = {"w": np.abs(random(3, 4)) + 0.1}
    nodes, constants = reduction(kind, axes, 18, "w", weights, out="r", keepdims=keep)
    if keep:
        nodes.append(node("Mul", "x", "r"))
    else:
        nodes += [node("ReduceSum", "r", out="s", keepdims=0), node("Mul", "x", "s")]
    network = matches(net(nodes, ("n", 3, 4), constants), (3, 4))
    assert len([one for one in network.graph.nodes if one.op.startswith("call")]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_of_nothing(kind):
    matches(net([node(kind, "x", noop_with_empty_axes=1)]), (4,), low=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [None, [0], [0, 1]])
def test_across_samples(kind, axes):
    nodes, constants = reduction(kind, axes, 18)
    refused(net(nodes, constants=constants), "it mixes samples")


def test_axes_that_are_not_there():
    nodes, constants = reduction("ReduceMax", [5], 18)
    refused(net(nodes, constants=constants), "it has axes [5] of a value with 2")
    nodes, constants = reduction("ReduceProd", [1], 18)
    nodes[0].input[1] = "x"
    refused(net(nodes, constants=constants), "input 1 depends on the samples")
