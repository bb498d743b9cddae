"""Clients at once on one deployment, calm and while its workers are ended: `bench.load` for some seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.load.running import run
from bench.load.watch import Course, children

pytestmark = pytest.mark.he

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_four_clients_at_once(tmp_path: Path) -> None:
    """Every answer is right, metrics are what clients count, and nothing grows: a minute of the soak."""
    path = tmp_path / "load.json"
    command = [sys.executable, "-m", "bench.load", "--seconds", "60", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(path.read_text())["calm"]
    assert (figures["clients"], figures["wrong"], figures["lost"], figures["alarms"]) == (4, 0, 0, 0)
    assert (figures["failures"], figures["grown"], figures["disagreements"]) == ([], [], [])
    assert figures["worst_error"] < 1
    assert figures["queries"] >= figures["calls"] >= 8


@pytest.mark.parametrize("restart_s", [pytest.param(0.0, marks=pytest.mark.slow), 2.0])
def test_workers_that_are_ended_lose_no_answer(restart_s: float) -> None:
    """One after the other, by SIGKILL and SIGTERM in turn; if none is, metrics are what clients count."""
    figures = run(clients=1, seconds=6.0, workers=2, restart_s=restart_s)
    assert (figures.clients, figures.wrong, figures.lost, figures.alarms) == (1, 0, 0, 0)
    assert (figures.failures, figures.disagreements) == ((), ())
    assert figures.worst_error < 1
    assert figures.samples > figures.calls >= 4
    assert figures.restarts >= 2 if restart_s else figures.restarts == 0


def test_what_grows_is_seen() -> None:
    assert Course.of(np.full(40, 7.0)).flat(0.0)
    steps = Course.of(np.arange(40.0))
    assert (steps.settled, steps.most, steps.end) == (4.5, 39.0, 34.5)
    assert not steps.flat(29.9)
    assert Course.of(np.array([3.0])).flat(0.0)


def test_children_are_found_the_oldest_first() -> None:
    command = [sys.executable, "-c", "input()"]
    begun: list[subprocess.Popen[bytes]] = []

    before = set(children(os.getpid()))
    try:
        for _ in range(2):
            begun.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        found = [pid for pid in children(os.getpid()) if pid not in before]
        assert found == [one.pid for one in begun]
    finally:
        for one in begun:
            one.communicate(b"\n")


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        ("bench.load", ["--json", "{}/none/x.json"], "there is no folder"),
        ("bench.evaluators", ["--json", "{}/none/x.json"], "there is no folder"),
        ("bench.load", ["--restart-every", "3"], "at least --workers 2"),
    ],
)
def test_bad_options_are_refused_before_the_work(
    module: str, options: list[str], words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", module, *(one.format(tmp_path) for one in options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
