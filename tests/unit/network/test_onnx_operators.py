"""Functions, choices, shapes and products of ONNX networks, against onnx's evaluator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import securedl
from securedl.network import onnx_build, onnx_values
from securedl.network.from_torch import import_torch

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import close, kinds, matches, net, node, random, refused, run  # found by path, not by package

# --- number by number --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["Asinh", "Atan", "Ceil", "Cos", "Cosh", "Floor", "Round", "Sign", "Sin", "Sinh", "Tan"],
)
def test_functions(kind):
    matches(net([node("Mul", "x", "c", out="m"), node(kind, "m")], constants={"c": np.float64(2)}), (4,))
    nodes = [node(kind, "w", out="v"), node("Add", "x", "v")]
    assert kinds(matches(net(nodes, constants={"w": random(4)}), (4,))) == ["add"]


@pytest.mark.parametrize("kind", ["Acos", "Asin", "Atanh"])
def test_functions_inside_one(kind):
    matches(net([node("Tanh", "x", out="t"), node(kind, "t")]), (4,))


def test_functions_above_one():
    matches(net([node("Acosh", "x")]), (4,), low=1.0)


def test_halves_are_rounded_to_even():
    x = np.array([[-1.5, -0.5, 0.5, 2.5]])
    close(run(securedl.from_onnx(net([node("Round", "x")])), x), [[-2, 0, 0, 2]])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ThresholdedRelu", {}),
        ("ThresholdedRelu", {"alpha": 0.3}),
        ("Shrink", {}),
        ("Shrink", {"lambd": 0.3, "bias": 0.3}),
    ],
)
def test_functions_with_options(kind, options):
    matches(net([node(kind, "x", **options)]), (4,), tolerance=1e-6)


@pytest.mark.parametrize("inputs", [("x", "c"), ("c", "x"), ("x", "d"), ("d", "x")])
def test_remainders(inputs):
    constants = {"c": np.float64(0.7), "d": random(4) + 2}
    matches(net([node("Mod", *inputs, fmod=1)], constants=constants), (4,))


@pytest.mark.parametrize("kind", ["Max", "Min", "Mean", "Sum"])
@pytest.mark.parametrize(
    "inputs", [("x",), ("x", "c"), ("c", "x"), ("x", "d", "z"), ("d", "c", "x"), ("x", "e"), ("z", "x")]
)
def test_of_several(kind, inputs):
    constants = {"c": random(4), "d": np.float64(0.2), "e": np.float64([[0.1]]), "z": np.float64(0)}
    model = net([node(kind, *inputs)], constants=constants)
    if kind == "Mean":  # which onnx's evaluator adds up in the first value's shape
        x = random(3, 4)
        want = sum(x if name == "x" else constants[name] for name in inputs) / len(inputs)
        close(run(securedl.from_onnx(model), x), want)
        return
    network = matches(model, (4,))
    if (kind, inputs) == ("Max", ("z", "x")):
        assert kinds(network) == ["ReLU"]


def test_of_constants_alone():
    nodes = [
        node("Max", "a", "b", out="m"),
        node("Min", "m", "c", out="n"),
        node("Clip", "n", "low", "high", out="k"),
        node("Add", "x", "k"),
    ]
    constants = {"a": random(4), "b": random(4, seed=1), "c": random(4, seed=2)}
    constants |= {"low": np.float64(-0.1), "high": np.float64(0.5)}
    assert kinds(matches(net(nodes, constants=constants), (4,))) == ["add"]


# --- comparisons and choices -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("inputs", [("x", "c"), ("x", "d"), ("d", "x"), ("c", "d")])
def test_comparisons(kind, inputs):
    constants = {"c": np.array([0.2, 0.5, -1, 0.5]), "d": np.float64(0.5), "e": random(4)}
    nodes = [node(kind, *inputs, out="k"), node("Where", "k", "x", "e")]
    matches(net(nodes, constants=constants), (4,))
    nodes[1:] = [node("Cast", "k", out="f", to=TensorProto.DOUBLE), node("Mul", "x", "f")]
    matches(net(nodes, constants=constants), (4,))


@pytest.mark.parametrize("kind", ["And", "Or", "Xor"])
@pytest.mark.parametrize("second", ["c", "x", "t"])
def test_logic(kind, second):
    constants = {"c": random(4), "z": np.float64(0), "t": np.array(True), "two": np.float64(2)}
    nodes = [
        node("Greater", "x", "z", out="a"),
        node("Less", second, "two", out="b") if second != "t" else node("Identity", "t", out="b"),
        node(kind, "a", "b", out="k"),
        node("Not", "k", out="l"),
        node("Where", "l", "x", "z"),
    ]
    matches(net(nodes, constants=constants), (4,))


@pytest.mark.parametrize("mask", [True, False, [True], [True, False, False, True], [[False]]])
def test_choices_by_constants(mask):
    constants = {"m": np.array(mask), "c": np.float64(0.1), "d": np.float64(0.7)}
    matches(net([node("Where", "m", "x", "c")], constants=constants), (4,))
    nodes = [node("Not", "m", out="l"), node("Where", "l", "d", "c", out="w"), node("Mul", "w", "x")]
    matches(net(nodes, constants=constants), (4,))


def test_choices_between_numbers():
    """In the network's own precision."""
    constants = {"c": np.float64(0.1), "d": np.float64(0.7), "z": np.float64(0)}
    nodes = [node("Greater", "x", "z", out="k"), node("Where", "k", "c", "d", out="w"), node("Mul", "w", "x")]
    matches(net(nodes, constants=constants), (4,))


