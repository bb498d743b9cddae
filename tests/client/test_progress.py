"""Everything that may take over a second tells how far it is, at least once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import protocol
from protocol.client import Client
from securedl import progress as module
from securedl.activations.replace import approximate
from securedl.client.owner import Owner
from securedl.compiler.compile import compile
from securedl.progress import STAGE_NAMES

X = np.random.default_rng(0).random((40, 1, 12, 12)).astype(np.float32)
#: Seconds; a busy machine may be late.
SILENCE_S = 1.5


class Watch:
    """Checks what it is told, call by call."""

    def __init__(self) -> None:
        self.told = list[tuple[str, int, int]]()
        self.at = list[float]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.told.append((stage, done, total))
        self.at.append(time.monotonic())

    def over(self, work: Callable[[], Any], *stages: str) -> Any:
        """The work's result: it went through these stages, each from 0 to its end, and was never silent."""
        self.told, self.at = [], [time.monotonic()]
        result = work()
        self.at.append(time.monotonic())
        assert max(np.diff(self.at)) < SILENCE_S
        assert list(dict.fromkeys(stage for stage, *_ in self.told)) == list(stages)
        for name in stages:
            assert name in STAGE_NAMES
            figures = [(done, total) for stage, done, total in self.told if stage == name]
            done = [one for one, _ in figures]
            assert figures[0][0] == 0
            assert done == sorted(done)
            assert figures[-1][0] == figures[-1][1] > 0
            assert all(one <= total for one, total in figures if total)
        return result


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 3),
        )  # fmt: skip


def serving(folder: Path) -> protocol.Server:
    return protocol.Server(folder / "store", f"unix:{folder / 's'}")


@pytest.mark.he
def test_from_a_network_to_answers(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEAST_S", 0.0)
    watch, y = Watch(), np.arange(40) % 3
    poly = watch.over(lambda: approximate(network(), X, y, epochs=3, progress=watch), "approximate")
    assert ("approximate", 3, 6) in watch.told  # two activations, three epochs
    plan = watch.over(lambda: compile(poly, X, batch=8, progress=watch), "compile")
    watch.over(lambda: plan.simulate(X, progress=watch), "simulate")
    assert ("simulate", 3, 5) in watch.told
    owner = watch.over(lambda: Owner(plan, progress=watch), "keys")
    with serving(tmp_path) as server, Client(server.address, owner, progress=watch) as client:
        sent = watch.over(client.upload, "probes", "upload")
        assert watch.told[-1] == ("upload", sent.bytes, sent.bytes)
        watch.over(client.upload, "upload")  # probes are there
        answer = watch.over(lambda: client.predict(X), "predict")
        assert answer.report.passed
        parts = client.predict_batches(X)
        watch.over(lambda: list(parts), "predict")
    watch.over(lambda: owner.prepare(watch))  # nothing to do
    other = Owner(plan, progress=False)
    watch.over(lambda: other.ask(X, progress=watch), "probes")


@pytest.mark.he
def test_other_plans(tmp_path) -> None:
    watch = Watch()
    watch.over(lambda: compile(network(), X, activations="client", progress=watch), "compile")
    poly = approximate(network(), X, progress=False)
    plan = watch.over(lambda: compile(poly, X, scheme="bgv", refreshes=0, progress=watch), "compile")
    owner = watch.over(lambda: Owner(plan, progress=watch), "keys")
    watch.over(lambda: owner.prepare(watch), "probes")
    owner.save(tmp_path / "owner", "p")
    watch.over(lambda: Owner.load(tmp_path / "owner", "p", progress=watch), "keys")
    dense = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    granting = Owner(compile(dense, X, ring=8192, progress=False), progress=False)
    watch.over(lambda: granting.grant(progress=watch), "grant")


@pytest.mark.he
def test_a_function_that_raises_leaves_all_usable(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEAST_S", 0.0)
    when = [""]

    def progress(stage: str, done: int, total: int) -> None:
        if stage == when[0] and done:
            raise KeyError(stage)

    poly = approximate(network(), X, progress=False)
    with pytest.raises(InterruptedError):
        compile(poly, X, progress=_interrupted)
    owner = Owner(compile(poly, X, batch=8, progress=False), progress=False)
    with serving(tmp_path) as server, Client(server.address, owner, progress=progress) as client:
        for when[0] in ("probes", "upload"):
            with pytest.raises(KeyError, match=when[0]):
                client.upload()
        when[0] = ""
        client.upload()
        when[0] = "predict"
        with pytest.raises(KeyError, match="predict"):
            client.predict(X)
        when[0] = ""
        assert client.predict(X).report.passed


def _interrupted(stage: str, done: int, total: int) -> None:
    raise InterruptedError
