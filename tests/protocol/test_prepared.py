"""Uploads whose weights several processes prepare: progress, and that none of these is left."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from protocol import Client
from protocol.blobs import BlobTable
from securedl.client import preparing
from securedl.client.preparing import Helpers
from securedl.errors import SecureDLError, ServerError

pytestmark = pytest.mark.he


class Patient(Helpers):
    """Ready before the first weight is asked of them."""

    def __enter__(self) -> Patient:
        super().__enter__()
        while not self.ready:
            time.sleep(5e-3)
        self.are_ready()
        return self

    def are_ready(self) -> None:
        """For whoever waits for that."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that were started, two for a few weights."""
    found, real = list[subprocess.Popen[bytes]](), subprocess.Popen

    def start(*args, **kwargs):
        found.append(real(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(preparing, "FIRST", 2)
    monkeypatch.setattr(preparing, "WORTH_S", -1.0)
    monkeypatch.setattr(preparing, "GROUP_BYTES", 1)
    monkeypatch.setattr(preparing, "Helpers", Patient)
    monkeypatch.setattr(subprocess, "Popen", start)
    yield found
    assert len(found) == 2
    end = time.monotonic() + 20
    while not all(process.poll() is not None for process in found):
        assert time.monotonic() < end, "a process was left"
        time.sleep(5e-3)


@pytest.fixture(scope="module")
def plan() -> securedl.Plan:
    """300-100-3, coefficients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 3))
    return securedl.compile(model, np.random.default_rng(0).normal(size=(60, 300)), activations="client")


def prepared(plan: securedl.Plan) -> securedl.Owner:
    """Of whose upload only bytes are told."""
    owner = securedl.Owner(plan, processes=2)
    owner.prepare()
    return owner


def test_progress_counts_each_part(serve, started, plan) -> None:
    server, owner, seen = serve(), prepared(plan), list[tuple[str, int, int]]()
    with Client(server.address, owner, progress=lambda *figures: seen.append(figures)) as client:
        sent = client.upload()
        assert client.status().complete
    table = BlobTable(owner.program)
    lengths = [table[number].length for number in range(len(table))]
    assert sent.blobs == len(lengths) > 8
    assert seen[0] == ("upload", 0, 0)
    assert seen[-1] == ("upload", sum(lengths), sum(lengths))
    sums = [done for _, done, _ in seen]
    assert sums == sorted(sums)
    assert set(sums) <= {0, *np.cumsum(lengths).tolist()}


def test_an_error_ends_them(serve, started, plan) -> None:
    """At once, though the error and all that it holds is kept."""

    def progress(stage: str, done: int, total: int) -> None:
        if done and done == total:
            raise KeyError("shown nowhere")

    server, owner = serve(), prepared(plan)
    with Client(server.address, owner, progress=progress) as client, pytest.raises(KeyError) as kept:
        client.upload()
    assert all(process.poll() is not None for process in started)
    assert kept


def test_a_server_that_goes_away(serve, started, plan) -> None:
    servers = [serve()]

    def progress(stage: str, done: int, total: int) -> None:
        if started and servers:
            servers.pop().stop()

    owner = prepared(plan)
    with Client(servers[0].address, owner, progress=progress) as client, pytest.raises(ServerError):
        client.upload()


def test_a_process_that_goes_away(serve, started, plan, monkeypatch) -> None:
    """The error of an upload that was broken off says what happened, and it can be repeated."""

    def kill(helpers: Patient) -> None:
        for process in started:
            process.kill()

    monkeypatch.setattr(Patient, "are_ready", kill)
    server, owner = serve(), prepared(plan)
    with Client(server.address, owner) as client:
        with pytest.raises(SecureDLError, match="helps to encrypt weights failed"):
            client.upload()
        owner._processes = 1
        client.upload()
        assert client.status().complete