def test_what_is_no_number():
    nodes = [node("IsNaN", "x", out="k"), node("Where", "k", "z", "x")]
    network = securedl.from_onnx(net(nodes, constants={"z": np.float64(0)}))
    close(run(network, np.array([[np.nan, 1, np.nan, 2]])), [[0, 1, 0, 2]])


# --- constants that are made -------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(0, 4, 1), (3, -1, -1), (0.5, 2.3, 0.5), (4, 0, 1)])
def test_range(numbers):
    kind = np.int64 if all(isinstance(n, int) for n in numbers) else np.float64
    constants = dict(zip("abd", map(kind, numbers), strict=True))
    nodes = [
        node("Range", *constants, out="r"),
        node("Cast", "r", out="f", to=TensorProto.DOUBLE),
        node("ReduceSum", "f", out="s", keepdims=0),
        node("Add", "x", "s"),
    ]
    matches(net(nodes, constants=constants), (4,))


def test_size():
    nodes = [node("Size", "w", out="s"), node("Cast", "s", out="f", to=TensorProto.DOUBLE)]
    matches(net([*nodes, node("Mul", "x", "f")], constants={"w": random(3, 4)}), (4,))
    nodes = [
        node("Size", "x", out="s"),
        node("Unsqueeze", "s", "z", out="u"),
        node("Reshape", "x", "u", out="r"),
    ]
    nodes += [node("Reshape", "r", "back")]
    constants = {"z": np.array([0]), "back": np.array([-1, 12])}
    matches(net(nodes, ("n", 3, 4), constants), (3, 4))


@pytest.mark.parametrize("target", [[1, 3, 4], [2, 1, 3, 4], [4], [1, 1]])
def test_expand_constants(target):
    constants = {"w": random(1, 4), "t": np.array(target), "to": np.array([3, 4])}
    nodes = [node("Expand", "w", "t", out="e"), node("ReduceSum", "e", out="s", keepdims=0)]
    matches(net([*nodes, node("Mul", "x", "s")], constants=constants), (4,))


@pytest.mark.parametrize("target", [[1, 3, 4], [1, 1, 4], [4], [3, 1], [2, 3, 4]])
def test_expand_samples(target):
    exported_for = 2 if target[0] == 2 else "n"
    model = net([node("Expand", "x", "t")], (exported_for, 3, 1), {"t": np.array(target)})
    matches(model, (3, 1), 2 if target[0] == 2 else 5)
    if target[0] == 2:
        x = random(5, 3, 1)
        close(run(securedl.from_onnx(model), x), np.broadcast_to(x, (5, 3, 4)))


