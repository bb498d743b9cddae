"""A compiled network, real keys and both evaluators across a real socket."""

from __future__ import annotations

import numpy as np
import pytest

import protocol
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
