"""A Ray cluster of two nodes, here both on one machine: an actor on each, and a node that dies."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operating import eventually

import securedl
from protocol import Client
from securedl.demo.processes import running, serve_command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]


class Cluster:
    """Nodes of one core; the first is the head."""

    def __init__(self, stack: ExitStack) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._stack, self._folder = stack, stack.enter_context(tempfile.TemporaryDirectory(prefix="r"))
        head = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false"]
        self.nodes = [self._start(*head, "--temp-dir", self._folder)]
        eventually(self._answers, 60)
        self.nodes.append(self._start("--address", self.address))

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        with socket.socket() as asked:
            return asked.connect_ex((host, int(port))) == 0

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        words = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus", "1", *options]
        environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        node = subprocess.Popen(
            words,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._stack.callback(self.kill, node)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """All of its processes at once, as a machine that loses its power."""
        for pid in [*descendants(node.pid), node.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        node.wait()


def parent(pid: int) -> int:
    """Of a process that may be gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def descendants(pid: int) -> list[int]:
    parents = {int(found.name): parent(int(found.name)) for found in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [child for child, above in parents.items() if above == one]
    return found[1:]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(stack)


def test_a_node_that_dies_costs_a_retry(cluster: Cluster, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise([16, 12, 10, 8, 3])]
    net = torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.ReLU())][:-1])
    x = np.random.default_rng(0).uniform(-1, 1, (400, 16)).astype(np.float32)
    owner = securedl.Owner(securedl.compile(net, x, activations="client"))
    with torch.no_grad():
        wanted = net(torch.tensor(x)).numpy()
    options = ("--executor", "ray", "--actors", "2", "--threads", "1", "--ray-address", cluster.address)
    command = serve_command(tmp_path / "store", "127.0.0.1:0", "--log-format", "json", *options)

    def actors() -> list[dict[str, Any]]:
        events = [json.loads(line) for line in server.logged().splitlines()]
        return [event for event in events if event["event"] == "actor"]

    with running(command, tmp_path / "log") as server, Client(server.address, owner) as client:
        client.upload()
        places = [descendants(node.pid) for node in cluster.nodes]
        homes = {event["pid"]: [event["pid"] in place for place in places] for event in actors()}
        assert sorted(homes.values()) == [[False, True], [True, False]]
        before = client.predict(x[:40])
        assert before.report.passed
        np.testing.assert_allclose(before.logits, wanted[:40], atol=1e-3)
        killer = threading.Timer(0.5, cluster.kill, (cluster.nodes[1],))
        killer.start()
        asked = [client.predict(x) for _ in range(3)]
        killer.join()
        asked.append(client.predict(x))
        for answer in asked:
            assert answer.report.passed
            np.testing.assert_allclose(answer.logits, wanted, atol=1e-3)
        assert [event["state"] for event in actors()].count("lost") == 1
