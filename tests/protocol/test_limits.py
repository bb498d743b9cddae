"""Clients that take more than their share of a server: its workers, its sessions, its time and its memory."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from protocol_fakes import PARAMS, FakeBatch, FakeOwner, predict

from protocol import Client, Limits, Store
from protocol import messages_pb2 as pb
from protocol.service import STREAMS, UNARY, method_path
from protocol.wire import NONCE_BYTES, PROTOCOL_VERSION, frames, session_id
from securedl.errors import QuotaError
from securedl.program.program import Program
from securedl.program.steps import Block, Matvec, Port

OWNER = FakeOwner()
MALLORY, ALICE = "token-of-mallory", "token-of-alice"


def metadata(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [("authorization", f"Bearer {token}")]


@contextlib.contextmanager
def half_open(address: str, token: str | None, methods: tuple[str, ...], count: int) -> Iterator[list[Any]]:
    """So many calls of each method, on one connection, whose clients never say anything."""
    hold = threading.Event()

    def never() -> Iterator[bytes]:
        hold.wait()
        yield from ()

    with grpc.insecure_channel(address) as channel:
        calls = [
            channel.stream_stream(method_path(method))(never(), metadata=metadata(token))
            for method in methods
            for _ in range(count)
        ]
        try:
            yield calls
        finally:
            hold.set()
            for call in calls:
                call.cancel()


def codes(calls: list[Any]) -> set[Any]:
    """Status codes of calls that the server ends."""

    def code(call: Any) -> Any:
        with contextlib.suppress(grpc.RpcError):
            list(call)
        return call.code()

    return {code(call) for call in calls}


def test_strangers_with_half_open_calls_hold_nobody_up(serve) -> None:
    """They are refused before their first message, which never comes."""
    server = serve(token=[MALLORY, ALICE])
    with half_open(server.address, None, (*UNARY, *STREAMS), 40) as calls:
        assert codes(calls) <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        with Client(server.address, OWNER, token=ALICE) as client:
            client.upload()
            assert predict(client, 1).passed


@pytest.mark.parametrize("methods", [UNARY, STREAMS])
def test_one_client_s_half_open_calls_do_not_shut_others_out(serve, methods) -> None:
    server = serve(token=[MALLORY, ALICE])
    with half_open(server.address, MALLORY, methods, 40):
        time.sleep(0.3)
        with Client(server.address, OWNER, token=ALICE) as client:
            client.upload()
            assert predict(client, 1).passed


@pytest.mark.parametrize("methods", [UNARY, STREAMS])
def test_half_open_calls_end_by_themselves(serve, methods) -> None:
    """So that their client has its places again, without a restart."""
    server = serve(token=[MALLORY], greeting_s=0.3)
    with half_open(server.address, MALLORY, methods, 40) as calls:
        assert codes(calls) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        with Client(server.address, OWNER, token=MALLORY) as client:
            client.upload()


def eventually(check: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def folding(count: int) -> Program:
    """One weight, and so many rotate-and-sum steps in each answer tile."""
    scale, prime = 2.0**30, PARAMS.primes[1]
    step = Matvec(1, (0,), (Block(0, 0, 0, (0,)),), 1, 1, (1,) * count, 1, scale, (float(prime),), 0)
    return Program(PARAMS, PARAMS.slots // 16, 16, True, Port(1, 1, scale), (step,), 1)


class Asking:
    """A Predict stream that is driven by hand."""

    def __init__(self, channel: grpc.Channel, token: str | None = None, owner: FakeOwner = OWNER) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._owner = owner
        call = channel.stream_stream(method_path("Predict"))
        self.call = call(iter(self._queue.get, None), metadata=metadata(token))
        hello = pb.Hello(
            version=PROTOCOL_VERSION,
            model_id=owner.model_id,
            program_id=owner.program.id,
            nonce=bytes(NONCE_BYTES),
        ).SerializeToString()
        self._queue.put(hello)
        self._session = session_id("Predict", hello, next(self.call))

    def query(self, number: int = 0) -> None:
        """Send the tiles of one."""
        for index, tile in enumerate(FakeBatch(self._owner, 0)._fresh(self._owner.program.query)):
            for frame in frames(self._session, pb.QUERY, index, tile, number):
                self._queue.put(frame)


def test_a_client_that_takes_nothing_loses_its_session(serve, tmp_path, caplog) -> None:
    """The answers to its many queries do not fit into the buffers between."""
    caplog.set_level("INFO")
    server = serve(Store(tmp_path / "s", Limits(max_sessions=1)), idle_s=1.0)
    owner = FakeOwner(program=folding(1))
    with Client(server.address, owner) as client:
        client.upload()
        with grpc.insecure_channel(server.address) as channel:
            asking = Asking(channel, owner=owner)
            for number in range(200):
                asking.query(number)
            eventually(lambda: "outcome=idle" in caplog.text, 10)
            assert int(caplog.text.rpartition("items=")[2].split()[0]) < 200
        assert predict(client, 1).passed


@pytest.mark.parametrize(("limits", "each"), [(Limits(max_sessions=6), 3), (Limits(6, 1 << 30, 6, 2), 2)])
def test_each_client_has_a_share_of_the_sessions(serve, tmp_path, limits, each) -> None:
    server = serve(Store(tmp_path / "s", limits), token=[MALLORY, ALICE])
    with (
        Client(server.address, OWNER, token=MALLORY) as mallory,
        Client(server.address, OWNER, token=ALICE) as alice,
        grpc.insecure_channel(server.address) as channel,
    ):
        mallory.upload()
        held = [Asking(channel, MALLORY) for _ in range(each)]
        with pytest.raises(QuotaError, match=f"has {each} sessions open"):
            predict(mallory, 1)
        alice.upload()
        assert predict(alice, 1).passed
        for asking in held:
            asking.call.cancel()


def test_the_shares_of_clients() -> None:
    assert [Limits(max_sessions=32).sessions_of(clients) for clients in (1, 2, 5, 100)] == [32, 16, 6, 1]
    assert Limits(max_sessions=32, max_client_sessions=7).sessions_of(2) == 7
