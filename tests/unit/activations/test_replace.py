"""Activations become polynomials: by which fit, on which data, and what is left alone."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from torch import fx, nn
from torch.nn import functional

import securedl
from securedl.errors import InputError, UnsupportedLayerError
from securedl.network.from_torch import import_torch
from securedl.network.polynomial import PolynomialActivation

ACTIVATIONS = [nn.ReLU, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus]


@pytest.fixture(scope="module")
def wine():
    data = load_wine()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    return torch.tensor(x, dtype=torch.float32), data.target


@pytest.fixture(scope="module")
def network(wine):
    """13-16-3, trained a little."""
    x, y = wine[0], torch.tensor(wine[1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def polynomials(model):
    return [m for m in model.modules() if isinstance(m, PolynomialActivation)]


def loss(model, x, y) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(model(x), torch.tensor(y)))


def test_modules_are_replaced_in_order(network, wine):
    found = securedl.approximate(network, wine[0], degree=3)
    assert [(r.path, r.function, r.degree) for r in found.replacements] == [
        ("1", "relu", 3),
        ("3", "tanh", 3),
    ]
    assert not [m for m in found.modules() if isinstance(m, nn.ReLU | nn.Tanh)]
    assert not found.training
    import_torch(found, (13,))


def test_the_error_reported_is_the_error_on_the_data(network, wine):
    found = securedl.approximate(network, wine[0], degree=2, quantile=0)
    with torch.no_grad():
        pre = network[0](wine[0])
        worst = (found.get_submodule("1")(pre) - torch.relu(pre)).abs().max()
    first = found.replacements[0]
    assert first.max_error == pytest.approx(float(worst), rel=1e-3)
    assert first.interval[0] < float(pre.min()) < float(pre.max()) < first.interval[1]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_higher_degrees_come_closer(kind, wine):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(13, 8), kind(), nn.Linear(8, 2))
    with torch.no_grad():
        want = model(wine[0])
        errors = [
            float((securedl.approximate(model, wine[0], degree=d)(wine[0]) - want).square().mean())
            for d in (1, 2, 4, 6)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, functional.relu, torch.sigmoid, functional.sigmoid, torch.tanh, functional.tanh,
        functional.silu, functional.gelu, functional.softplus,
        lambda x: x.relu(), lambda x: x.sigmoid(), lambda x: x.tanh(),
    ],
)  # fmt: skip
def test_functions_and_methods_are_replaced(function, wine):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(13, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(function(self.a(x)))

    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = Net()
    found = securedl.approximate(model, wine[0], degree=6)
    assert len(found.replacements) == 1
    with torch.no_grad():
        assert float((found(wine[0]) - model(wine[0])).abs().max()) < 0.2
    assert len(import_torch(found, (13,)).graph.nodes) == 3


def test_an_activation_used_twice_gets_two_fits(wine):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(13, 4), nn.Linear(4, 2), nn.Tanh()

        def forward(self, x):
            return self.act(self.b(self.act(self.a(x))))

    found = securedl.approximate(Net(), wine[0], degree=3)
    assert len(found.replacements) == len(polynomials(found)) == 2
    intervals = {r.interval for r in found.replacements}
    assert len(intervals) == 2
    assert len(import_torch(found, (13,)).graph.nodes) == 4


def test_max_pooling_becomes_average_pooling():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, 1, 1), nn.Flatten(1, 2), nn.MaxPool1d(2), nn.Flatten(), nn.ReLU()
    )
    found = securedl.approximate(model, np.random.default_rng(0).normal(size=(20, 1, 6, 6)))
    pools = [node for node in found.graph.nodes if "avg_pool" in str(node.target)]
    assert pools[0].args[1:4] == ([2, 2], [1, 1], [1, 1])
    assert pools[1].target is torch.ops.aten.avg_pool1d.default
    assert found.report.pools == ("1", "3")
    assert isinstance(model[1], nn.MaxPool2d)


def test_the_original_is_untouched(network, wine):
    x, y = wine
    model = copy.deepcopy(network).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    securedl.approximate(model, x, y, epochs=2)
    assert model.training
    assert [type(m) for m in model] == [nn.Linear, nn.ReLU, nn.Linear, nn.Tanh, nn.Linear]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_equal_seeds_give_equal_models(network, wine):
    torch.manual_seed(123)
    first = securedl.approximate(network, *wine, epochs=2, seed=4)
    torch.manual_seed(321)
    again = securedl.approximate(network, *wine, epochs=2, seed=4)
    other = securedl.approximate(network, *wine, epochs=2, seed=5)
    with torch.no_grad():
        assert torch.equal(first(wine[0]), again(wine[0]))
        assert not torch.equal(first(wine[0]), other(wine[0]))


def test_global_randomness_is_left_alone(network, wine):
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    securedl.approximate(network, *wine, epochs=1)
    assert torch.equal(torch.rand(3), want)


def test_fine_tuning_improves(network, wine):
    x, y = wine
    plain = securedl.approximate(network, x, degree=2)
    tuned = securedl.approximate(network, x, y, degree=2, epochs=10)
    assert loss(tuned, x, y) < loss(plain, x, y)


@pytest.mark.parametrize("trainable", [True, False])
def test_coefficients_move_only_where_asked(network, wine, trainable):
    x, y = wine
    plain = securedl.approximate(network, x, trainable=trainable)
    tuned = securedl.approximate(network, x, y, epochs=3, trainable=trainable)
    pairs = zip(polynomials(plain), polynomials(tuned), strict=True)
    moved = [not torch.equal(a.coefficients, b.coefficients) for a, b in pairs]
    assert moved[0] is trainable


def test_a_bound_takes_the_lowest_degree_within_it(wine):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(13, 4), nn.Sigmoid(), nn.Linear(4, 2))
    found = securedl.approximate(model, wine[0], degree=9, bound=0.01).replacements[0]
    assert found.max_error <= 0.01
    lower = securedl.approximate(model, wine[0], degree=9, bound=found.max_error / 4).replacements[0]
    assert lower.degree > found.degree
    with pytest.raises(InputError, match=r"1 \(sigmoid\)"):
        securedl.approximate(model, wine[0], degree=2, bound=1e-6)


def test_numpy_and_torch_samples_give_the_same(network, wine):
    first = securedl.approximate(network, wine[0])
    second = securedl.approximate(network, wine[0].numpy().astype(np.float64), degree=2)
    assert first.replacements == second.replacements


def test_a_constant_activation_has_an_interval():
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh())
    found = securedl.approximate(model, np.zeros((50, 2)), degree=2)
    lo, hi = found.replacements[0].interval
    assert lo < hi


def test_equal_seeds_give_equal_states_and_touch_no_randomness(network, wine):
    states, draws = [], []
    for start in (1, 2):
        torch.manual_seed(start)
        before = torch.get_rng_state()
        np.random.seed(start)
        poly = securedl.approximate(
            network, *wine, epochs=4, layer_by_layer=True, per_channel=True, distillation=0.5, seed=9
        )
        assert torch.equal(torch.get_rng_state(), before)
        draws.append(np.random.get_state()[2])
        states.append(poly.state_dict())
    assert draws == [624, 624], "numpy's global generator was used"
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_layer_by_layer_tunes_before_the_next_fit(network, wine):
    """The second activation's interval is that of the network whose first one is already tuned."""
    x, y = wine
    at_once, in_turn = (
        securedl.approximate(network, x, y, epochs=6, layer_by_layer=turn) for turn in (False, True)
    )
    first, second = zip(at_once.replacements, in_turn.replacements, strict=True)
    assert first[0].interval == first[1].interval
    assert second[0].interval != second[1].interval
    assert loss(in_turn, x, y) < loss(securedl.approximate(network, x), x, y)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_layer_by_layer_keeps_the_total_of_epochs(network, wine, monkeypatch, epochs):
    from securedl.activations import tune as tuning

    steps = []
    step = torch.optim.Adam.step

    def counted(self, *arguments, **options):
        steps.append(1)
        return step(self, *arguments, **options)

    monkeypatch.setattr(tuning.torch.optim.Adam, "step", counted)
    securedl.approximate(network, *wine, epochs=epochs, layer_by_layer=True, batch_size=89)
    assert len(steps) == epochs * 2


