"""What goes wrong for the client of event loops has the sentence that it has for the blocking one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from hostile import content, signed
from looping import OWNER, run
from protocol_fakes import FakeEvaluator, FakeOwner, small_program

from protocol import AsyncClient, Client, Limits, Store, sessions
from protocol import messages_pb2 as pb
from protocol.service import method_path
from protocol.wire import NONCE_BYTES, PROTOCOL_VERSION, frames
from securedl.errors import (
    AuthenticationError,
    InputError,
    ProtocolError,
    QuotaError,
    SecureDLError,
    ServerError,
)

Use = Callable[[Any], Any]
HELLO = pb.Hello(
    version=PROTOCOL_VERSION, model_id=OWNER.model_id, program_id=OWNER.program.id, nonce=bytes(NONCE_BYTES)
).SerializeToString()


def sentence(use: Use, make: Callable[[Any], Any]) -> str:
    """Type and words of what goes wrong with a client of threads."""
    with pytest.raises(SecureDLError) as found, make(Client) as client:
        use(client)
    return f"{type(found.value).__name__}: {found.value}"


def async_sentence(use: Use, make: Callable[[Any], Any]) -> str:
    """With one of an event loop."""

    async def main() -> None:
        async with make(AsyncClient) as client:
            await use(client)

    with pytest.raises(SecureDLError) as found:
        run(main())
    return f"{type(found.value).__name__}: {found.value}"


class Refusing(FakeOwner):
    """Has no such samples."""

    def ask(self, x: Any, *options: Any) -> Any:
        raise InputError(f"no such samples: {x}")


class Failing(FakeEvaluator):
    """Cannot multiply."""

    def dot(self, xs: Any, ws: Any) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("use", "make", "kind"),
    [
        (lambda c: c.predict(1), lambda at: lambda of: of(at, OWNER), "ProtocolError"),
        (lambda c: c.predict(7), lambda at: lambda of: of(at, Refusing()), "InputError: no such samples: 7"),
        (lambda c: c.status(), lambda at: lambda of: of("127.0.0.1:9", OWNER), "UnreachableError"),
        (lambda c: c.status(), lambda at: lambda of: of(at), "InputError: a client needs an owner"),
        (lambda c: c.status(), lambda at: lambda of: of("nowhere", OWNER), "InputError"),
        (lambda c: c.status(), lambda at: lambda of: of(at, OWNER, token="\n"), "InputError"),
        (lambda c: c.status(), lambda at: lambda of: of("10.0.0.1:1", OWNER, token="t"), "InputError"),
    ],
)
def test_mistakes_have_the_same_sentence(serve, use, make, kind: str) -> None:
    made = make(serve().address)
    assert async_sentence(use, made) == sentence(use, made)
    assert sentence(use, made).startswith(kind)


def test_a_wrong_token_has_the_same_sentence(serve) -> None:
    address = serve(token="secret").address

    def made(of: Any) -> Any:
        return of(address, OWNER, token="other")

    words = async_sentence(lambda client: client.status(), made)
    assert words == sentence(lambda client: client.status(), made)
    assert words.startswith(AuthenticationError.__name__)


def test_servers_that_fail_have_the_same_sentence(serve) -> None:
    address = serve(evaluator=Failing).address
    with Client(address, OWNER) as client:
        client.upload()
    for owner, kind in ((OWNER, ServerError), (FakeOwner(program=small_program(5)), ProtocolError)):
        made = partial(_made, address, owner)
        words = async_sentence(_predict, made)
        assert words == sentence(_predict, made)
        assert words.startswith(kind.__name__)


def _made(address: str, owner: FakeOwner, of: Any) -> Any:
    return of(address, owner)


def _predict(client: Any) -> Any:
    return client.predict(1)


def test_what_ends_a_call_is_told_whatever_is_being_sent(serve, tmp_path) -> None:
    """grpc.aio's own `write` hides it: of such calls, one in five."""
    server = serve(Store(tmp_path / "none", Limits(max_sessions=1)))
    with Client(server.address, OWNER) as client:
        client.upload()
    hold = threading.Event()

    def requests() -> Iterator[bytes]:
        yield HELLO
        hold.wait(30)

    async def use() -> None:
        async with AsyncClient(server.address, OWNER, retry_s=0) as client:
            for _ in range(8):
                calls = (client.predict(1) for _ in range(5))
                found = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(one) for one in found] == [QuotaError] * 5

    with grpc.insecure_channel(server.address) as channel:
        held = channel.stream_stream(method_path("Predict"))(requests())
        next(held)  # the only seat is taken
        run(use())
        hold.set()


def test_a_silent_server(serve) -> None:
    evaluators: list[FakeEvaluator] = []

    def opened(params) -> FakeEvaluator:
        evaluators.append(FakeEvaluator(params))
        return evaluators[-1]

    address = serve(evaluator=opened).address
    with Client(address, OWNER) as client:
        client.upload()
    evaluators[0].delay_s = 2
    began = time.monotonic()
    words = async_sentence(_predict, lambda of: of(address, OWNER, timeout_s=0.3))
    assert "was silent for 0.3 s; nothing is lost" in words
    assert time.monotonic() - began < 3


def test_a_closed_client_and_another_event_loop(serve) -> None:
    client = AsyncClient(serve().address, OWNER)
    assert run(client.describe())
    with pytest.raises(InputError, match="on another event loop"):
        run(client.describe())
    client = AsyncClient(serve().address, OWNER)
    run(client.close())
    with pytest.raises(InputError, match=r"protocol.AsyncClient\(.*inside its `async with`"):
        run(client.describe())
    with pytest.raises(InputError, match="closed"):
        run(client.predict(1))


# --- hostile servers -------------------------------------------------------------------------------


def damaged(how: str, session: bytes, raw: bytes) -> list[bytes]:
    """What a server sends in place of one frame."""
    frame, shape = pb.Frame.FromString(raw), OWNER.program.answer.sent
    if how == "twice":
        return [raw, raw]
    if how == "cut":
        return [raw[:-3]]
    if how == "digest":
        frame.digest = bytes(32)
        return [frame.SerializeToString()]
    if how == "place":
        frame.index += 1
    elif how == "short":
        frame.data = frame.data[:-1]
    else:
        frame = content(raw, OWNER.program.params, shape, np.random.default_rng(1))
    return [signed(frame, session)]


@pytest.mark.parametrize("how", ["digest", "place", "short", "tile", "cut", "twice"])
def test_hostile_bytes_are_refused_with_the_same_sentence(serve, monkeypatch, how: str) -> None:
    def changed(session: bytes, kind: int, *rest: Any) -> Iterator[bytes]:
        for raw in frames(session, kind, *rest):
            yield from damaged(how, session, raw) if kind == pb.ANSWER else [raw]

    address = serve().address
    with Client(address, OWNER) as client:
        client.upload()
    monkeypatch.setattr(sessions, "frames", changed)
    made = partial(_made, address, OWNER)
    words = async_sentence(_predict, made)
    assert words == sentence(_predict, made)
    assert words.startswith(ProtocolError.__name__)
