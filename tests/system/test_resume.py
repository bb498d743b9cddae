"""A call whose server goes away: answers are kept, what is missing is asked again, nothing is wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protocol
import securedl
from securedl.errors import AlarmError, ProtocolError, UnreachableError

pytestmark = pytest.mark.he


@pytest.fixture(scope="module")
def plan(network: Any) -> Any:
    net = network((6, 8, 3))
    return securedl.compile(net.model, net.x, batch=4, ring=8192, refreshes=1), net


def test_parts_come_one_by_one(plan: Any, local: Any, folder: Path) -> None:
    made, net = plan
    owner, x = securedl.Owner(made), net.x[:10]
    with local(folder, owner, "parts") as client:
        client.upload()
        parts = client.predict_batches(x, probes=3)
        first = next(parts)
        with pytest.raises(ProtocolError, match="left a query without an answer"):
            _ = parts.answer
        found = [first, *parts]
        answer = parts.answer
    assert answer.report.passed
    assert sorted(np.concatenate([part.samples for part in found]).tolist()) == list(range(10))
    for part in found:
        assert part.passed
        np.testing.assert_array_equal(part.logits, answer.logits[part.samples])
        assert answer.labels is not None
        np.testing.assert_array_equal(part.labels, answer.labels[part.samples])


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="kill"),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow, id="term"),
    ],
)
def test_a_restarted_server_loses_nothing(plan: Any, serving: Any, folder: Path, how: int) -> None:
    """It goes away in the middle of a batch, and comes back after a second."""
    made, net = plan
    owner, x, name = securedl.Owner(made), np.resize(net.x, (120, 6)), f"again{how}"
    at = folder / f"store{how}"
    at.mkdir()
    grace = ("--grace", "2")  # the client says nothing in the middle of a query
    with serving(at, *grace, name=name) as first, protocol.Client(f"unix:{at / name}", owner) as client:
        client.upload()
        served = owner.verification.ledger.batches
        parts, seen, back = client.predict_batches(x, probes=4), [], []
        seen += [next(parts) for _ in range(3)]
        os.kill(first.popen.pid, how)
        first.popen.wait(20)

        def restart() -> None:
            time.sleep(1.0)
            back.append(serving(at, name=name))
            back[0].__enter__()

        thread = threading.Thread(target=restart)
        thread.start()
        seen += list(parts)
        thread.join()
        answer = parts.answer
        back[0].__exit__(None, None, None)
    assert answer.report.passed
    assert sorted(np.concatenate([part.samples for part in seen]).tolist()) == list(range(120))
    wanted = made.simulate(x, noise_seed=None)
    np.testing.assert_allclose(answer.logits, wanted, atol=1e-3 * np.ptp(wanted))
    again = owner.verification.ledger.batches - served - len(seen)
    assert again >= 1  # those that were begun when it went away


def test_patience_ends(plan: Any, serving: Any, folder: Path) -> None:
    made, net = plan
    owner, at = securedl.Owner(made), folder / "gone"
    at.mkdir()
    with serving(at) as process, protocol.Client(f"unix:{at / 's'}", owner, retry_s=1.0) as client:
        client.upload()
        os.kill(process.popen.pid, signal.SIGKILL)
        process.popen.wait(20)
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="the query can be repeated"):
            client.predict(net.x[:2])
        assert 0.5 < time.monotonic() - began < 5


def test_a_server_that_goes_away_after_an_alarm_is_not_asked_again(
    plan: Any, local: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from protocol.asking import _Asking
    from securedl.client.batch import Batch

    made, net = plan
    owner = securedl.Owner(made)
    send, decrypt, sent = _Asking.send, Batch._decrypt, list[int]()

    def gone(asking: Any, expected: Any, number: int, *rest: Any) -> None:
        sent.append(number)
        if len(sent) > 1:
            raise UnreachableError("gone")
        send(asking, expected, number, *rest)

    with local(folder, owner, "alarm") as client:
        client.upload()
        monkeypatch.setattr(_Asking, "send", gone)
        monkeypatch.setattr(Batch, "_decrypt", lambda batch, tiles, point: decrypt(batch, tiles, point) + 1.0)
        with pytest.raises(AlarmError, match="then the call ended: gone"):
            client.predict(net.x[:2])
    assert len(sent) == 2