@pytest.mark.parametrize("times", [[1, 2], [2, 1], [2, 3]])
def test_tile(times):
    constants = {"w": random(2, 2), "t": np.array(times), "s": np.array([1, *times])}
    matches(net([node("Tile", "x", "s")], ("n", 2, 2), constants), (2, 2))
    nodes = [node("Tile", "w", "t", out="v"), node("ReduceSum", "v", out="r", keepdims=0)]
    matches(net([*nodes, node("Mul", "x", "r")], ("n", 2, 2), constants), (2, 2))


# --- constants for each sample -----------------------------------------------------------------------


def padded_channels() -> onnx.ModelProto:
    """Channels of zeros behind, as torch.zeros(len(x), ...) and torch.cat export."""
    constants = {"i": np.array([0]), "rest": np.array([2, 3])}
    nodes = [
        node("Shape", "x", out="s"),
        node("Gather", "s", "i", out="n"),
        node("Concat", "n", "rest", out="t", axis=0),
        node("ConstantOfShape", "t", out="z"),
        node("Cast", "z", out="d", to=TensorProto.DOUBLE),
        node("Concat", "x", "d", axis=1),
    ]
    return net(nodes, ("n", 4, 3), constants)


def test_zeros_for_each_sample():
    network = matches(padded_channels(), (4, 3))
    x = torch.as_tensor(random(5, 4, 3))
    program = torch.export.export(network, (x[:3],), dynamic_shapes=({0: torch.export.Dim("samples")},))
    close(run(program.module(), x), run(network, x))
    graph = import_torch(network, (4, 3)).graph
    np.testing.assert_allclose(graph(x.numpy()).reshape(5, 6, 3), run(network, x), atol=1e-12)


def test_a_constant_for_each_sample():
    """As torch's expand(len(x), -1, -1) exports: by sizes that are chosen."""
    constants = {
        "w": random(1, 2, 3),
        "i": np.array([0]),
        "rest": np.array([-1, -1]),
        "m": np.array([-1] * 3),
    }
    nodes = [
        node("Shape", "x", out="s"),
        node("Gather", "s", "i", out="n"),
        node("Concat", "n", "rest", out="t", axis=0),
        node("Shape", "t", out="k"),
        node("ConstantOfShape", "k", out="zero"),
        node("Cast", "zero", out="whole", to=TensorProto.INT64),
        node("Sub", "whole", "m", out="ones"),
        node("Equal", "t", "m", out="free"),
        node("Where", "free", "ones", "t", out="sizes"),
        node("Expand", "w", "sizes", out="e"),
        node("Concat", "x", "e", axis=1),
    ]
    matches(net(nodes, ("n", 4, 3), constants), (4, 3))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "nn", out="c"), node("MatMul", "c", "x")],
        [node("ConstantOfShape", "4n", out="c"), node("MatMul", "x", "c")],
        [node("Expand", "w", "nn", out="c"), node("Add", "x", "c")],
        [node("Equal", "n", "one", out="e"), node("Where", "e", "w", "x")],
        [node("Cast", "n", out="f", to=TensorProto.DOUBLE), node("Mul", "x", "f")],
        [node("Cast", "n", out="f", to=TensorProto.DOUBLE), node("Add", "x", "f")],
        [node("Range", "zero", "n0", "one0", out="r"), node("Gather", "x", "r")],
        [node("Max", "n", "one", out="m"), node("Expand", "x", "m")],
        [node("Tile", "w", "nn", out="t"), node("Add", "x", "t")],
        [node("ReduceSum", "nn", out="s"), node("Expand", "x", "s")],
    ],
)
def test_the_number_of_samples_is_kept_apart(nodes):
    start = [
        node("Shape", "x", out="n", end=1),
        node("Concat", "n", "n", out="nn", axis=0),
        node("Concat", "four", "n", out="4n", axis=0),
        node("Squeeze", "n", out="n0"),
    ]
    constants = {"w": random(1, 4), "one": np.array([1]), "four": np.array([4]), "zero": np.array(0)}
    model = net([*start, *nodes], constants=constants | {"one0": np.array(1)})
    assert "cannot be converted" in refused(model)


