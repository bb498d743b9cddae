"""activations="client": small networks of every kind; original = script = simulated = encrypted."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import securedl
from securedl.client.batch import Batch
from securedl.errors import CompileError, InputError, UnsupportedLayerError
from securedl.he.record import Record, Shape, pack, unpack, unpack_key
from securedl.he.vector import VectorEvaluator
from securedl.network.partition import partition
from securedl.network.script import Script
from securedl.plan.plan import Plan, plan_from_bytes
from securedl.program.drive import drive
from securedl.program.execute import Shown, execute

sys.path.insert(0, str(Path(__file__).parent))
from every_network import NETWORKS, built, original

pytestmark = pytest.mark.he


class Noise(nn.Module):
    """Random in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@functools.cache
def planned(name: str) -> Plan:
    """Compiled once for all tests."""
    model, x, batch = built(name)
    return securedl.compile(model, x, activations="client", batch=batch)


class Server:
    """A server in this process, with an owner's keys and weights."""

    def __init__(self, plan: Plan) -> None:
        self.owner, self.program = securedl.Owner(plan), plan.program
        params = self.program.params
        self.evaluator = VectorEvaluator(params)
        keys = {step: unpack_key(params, self.owner.key(step)) for step in self.program.rotations}
        self.evaluator.set_keys(unpack_key(params, self.owner.key(None)), keys)
        pairs = zip(self.owner.weights(), self.program.weight_shapes, strict=True)
        self.weights = [self.evaluator.load_packed(data, shape) for data, shape in pairs]

    def serve(self, batch: Batch) -> None:
        """Take a batch to its answer; what is sent is what the program says."""
        params, program = self.program.params, self.program
        sent = [*(down.sent for down, _ in program.shown), program.answer.sent]

        def load(tiles: list[bytes], shape: Shape) -> list[Any]:
            return [self.evaluator.load(unpack(params, tile, shape)) for tile in tiles]

        def dump(tiles: list[Any], number: int) -> list[bytes]:
            records: list[Record] = [self.evaluator.sent(tile, sent[number]) for tile in tiles]
            return [pack(params, record) for record in records]

        def shown(what: Shown) -> list[Any] | None:
            tiles, (_, back) = dump(what.tiles, what.index), program.shown[what.index]
            if back is None:
                batch.tap(what.index, tiles)
                return None
            return load(batch.refresh(what.index, tiles), back.fresh)

        query = load(batch.query(), program.query.fresh)
        answer = drive(execute(program, self.evaluator, self.weights, query), shown)
        batch.finish(dump(answer, len(sent) - 1))

    def ask(self, x: np.ndarray, probes: int = 2) -> Any:
        inference = self.owner.ask(x, probes)
        for batch in inference.batches:
            self.serve(batch)
        return inference.answer({}, {})


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", NETWORKS)
def test_original_script_simulated_encrypted(name: str) -> None:
    model, x, batch = built(name)
    want = original(model, x)
    found = partition(model, x.shape[1:])
    size = np.abs(want).max()
    for count in (1, 3, 8):
        logits = found.head(found.script.logits(x[:count], found.kernels))
        np.testing.assert_allclose(logits, want[:count], atol=1e-9 * size)
    plan = planned(name)
    assert 0 < plan.signature.error < 2**-8
    few = x[: 2 * batch + 1]
    logits = found.script.logits(x, found.kernels).reshape(len(x), -1)
    ranges = np.maximum(np.ptp(logits, axis=0), np.ptp(logits, axis=0).max() / 8)
    allowed = plan.signature.error * ranges
    exact = plan.simulate(few, noise_seed=None)
    np.testing.assert_allclose(exact, want[: len(few)], atol=1e-6 * size)
    answer = Server(plan).ask(few)
    wrong = np.abs(answer.logits.reshape(len(few), -1) - logits[: len(few)])
    assert (wrong <= allowed).all(), (wrong / allowed).max()
    assert answer.report.passed
    assert answer.report.probes >= 2


