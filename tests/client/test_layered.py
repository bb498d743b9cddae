"""activations="server" with layers in the coefficient form: polynomials are the server's, in slots."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import securedl
from securedl.compiler.layered import Apart
from securedl.compiler.rounds import Wanted
from securedl.errors import CompileError, InputError, UnsupportedLayerError
from securedl.network.affine_script import is_affine
from securedl.network.outputs import Output, task_of
from securedl.network.partition import partition
from securedl.network.polynomial import PolynomialActivation
from securedl.network.script import POLYNOMIAL_DEGREES
from securedl.plan.forms import COMPLETED
from securedl.plan.plan import Plan
from securedl.program.steps import Multiply

sys.path.insert(0, str(Path(__file__).parent))
from test_layerwise import Server, original  # found by path, not by package

pytestmark = pytest.mark.he


def square() -> nn.Module:
    return PolynomialActivation(np.array([0.4, 0.5, 0.3]), (-3, 3))


def squares(channels: int) -> nn.Module:
    """One polynomial for each channel."""
    table = np.random.default_rng(channels).uniform(0.2, 0.8, (3, channels))
    return PolynomialActivation(table, [(-3.0, 2.0 + c) for c in range(channels)])


def cube() -> nn.Module:
    return PolynomialActivation(np.array([0.1, 0.6, 0.2, 0.3]), (-2, 2))


def linear_activation() -> nn.Module:
    return PolynomialActivation(np.array([0.1, 0.6]), (-4, 4))


class Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1)
        self.inner, self.outer = squares(after), square()
        same = stride == 1 and before == after
        self.beside: nn.Module = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.outer(self.second(self.inner(self.first(x))) + self.beside(x))
        return found


class Tokens(nn.Module):
    """Samples and tokens in one axis: several rows of a sample go through one polynomial."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.act = nn.Linear(5, 8), cube()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.inner(x.reshape(-1, 5))).reshape(x.shape[0], -1).sum(1, keepdim=True)


def row(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer() for layer in layers))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (row(lambda: nn.Linear(8, 30), square, lambda: nn.Linear(30, 4)), (8,), 1),
    "mlp, batch": (row(lambda: nn.Linear(8, 30), lambda: squares(30), lambda: nn.Linear(30, 4)), (8,), 4),
    "cubic": (row(lambda: nn.Linear(8, 30), cube, lambda: nn.Linear(30, 4)), (8,), 2),
    "square and cube": (
        row(lambda: nn.Linear(8, 9), square, lambda: nn.Linear(9, 9), cube, lambda: nn.Linear(9, 4)), (8,), 1,
    ),
    "degree 1": (row(lambda: nn.Linear(8, 9), linear_activation, lambda: nn.Linear(9, 4)), (8,), 1),
    "before a layer": (row(square, lambda: nn.Linear(8, 3)), (8,), 1),
    "at the end": (row(lambda: nn.Linear(8, 3), square), (8,), 1),
    "pooling": (
        row(lambda: nn.Conv2d(1, 3, 3), lambda: squares(3), lambda: nn.AvgPool2d(2), nn.Flatten,
            lambda: nn.Linear(48, 4)), (1, 10, 10), 1,
    ),
    "norms": (
        row(lambda: nn.Conv2d(1, 3, 3), lambda: nn.BatchNorm2d(3), cube, nn.Flatten,
            lambda: nn.Linear(192, 4), lambda: nn.Softmax(1)), (1, 10, 10), 2,
    ),
    "more than a tile": (
        row(lambda: nn.Conv2d(1, 6, 3), square, lambda: nn.AvgPool2d(28), nn.Flatten), (1, 30, 30), 1,
    ),
    "residual": (row(lambda: Residual(3, 3, 1), nn.Flatten, lambda: nn.Linear(108, 2)), (3, 6, 6), 1),
    "projection": (row(lambda: Residual(2, 4, 2), nn.Flatten, lambda: nn.Linear(64, 2)), (2, 8, 8), 1),
    "tokens in one axis": (Tokens, (4, 5), 2),
}  # fmt: skip


def layered(model: nn.Module, x: np.ndarray, batch: int, limit_gb: float = 8.0) -> Plan:
    """A plan of that kind, whatever another would cost."""
    apart = Apart.of(model, x)
    shape, head = apart.found.output_shape, apart.found.head
    output = Output(shape, task_of(shape, head), head)
    own, *_ = apart.layer_by_layer(Wanted(batch, True, securedl.Link(), None, (), output, limit_gb))
    assert own.make is not None
    return own.make()


def built(name: str) -> tuple[nn.Module, np.ndarray, int]:
    build, shape, batch = NETWORKS[name]
    torch.manual_seed(len(name))
    return build().eval(), np.random.default_rng(len(name)).normal(size=(40, *shape)), batch


