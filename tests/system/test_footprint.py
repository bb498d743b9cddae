"""What a plan's summary says beforehand is what a server process then receives, stores and holds."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import protocol
import securedl
from securedl.program.footprint import footprint

pytestmark = pytest.mark.he
WAIT_S = 120.0


def resident(pid: int) -> int:
    """Bytes of memory that a process holds, files that it maps with them."""
    (found,) = re.findall(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return 1024 * int(found)


def dense() -> Any:
    """Polynomials by the server, in slots, with a refresh: 30 keys."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    ).double()
    x = np.random.default_rng(0).uniform(-1, 1, (100, 64))
    return securedl.compile(securedl.approximate(net, x, degree=2), x, ring=8192, refreshes=1), x


def images() -> Any:
    """Activations by the client, layers in coefficients: some hundred weights."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5), nn.ReLU(), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(3200, 100), nn.ReLU(), nn.Linear(100, 10),
    ).double()  # fmt: skip
    x = np.random.default_rng(0).uniform(-1, 1, (40, 1, 28, 28))
    return securedl.compile(net, x, activations="client"), x


@pytest.mark.parametrize("made", [pytest.param(dense, marks=pytest.mark.slow), images])
def test_bytes_disk_and_memory(made, tmp_path, serving) -> None:
    plan, x = made()
    taken, owner = footprint(plan.program), securedl.Owner(plan)
    with serving(tmp_path) as process, protocol.Client(process.address, owner) as client:
        sent = client.upload()
        answer = client.predict(x[: plan.batch], probes=0)
        (model,) = tmp_path.glob("store/clients/*/*")
        stored = warm(model, len(plan.program.weight_shapes))
    # One that took the upload, too, has kept some of the memory for that.
    with serving(tmp_path) as process, protocol.Client(process.address, owner) as client:
        before = resident(process.pid)
        for _ in range(2):
            client.predict(x[: plan.batch], probes=0)
        grown = resident(process.pid) - before
    print(f"grown by {grown / 1e6:.1f} MB, {taken.memory / 1e6:.1f} were said")
    assert sent.bytes + len(plan.program.to_json()) == taken.upload
    assert sent.blobs == taken.keys + taken.weights
    found = {"query": taken.query, "refresh": taken.down, "fresh": taken.up, "tap": taken.taps}
    found["answer"] = taken.answer
    assert answer.traffic == found
    assert stored == taken.disk
    assert grown == pytest.approx(taken.memory, rel=0.2)


def warm(model: Path, weights: int) -> int:
    """Bytes of a model's folder, once the server has written all that it makes of it."""
    until = time.monotonic() + WAIT_S
    while True:
        (journal,) = model.glob("packed-*.journal")
        if journal.stat().st_size >= 24 * weights:
            return sum(path.stat().st_size for path in model.iterdir() if path.name != "figures")
        assert time.monotonic() < until
        time.sleep(0.05)
