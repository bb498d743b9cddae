"""A server that is told to stop: what it finishes, what it ends, and what its clients notice of it."""

from __future__ import annotations

import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from operating import Operated, eventually, operated
from protocol_fakes import FakeBatch, FakeOwner, predict
from test_limits import Asking

from protocol import Client
from securedl.errors import UnreachableError

OWNER = FakeOwner()


def test_an_idle_stream_ends_with_a_sentence_and_the_port_closes_at_once(tmp_path: Path) -> None:
    with operated(tmp_path) as server, Client(server.address, OWNER) as client:
        client.upload()
        host, _, port = server.address.rpartition(":")
        with grpc.insecure_channel(server.address) as channel:
            asking = Asking(channel)
            asking.query()
            next(asking.call)  # and then it waits for its client, in the middle of a query
            idle = Asking(channel)
            began = time.monotonic()
            server.popen.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.RpcError):
                next(idle.call)
            assert time.monotonic() < began + 1
            assert idle.call.code() is grpc.StatusCode.UNAVAILABLE
            assert "this server stops, and has answered 0 queries of this stream" in idle.call.details()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
            assert server.popen.poll() is None  # the other query has its grace
            server.popen.send_signal(signal.SIGTERM)
            server.popen.wait(5)
            assert time.monotonic() < began + 4
        assert [line["reason"] for line in server.events("stopping")]


def answered(server: Operated) -> int:
    """Queries that sessions of this server answered, as they said at their end."""
    return sum(line["items"] for line in server.events("predict"))


def test_a_drained_server_loses_no_answer(tmp_path: Path) -> None:
    """Every answer that the first one gave is kept, and the second gives the others: each once."""
    with operated(tmp_path, "--delay", "0.01") as first:
        address, asked, found = first.address, 30, list[Any]()
        with Client(address, OWNER) as client:
            client.upload()
            thread = threading.Thread(target=lambda: found.append(predict(client, asked)))
            thread.start()
            time.sleep(0.5)
            first.popen.send_signal(signal.SIGTERM)
            first.popen.wait(20)
            with operated(tmp_path, "--listen", address, name="second") as second:
                thread.join(60)
                assert found[0].passed
                eventually(lambda: second.events("predict"))
                assert 0 < answered(first) < asked
                assert answered(first) + answered(second) == asked
    (line,) = first.events("predict")
    assert line["outcome"] == "drained"
    assert first.popen.returncode == 0


def test_a_query_has_its_grace_and_no_more(tmp_path: Path) -> None:
    with (
        operated(tmp_path, "--grace", "0.5") as server,
        Client(server.address, OWNER, retry_s=0) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        client.upload()
        asking = Asking(channel)
        asking.query()
        next(asking.call)  # and then it waits for this client
        began = time.monotonic()
        server.popen.send_signal(signal.SIGTERM)
        server.popen.wait(10)
        assert 0.4 < time.monotonic() - began < 3
        with pytest.raises(UnreachableError):
            client.predict(1)


def refreshing_after(monkeypatch: pytest.MonkeyPatch, *pauses: float) -> threading.Event:
    """Clients take so many seconds for their first refreshes; what is set when the first of them has come."""
    left, came, real = list(pauses), threading.Event(), FakeBatch.refresh

    def refresh(self: FakeBatch, index: int, tiles: list[bytes]) -> list[bytes]:
        came.set()
        time.sleep(left.pop(0) if left else 0.0)
        return real(self, index, tiles)

    monkeypatch.setattr(FakeBatch, "refresh", refresh)
    return came


def test_a_client_that_went_silent_in_a_query_holds_no_drain(tmp_path: Path) -> None:
    with (
        operated(tmp_path) as server,
        Client(server.address, OWNER) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        client.upload()
        asking = Asking(channel)
        asking.query()
        next(asking.call)  # a tap, and then the refresh, to which it says nothing
        time.sleep(2.5)  # what was silence before does not count
        began = time.monotonic()
        server.popen.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(asking.call)
        assert 1.9 < time.monotonic() - began < 15  # and not the 30 s of its grace
        assert asking.call.code() is grpc.StatusCode.UNAVAILABLE
        assert "this server stops, and has answered 0 queries of this stream" in asking.call.details()
        assert server.popen.wait(10) == 0
    (line,) = server.events("predict")
    assert (line["items"], line["outcome"]) == (0, "drained")


def test_a_client_that_was_silent_for_too_long_asks_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, found = refreshing_after(monkeypatch, 6.0), list[Any]()
    with operated(tmp_path) as first, Client(first.address, OWNER) as client:
        client.upload()
        thread = threading.Thread(target=lambda: found.append(predict(client, 1)))
        thread.start()
        assert came.wait(30)
        first.popen.send_signal(signal.SIGTERM)
        assert first.popen.wait(20) == 0
        with operated(tmp_path, "--listen", first.address, name="second") as second:
            thread.join(60)
            assert found[0].passed
            eventually(lambda: second.events("predict"))
            assert (answered(first), answered(second)) == (0, 1)


def test_a_query_that_goes_on_is_answered_in_the_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server computes for longer than it waits for a client, and the client takes its time, too."""
    came, found = refreshing_after(monkeypatch, 0.7), list[Any]()
    with operated(tmp_path, "--delay", "1.2") as server, Client(server.address, OWNER, retry_s=0) as client:
        client.upload()
        thread = threading.Thread(target=lambda: found.append(predict(client, 1)))
        thread.start()
        assert came.wait(30)
        began = time.monotonic()
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(25) == 0
        assert time.monotonic() > began + 3.0
        thread.join(30)
        assert found[0].passed
        assert answered(server) == 1
