"""Resizing of ONNX networks, against onnx's evaluator and torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import securedl
from securedl.network.from_torch import import_torch

sys.path.insert(0, str(Path(__file__).parent))
from onnx_nets import close, kinds, matches, net, node, random, refused, run  # found by path, not by package

WAYS = ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners", "half_pixel_symmetric"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
#: Of weights that onnx's evaluator computes in float32.
SINGLE = 1e-5
SIZES = [(6, 8), (3, 8), (5, 2), (7, 4), (1, 9)]


def resized(sizes: Any = None, scales: Any = None, shape: tuple[Any, ...] = ("n", 2, 3, 4), **options: Any):
    """A network of one Resize. sizes, scales: of all axes, samples first."""
    constants: dict[str, Any] = {}
    if scales is not None:
        constants["scales"] = np.array(scales, np.float32)
    if sizes is not None:
        constants["sizes"] = np.array(sizes)
    names = ["x", "", *(["scales"] if scales is not None else [""])] + (
        ["sizes"] if sizes is not None else []
    )
    opset = options.pop("opset", 19)
    return net([node("Resize", *names, **options)], shape, constants, opset)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_nearest(way, size, rounding):
    options = {"coordinate_transformation_mode": way, "nearest_mode": rounding}
    matches(resized([1, 2, *size], shape=(1, 2, 3, 4), **options), (2, 3, 4), 1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_linear(way, size):
    model = resized([1, 2, *size], shape=(1, 2, 3, 4), mode="linear", coordinate_transformation_mode=way)
    network = matches(model, (2, 3, 4), 1)
    x = random(4, 2, 3, 4)
    one_by_one = np.concatenate([run(network, x[k : k + 1]) for k in range(4)])
    close(run(network, x), one_by_one)
    if way in ("half_pixel", "align_corners"):
        assert kinds(network) == ["Upsample"]
        torch_way = {"mode": "bilinear", "align_corners": way == "align_corners"}
        close(run(network, x), functional.interpolate(torch.tensor(x), size, **torch_way))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "pytorch_half_pixel"])
@pytest.mark.parametrize("options", [{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}], ids=str)
def test_cubic(way, options):
    for size in SIZES:
        options = {"mode": "cubic", "coordinate_transformation_mode": way, **options}
        matches(resized([1, 2, *size], shape=(1, 2, 3, 4), **options), (2, 3, 4), 1, tolerance=SINGLE)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scales", [(2, 2), (2, 1.5), (0.5, 3), (1.25, 0.8), (1, 1)])
def test_scales(mode, way, scales):
    model = resized(
        scales=[1, 1, *scales], shape=("n", 2, 4, 6), mode=mode, coordinate_transformation_mode=way
    )
    matches(model, (2, 4, 6), tolerance=SINGLE)


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4, 2)])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_other_ranks(shape, mode):
    scales = [1, 1] + [2] * (len(shape) - 1)
    network = matches(resized(scales=scales, shape=("n", *shape), mode=mode), shape)
    assert kinds(network) == ["Upsample"]


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("size", [(6, 6), (7, 9), (2, 3)])
def test_some_axes(policy, size):
    options = {"axes": [2, 3], "keep_aspect_ratio_policy": policy, "mode": "linear"}
    matches(resized(size, **options), (2, 3, 4))


def test_channels_and_constants():
    matches(resized(scales=[1, 2, 1, 1], mode="linear"), (2, 3, 4))
    model = resized(scales=[1, 2], shape=("n", 4))
    model.graph.node[0].input[0], model.graph.node[0].output[0] = "c", "r"
    more = net([node("Add", "x", "r")], ("n", 8), {"c": random(1, 4)})
    model.graph.node.extend(more.graph.node)
    model.graph.initializer.extend(more.graph.initializer)
    model.graph.input[0].CopyFrom(more.graph.input[0])
    matches(model, (8,))


def test_opset_10_is_asymmetric():
    for mode, scales in (("nearest", (2, 3)), ("linear", (2, 2)), ("nearest", (1.5, 0.5))):
        constants = {"s": np.array([1, 1, *scales], np.float32)}
        model = net([node("Resize", "x", "s", mode=mode)], ("n", 2, 4, 6), constants, 10)
        rounding = {"nearest_mode": "floor"} if mode == "nearest" else {}
        new = resized(
            scales=[1, 1, *scales], shape=("n", 2, 4, 6), mode=mode,
            coordinate_transformation_mode="asymmetric", **rounding,
        )  # fmt: skip
        x = random(3, 2, 4, 6)
        close(run(securedl.from_onnx(model), x), run(matches(new, (2, 4, 6)), x))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode):
    """Which onnx's evaluator has for nearest values only."""
    model = net([node("Upsample", "x", "s", mode=mode)], ("n", 2, 3, 4), {"s": np.float32([1, 1, 2, 3])}, 9)
    if mode == "nearest":
        assert kinds(matches(model, (2, 3, 4))) == ["Upsample"]
    options = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    same = resized(scales=[1, 1, 2, 3], **options)
    x = random(3, 2, 3, 4)
    close(run(securedl.from_onnx(model), x), run(securedl.from_onnx(same), x))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("way", ["half_pixel", "asymmetric"])
def test_it_can_be_encrypted(mode, way):
    network = securedl.from_onnx(
        resized(scales=[1, 1, 2, 1.5], mode=mode, coordinate_transformation_mode=way)
    )
    found = import_torch(network, (2, 3, 4))
    x = random(3, 2, 3, 4)
    np.testing.assert_allclose(found.graph(x).reshape(3, 2, 6, 6), run(network, x), atol=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": [2, 1, 1, 1]}, "more or fewer samples"),
        ({"sizes": [7, 2, 3, 4]}, "more or fewer samples"),
        ({"scales": [1, 1, 0.1, 1]}, "without places"),
        ({"scales": [1, 1, -1, 1]}, "no scale above 0"),
        ({"scales": [1, 1, np.nan, 1]}, "no scale above 0"),
        ({"scales": [1, 1, np.inf, 1]}, "no scale above 0"),
        ({"scales": [1, 1, 3e38, 3e38]}, "no scale above 0"),
        ({"scales": [1, 1]}, "no scale above 0"),
        ({"scales": [1, 1, 1e6, 1e6]}, "numbers a sample"),
        ({"scales": [1, 1, 1e6, 1]}, "along an axis"),
        ({"sizes": [1, 2, 2**40, 4]}, "numbers a sample"),
        ({"sizes": [1, 2, 0, 4]}, "no new size"),
        ({"sizes": [1, 2, 3]}, "no new size"),
        ({"sizes": [5], "axes": [9]}, "it has axes [9]"),
        ({"scales": [1, 1, 2, 2], "mode": "other"}, "mode other"),
        ({"scales": [1, 1, 2, 2], "coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop"),
        ({"scales": [1, 1, 2, 2], "mode": "linear", "antialias": 1}, "antialias"),
        ({"scales": [1, 1, 2, 2], "nearest_mode": "other"}, "the_Resize (Resize)"),
        ({}, "the_Resize (Resize)"),
    ],
)
def test_what_is_refused(options, words):
    shape = (1, 2, 3, 4) if "sizes" in options else ("n", 2, 3, 4)
    refused(resized(shape=shape, **options), words)
