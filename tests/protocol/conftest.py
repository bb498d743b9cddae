"""Servers in this process and in their own, on free ports and on sockets in tmp_path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from securedl.demo.processes import ServerProcess

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for protocol_fakes, under importlib mode


@pytest.fixture
def spawn():
    """Start server processes with the fake evaluator; none outlives the test."""
    started: list[ServerProcess] = []

    def start(store: Path, address: str, *options: str) -> ServerProcess:
        command = [sys.executable, str(HERE / "serve_fake.py"), str(store), address, *options]
        log = store.with_name(f"server{len(started)}.log")
        started.append(ServerProcess(command, log, HERE.parents[1]))
        return started[-1]

    yield start
    for server in started:
        server.kill()


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
