"""Streams that break off, stay silent, or lead to something that is no server of this project."""

from __future__ import annotations

import socket
import threading
import time

import grpc
import pytest
from protocol_fakes import FakeBatch, FakeEvaluator, FakeOwner, predict

from protocol import Client, Limits, Store
from protocol import messages_pb2 as pb
from protocol.address import parse_address
from protocol.deadline import Deadline
from protocol.service import method_path
from protocol.wire import NONCE_BYTES, PROTOCOL_VERSION, frames, session_id
from securedl.errors import ProtocolError, ServerError

OWNER = FakeOwner()
HELLO = pb.Hello(
    version=PROTOCOL_VERSION, model_id=OWNER.model_id, program_id=OWNER.program.id, nonce=bytes(NONCE_BYTES)
).SerializeToString()


def eventually(check) -> None:
    """Wait up to five seconds."""
    until = time.monotonic() + 5
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_client_that_goes_away_stops_its_evaluation(serve, tmp_path, caplog) -> None:
    """Its slot is free long before the 16 s that the evaluation would take."""
    caplog.set_level("INFO")
    store = Store(tmp_path / "s", Limits(max_sessions=1))
    server = serve(store, evaluator=lambda params: FakeEvaluator(params, delay_s=0.5))
    with Client(server.address, OWNER) as client:
        client.upload()
        with grpc.insecure_channel(server.address) as channel:
            sent = iter([HELLO])
            waiting = threading.Event()
            welcome: list[bytes] = []

            def requests():
                yield from sent
                waiting.wait()
                session = session_id("Predict", HELLO, welcome[0])
                for index, tile in enumerate(FakeBatch(OWNER, 0)._fresh(OWNER.program.query)):
                    yield from frames(session, pb.QUERY, index, tile)
                time.sleep(30)

            running = channel.stream_stream(method_path("Predict"))(requests())
            welcome.append(next(running))
            waiting.set()
            time.sleep(0.2)
        eventually(lambda: "outcome=client-gone" in caplog.text)
        assert client.status().complete


def test_a_silent_client_loses_its_session(serve, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    server = serve(Store(tmp_path / "s", Limits(max_sessions=1)), idle_s=0.2)
    with Client(server.address, OWNER) as client:
        client.upload()
        with grpc.insecure_channel(server.address) as channel:
            hold = threading.Event()

            def requests():
                yield HELLO
                hold.wait(20)

            running = channel.stream_stream(method_path("Predict"))(requests())
            with pytest.raises(grpc.RpcError):
                list(running)
            hold.set()
        eventually(lambda: "outcome=idle" in caplog.text)
        assert predict(client, 1).passed


def test_no_grpc_behind_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nno\r\n")

        threading.Thread(target=answer, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ServerError, match=address), Client(address, OWNER):
            pass
        listener.shutdown(socket.SHUT_RDWR)


def test_another_grpc_service_behind_the_address() -> None:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(ProtocolError, match="does not speak"), Client(f"127.0.0.1:{port}", OWNER):
            pass
    finally:
        server.stop(0).wait()


def test_deadlines_count_single_waits() -> None:
    expired = threading.Event()
    deadline = Deadline(0.15, expired.set)

    def slow(wait_s: float):
        for _ in range(4):
            time.sleep(wait_s)
            yield 1

    for _ in deadline.each(slow(0.05)):
        time.sleep(0.06)
    assert not deadline.expired
    for _ in deadline.each(slow(0.4)):
        break
    assert expired.wait(1)
    deadline.close()


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/a", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_what_is_local(text: str, local: bool) -> None:
    assert parse_address(text).local is local