def test_distilling_needs_no_labels(network, wine):
    x = wine[0]
    plain = securedl.approximate(network, x)
    tuned = securedl.approximate(network, x, epochs=20, distillation=1)
    with torch.no_grad():
        want = functional.softmax(network(x), 1)
        gaps = [float((functional.softmax(m(x), 1) - want).square().mean()) for m in (plain, tuned)]
    assert gaps[1] < 0.5 * gaps[0]
    assert tuned.report.train is None
    assert tuned.report.epochs == 20


def test_the_penalty_keeps_tuned_networks_in_range(network, wine):
    x, y = wine
    tuned = [
        securedl.approximate(network, x, y, epochs=30, learning_rate=1e-2, range_penalty=penalty)
        for penalty in (0.0, 100.0)
    ]
    free, held = ([r.outside for r in poly.replacements] for poly in tuned)
    assert sum(held) < 0.5 * sum(free)


def test_a_nested_module_and_one_without_weights():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x)

    model = nn.Sequential(Block(), nn.Flatten(), Block())
    x = np.random.default_rng(0).normal(size=(40, 2, 3))
    found = securedl.approximate(model, x, np.zeros(40, dtype=int), epochs=2, trainable=False)
    assert [r.path for r in found.replacements] == ["0.act", "2.act"]


