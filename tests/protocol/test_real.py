"""A compiled network, real keys and both evaluators across a real socket."""

from __future__ import annotations

import numpy as np
import pytest

import protocol
from protocol import watched
from securedl.demo.processes import running, serve_command
from securedl.he.vector.backend import VectorBackend
from securedl.he.weights import HeldWeights

pytestmark = pytest.mark.he


@pytest.fixture(autouse=True)
def fake_inference():
    """Here the inference is the real one."""


@pytest.fixture(scope="module")
def network():
    """Owner, samples [90, 16] and the logits [90, 3] that are due."""
    torch = pytest.importorskip("torch")
    securedl = pytest.importorskip("securedl")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x = np.random.default_rng(0).uniform(-1, 1, (90, 16)).astype(np.float32)
    poly = securedl.approximate(net, x, degree=2)
    with torch.no_grad():
        logits = poly(torch.tensor(x)).numpy()
    return securedl.Owner(securedl.compile(poly, x, batch=64, refreshes=1)), x, logits


@pytest.mark.parametrize("evaluator", ["vector", "seal"])
def test_encrypted_equals_plain(network, tmp_path, evaluator: str) -> None:
    owner, x, logits = network
    command = serve_command(tmp_path / "store", f"unix:{tmp_path}/s", "--evaluator", evaluator)
    with running(command, tmp_path / "log") as process, protocol.Client(process.address, owner) as client:
        assert client.upload().blobs == client.status().blobs
        assert client.upload().blobs == 0
        answer = client.predict(x, probes=4)
    assert answer.report.passed, answer.report
    np.testing.assert_allclose(answer.logits, logits, atol=1e-4)
    assert answer.traffic["refresh"] > 0


@pytest.mark.parametrize("activations", ["server", "client"])
def test_calls_that_are_taken_apart_give_the_same(network, tmp_path, monkeypatch, activations) -> None:
    """As are those that would be too long for a look at the client."""
    owner, x, logits = network
    if activations == "client":  # in coefficients: sums, each merged with others
        torch, securedl = pytest.importorskip("torch"), pytest.importorskip("securedl")
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.ReLU(), torch.nn.AvgPool2d(2),
            torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1600, 10),
        )  # fmt: skip
        x = np.random.default_rng(0).uniform(-1, 1, (30, 1, 28, 28)).astype(np.float32)
        plan = securedl.compile(net, x, activations="client")
        assert plan.program.counts.merges
        with torch.no_grad():
            owner, logits = securedl.Owner(plan), net(torch.tensor(x)).numpy()
    apart = []
    real = watched.Watched._long

    def long(*given) -> bool:
        apart.append(real(*given))
        return apart[-1]

    monkeypatch.setattr(watched, "CALL_S", 0.0)
    monkeypatch.setattr(watched.Watched, "_long", long)
    with (
        protocol.Server(tmp_path / "store", f"unix:{tmp_path}/s") as server,
        protocol.Client(server.address, owner) as client,
    ):
        client.upload()
        answer = client.predict(x[:20], probes=4)
    assert any(apart)
    assert answer.report.passed, answer.report
    np.testing.assert_allclose(answer.logits, logits[:20], atol=1e-4)


class Swapped(VectorBackend):
    """A back end whose first weight is another one."""

    def weights(self, evaluator, records, folder, room):
        honest = super().weights(evaluator, records, folder, room)
        return HeldWeights(lambda index: honest[1 if index == 0 else index], honest._costs, room)


def test_a_swapped_diagonal_is_noticed(network, tmp_path) -> None:
    owner, x, _ = network
    with (
        protocol.Server(tmp_path / "store", f"unix:{tmp_path}/s", evaluator=Swapped()) as server,
        protocol.Client(server.address, owner) as client,
    ):
        client.upload()
        answer = client.predict(x[:8], probes=8)
    assert not answer.report.passed
