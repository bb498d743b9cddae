"""A network split between client and server gives what it gave; scripts from files do nothing else."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import securedl
from securedl.errors import InputError, UnsupportedLayerError
from securedl.network.partition import Partitioned, partition
from securedl.network.script import LinearLayer, Script

sys.path.insert(0, str(Path(__file__).parent))
from partition_nets import NETS, Written, parted  # found by path, not by package
from public_models import MODELS, made

#: In parts of the largest answer.
ROUNDING = 1e-9


def through_a_file(script: Script) -> Script:
    meta, arrays = script.to_parts()
    return Script.from_parts(json.loads(json.dumps(meta)), arrays)


def samples(count: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *shape))


def check(model: nn.Module, shape: tuple[int, ...]) -> Partitioned:
    """The parts, after comparing them with the model."""
    found = partition(model, shape)
    compare(found, model, shape)
    return found


def compare(found: Partitioned, model: nn.Module, shape: tuple[int, ...]) -> None:
    """On batches of several sizes."""
    double = copy.deepcopy(model).double().eval()
    for script in (found.script, through_a_file(found.script)):
        for count in (1, 3, 5):
            x = samples(count, shape)
            with torch.no_grad():
                want = double(torch.from_numpy(x)).numpy()
            logits = script.logits(x, found.kernels)
            assert logits.dtype == np.float64
            assert logits.shape == (count, *found.output_shape)
            answers = found.head(logits)
            assert answers.shape == want.shape
            np.testing.assert_allclose(answers, want, rtol=0, atol=ROUNDING * np.abs(want).max())


@pytest.mark.parametrize("name", NETS)
def test_the_script_is_the_model(name: str) -> None:
    model, found = parted(name)
    compare(found, model, NETS[name].shape)
    assert len(found.script.layers) == len(found.kernels) == NETS[name].layers


@pytest.mark.parametrize("name", MODELS)
def test_public_models_with_their_own_activations(name: str) -> None:
    model, _ = made(name)
    found = check(model, MODELS[name].shape)
    assert found.output_shape == MODELS[name].answer


def test_polynomials_are_the_clients() -> None:
    model, x = made(next(iter(MODELS)))
    poly = securedl.approximate(model, x[:32])
    shape = tuple(x.shape[1:])
    assert len(check(poly, shape).kernels) == len(partition(model, shape).kernels)


def test_what_layers_are_sent_is_what_they_are_given() -> None:
    net, (_, found) = NETS["lenet"], parted("lenet")
    for number, (sent, result) in enumerate(found.script.values(samples(4, net.shape), found.kernels)):
        layer = found.script.layers[number]
        assert isinstance(layer, LinearLayer)
        geometry = layer.geometry
        assert sent.shape == (4 * found.script.layers[number].repeat, *geometry.image)
        assert result.shape == (len(sent), *geometry.output)


@pytest.mark.parametrize("name", NETS)
def test_what_layers_are_sent_is_each_samples_own(name: str) -> None:
    """In a query, probes stand beside samples: a layer's images must not mix them."""
    net, (_, found) = NETS[name], parted(name)
    x = samples(3, net.shape)
    together = found.script.values(x, found.kernels)
    for one in range(3):
        for (all_sent, _), (sent, _) in zip(
            together, found.script.values(x[one : one + 1], found.kernels), strict=True
        ):
            own = all_sent.reshape(3, len(sent), *sent.shape[1:])[one]
            np.testing.assert_allclose(own, sent, rtol=0, atol=1e-9 * np.abs(all_sent).max())


def test_the_model_stays_as_it_was() -> None:
    net = NETS["batch norm after"]
    model = net.made().train()
    before = copy.deepcopy(model.state_dict())
    partition(model, net.shape)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.fc(x), 0.5, training=True)