def test_a_saved_plan_gives_the_same(tmp_path: Any) -> None:
    x, plan = built("residual, projection")[1], planned("residual, projection")
    plan.save(tmp_path / "plan")
    found = securedl.load_plan(tmp_path / "plan")
    assert found.program == plan.program
    assert found.signature.error == plan.signature.error
    np.testing.assert_array_equal(found.simulate(x[:3]), plan.simulate(x[:3]))
    assert found.summary() == plan.summary()
    for (shape, one), (other, two) in zip(found.weight_slots(), plan.weight_slots(), strict=True):
        assert shape == other
        np.testing.assert_array_equal(one, two)
    assert plan_from_bytes(plan.to_bytes()).signature.checkpoints[1].back is not None


def test_the_summary_says_who_does_what() -> None:
    lines = planned("max pooling").summary().splitlines()
    assert lines[2].startswith("  1. 0: 1 x 10 x 10 -> 3 x 8 x 8, kernel 3x3; ")
    assert lines[3].startswith("  2. 4: 48 -> 4; ")
    assert lines[4].endswith("by the client, who sees their values: add, relu, max_pool2d")
    assert lines[5] == "refreshes: 1 (before affine 2)"
    lines = planned("residuals").summary().splitlines()
    assert any(line.startswith("refreshes: ") for line in lines)


def test_a_saved_owner_answers(tmp_path: Any) -> None:
    model, x, _ = built("mlp")
    server = Server(planned("mlp"))
    server.owner.verification.prepare()
    server.owner.save(tmp_path / "owner", passphrase="p")
    server.owner = securedl.Owner.load(tmp_path / "owner", passphrase="p")
    answer = server.ask(x[:3])
    assert answer.report.passed
    np.testing.assert_allclose(answer.logits, original(model, x[:3]), atol=1e-3)


class TestDishonest:
    """Every weight matters to some probe, whatever the activations hide."""

    @pytest.mark.parametrize("number", range(4))
    def test_one_changed_weight_is_seen(self, number: int) -> None:
        x, server = built("mlp")[1], Server(planned("mlp"))
        shape = server.program.weight_shapes[number % 2]
        coefficients = np.zeros(server.program.params.ring)
        coefficients[number * 5] = 0.3  # a weight of normalised values, some of which reach 8
        spoilt = server.evaluator.load(
            unpack(server.program.params, server.owner.keys.encrypt(coefficients, shape), shape)
        )
        server.weights[number % 2] = server.evaluator.add(server.weights[number % 2], spoilt)
        assert not server.ask(x[:1], probes=8).report.passed

    def test_after_an_alarm_the_server_gets_zeros(self) -> None:
        x, server = built("mlp")[1], Server(planned("mlp"))
        server.weights[0] = server.weights[1]
        inference = server.owner.ask(x[:1], 8)
        keys, program = server.owner.keys, server.program
        seen = []

        class Spy:
            def __init__(self, batch: Batch) -> None:
                self.batch = batch

            def query(self) -> list[bytes]:
                return self.batch.query()

            def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
                fresh = self.batch.refresh(index, tiles)
                alarmed = bool(self.batch.alarms)  # of a probe, at once
                seen.append((alarmed, keys.decrypt(fresh[0], program.refreshes[index][1].fresh, True)))
                return fresh

            def settle(self) -> None:
                self.batch.settle()

            def finish(self, tiles: list[bytes]) -> None:
                self.batch.finish(tiles)

        for batch in inference.batches:
            server.serve(Spy(batch))  # type: ignore[arg-type]
        alarmed = [values for alarms, values in seen if alarms]
        assert alarmed
        assert max(np.abs(values).max() for values in alarmed) < 1e-3  # noise
        assert not inference.answer({}, {}).report.passed

    def test_what_the_client_cannot_go_on_with_is_an_alarm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A garbled answer may make an operation of the client fail; the server sees zeros, and no error."""

        class Looked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.table, self.last = nn.Linear(4, 1), nn.Embedding(9, 3), nn.Linear(3, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.last(
                    self.table((torch.sigmoid(self.first(x)) * 8 + self.first(x) * 0).long()[:, 0])
                )

        torch.manual_seed(0)
        model, x = Looked().eval(), np.random.default_rng(0).normal(size=(30, 4))
        server = Server(securedl.compile(model, x, activations="client"))
        inference = server.owner.ask(x[:1], 0)
        real = Batch._decrypt

        def garbled(self: Batch, tiles: list[bytes], point: int) -> Any:
            return real(self, tiles, point) + np.nan

        monkeypatch.setattr(Batch, "_decrypt", garbled)
        for batch in inference.batches:
            server.serve(batch)
        assert not inference.answer({}, {}).report.passed


class Normed(nn.Module):
    """Divides by the largest value of a sample, of which an honest layer has one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6, bias=False)
        self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y / y.abs().amax(1, keepdim=True)
        found: Tensor = self.last(torch.relu(self.second(y)))
        return found


