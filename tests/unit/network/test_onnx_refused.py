"""Operators of ONNX without an encrypted form: refused with the reason and what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import defs, helper

from securedl.network.onnx_build import OPERATORS
from securedl.network.onnx_refused import _REASONS

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import net, node, refused  # found by path, not by package

OWN = {one.name for one in defs.get_all_schemas_with_history() if one.domain == ""}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("LayerNormalization", "use BatchNorm, whose statistics are constants"),
        ("InstanceNormalization", "use BatchNorm"),
        ("GroupNormalization", "use BatchNorm"),
        ("RMSNormalization", "use BatchNorm"),
        ("LRN", "use BatchNorm"),
        ("MeanVarianceNormalization", "use BatchNorm"),
        ("LpNormalization", "use BatchNorm"),
        ("LSTM", "a recurrent layer runs on its own answers, step by step; use convolutions"),
        ("GRU", "a recurrent layer"),
        ("RNN", "a recurrent layer"),
        ("Attention", "attention needs a softmax of products of two values; use convolutions"),
        ("ArgMax", "leave it to the client, who has the logits"),
        ("TopK", "leave it to the client"),
        ("GridSample", "which an encrypted one does not show"),
        ("ScatterND", "export with Gather, Slice and Concat"),
        ("If", "export without loops and branches on data"),
        ("Loop", "export without loops"),
        ("RandomNormalLike", "after model.eval()"),
        ("DFT", "as a product with constant matrices"),
        ("SequenceConstruct", "export with tensors alone"),
        ("StringNormalizer", "Export the network without them"),
        ("QuantizeLinear", "The network is quantised: export the float network"),
        ("DequantizeLinear", "export the float network"),
        ("DynamicQuantizeLinear", "export the float network"),
        ("QLinearConv", "export the float network"),
        ("QLinearMatMul", "export the float network"),
        ("MatMulInteger", "export the float network"),
        ("ConvInteger", "export the float network"),
    ],
)
def test_the_reason(kind, words):
    """Told before anything else about the file is checked."""
    text = refused(net([node(kind, "x")]), "1 operator(s)", words)
    assert f"  {kind}, the_{kind}" in text.splitlines()


def test_each_reason_once():
    nodes = [node("LSTM", "x", out="a"), node("GRU", "a", out="b"), node("LSTM", "b", out="c")]
    nodes += [node("LayerNormalization", "c", out="d"), node("StringNormalizer", "d")]
    text = refused(
        net(nodes), "5 operator(s)", "\nLSTM, GRU: a recurrent", "\nLayerNormalization: normalises"
    )
    assert text.count("a recurrent layer") == 1
    assert "\nExport the network without them.\n" in text


def test_what_onnx_runtime_made():
    model = net([helper.make_node("FusedConv", ["x"], ["y"], name="s", domain="com.microsoft")])
    refused(model, "com.microsoft.FusedConv, s", "give the one that was exported")
    model = net([helper.make_node("QLinearAdd", ["x"], ["y"], name="s", domain="com.microsoft")])
    refused(model, "export the float network")


def test_a_long_list_of_reasons_is_cut():
    kinds = ["k" * 50 + str(number) for number in range(200)]
    nodes = [node(kind, f"v{k}", out=f"v{k + 1}") for k, kind in enumerate(kinds)]
    nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    assert max(map(len, refused(net(nodes), "200 operator(s)").splitlines()[:-1])) < 200


def test_reasons_are_for_operators_that_there_are():
    assert not set(_REASONS) & set(OPERATORS)
    other = {"MultiHeadAttention", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
    assert set(_REASONS) - OWN <= other | {
        "TensorScatter",
        "RotaryEmbedding",
        "RMSNormalization",
        "Attention",
    }


def test_all_operators_are_onnx_own():
    assert set(OPERATORS) - OWN <= {"Swish"}


def test_a_reason_for_constants_too():
    nodes = [node("LayerNormalization", "w", "s", out="n"), node("Add", "x", "n")]
    refused(net(nodes, constants={"w": np.ones((1, 4)), "s": np.ones(4)}), "use BatchNorm")
