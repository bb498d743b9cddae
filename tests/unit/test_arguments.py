"""Networks, options and fits that cannot be used: one sentence each, before any long work."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import securedl
from polyapprox import FitError
from securedl.arguments import count, kind, number, shown
from securedl.errors import CompileError, InputError, SecureDLError
from securedl.network.graph import samples_of

X = np.random.default_rng(0).uniform(-1, 1, (64, 6))
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """6-8-3 with ReLU."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def poly(model) -> nn.Module:
    """The same with a polynomial."""
    return securedl.approximate(model, X)


@pytest.fixture(scope="module")
def plan(poly) -> securedl.Plan:
    """Its plan."""
    return securedl.compile(poly, X, batch=16)


def refused(call, words: str) -> str:
    """The sentence that `call` is refused with."""
    with pytest.raises(InputError, match=words) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 250
    return sentence


@pytest.mark.parametrize("function", [securedl.approximate, securedl.compile])
class TestNetworks:
    def test_swapped_arguments(self, poly, function):
        words = f"{function.__name__} takes a torch.nn.Module, got an ndarray: the network comes first"
        refused(lambda: function(X, poly), words)

    def test_what_is_no_network(self, model, plan, function):
        for given, words in (
            (None, "got None: give the network itself"),
            ("model.onnx", "got a str: call securedl.from_onnx"),
            (Path("model.pt"), "build the network in PyTorch, load its weights"),
            (model.state_dict(), "got an OrderedDict: build the network, call its load_state_dict"),
            (nn.Linear, "got the class Linear: make one of it by calling it"),
            (lambda x: x, "got a function: give the network itself"),
            (plan, "got a Plan: give the network itself"),
        ):
            refused(lambda g=given: function(g, X), words)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
    def test_a_traced_network(self, model, function):
        traced = torch.jit.trace(model, torch.zeros(1, 6))
        refused(lambda: function(traced, X), "give the module itself, as it was before torch.jit")

    def test_an_estimator(self, function):
        linear_model = importlib.import_module("sklearn.linear_model")
        given = linear_model.LogisticRegression()
        refused(lambda: function(given, X), "got a LogisticRegression: call securedl.from_sklearn")

    @pytest.mark.parametrize("value", [NAN, INF])
    def test_weights_that_are_no_numbers(self, function, value):
        model = nn.Sequential(nn.Linear(6, 3))
        with torch.no_grad():
            model[0].bias[1] = value
        refused(lambda: function(model, X), "the parameter 0.bias of the network has NaN or infinite values")

    @pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
    def test_weights_that_are_not_there(self, function):
        with torch.device("meta"):
            empty = nn.Linear(6, 3)
        for model in (empty, nn.Sequential(nn.LazyLinear(3))):
            refused(lambda m=model: function(m, X), "weight of the network has no values yet")

    def test_data_sets_are_no_samples(self, model, function):
        data = TensorDataset(torch.as_tensor(X), torch.zeros(len(X)))
        refused(lambda: function(model, data), "samples as one array or tensor, got a TensorDataset: stack")
        refused(lambda: function(model, DataLoader(data)), "one array or tensor, got a DataLoader: stack")


@pytest.mark.filterwarnings("ignore:.* is sparse and becomes an array")
@pytest.mark.parametrize("change", [lambda t: t.bfloat16(), lambda t: t.half(), lambda t: t.to_sparse()])
def test_tensors_that_numpy_lacks_are_samples(change):
    found = samples_of(change(torch.as_tensor(X)))
    assert found.dtype == np.float64
    assert np.abs(found - X).max() < 2**-8


class TestCompile:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"ring": [8192]}, "ring must be one of"),
            ({"ring": True}, "ring must be one of"),
            ({"ring": 8192.0}, "ring must be one of"),
            ({"refreshes": True}, "refreshes must be a number from 0, got True"),
            ({"refreshes": NAN}, "refreshes must be a number from 0, got nan"),
            ({"batch": NAN}, "batch must be a number from 1"),
        ],
    )
    def test_options(self, poly, options, words):
        refused(lambda: securedl.compile(poly, X, **options), words)

    def test_numbers_of_numpy_are_numbers(self, poly, plan, tmp_path):
        options = {"ring": np.int64(8192), "refreshes": np.int64(1), "batch": np.int64(4)}
        plan = securedl.compile(poly, X, **options)
        plan.save(tmp_path / "plan")
        assert securedl.load_plan(tmp_path / "plan").program.id == plan.program.id


class TestFits:
    """`polyapprox` raises its own FitError; nothing of SecureDL lets it out."""

    @pytest.mark.parametrize(
        "options",
        [
            {"degree": 65},
            {"degree": 10**6},
            {"degree": True},
            {"bound": 1e-9},
            {"bound": -1},
            {"bound": NAN},
            {"bound": 1e-9, "per_channel": True},
            {"quantile": 0.6},
        ],
    )
    def test_a_fit_that_fails(self, model, options):
        with pytest.raises(SecureDLError) as caught:
            securedl.approximate(model, X, **options)
        assert not isinstance(caught.value, FitError)
        assert isinstance(caught.value, InputError)

    def test_an_activation_that_gets_infinity(self):
        """Weights are finite, what they make of the data is not."""
        model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        with torch.no_grad():
            model[0].weight.fill_(1e38)
            model[1].weight.fill_(1e38)
        with pytest.raises(CompileError, match="NaN or infinite answers, first in 0: standardise"):
            securedl.approximate(model, X)

    @pytest.mark.parametrize("wrong", ["a", None, NAN, INF, [1]])
    @pytest.mark.parametrize(
        "name", ["quantile", "learning_rate", "range_penalty", "distillation", "temperature"]
    )
    def test_options_that_are_no_numbers(self, model, name, wrong):
        refused(lambda: securedl.approximate(model, X, **{name: wrong}), f"{name} must be a finite number")

    def test_seed_epochs_and_bound(self, model):
        for options, words in (
            ({"seed": "a"}, "seed must be a whole number, got 'a'"),
            ({"seed": None}, "seed must be a whole number, got None"),
            ({"epochs": True}, "epochs must be a whole number of at least 0, got True"),
            ({"bound": "a"}, "bound must be a finite number greater than 0, got 'a'"),
        ):
            refused(lambda o=options: securedl.approximate(model, X, **o), words)


class TestChecks:
    def test_kinds(self):
        assert [kind(v) for v in (None, 1, "s", X, int, b"")] == [
            "None", "an int", "a str", "an ndarray", "the class int", "bytes"
        ]  # fmt: skip

    def test_long_values_are_not_shown(self):
        assert shown("s" * 1000) == "a str"
        assert shown(X) == "an ndarray"
        assert shown(1.5) == "1.5"

    def test_limits(self):
        number(0, "it", least=0)
        number(10**400, "it", least=0)
        number(INF, "it", above=0, finite=False)
        count(np.int8(3), "it", least=3)
        count(-3, "it")
        for wrong in (0, -INF, NAN):
            refused(
                lambda w=wrong: number(w, "it", above=0, finite=False), "it must be a number greater than 0"
            )
        refused(lambda: count(2, "it", least=3), "it must be a whole number of at least 3, got 2")
