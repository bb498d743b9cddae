"""Servers in this process and in their own, on free ports and on sockets in tmp_path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for protocol_fakes, under importlib mode


class ServerProcess:
    """A fake-evaluator server in a process of its own."""

    def __init__(self, store: Path, address: str, *options: str) -> None:
        command = [sys.executable, str(HERE / "serve_fake.py"), str(store), address, *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1]
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line[:1] == ["listening"], self.process.communicate()[1]
        self.address = line[1]

    def kill(self) -> str:
        """kill -9; what it logged."""
        self.process.kill()
        return self.process.communicate()[1]

    def stop(self) -> str:
        """SIGTERM; what it logged."""
        self.process.terminate()
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def spawn():
    """Start server processes; none outlives the test."""
    started: list[ServerProcess] = []

    def start(*arguments) -> ServerProcess:
        started.append(ServerProcess(*arguments))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(autouse=True)
def fake_inference(monkeypatch):
    """`predict(n)` asks n random batches of the fake owner."""
    from protocol_fakes import FakeInference

    import protocol.client

    monkeypatch.setattr(protocol.client, "open_inference", FakeInference)


@pytest.fixture
def serve(tmp_path):
    """Start servers in this process."""
    from protocol_fakes import FakeBackend, FakeEvaluator

    from protocol import Server
    from securedl.he.backends import Backend

    started: list[Server] = []

    def start(store=None, address="127.0.0.1:0", evaluator=FakeEvaluator, **options) -> Server:
        ours = evaluator if isinstance(evaluator, str | Backend) else FakeBackend(evaluator)
        started.append(Server(store or tmp_path / "store", address, ours, **options).start())
        return started[-1]

    yield start
    for server in started:
        server.stop()