# --- shapes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [1, 2])
def test_depth_to_space(mode, block):
    model = net([node("DepthToSpace", "x", blocksize=block, mode=mode)], ("n", 8, 2, 3))
    matches(model, (8, 2, 3))
    graph = import_torch(securedl.from_onnx(model), (8, 2, 3)).graph
    x = random(2, 8, 2, 3)
    np.testing.assert_allclose(graph(x).ravel(), run(securedl.from_onnx(model), x).ravel())


@pytest.mark.parametrize("block", [1, 2])
def test_space_to_depth(block):
    matches(net([node("SpaceToDepth", "x", blocksize=block)], ("n", 3, 4, 6)), (3, 4, 6))


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("k", [None, 0, 1, -1, 2**40])
def test_triangles(upper, k):
    constants = {} if k is None else {"k": np.array(k)}
    matches(net([node("Trilu", "x", *constants, upper=upper)], ("n", 3, 4), constants), (3, 4))
    nodes = [node("Trilu", "w", *constants, out="t", upper=upper), node("MatMul", "x", "t")]
    matches(net(nodes, ("n", 4), constants | {"w": random(4, 4)}), (4,))


@pytest.mark.parametrize("options", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
@pytest.mark.parametrize("axis", [1, -1])
def test_running_sums(options, axis):
    matches(net([node("CumSum", "x", "a", **options)], ("n", 3, 4), {"a": np.array(axis)}), (3, 4))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "pads", [[0, 0, 1, 1, 0, 0, 1, 2], [0, 1, 0, 0, 0, 1, 0, 0], [0, 0, 5, 0, 0, 0, 0, 7], [0] * 8]
)
def test_pads(mode, pads):
    matches(net([node("Pad", "x", "p", mode=mode)], ("n", 2, 4, 5), {"p": np.array(pads)}, 19), (2, 4, 5))
    if sum(pads) < 8:
        matches(net([node("Pad", "x", "p", mode=mode)], ("n", 4), {"p": np.array([0, 2, 0, 1])}, 19), (4,))


def test_pads_that_cut():
    for mode in ("constant", "edge"):
        network = securedl.from_onnx(
            net([node("Pad", "x", "p", mode=mode)], ("n", 2, 5), {"p": np.array([0, 0, -1, 0, 0, 1])})
        )
        found, x = run(network, random(3, 2, 5)), random(3, 2, 5)
        close(found, np.pad(x[:, :, 1:], [(0, 0), (0, 0), (0, 1)], mode))


# --- products ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equation", "shape", "weight"),
    [
        ("bi,io->bo", (4,), (4, 3)),
        ("bti,oi->bto", (3, 4), (5, 4)),
        ("btc,tu->buc", (3, 4), (3, 5)),
        ("b...i,io->b...o", (2, 3, 4), (4, 5)),
        ("bij,j", (3, 4), (4,)),
        ("bi,i->b", (1,), (1,)),
        ("bii->bi", (3, 3), None),
        ("bij->bji", (3, 4), None),
        ("b i j -> b j", (3, 4), None),
    ],
)
def test_einsum(equation, shape, weight):
    constants = {} if weight is None else {"w": random(*weight)}
    model = net([node("Einsum", "x", *constants, equation=equation)], ("n", *shape), constants)
    matches(model, shape)
    if weight is not None and "..." not in equation:
        network = securedl.from_onnx(model)
        x = random(3, *shape)
        found = import_torch(network, shape).graph(x)
        np.testing.assert_allclose(found.ravel(), run(network, x).ravel(), atol=1e-9)


def test_einsum_of_constants():
    constants = {"v": random(3, 4), "w": random(4, 5)}
    nodes = [node("Einsum", "v", "w", out="p", equation="ij,jk->ki"), node("MatMul", "x", "p")]
    assert kinds(matches(net(nodes, ("n", 5), constants), (5,))) == ["Linear"]


