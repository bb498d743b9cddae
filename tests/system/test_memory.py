"""A model whose weights do not fit into the memory that its server may have."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import numpy as np
import pytest

import protocol

pytestmark = [pytest.mark.he, pytest.mark.slow]

MIB = 1 << 20
#: What the server may allocate, a fourth of it reserved by threads' stacks and never touched. Its own share
#: for these keys is 590 MiB; with weights in memory it needed 1260.
LIMIT = 800 * MIB


def memory(pid: int) -> dict[str, float]:
    """MiB of a process by kind: RssAnon, RssFile, VmData, ..."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return {name: int(size) / 1024 for name, size in found}


def test_weights_larger_than_the_servers_memory(network, folder, serving) -> None:
    """684 MB of packed weights; the restarted server may allocate less than they and the rest need."""
    net = network((256, 512, 512, 10))
    owner, x = net.owner(ring=8192), net.x[:24]
    owner.verification.prepare()
    with serving(folder) as process, protocol.Client(process.address, owner) as client:
        client.upload()
        assert net.close(x, client.predict(x).logits)
        used = memory(process.pid)
    (weights,) = folder.glob("store/clients/*/*/packed-*.bin")
    size = weights.stat().st_size / MIB
    assert size > 600
    assert used["RssAnon"] < size
    with serving(folder) as process, protocol.Client(process.address, owner) as client:
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (LIMIT, LIMIT))
        times = []
        for _ in range(4):
            began = time.monotonic()
            answer = client.predict(x)
            times.append(time.monotonic() - began)
            assert net.close(x, answer.logits)
            assert answer.report.passed
        now = memory(process.pid)
    print(
        f"{size:.0f} MiB of weights; anonymous {now['RssAnon']:.0f} MiB, mapped {now['RssFile']:.0f} MiB; "
        f"first query {times[0]:.2f} s, then {np.median(times[1:]):.2f} s"
    )
    assert now["RssAnon"] < 450
    assert now["RssFile"] > size