class TestAfterAFailure:
    """A value that cannot be encrypted: the client alarms, sends zeros, and works as before."""

    def asked(self, monkeypatch: pytest.MonkeyPatch, worth: float) -> tuple[list[Any], list[str], int]:
        """What is sent at each refresh, the alarms, and how often an operation of the script ran."""
        torch.manual_seed(0)
        model, x = Normed().eval(), np.random.default_rng(0).normal(size=(30, 4))
        server = Server(securedl.compile(model, x, activations="client"))
        inference = server.owner.ask(x[:1], 0, verify="probes")
        keys, program, seen, runs = server.owner.keys, server.program, list[Any](), 0
        real, read, refreshed = Batch._decrypt, Script._read, Batch.refresh

        def garbled(self: Batch, tiles: list[bytes], point: int) -> Any:
            found = real(self, tiles, point)
            return worth * found if point == 1 else found

        def counted(self: Script, value: Any, registers: Any) -> Any:
            nonlocal runs
            runs += 1
            return read(self, value, registers)

        def watched(self: Batch, index: int, tiles: list[bytes]) -> list[bytes]:
            fresh = refreshed(self, index, tiles)
            shape = program.refreshes[index][1].fresh
            seen.append(np.abs(keys.decrypt(fresh[0], shape, True)).max())
            return fresh

        monkeypatch.setattr(Batch, "_decrypt", garbled)
        monkeypatch.setattr(Script, "_read", counted)
        monkeypatch.setattr(Batch, "refresh", watched)
        for batch in inference.batches:
            server.serve(batch)
        alarms = [alarm for batch in inference.batches for alarm in batch.alarms]
        assert inference.answer({}, {}).report.passed == (not alarms)
        return seen, alarms, runs

    def test_it_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent, alarms, runs = self.asked(monkeypatch, 1.0)
        assert not alarms
        assert min(sent) > 0.1
        with pytest.MonkeyPatch.context() as other:
            sent, alarms, after = self.asked(other, 0.0)
        assert len(alarms) == 1
        assert "a value that cannot be encrypted" in alarms[0]
        assert max(sent) < 1e-3  # noise
        assert after == runs


