"""Twenty-two networks as people write them: the graph is the model, and the plan is the graph."""

from __future__ import annotations

import copy
import functools
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import securedl
from securedl.network.from_torch import import_torch

sys.path.insert(0, str(Path(__file__).parent))
from public_models import MODELS, ResNet, made  # found by path, not by package


@functools.cache
def polynomial(name: str) -> nn.Module:
    """With polynomials for 32 samples, for all tests, which do not change it; the model stays as it was."""
    model, x = made(name)
    before = copy.deepcopy(model.state_dict())
    poly = securedl.approximate(model, x[:32])
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return poly


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_is_the_model(name: str) -> None:
    poly, (_, x) = polynomial(name), made(name)
    found = import_torch(poly, MODELS[name].shape)
    assert found.output_shape == MODELS[name].answer
    with torch.no_grad():
        want = copy.deepcopy(poly).double()(x[:8].double()).numpy()
    answers = found.head(found.graph(x[:8]).reshape(want.shape))
    np.testing.assert_allclose(answers, want, rtol=0, atol=1e-9 * np.abs(want).max())


@pytest.mark.parametrize("name", [name for name, public in MODELS.items() if public.encrypted])
def test_the_plan_is_the_graph(name: str) -> None:
    poly, x = polynomial(name), made(name)[1][:32]
    plan = securedl.compile(poly, x, batch=4)
    with torch.no_grad():
        want = copy.deepcopy(poly).double()(x[:4].double()).numpy()
        range_ = np.ptp(copy.deepcopy(poly).double()(x.double()).numpy())
    found = plan.simulate(x[:4], noise_seed=None)
    assert found.shape == (4, *MODELS[name].answer)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6 * range_)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["A", "B"])
def test_the_graph_of_a_resnet_20(option: str) -> None:
    """In its full size: 19 convolutions on 32 x 32 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model, x = ResNet(option, blocks=3, width=16), torch.randn(16, 3, 32, 32)
        with torch.no_grad():
            model.train()(x)
    poly = securedl.approximate(model, x)
    assert len(poly.replacements) == 19
    found = import_torch(poly, (3, 32, 32))
    with torch.no_grad():
        want = copy.deepcopy(poly).double()(x[:2].double()).numpy()
    np.testing.assert_allclose(found.graph(x[:2]), want, rtol=0, atol=1e-9 * np.abs(want).max())


def exported(model: nn.Module, *shape: int) -> onnx.ModelProto:
    """As people export: for one sample, with a free number of them."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, which says that it is
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, *shape),),
            file,  # type: ignore[arg-type]
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )
    return onnx.load_model_from_string(file.getvalue())


@pytest.mark.parametrize("name", MODELS)
def test_an_export_gives_the_same_logits(name: str) -> None:
    model, x = made(name)
    network = securedl.from_onnx(exported(model, *MODELS[name].shape))
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double()).numpy()
        found = network(x).numpy()
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())
    poly = securedl.approximate(network, x[:32])
    with torch.no_grad():
        want = polynomial(name)(x[:32]).numpy()
    found = import_torch(poly, MODELS[name].shape)
    answers = found.head(found.graph(x[:32]).reshape(want.shape))
    np.testing.assert_allclose(answers, want, rtol=0, atol=1e-4 * np.abs(want).max())