class Wrong(nn.Module):
    """Two things that cannot be split."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv = nn.Linear(4, 4), nn.Conv1d(1, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        noisy = functional.dropout(self.fc(x), 0.5, training=True)
        return self.conv(noisy[None, :1])[0] + noisy[:, :2]


def test_all_problems_are_in_one_message() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"(?s)2 operation.*other values.*put the samples first"):
        partition(Wrong(), (4,))


def dense() -> nn.Module:
    return nn.Linear(4, 4)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no layer": (lambda: nn.Sequential(nn.ReLU(), nn.Softmax(1)), "no convolution or linear layer"),
    "random": (Noisy, r"dropout gives other values at each call.*test_partition.py"),
    "weights of the samples only": (
        lambda: Written(lambda self, x: functional.linear(x, x[:, :3].mean(0).repeat(4, 1).T[:3])),
        "no convolution or linear layer",
    ),
    "softmax across samples": (lambda: nn.Sequential(dense(), nn.Softmax(0)), "across samples"),
    "constant": (
        lambda: Written(lambda self, x: self.fc.weight.sum(0, keepdim=True), fc=dense()),
        "does not depend on the samples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_split_is_refused(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(UnsupportedLayerError, match=said):
        partition(make(), (4,))


def parts(change: Callable[[list[Any]], Any]) -> tuple[Any, dict[str, Any]]:
    """A good file with its instructions changed."""
    found = partition(nn.Sequential(dense(), nn.ReLU(), dense()), (4,))
    meta, arrays = found.script.to_parts()
    meta = json.loads(json.dumps(meta))
    change(meta["instructions"])
    return meta, arrays


def replaced(operation: str) -> Callable[[list[Any]], Any]:
    """Another operation for the ReLU."""

    def change(rows: list[Any]) -> None:
        row = next(row for row in rows if row[1] == "aten.relu.default")
        row[1] = operation

    return change


def inserted(*args: Any) -> Callable[[list[Any]], Any]:
    """An instruction of the same operation with other arguments, at the beginning."""
    return lambda rows: rows.insert(0, [1000, "aten.relu.default", list(args), {}])


HOSTILE: dict[str, Callable[[list[Any]], Any]] = {
    "unknown": replaced("aten.no_such_thing.default"),
    "no overload": replaced("aten.relu.no_such"),
    "in place": replaced("aten.relu_.default"),
    "in place, with an argument": replaced("aten.add_.Tensor"),
    "an out argument": replaced("aten.relu.out"),
    "random": replaced("aten.bernoulli.default"),
    "a file": lambda rows: rows.insert(0, [1000, "aten.from_file.default", ["/tmp/x", True, 8], {}]),
    "a file written": replaced("aten.save.default"),
    "torch's own state": lambda rows: rows.insert(0, [1000, "aten.manual_seed.default", [1], {}]),
    "gradients": lambda rows: rows.insert(0, [1000, "aten.set_grad_enabled.default", [True], {}]),
    "unwritten memory": lambda rows: rows.insert(0, [1000, "aten.empty.memory_format", [[9]], {}]),
    "no type": lambda rows: next(r for r in rows if "relu" in r[1])[3].update(dtype={"d": "load"}),
    "two meanings": inserted({"r": 0, "c": "k0"}),
    "an inner dictionary": inserted({"x": {"r": 77}}),
    "a layer of nothing": lambda rows: next(r for r in rows if r[1] == "layer")[2].pop(),
    "no register": inserted({"r": True}),
    "memory beside its own": replaced("aten._reshape_alias.default"),
    "memory by strides": replaced("aten.as_strided.default"),
    "unchecked indices": replaced("aten._sparse_coo_tensor_unsafe.default"),
    "another library": replaced("prims.abs.default"),
    "Python": replaced("os.system"),
    "a dunder": replaced("aten.__class__.__init__"),
    "trailing line": replaced("aten.relu.default\n"),
    "forward reference": inserted({"r": 2}),
    "itself": inserted({"r": 1000}),
    "no such constant": inserted({"c": "k77"}),
    "written twice": lambda rows: rows.append(copy.deepcopy(rows[-1])),
    "a layer twice": lambda rows: rows.append([1000, *next(r for r in rows if r[1] == "layer")[1:]]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_scripts_are_refused(name: str) -> None:
    meta, arrays = parts(HOSTILE[name])
    with pytest.raises(InputError):
        Script.from_parts(meta, arrays)


def test_the_good_file_is_read() -> None:
    meta, arrays = parts(lambda rows: None)
    assert len(Script.from_parts(meta, arrays).layers) == 2
