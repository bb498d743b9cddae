"""Clients that take more than their share of a server: its workers, its sessions, its time and its memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from hostile_programs import LARGE, broken, folding, registers, squares, taken
from protocol_fakes import FakeBatch, FakeEvaluator, FakeOwner, predict
from yardstick import slowness

from protocol import Client, Limits, Store
from protocol import messages_pb2 as pb
from protocol.service import HANDSHAKE_MS, STREAMS, UNARY, method_path
from protocol.sessions import read_program
from protocol.wire import MAX_PROGRAM, NONCE_BYTES, PROTOCOL_VERSION, frames, session_id
from securedl.demo.processes import running, serve_command
from securedl.errors import FormatError, QuotaError, ServerError
from securedl.program.effort import effort, least_switches
from securedl.program.footprint import works

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


def test_silent_connections_are_closed(serve) -> None:
    """Else they would use up the files that the server may open."""
    host, _, port = serve().address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=HANDSHAKE_MS / 1000 + 5) as silent:
        while silent.recv(4096):  # the server's own settings, and then its end
            pass


def test_short_calls_and_greetings_read_no_program(serve, monkeypatch) -> None:
    """80 bytes of a client's cost no more for a model with a large program."""
    server = serve()
    with Client(server.address, OWNER) as client:
        client.upload()
        monkeypatch.setattr("protocol.stored.Program.from_json", lambda data: 1 / 0)
        assert client.status().complete
        assert client.upload().blobs == 0
        server._loader.discard("local", OWNER.model_id)
        with pytest.raises(ServerError, match="log says why"):  # the patch is where it counts
            client.predict(1)
        assert client.remove()


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


# --- programs ----------------------------------------------------------------------------------------

TAKEN, BROKEN = taken(), broken()


def refused(data: bytes) -> None:
    """As an upload refuses it, before anything is on disk."""
    with pytest.raises((FormatError, QuotaError)):
        read_program(data, hashlib.sha256(data).digest()[:16], Limits().check)


@pytest.mark.parametrize("name", [*TAKEN, *BROKEN])
def test_what_a_refused_program_costs(name) -> None:
    """200 ms of processor time and 64 MB at most: of three times the least, for others work here too.

    On a machine whose Python is slower than usual, so much longer.
    """
    data = {**TAKEN, **BROKEN}[name]
    assert len(data) <= MAX_PROGRAM
    spent = []
    for _ in range(3):
        began = time.process_time()
        refused(data)
        spent.append(time.process_time() - began)
    tracemalloc.start()
    refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{1e3 * min(spent):.0f} ms, {peak / 1e6:.1f} MB")
    assert min(spent) < 0.2 * slowness()
    assert peak < 64e6


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_query_bytes=1 << 20), "bytes of the server's memory, and 1,048,576 are allowed"),
        (Limits(max_key_bytes=1 << 20), r"keys of this model take [\d,]+ bytes .* and 1,048,576 are allowed"),
        (Limits(max_query_s=1e-6), "more than the 1e-06 s of computing"),
    ],
)
def test_a_client_is_told_what_is_too_much(serve, tmp_path, limits, words) -> None:
    """At the upload, and of a model that was there before the limit at the query."""
    store = tmp_path / "store"
    with Client(serve(store).address, OWNER) as client:
        client.upload()
    limited = serve(Store(store, limits))
    with Client(limited.address, OWNER) as client, pytest.raises(QuotaError, match=words):
        client.predict(1)
    with Client(limited.address, FakeOwner(1)) as client, pytest.raises(QuotaError, match=words):
        client.upload()
    assert len(list(store.glob("clients/*/*"))) == 1


def test_registers_are_counted_while_they_live() -> None:
    """2,000 results of three primes, all of which are read in the end."""
    one = 2 * 3 * 8 * LARGE.ring
    assert effort(registers(2000)).memory == pytest.approx(2000 * one, rel=0.02)
    assert effort(squares(1, 2000)).memory < 20 * one
    with pytest.raises(QuotaError, match="536,870,912 are allowed"):
        Limits(max_query_bytes=512 << 20).check(registers(2000))


class Leaving(FakeEvaluator):
    """Notes each product."""

    calls: ClassVar[list[float]] = []

    def rescale(self, a):
        time.sleep(0.02)
        self.calls.append(time.monotonic())
        return super().rescale(a)


def test_a_client_that_left_is_noticed_within_a_step(serve, caplog, monkeypatch) -> None:
    """Between the tiles of one step, which would take 6 s."""
    caplog.set_level("INFO")
    monkeypatch.setattr("protocol.loading.WARM_S", 0.0)
    owner = FakeOwner(program=squares(300, 1))
    server = serve(evaluator=Leaving)
    with Client(server.address, owner) as client:
        client.upload()
        Leaving.calls.clear()
        with grpc.insecure_channel(server.address) as channel:
            asking = Asking(channel, owner=owner)
            asking.query()
            eventually(lambda: len(Leaving.calls) > 3, 60)
        left = time.monotonic()
        eventually(lambda: "outcome=client-gone" in caplog.text, 5)
        assert time.monotonic() < left + 1
        assert len(Leaving.calls) < 100


@pytest.mark.he
@pytest.mark.parametrize("how", ["leaves", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_server_process_stops_computing(tmp_path, how) -> None:
    """Half a minute of products that nobody waits for: processor time stands still after a second."""
    owner = FakeOwner(program=squares(100, 1000))
    assert effort(owner.program).seconds > 20
    command = serve_command(tmp_path / "store", f"unix:{tmp_path}/s", "--threads", "1", "--grace", "3")
    with running(command, tmp_path / "log") as process, Client(process.address, owner) as client:
        client.upload()
        with grpc.insecure_channel(process.address) as channel:
            asking = Asking(channel, owner=owner)
            before = spent(process.pid)
            asking.query()
            eventually(lambda: spent(process.pid) > before + 1.5, 30)
            if how == "leaves":
                asking.call.cancel()
                time.sleep(1)
                before = spent(process.pid)
                time.sleep(1)
                assert spent(process.pid) < before + 0.2
            else:
                began = time.monotonic()
                process.popen.terminate()
                process.popen.wait(timeout=20)
                assert time.monotonic() < began + 3 + 1.5


def spent(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("made", [folding(3, 4), squares(3, 2), registers(3), OWNER.program])
def test_what_is_known_before_counting_is_not_too_much(made) -> None:
    counted = [work.counts.switches for work in works(made)]
    least = [count for _, count in least_switches(made)]
    assert any(least)
    assert all(few <= all_of_them for few, all_of_them in zip(least, counted, strict=True))
