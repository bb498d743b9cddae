"""The standard health service, asked by grpc_health's own stub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from operating import ALICE, BOB, eventually
from protocol_fakes import FakeOwner
from test_limits import metadata

from protocol import Client
from protocol.calls import SHORT_CALLS, WATCHERS
from protocol.service import SERVICE

OWNER = FakeOwner()
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


@contextmanager
def stub(address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(found: Any, service: str, token: str | None = None) -> Any:
    """A status, or the code of an error."""
    try:
        request = health_pb2.HealthCheckRequest(service=service)
        return found.Check(request, metadata=metadata(token), timeout=5).status
    except grpc.RpcError as error:
        return error.code()


def first(watched: Any) -> Any:
    """The first status, or the code of an error."""
    try:
        return next(watched).status
    except grpc.RpcError as error:
        return error.code()


def test_anybody_may_ask_whether_it_lives_and_is_ready(serve, monkeypatch) -> None:
    server = serve(token=[ALICE])
    with stub(server.address) as asked:
        assert check(asked, "") == check(asked, SERVICE) == SERVING
        assert check(asked, "other") is grpc.StatusCode.NOT_FOUND
        assert check(asked, "", "wrong-token") == SERVING
        monkeypatch.setattr("protocol.health.LEAST_FREE", 1 << 62)
        eventually(lambda: check(asked, SERVICE) == NOT_SERVING)
        assert check(asked, "") == SERVING


def test_a_store_that_is_gone_is_not_ready(serve, tmp_path: Path) -> None:
    server = serve()
    (tmp_path / "store" / "clients").rename(tmp_path / "elsewhere")
    with stub(server.address) as asked:
        assert check(asked, SERVICE) == NOT_SERVING
        assert check(asked, "") == SERVING


def test_a_model_is_told_of_to_whom_it_belongs(serve, tmp_path: Path) -> None:
    server = serve(token=[ALICE, BOB])
    model = f"model/{OWNER.model_id.hex()}"
    with stub(server.address) as asked:
        with Client(server.address, OWNER, token=ALICE) as client:
            assert check(asked, model, ALICE) is grpc.StatusCode.NOT_FOUND
            client.upload()
        assert check(asked, model, ALICE) == SERVING
        assert check(asked, model, BOB) is grpc.StatusCode.NOT_FOUND
        assert check(asked, f"model/{bytes(16).hex()}", ALICE) is grpc.StatusCode.NOT_FOUND
        assert check(asked, "model/../..", ALICE) is grpc.StatusCode.NOT_FOUND
        assert check(asked, model) is grpc.StatusCode.UNAUTHENTICATED
        assert check(asked, model, "wrong-token") is grpc.StatusCode.UNAUTHENTICATED
        (journal,) = (tmp_path / "store").glob("clients/*/*/journal")
        journal.write_bytes(b"")
        assert check(asked, model, ALICE) == NOT_SERVING


def test_who_watches_sees_the_drain(serve) -> None:
    server = serve()
    with stub(server.address) as asked:
        watched = asked.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        unknown = asked.Watch(health_pb2.HealthCheckRequest(service="other"))
        assert next(watched).status == SERVING
        assert next(unknown).status == UNKNOWN
        began = time.monotonic()
        ended = server.drain(10.0)
        assert [answer.status for answer in watched] == [NOT_SERVING]
        assert not list(unknown)
        assert ended.wait(5)
        assert time.monotonic() < began + 2


def test_strangers_hold_few_places_and_nobody_up(serve, monkeypatch) -> None:
    server = serve(token=[ALICE], greeting_s=0.5)
    hold = threading.Event()

    def never() -> Iterator[bytes]:
        hold.wait()
        yield b""

    with stub(server.address) as asked, grpc.insecure_channel(server.address) as channel:
        watching = [asked.Watch(health_pb2.HealthCheckRequest()) for _ in range(4 * WATCHERS)]
        found = [first(one) for one in watching]
        assert found.count(SERVING) == WATCHERS
        assert found.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == len(found) - WATCHERS
        silent = [
            channel.stream_stream("/grpc.health.v1.Health/Check")(never()) for _ in range(10 * SHORT_CALLS)
        ]
        with Client(server.address, OWNER, token=ALICE) as client:
            client.upload()
        eventually(lambda: check(asked, "") == SERVING)
        hold.set()
        for one in [*watching, *silent]:
            one.cancel()


def test_what_is_no_request(serve) -> None:
    with grpc.insecure_channel(serve().address) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff", timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