def test_large_calibration_sets_run_in_parts(monkeypatch):
    """Whatever the number of samples, at most `PART` of them are in the network at once."""
    from securedl.activations.sites import PART

    sizes = []
    run = fx.Interpreter.run

    def counted(self, *inputs):
        sizes.append(len(inputs[0]))
        return run(self, *inputs)

    monkeypatch.setattr(fx.Interpreter, "run", counted)
    securedl.approximate(
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), np.zeros((PART * 3 + 1, 2))
    )
    assert max(sizes) == PART
    assert PART * 3 + 1 in {sum(sizes[k : k + 4]) for k in range(len(sizes))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 0}, "at least 1, got 0"),
        ({"degree": 2.5}, "whole number"),
        ({"epochs": 3}, "needs labels"),
        ({"y_train": np.zeros(3, dtype=int)}, "class numbers"),
        ({"y_train": np.full(178, 0.5)}, "got 0.5 to 0.5"),
        ({"y_train": np.full(178, -1)}, "from 0"),
        ({"y_train": np.zeros((178, 2), dtype=int)}, r"\[178, 2\]"),
        ({"x_train": np.zeros((0, 13))}, "at least one"),
        ({"x_train": np.full((4, 13), np.nan)}, "NaN"),
        ({"x_train": "digits"}, "numbers"),
        ({"x_train": np.zeros((8, 7))}, r"does not take x_train of shape \[8, 7\]"),
        ({"y_train": np.full(178, 3)}, "holds class 3, but the network has the classes 0 to 2"),
        ({"epochs": -1}, "epochs must be a whole number of at least 0, got -1"),
        ({"epochs": 2.5}, "epochs must be a whole number of at least 0, got 2.5"),
        ({"epochs": 3, "distillation": 0.5}, "distillation=1"),
        ({"quantile": 0.5}, "below 0.5, got 0.5"),
        ({"quantile": -0.1}, "got -0.1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be a number greater than 0"),
        ({"temperature": float("nan")}, "temperature .* got nan"),
        ({"range_penalty": -1.0}, "range_penalty must be 0"),
        ({"distillation": 1.5}, "between 0 .* got 1.5"),
        ({"validation": (np.zeros((5, 13)), np.zeros(4, dtype=int))}, "validation y must be 5"),
        ({"validation": (np.zeros((5, 12)), np.zeros(5, dtype=int))}, "validation x of shape"),
        ({"validation": np.zeros((5, 13))}, r"a pair \(x, y\)"),
    ],
)
def test_bad_arguments(network, wine, arguments, message):
    with pytest.raises(InputError, match=message):
        securedl.approximate(network, **{"x_train": wine[0], **arguments})