@functools.cache
def planned(name: str) -> Plan:
    """Compiled once for all tests."""
    return layered(*built(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_original_simulated_encrypted(name: str) -> None:
    model, x, batch = built(name)
    want = original(model, x)
    plan = planned(name)
    assert 0 < plan.signature.error < 2**-8
    few = x[: 2 * batch + 1]
    size = np.abs(want).max()
    np.testing.assert_allclose(plan.simulate(few, noise_seed=None), want[: len(few)], atol=1e-6 * size)
    answer = Server(plan).ask(few)
    ranges = np.maximum(np.ptp(want, axis=0), np.ptp(want, axis=0).max() / 8)
    if "norms" not in name:  # its answers are probabilities
        assert (np.abs(answer.logits - want[: len(few)]) <= plan.signature.error * ranges).all()
    assert answer.report.passed
    assert answer.report.probes >= 2


def test_two_samples_say_little_of_ranges() -> None:
    """Of 9,216 outputs some are nearly equal for both."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(2, 8, 24, 24))
    assert layered(nn.Conv2d(8, 16, 3, padding=1).eval(), x, 1).signature.error < 2**-9


@pytest.mark.parametrize("batch", [1, 16])
def test_a_bottleneck_stays_one_where_that_is_cheaper(batch: int, tmp_path: Path) -> None:
    """200 to 8 to 200 has 3,200 entries, their product 40,000."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(200, 8),
        nn.Linear(8, 200),
        square(),
        nn.Linear(200, 4),
        nn.Linear(4, 60),
        square(),
        nn.Linear(60, 3),
    )
    x = np.random.default_rng(0).normal(size=(60, 200))
    plan = securedl.compile(model.eval(), x, batch=batch, ring=8192)
    want = original(model, x)
    assert len(plan.network.rows(plan.program)) == {1: 3, 16: 5}[batch]
    np.testing.assert_allclose(plan.simulate(x, noise_seed=None), want, atol=1e-9 * np.ptp(want))
    plan.save(tmp_path / "plan")
    again = securedl.load_plan(tmp_path / "plan")
    assert again.program == plan.program
    np.testing.assert_array_equal(again.simulate(x[:3]), plan.simulate(x[:3]))
    answer = Server(plan).ask(x[:20])
    assert np.abs(answer.logits - want[:20]).max() <= plan.signature.error * np.ptp(want, axis=0).max()
    assert answer.report.passed


def test_a_saved_plan_gives_the_same(tmp_path: Any) -> None:
    x, plan = built("square and cube")[1], planned("square and cube")
    plan.save(tmp_path / "plan")
    found = securedl.load_plan(tmp_path / "plan")
    assert found.program == plan.program
    np.testing.assert_array_equal(found.simulate(x[:3]), plan.simulate(x[:3]))
    assert found.summary() == plan.summary()
    for (shape, one), (other, two) in zip(found.weight_slots(), plan.weight_slots(), strict=True):
        assert shape == other
        np.testing.assert_array_equal(one, two)


def test_the_server_computes_each_polynomial() -> None:
    plan = planned("square and cube")
    kinds = [type(step).__name__ for step in plan.program.steps]
    assert kinds.count("Convolve") == 3
    assert kinds.count("Multiply") == 3  # one for the square, two for the cube
    assert kinds.count("Refresh") == 4
    assert plan.program.relinearises
    assert [point.name for point in plan.signature.checkpoints] == [
        "affine 1", "activation 1", "affine 2", "activation 2", "affine 3", "affine 4",
    ]  # fmt: skip
    for degree in POLYNOMIAL_DEGREES:
        assert COMPLETED[degree].degree == degree
        assert COMPLETED[degree].registers == 1


def test_a_server_with_another_polynomial_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x, server, real = built("mlp")[1], Server(planned("mlp")), Multiply.run
    server.owner.verification.prepare()  # by simulation, which runs the steps too

    def twice(self: Multiply, e: Any, *given: Any) -> Any:
        return [e.add(tile, tile) for tile in real(self, e, *given)]

    monkeypatch.setattr(Multiply, "run", twice)
    assert not server.ask(x[:1], probes=8).report.passed


class TestNotSo:
    @pytest.mark.parametrize(
        ("between", "words"),
        [
            (nn.ReLU, "not affine"),
            (lambda: nn.MaxPool1d(2), "not affine"),
            (lambda: nn.LayerNorm(8), "not affine"),
            (lambda: PolynomialActivation(np.array([0.1, 0.6, 0.2, 0.3, 0.2]), (-4, 4)), "degree 4"),
        ],
    )
    def test_networks_with_more(self, between: Callable[[], nn.Module], words: str) -> None:
        torch.manual_seed(0)
        inner = 4 if between is not nn.ReLU and "MaxPool" in str(between()) else 8
        model = nn.Sequential(nn.Linear(6, 8), square(), between(), nn.Linear(inner, 2))
        with pytest.raises(UnsupportedLayerError, match=words):
            layered(model, np.random.default_rng(0).normal(size=(20, 6)), 1)

    def test_a_polynomial_that_is_nearly_straight(self) -> None:
        torch.manual_seed(0)
        bent = PolynomialActivation(np.array([0.0, 1.0, 1e-4]), (-1, 1))
        with pytest.raises(CompileError, match="nearly of a lower degree"):
            layered(nn.Sequential(nn.Linear(6, 8), bent), np.random.default_rng(0).normal(size=(20, 6)), 1)

    def test_what_is_affine(self) -> None:
        torch.manual_seed(0)

        class Gate(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x * x.mean(1, keepdim=True)

        for model, affine in (
            (nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), True),
            (nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.AvgPool2d(2)), True),
            (nn.Sequential(nn.Linear(4, 8), Gate()), False),
            (nn.Sequential(nn.Linear(4, 8), nn.Hardtanh(-20.0, 20.0)), False),
            (nn.Sequential(nn.Linear(4, 8), nn.Softmax(1), nn.Linear(8, 2)), False),
        ):
            assert is_affine(partition(model, (4,), polynomials=True).script, (4,)) == affine


