"""Owners that come back, servers that die, and rings that need refreshes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import protocol
import securedl
from securedl.client.batch import Batch
from securedl.errors import KeyFileError, ProtocolError, ServerError

pytestmark = pytest.mark.he

PASSPHRASE = "correct horse battery staple"
LATER = """
import json, sys
import numpy as np
import protocol, securedl
path, passphrase, address, samples = sys.argv[1:]
owner = securedl.Owner.load(path, passphrase)
with protocol.Client(address, owner) as client:
    sent = client.upload()
    answer = client.predict(np.load(samples))
json.dump({"blobs": sent.blobs, "bytes": sent.bytes, "labels": answer.labels.tolist(),
           "logits": answer.logits.tolist(), "passed": answer.report.passed}, sys.stdout)
"""


@pytest.fixture(scope="module")
def net(network):
    """The network of this file."""
    return network()


@pytest.fixture(scope="module")
def refreshing(net):
    """Its owner at a ring that needs refreshes."""
    owner = net.owner(ring=8192, refreshes=2)
    assert len(owner.program.refreshes) == 2
    return owner


def test_refreshes_change_no_logit(net, refreshing, folder, serving) -> None:
    deep = net.owner(ring=16384, refreshes=0)
    assert not deep.program.refreshes
    x, answers = net.x[:50], []
    with serving(folder) as process:
        for owner in (refreshing, deep):
            with protocol.Client(process.address, owner) as client:
                client.upload()
                answers.append(client.predict(x))
    small, large = answers
    assert net.close(x, small.logits)
    assert net.close(x, large.logits)
    assert np.abs(small.logits - large.logits).max() < 2**-10 * np.ptp(net.logits(net.x))
    assert small.report.passed
    assert large.report.passed
    assert small.traffic["refresh"] > 0
    assert large.traffic["refresh"] == 0


def test_a_saved_owner_comes_back(net, refreshing, folder, serving, tmp_path) -> None:
    """Another process, another server process on the same store, no second upload."""
    x = net.x[:40]
    with serving(folder) as process, protocol.Client(process.address, refreshing) as client:
        client.upload()
        first = client.predict(x)
    refreshing.save(tmp_path / "owner", PASSPHRASE)
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        securedl.Owner.load(tmp_path / "owner", PASSPHRASE + "r")
    np.save(tmp_path / "x.npy", x)
    with serving(folder, evaluator="seal") as process:
        command = [sys.executable, "-c", LATER, str(tmp_path / "owner"), PASSPHRASE, process.address]
        done = subprocess.run(
            [*command, str(tmp_path / "x.npy")], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    later: dict[str, Any] = json.loads(done.stdout)
    assert (later["blobs"], later["bytes"]) == (0, 0)
    assert later["passed"]
    assert net.close(x, np.array(later["logits"]))
    sure = net.sure(x)
    assert sure.any()
    np.testing.assert_array_equal(np.array(later["labels"])[sure], np.asarray(first.labels)[sure])


def test_an_upload_survives_the_death_of_the_server(network, folder, serving) -> None:
    """Whole groups of 4 MiB are kept (SYNC_BYTES); this model has twelve."""
    net = network((16, 16, 16, 3))
    owner, x = net.owner(ring=16384, refreshes=0), net.x[:20]
    owner.prepare()
    with serving(folder, name="u") as process:

        def kill_on_the_way(stage: str, done: int, total: int) -> None:
            if done > 0.6 * total and process.popen.poll() is None:
                process.kill()

        with protocol.Client(process.address, owner, progress=kill_on_the_way) as client:
            with pytest.raises(ServerError, match=r"what arrived is kept: call upload\(\) again") as caught:
                client.upload()
            assert "\n" not in str(caught.value)
            assert process.popen.wait(timeout=30) == -signal.SIGKILL
    with serving(folder, name="u") as process, protocol.Client(process.address, owner) as client:
        found = client.status()
        assert found.known
        assert 0 < found.missing < found.blobs
        with pytest.raises(ProtocolError, match=r"are not uploaded: call upload\(\)"):
            client.predict(x)
        assert client.upload().blobs == found.missing
        assert client.status().complete
        answer = client.predict(x)
    assert net.close(x, answer.logits)
    assert answer.report.passed


def test_a_query_survives_the_death_of_the_server(net, refreshing, folder, serving, monkeypatch) -> None:
    original, x = Batch.refresh, net.x[:20]
    with (
        serving(folder, name="q") as process,
        protocol.Client(process.address, refreshing, retry_s=0) as client,
    ):
        client.upload()

        def kill_first(self: Batch, index: int, tiles: list[bytes]) -> list[bytes]:
            process.kill()
            return original(self, index, tiles)

        monkeypatch.setattr(Batch, "refresh", kill_first)
        with pytest.raises(ServerError, match="the query can be repeated") as caught:
            client.predict(x)
        assert "\n" not in str(caught.value)
        monkeypatch.setattr(Batch, "refresh", original)
        with serving(folder, name="q"):
            answer = client.predict(x)
            assert client.upload().blobs == 0
    assert net.close(x, answer.logits)
    assert answer.report.passed