@pytest.mark.parametrize("options", [{"epochs": 0}, {"epochs": 1}, {"validation": True}])
@pytest.mark.parametrize("last", [nn.Unflatten(1, (2, 2)), nn.Flatten(0)])
def test_labels_need_logits(wine, last, options):
    x, y = wine
    model = nn.Sequential(nn.Linear(13, 4), nn.ReLU(), last)
    labels = (None, {"validation": (x, y)}) if "validation" in options else (y, options)
    with pytest.raises(
        (InputError, UnsupportedLayerError), match=r"must be \[samples, 2, 2\]|must be the samples"
    ):
        securedl.approximate(model, x, labels[0], **labels[1])


def test_max_pooling_without_a_counterpart_is_refused():
    class Indices(nn.Sequential):
        def forward(self, x):
            values, places = super().forward(x)
            return values + places

    for model in (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, dilation=2)),
        Indices(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True)),
    ):
        with pytest.raises(UnsupportedLayerError, match=r"^1: max_pool2d.* with dilation or return_indices"):
            securedl.approximate(model, np.zeros((4, 1, 8, 8)))


def test_indices_that_nobody_reads_do_no_harm():
    class Values(nn.Sequential):
        def forward(self, x):
            return super().forward(x)[0]

    found = securedl.approximate(Values(nn.MaxPool1d(2, return_indices=True)), np.ones((4, 1, 8)))
    assert found.report.pools == ("0",)
    torch.testing.assert_close(found(torch.ones(2, 1, 8)), torch.ones(2, 1, 4))


def test_a_network_of_two_outputs():
    with pytest.raises(UnsupportedLayerError, match="gives 2 results: return one tensor"):
        securedl.approximate(nn.Sequential(nn.MaxPool1d(2, return_indices=True)), np.zeros((4, 1, 8)))


def test_an_activation_whose_input_is_passed_by_name(wine):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(13, 4), nn.Linear(4, 2), nn.Tanh()

        def forward(self, x):
            return self.b(self.act(input=self.a(x)))

    model = Net()
    found = securedl.approximate(model, wine[0], degree=7)
    with torch.no_grad():
        assert float((found(wine[0]) - model(wine[0])).abs().max()) < 0.2
    assert len(import_torch(found, (13,)).graph.nodes) == 3


def test_divergence_is_reported(network, wine):
    with pytest.raises(InputError, match="diverged"):
        securedl.approximate(network, wine[0], wine[1], degree=4, epochs=40, learning_rate=1e6)


def test_no_public_name_is_that_of_a_module():
    """Python binds an imported submodule on the package, over whatever has its name."""
    assert [n for n in securedl.__all__ if importlib.util.find_spec(f"securedl.{n}")] == []


def test_what_cannot_be_traced():
    class Net(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedLayerError, match="Net decides by the values of its data"):
        securedl.approximate(Net(), np.ones((2, 2)))


def test_inside_inference_mode():
    """It trains all the same, and gives an ordinary network."""
    x = np.random.default_rng(0).normal(size=(64, 4))
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        found = securedl.approximate(model, torch.tensor(x), (x[:, 0] > 0).astype(int), epochs=1)
    assert found(torch.zeros(1, 4)).requires_grad