def test_einsum_of_two_values():
    nodes = [node("Einsum", "x", "x", equation="bqd,bkd->bqk")]
    matches(net(nodes, ("n", 3, 4)), (3, 4))


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (3, 1), (1, 1)])
def test_gemm_from_the_left(turned, bias):
    """Constants times samples."""
    constants = {"w": random(4, 3) if turned else random(3, 4)}
    names = ["w", "x", *([] if bias is None else ["c"])]
    constants |= {} if bias is None else {"c": random(*bias)}
    options = {"alpha": 0.5, "beta": 0.3, "transA": turned, "transB": 1}
    nodes = [node("Gemm", *names, out="g", **options), node("Transpose", "g", perm=[1, 0])]
    matches(net(nodes, constants=constants), (4,))


def test_products_with_one_number():
    """Also where it is no weight of the file's."""
    nodes = [
        node("Constant", out="w", value_floats=[0.5]),
        node("Add", "w", "w", out="v"),
        node("MatMul", "x", "v"),
    ]
    network = securedl.from_onnx(net(nodes, ("n", 3, 1)))
    close(run(network, random(2, 3, 1)), random(2, 3, 1)[..., 0])


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "shape", "constants", "words"),
    [
        ([node("Range", "a", "b", "c", out="r"), node("Add", "x", "r")], (4,), {"a": 0, "b": 2**50, "c": 1},
         "at most 1048576 are made"),
        ([node("Range", "a", "b", "c", out="r"), node("Add", "x", "r")], (4,), {"a": 0, "b": 5, "c": 0},
         "delta not 0"),
        ([node("Range", "a", "b", "c", out="r"), node("Add", "x", "r")], (4,),
         {"a": 0.0, "b": np.inf, "c": 1.0}, "have to be finite"),
        ([node("Range", "a", "b", "c", out="r"), node("Add", "x", "r")], (4,),
         {"a": [0, 1], "b": 5, "c": 1}, "single numbers"),
        ([node("Expand", "w", "a", out="e"), node("Add", "x", "e")], (4,),
         {"w": 1.0, "a": [2**40, 2**20]}, "constants would be computed"),
        ([node("Expand", "x", "a")], (4,), {"a": [3, 4]}, "[samples, 4] have no shape [3, 4]"),
        ([node("Expand", "x", "a")], (4,), {"a": [1, 5]}, "have no shape"),
        ([node("Expand", "x", "a")], (1,), {"a": [1, -5]}, "have no shape"),
        ([node("Expand", "x", "a")], (1,), {"a": [1, 2**30]}, "numbers a sample"),
        ([node("Expand", "x", "a")], (1,), {"a": [1, 2**62, 2**62, 1, 1]}, "the_Expand (Expand)"),
        ([node("Tile", "x", "a")], (4,), {"a": [2, 1]}, "it repeats samples"),
        ([node("Tile", "x", "a")], (4,), {"a": [1, 2**30]}, "numbers a sample"),
        ([node("Tile", "x", "a")], (4,), {"a": [1, 2**62]}, "the_Tile (Tile)"),
        ([node("Tile", "x", "a")], (4,), {"a": [1, -1]}, "not one from 0"),
        ([node("Tile", "x", "a")], (4,), {"a": [2]}, "not one from 0"),
        ([node("Tile", "w", "a", out="t"), node("Add", "x", "t")], (4,), {"w": [1.0], "a": [2**45]},
         "constants would be computed"),
        ([node("ConstantOfShape", "a", out="t"), node("Add", "x", "t")], (4,), {"a": [-4]},
         "the_ConstantOfShape"),
        ([node("CumSum", "x", "a")], (4,), {"a": 0}, "it mixes samples"),
        ([node("Trilu", "x")], (4,), {}, "each sample in another way"),
        ([node("DepthToSpace", "x", blocksize=2)], (3, 4, 4), {}, "have no blocks of 2"),
        ([node("DepthToSpace", "x", blocksize=0)], (4, 4, 4), {}, "a blocksize of 1 or more"),
        ([node("SpaceToDepth", "x", blocksize=2**40)], (4, 4, 4), {}, "a blocksize of 1 or more"),
        ([node("SpaceToDepth", "x", blocksize=3)], (4, 4, 4), {}, "have no blocks of 3"),
        ([node("Pad", "x", "a", mode="reflect")], (4,), {"a": [0, 2**40, 0, 0]}, "numbers along an axis"),
        ([node("Pad", "x", "a", mode="edge")], (4,), {"a": [0, 2**20 + 1, 0, -(2**20)]}, "along an axis"),
        ([node("Pad", "x", "a", mode="edge")], (4,), {"a": [1, 0, 0, 0]}, "it pads the samples"),
        ([node("Pad", "x", "a", mode="other")], (4,), {"a": [0, 1, 0, 0]}, "the_Pad (Pad)"),
        ([node("Einsum", "x", equation="bi->i")], (4,), {}, "it mixes samples"),
        ([node("Einsum", "x", "x", equation="bi,ci->bc")], (4,), {}, "it mixes samples"),
        ([node("Einsum", "x", "x", equation="bi")], (4,), {}, "1 terms for 2 values"),
        ([node("Einsum", "x", equation="bij")], (4,), {}, "the_Einsum (Einsum)"),
        ([node("Einsum", "x", equation="b$->b")], (4,), {}, "the_Einsum (Einsum)"),
        ([node("Einsum", "x", "w", equation="bi,->bi")], (4,), {"w": 2.0}, "multiply by them"),
        ([node("Einsum", *["x"] * 6, equation="ba,bc,bd,be,bf,bg->b")], (1024,), {}, "in steps of two"),
        ([node("Einsum", *["w"] * 6, out="e", equation="a,c,d,e,f,g->acdefg"), node("Add", "x", "e")], (4,),
         {"w": np.ones(1024)}, "constants would be computed"),
        ([node("Einsum", "x", "w", equation="bi,j->bij")], (1024,), {"w": np.ones(2**19)},
         "numbers a sample"),
        ([node("Celu", "x", alpha=0.0)], (4,), {}, "its alpha is 0"),
        ([node("Shrink", "x", lambd=0.5, bias=0.1)], (4,), {}, "neither 0 nor lambd"),
        ([node("Max", "x", "w")], (4,), {"w": [1.0, 2.0]}, "the_Max (Max)"),
        ([node("Where", "w", "x", "x")], (4,), {"w": [True, False]}, "the_Where (Where)"),
        ([node("Where", "w", "x", "x")], (4,), {"w": [1.0]}, "by truth values"),
        ([node("And", "x", "x", out="t"), node("Where", "t", "x", "x")], (4,), {}, "it takes truth values"),
        ([node("IsNaN", "x", out="t"), node("Relu", "t")], (4,), {}, "cast them before"),
        ([node("ReduceMax", "w", out="m"), node("Add", "x", "m")], (4,), {"w": np.zeros((0, 2))},
         "the_ReduceMax"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted(nodes, shape, constants, words):
    constants = {name: np.array(value) for name, value in constants.items()}
    assert "\n" not in refused(net(nodes, ("n", *shape), constants), words)


@pytest.mark.parametrize(("kind", "options"), [("Div", {}), ("Mod", {}), ("Mod", {"fmod": 1})])
def test_a_quotient_that_would_end_the_program(kind, options):
    nodes = [node(kind, "a", "b", out="q", **options), node("Reshape", "x", "q")]
    constants = {"a": np.array([-(2**63), 4]), "b": np.array([-1])}
    refused(net(nodes, constants=constants), "it divides -9223372036854775808")


def test_constants_again_and_again(monkeypatch):
    monkeypatch.setattr(onnx_build, "MAX_FOLDED", 1000)
    constants = {"w": random(1, 4), "t": np.array([20, 4])}
    nodes = [node("Expand", "w", "t", out=f"e{k}") for k in range(20)]
    nodes += [
        node("Sum", *(f"e{k}" for k in range(20)), out="s"),
        node("ReduceSum", "s", out="r", keepdims=0),
    ]
    refused(net([*nodes, node("Add", "x", "r")], constants=constants), "constants would be computed")


def test_numbers_are_read_as_they_are():
    """The prime that stands for samples may be a size that a file wants."""
    model = net([node("Expand", "x", "a")], ("n", 1), {"a": np.array([1, onnx_values.SAMPLES])})
    assert "cannot be converted" in refused(model)