def kinds(plan: Plan) -> set[str]:
    return {type(step).__name__ for step in plan.program.steps}


class TestWhichPlan:
    def test_a_small_network_is_one_in_slots(self) -> None:
        model, x, _ = built("mlp")
        plan = securedl.compile(model, x)
        assert "Convolve" not in kinds(plan)
        assert any(line.startswith("activations='client': ") for line in plan.runners_up)
        assert any(line.startswith("layer by layer") for line in plan.runners_up)
        assert plan.runners_up[0] in plan.summary()

    def test_a_convolution_that_slots_are_bad_at(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        x = np.random.default_rng(0).normal(size=(12, 8, 16, 16))
        model = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        plan = securedl.compile(model, x, batch=1)
        assert kinds(plan) == {"Convolve"}
        assert plan.runners_up[-1].startswith("in slots: ")
        plan.save(tmp_path / "plan")
        assert securedl.load_plan(tmp_path / "plan").runners_up == plan.runners_up
        np.testing.assert_allclose(plan.simulate(x[:2], noise_seed=None), original(model, x[:2]), atol=1e-9)

    def test_what_neither_can_do_is_refused_for_the_reason_of_slots(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
        with pytest.raises(UnsupportedLayerError, match="relu is not a polynomial yet"):
            securedl.compile(model, np.random.default_rng(0).normal(size=(20, 6)))

    def test_a_ring_or_refreshes_that_are_forced_are_those_of_slots(self) -> None:
        torch.manual_seed(0)
        x = np.random.default_rng(0).normal(size=(12, 6))
        for options in ({"ring": 8192}, {"refreshes": 0}, {"batch": "throughput"}):
            assert kinds(securedl.compile(nn.Linear(6, 3), x, **options)) == {"Matvec"}

    def test_large_networks_are_laid_out_in_slots_only_where_that_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, x, _ = built("mlp")
        assert "Convolve" not in kinds(securedl.compile(model, x, batch=1))
        monkeypatch.setattr("securedl.compiler.compile.MOST_ENTRIES", 10)
        with monkeypatch.context() as without:  # nothing of what slots need is looked at
            without.setattr("securedl.network.from_torch.import_torch", lambda *_: pytest.fail("imported"))
            plan = securedl.compile(model, x, batch=1)
        assert "Convolve" in kinds(plan)
        assert not any("in slots" in line for line in plan.runners_up)
        assert "Convolve" not in kinds(securedl.compile(model, x, batch=1, ring=16384))

    def test_a_network_that_can_only_be_in_slots_may_be_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> Apart:
            raise CompileError("no layer by layer plan")

        monkeypatch.setattr("securedl.compiler.compile.MOST_ENTRIES", 10)
        monkeypatch.setattr(Apart, "of", refused)
        model, x, _ = built("mlp")
        assert "Convolve" not in kinds(securedl.compile(model, x, batch=1))

    def test_large_matrices_see_fewer_samples_and_intervals_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(0)
        x = np.random.default_rng(0).uniform(-1, 1, (64, 4))
        relu = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
        model = securedl.approximate(relu, x, degree=2)
        monkeypatch.setattr("securedl.compiler.compile.CALIBRATION_WORK", 1)
        monkeypatch.setattr("securedl.compiler.compile.LEAST_SAMPLES", 16)
        plan = securedl.compile(model, x, batch=1, ring=8192)
        np.testing.assert_array_equal(plan.samples, x[::4])
        np.testing.assert_allclose(plan.simulate(x, noise_seed=None), original(model, x), atol=1e-6)
        x[1::4] *= 1e3  # not among those taken
        with pytest.raises(CompileError, match="outside"):
            securedl.compile(model, x, batch=1, ring=8192)

    def test_a_model_for_few_queries_has_fewer_weights(self) -> None:
        torch.manual_seed(0)
        x = np.random.default_rng(0).normal(size=(4, 16, 16, 16))
        weights = [
            len(
                securedl.compile(
                    nn.Conv2d(16, 16, 3, padding=1), x, activations="client", queries=queries
                ).program.weight_shapes
            )
            for queries in (1, 10**6)
        ]
        assert weights[0] < weights[1]
        with pytest.raises(InputError, match="queries must be a number from 1, got 0"):
            securedl.compile(nn.Linear(6, 3), x, queries=0)
