"""Operators of ONNX that nothing is made of: why not, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from securedl.errors import InputError
from securedl.network.onnx_build import OPERATORS
from securedl.network.onnx_file import name_of
from securedl.network.operations import REMEDIES

if TYPE_CHECKING:
    from onnx import NodeProto

#: Names of the domain of ONNX's own operators.
STANDARD = ("", "ai.onnx")
#: A list of problems is no longer.
LISTED = 20

_STATISTICS = REMEDIES["layer_norm"]
_RECURRENT = REMEDIES["lstm"]
_ATTENTION = f"{REMEDIES['scaled_dot_product_attention']}; use convolutions, or constant weights over places"
_COMPARISON = REMEDIES["topk"]
_QUANTISED = "The network is quantised: export the float network"
_PLACES = "it takes values from places that the sample tells, which an encrypted one does not show"
_ONE_BY_ONE = "places are named one by one; export with Gather, Slice and Concat, which take whole axes"
_BRANCH = "it decides by values while it runs; export without loops and branches on data"
_RANDOM = "two answers would differ; export in evaluation mode, after model.eval()"
_SPECTRUM = "complex numbers; write a real transform as a product with constant matrices"
_SEQUENCE = "lists of values are not supported; export with tensors alone"

#: By the operator's name.
_REASONS = {
    **dict.fromkeys(
        (
            "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "LpNormalization",
            "MeanVarianceNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
            "SkipLayerNormalization",
        ),
        _STATISTICS,
    ),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _RECURRENT),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "RotaryEmbedding"), _ATTENTION),
    **dict.fromkeys(
        ("ArgMax", "ArgMin", "Hardmax", "NonMaxSuppression", "NonZero", "TopK", "Unique"), _COMPARISON
    ),
    **dict.fromkeys(
        ("DeformConv", "GridSample", "MaxRoiPool", "MaxUnpool", "ReverseSequence", "RoiAlign"), _PLACES
    ),
    **dict.fromkeys(
        ("GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "TensorScatter"),
        _ONE_BY_ONE,
    ),
    **dict.fromkeys(("If", "Loop", "Scan"), _BRANCH),
    **dict.fromkeys(
        (
            "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
            "RandomUniformLike",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(("DFT", "STFT"), _SPECTRUM),
    **dict.fromkeys(
        (
            "ConcatFromSequence", "Optional", "OptionalGetElement", "SequenceAt", "SequenceConstruct",
            "SplitToSequence",
        ),
        _SEQUENCE,
    ),
}  # fmt: skip


def refuse_unknown(nodes: Sequence[NodeProto]) -> None:
    """Refuse a network with operators that have no counterpart.

    Raises:
        InputError: names all of them, with a reason and a remedy for each kind.
    """
    unknown = [n for n in nodes if n.op_type not in OPERATORS or n.domain not in STANDARD]
    if not unknown:
        return
    lines = [f"{_kind(node)}, {name_of(node.name) or 'unnamed'}" for node in unknown]
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    kinds: dict[str, list[str]] = {}
    for node in unknown:
        same = kinds.setdefault(_advice(node), [])
        if node.op_type not in same and len(same) < LISTED:
            same.append(node.op_type)
    advice = [
        sentence if sentence[0].isupper() else f"{name_of(', '.join(names))}: {sentence}"
        for sentence, names in kinds.items()
    ]
    raise InputError(
        f"{len(lines)} operator(s) of the ONNX network are not supported (operator, name):\n  "
        + "\n  ".join(lines[:LISTED] + more)
        + "\n"
        + ".\n".join(advice)
        + f".\nSupported are {', '.join(sorted(OPERATORS))}"
    )


def _kind(node: NodeProto) -> str:
    return name_of(".".join(filter(None, (node.domain, node.op_type))))


def _advice(node: NodeProto) -> str:
    """What to do; begins with a small letter where it is a reason why an operator has no encrypted form."""
    kind, domain = node.op_type, node.domain
    if "quantize" in kind.lower() or "Integer" in kind or kind.startswith("QLinear"):
        return _QUANTISED
    if domain.startswith("ai.onnx.ml"):
        return "A model of scikit-learn: call securedl.from_sklearn on the estimator"
    if kind in _REASONS:
        return _REASONS[kind]
    if domain == "com.microsoft":
        return "The file was optimised by ONNX Runtime: give the one that was exported"
    return "Export the network without them"