class TestRefused:
    @pytest.mark.parametrize(
        ("end", "words"),
        [
            (lambda y: torch.softmax(y, 1)[:, 1], "from 0 to 1"),
            (lambda y: torch.sigmoid(y).square()[:, :1], "from 0 to 1"),
            (lambda y: y.argmax(1), "whole numbers"),
            (lambda y: (y[:, :1] > 0).double(), "whole numbers"),
        ],
    )
    def test_answers_without_labels(self, end: Callable[[Tensor], Tensor], words: str) -> None:
        class Ended(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return end(self.fc(x))

        torch.manual_seed(0)
        model, x = Ended(), np.random.default_rng(0).normal(size=(30, 4))
        with pytest.raises(InputError, match=words):
            securedl.compile(model, x, activations="client")

    def test_a_sample_on_which_the_clients_operations_fail(self) -> None:
        class Looked(nn.Module):
            """The first feature is a number of a table."""

            def __init__(self) -> None:
                super().__init__()
                self.table, self.fc = nn.Embedding(5, 3), nn.Linear(3, 2)

            def forward(self, x: Tensor) -> Tensor:
                found: Tensor = self.fc(self.table(x[:, 0].long()))
                return found

        torch.manual_seed(0)
        x = np.random.default_rng(0).integers(0, 5, (30, 2)).astype(float)
        plan = securedl.compile(Looked(), x, activations="client")
        assert len(plan.checked(x[:3])) == 3
        with pytest.raises(InputError, match="would overflow"):
            plan.checked(np.array([[9.0, 0.0]]))

    @pytest.mark.parametrize(
        ("model", "words"),
        [
            (nn.Sequential(nn.ReLU(), nn.Flatten()), "no convolution or linear layer"),
            (
                nn.Sequential(nn.Linear(4, 2), Noise()),
                "normal_functional gives other values|randn_like gives",
            ),
        ],
    )
    def test_networks(self, model: nn.Module, words: str) -> None:
        x = np.random.default_rng(0).normal(size=(9, 4))
        with pytest.raises(UnsupportedLayerError, match=words):
            securedl.compile(model, x, activations="client")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"activations": "both"}, "'server' or 'client'"),
            ({"activations": "client", "refreshes": 2}, "refreshes cannot be chosen"),
            ({"activations": "client", "batch": "throughput"}, "give a number"),
            ({"activations": "client", "batch": 0}, "a number from 1"),
            ({"activations": "client", "batch": 1.5}, "a number from 1"),
        ],
    )
    def test_arguments(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(InputError, match=words):
            securedl.compile(nn.Linear(4, 2), np.random.default_rng(0).normal(size=(9, 4)), **options)

    def test_a_model_that_is_too_large(self) -> None:
        with pytest.raises(CompileError, match=r"more than limit_gb=1e-05: .* weights are those of"):
            securedl.compile(
                nn.Linear(400, 200), np.random.default_rng(0).normal(size=(9, 400)), activations="client",
                limit_gb=1e-5,
            )  # fmt: skip

    def test_an_outlier(self) -> None:
        x, plan = built("mlp")[1], planned("mlp")
        with pytest.raises(InputError, match="would overflow"):
            plan.checked(1e4 * x[:2])


class TestScripts:
    @pytest.mark.parametrize(
        "operation",
        ["aten.add_.Tensor", "aten.bernoulli.default", "aten.nothing.default", "os.system", "aten.relu",
         "aten.relu.out", "aten.__class__.x", "prims.add.default", "", "getattr"],
    )  # fmt: skip
    def test_operations_that_a_file_may_not_have(self, operation: str) -> None:
        model, x, _ = built("mlp")
        meta, arrays = partition(model, x.shape[1:]).script.to_parts()
        meta = json.loads(json.dumps(meta))
        meta["instructions"][0][1] = operation
        with pytest.raises(InputError, match="cannot do"):
            Script.from_parts(meta, arrays)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda meta: meta["instructions"].reverse(), "wrong register"),
            (lambda meta: meta["constants"].clear(), "unknown constant"),
            (lambda meta: meta["instructions"].pop(1), "wrong register|layers"),
            (lambda meta: meta.update(output=99), "has an answer"),
            (lambda meta: meta["layers"].pop(), "each of its layers"),
        ],
    )
    def test_scripts_that_make_no_sense(self, change: Callable[[Any], Any], words: str) -> None:
        model, x, _ = built("mlp")
        meta, arrays = partition(model, x.shape[1:]).script.to_parts()
        meta = json.loads(json.dumps(meta))
        change(meta)
        with pytest.raises(InputError, match=words):
            Script.from_parts(meta, arrays)
