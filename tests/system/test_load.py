"""Four clients at once on one server process: `bench.load` for twenty seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.he

ROOT = Path(__file__).parents[2]
#: What the server's memory may grow by once it has answered for ten seconds, MiB. Measured: below 1 in a
#: minute; an evaluation's own pool is cut in pieces of 32.
GROWTH = 40


@pytest.mark.slow
def test_four_clients_at_once(tmp_path) -> None:
    path = tmp_path / "load.json"
    command = [sys.executable, "-m", "bench.load", "--clients", "4", "--seconds", "20", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(path.read_text())
    assert figures["clients"] == 4
    assert figures["calls"] >= 8
    assert (figures["wrong"], figures["alarms"], figures["failures"]) == (0, 0, [])
    assert figures["worst_error"] < 1
    for kind in ("rss", "anonymous"):
        assert figures[f"{kind}_most"] < figures[f"{kind}_settled"] + GROWTH, figures


@pytest.mark.parametrize("module", ["bench.load", "bench.evaluators"])
def test_a_path_is_refused_before_the_work(module, tmp_path) -> None:
    command = [sys.executable, "-m", module, "--json", str(tmp_path / "none" / "x.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no folder" in done.stderr
