"""The client for event loops: what it does is what the blocking one does, and the loop stays free."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
from hostile import content, signed
from protocol_fakes import FakeBatch, FakeEvaluator, FakeInference, FakeOwner, small_program

import protocol
from protocol import AsyncClient, Client, Limits, Store, sessions
from protocol import messages_pb2 as pb
from protocol.wire import frames
from securedl.errors import (
    AuthenticationError,
    InputError,
    ProtocolError,
    QuotaError,
    SecureDLError,
    ServerError,
)

OWNER = FakeOwner()


def run(coroutine: Coroutine[Any, Any, Any], seconds: float = 60) -> Any:
    """On an event loop of its own; what is logged of lost exceptions fails the test."""
    lost: list[Any] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
        return await asyncio.wait_for(coroutine, seconds)

    found = asyncio.run(watched())
    assert not [one for one in lost if not isinstance(one.get("exception"), BlockingIOError)]  # grpc's poller
    return found


async def soon(check: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


# --- the same as the blocking client ---------------------------------------------------------------


def test_upload_and_queries(serve) -> None:
    address, told = serve().address, list[tuple[str, int, int]]()
    with Client(address, FakeOwner(1)) as client:
        blocking = client.upload(), client.predict(3)

    async def use() -> None:
        async with AsyncClient(address, OWNER, progress=lambda *p: told.append(p)) as client:
            assert (await client.describe())["evaluator"] == "fake"
            assert not (await client.status()).known
            sent = await client.upload()
            assert (await client.status()).complete
            answer: Any = await client.predict(3)
            assert answer.passed
            assert len(answer.matches) == 9  # a tap, a refresh, the answer
            assert (sent.blobs, sent.bytes) == (blocking[0].blobs, blocking[0].bytes)
            assert answer.traffic == blocking[1].traffic
            assert set(answer.timings) == set(blocking[1].timings)
            assert (await client.upload()).blobs == 0
            assert await client.remove()
            assert not await client.remove()

    run(use())
    assert {stage: (done, total) for stage, done, total in told}["predict"] == (9, 9)


def test_parts_come_one_by_one(serve) -> None:
    async def use() -> None:
        async with AsyncClient(serve().address, OWNER) as client:
            await client.upload()
            parts: Any = client.predict_batches(3)
            with pytest.raises(ProtocolError, match="nothing was asked yet"):
                _ = parts.answer
            seen = [len(part.matches) async for part in parts]
            assert seen == [3, 3, 3]
            assert parts.answer.passed
            timings = parts.answer.timings
            assert sum(timings.values()) == pytest.approx(2 * timings["total"])
            left = client.predict_batches(3)
            async for _ in left:
                break
            await left.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(left)

    run(use())


Use = Callable[[Any], Any]


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
    other = FakeOwner(program=small_program(diagonals=5))
    for owner, kind in ((OWNER, "ServerError"), (other, "ProtocolError")):
        words = async_sentence(lambda client: client.predict(1), lambda of, owner=owner: of(address, owner))
        assert words == sentence(lambda client: client.predict(1), lambda of, owner=owner: of(address, owner))
        assert words.startswith(kind)


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
    words = async_sentence(lambda client: client.predict(1), lambda of: of(address, OWNER, timeout_s=0.3))
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
    frame = pb.Frame.FromString(raw)
    if how == "digest":
        frame.digest = bytes(32)
    elif how == "place":
        frame.index += 1
        return [signed(frame, session)]
    elif how == "short":
        frame.data = frame.data[:-1]
        return [signed(frame, session)]
    elif how == "tile":
        return [
            signed(
                content(raw, OWNER.program.params, OWNER.program.answer.sent, np.random.default_rng(1)),
                session,
            )
        ]
    return {
        "digest": [frame.SerializeToString()],
        "cut": [raw[:-3]],
        "twice": [raw, raw],
    }[how]


@pytest.mark.parametrize("how", ["digest", "place", "short", "tile", "cut", "twice"])
def test_hostile_bytes_are_refused_with_the_same_sentence(serve, monkeypatch, how: str) -> None:
    def changed(session: bytes, kind: int, *rest: Any) -> Iterator[bytes]:
        for raw in frames(session, kind, *rest):
            yield from damaged(how, session, raw) if kind == pb.ANSWER else [raw]

    address = serve().address
    with Client(address, OWNER) as client:
        client.upload()
    monkeypatch.setattr(sessions, "frames", changed)
    words = async_sentence(lambda client: client.predict(1), lambda of: of(address, OWNER))
    assert words == sentence(lambda client: client.predict(1), lambda of: of(address, OWNER))
    assert words.startswith(ProtocolError.__name__)


# --- one event loop --------------------------------------------------------------------------------


class Meeting:
    """Work that ends only when the event loop has done something meanwhile."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.met: list[str] = []

    def meet(self, name: str) -> None:
        assert self.loop is not None
        here = threading.Event()
        self.loop.call_soon_threadsafe(here.set)
        assert here.wait(5), f"the event loop is held by {name}"
        self.met.append(name)

    def during(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Work that such a meeting comes before."""

        def met(*args: Any, **options: Any) -> Any:
            self.meet(work.__qualname__)
            return work(*args, **options)

        return met


def test_no_work_holds_the_event_loop(serve, monkeypatch) -> None:
    meeting = Meeting()
    for kind, names in (
        (FakeBatch, ("query", "refresh", "tap", "settle", "finish")),
        (FakeInference, ("again", "part", "answer")),
        (FakeOwner, ("ask", "prepare", "key", "weight")),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, meeting.during(getattr(kind, name)))

    async def use() -> None:
        meeting.loop = asyncio.get_running_loop()
        async with AsyncClient(
            serve().address, FakeOwner(), progress=lambda *_: meeting.meet("told")
        ) as client:
            await client.upload()
            assert (await client.predict(2)).passed

    run(use())
    assert len(set(meeting.met)) == 13


def test_eight_queries_at_once(serve) -> None:
    async def use() -> None:
        async with AsyncClient(serve(evaluator=_slow).address, OWNER) as client:
            await client.upload()
            answers: Any = await asyncio.gather(*(client.predict(2) for _ in range(8)))
            assert [len(answer.matches) for answer in answers] == [6] * 8
            assert all(answer.passed for answer in answers)

    run(use())


def _slow(params) -> FakeEvaluator:
    return FakeEvaluator(params, delay_s=0.02)


def test_calls_at_once_go_on_where_one_fails(serve) -> None:
    async def use() -> None:
        async with AsyncClient(serve(evaluator=_slow).address, OWNER) as client:
            await client.upload()
            asked = [client.predict(2), client.predict("many"), client.predict(1)]
            one, two, three = await asyncio.gather(*asked, return_exceptions=True)
            assert one.passed
            assert isinstance(two, TypeError)
            assert three.passed

    run(use())


# --- cancelled -------------------------------------------------------------------------------------


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_query_ends_on_the_server(serve, tmp_path, caplog) -> None:
    """Its seat is free before the evaluation would be over, which is left after the step that it is at."""
    caplog.set_level("INFO")
    dots, evaluators = list[float](), list[FakeEvaluator]()

    class Slow(FakeEvaluator):
        def dot(self, xs: Any, ws: Any) -> Any:
            dots.append(self.delay_s)
            return super().dot(xs, ws)

    def opened(params) -> FakeEvaluator:
        evaluators.append(Slow(params))
        return evaluators[-1]

    server = serve(Store(tmp_path / "one", Limits(max_sessions=1)), evaluator=opened)

    async def use() -> None:
        async with AsyncClient(server.address, OWNER) as client:
            await client.upload()
            await client.predict(1)
            whole = len(dots)
            evaluators[0].delay_s = 0.6
            dots.clear()
            task = asyncio.create_task(client.predict(1))
            await soon(lambda: bool(dots))
            with pytest.raises(QuotaError):
                await client.predict(1)
            await cancelled(task)
            await soon(lambda: "outcome=client-gone" in caplog.text)
            assert 0 < len(dots) < whole
            evaluators[0].delay_s = 0.0
            assert (await client.predict(1)).passed

    run(use())


def test_a_query_cancelled_while_it_is_encrypted(serve, monkeypatch) -> None:
    """What is being computed is finished first, and what came is looked at."""
    encrypting, go_on, done = threading.Event(), threading.Event(), list[str]()

    class Waiting(FakeBatch):
        def query(self) -> list[bytes]:
            encrypting.set()
            assert go_on.wait(10)
            done.append("query")
            return super().query()

        def settle(self) -> None:
            done.append("settle")

    async def use() -> None:
        async with AsyncClient(serve().address, OWNER) as client:
            await client.upload()
            with monkeypatch.context() as patch:
                patch.setattr("protocol_fakes.FakeBatch", Waiting)
                task = asyncio.create_task(client.predict(1))
                await soon(encrypting.is_set)
            task.cancel()
            await asyncio.sleep(0.05)
            task.cancel()  # nobody is impatient enough
            await asyncio.sleep(0.05)
            assert not task.done()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert done == ["query", "settle"]
            assert (await client.predict(1)).passed

    run(use())


def test_a_cancelled_upload_keeps_what_arrived(serve) -> None:
    async def use() -> None:
        owner = FakeOwner(delay_s=0.1)
        async with AsyncClient(serve().address, owner) as client:
            task = asyncio.create_task(client.upload())
            await soon(lambda: len(owner.made) > 9)
            await cancelled(task)
            status = await client.status()
            assert status.known
            sent = await client.upload()
            assert 0 < sent.blobs < status.blobs
            assert (await client.predict(1)).passed

    run(use())


def test_a_timeout_of_the_caller(serve) -> None:
    async def use() -> None:
        server = serve(evaluator=lambda params: FakeEvaluator(params, delay_s=0.5))
        async with AsyncClient(server.address, OWNER) as client:
            await client.upload()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.predict(1), 0.3)
            assert (await client.status()).complete

    run(use())


def test_a_client_closed_during_a_query(serve) -> None:
    async def use() -> None:
        server = serve(evaluator=lambda params: FakeEvaluator(params, delay_s=0.5))
        client = AsyncClient(server.address, OWNER)
        await client.upload()
        task = asyncio.create_task(client.predict(1))
        await asyncio.sleep(1)
        await client.close()
        with pytest.raises((InputError, ServerError)):
            await task

    run(use())


# --- a server that comes back ----------------------------------------------------------------------


def test_a_restarted_server_loses_nothing(spawn, tmp_path) -> None:
    address = f"unix:{tmp_path}/s"
    server = spawn(tmp_path / "store", address)

    async def use() -> None:
        async with AsyncClient(server.address, OWNER) as client:
            await client.upload()
            parts: Any = client.predict_batches(3)
            seen = [await anext(parts)]
            server.kill()
            back = asyncio.create_task(asyncio.to_thread(spawn, tmp_path / "store", address))
            seen += [part async for part in parts]
            await back
            assert len(seen) == 3
            assert all(all(part.matches) and len(part.matches) == 3 for part in seen[1:])
            assert parts.answer.passed

    run(use())


def test_patience_ends(spawn, tmp_path) -> None:
    server = spawn(tmp_path / "store", f"unix:{tmp_path}/s", "0.3")

    async def use() -> None:
        async with AsyncClient(server.address, OWNER, retry_s=0.5) as client:
            await client.upload()
            task = asyncio.create_task(client.predict(1))
            await asyncio.sleep(0.5)
            server.kill()
            with pytest.raises(ServerError, match="the query can be repeated"):
                await task

    run(use())


# --- the real thing --------------------------------------------------------------------------------


@pytest.mark.he
def test_real_queries_at_once(tmp_path) -> None:
    """Answers are those of the network in the clear, probes are made once, and every batch is counted."""
    torch, securedl = pytest.importorskip("torch"), pytest.importorskip("securedl")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x = np.random.default_rng(0).uniform(-1, 1, (90, 16)).astype(np.float32)
    poly = securedl.approximate(net, x, degree=2)
    with torch.no_grad():
        logits = poly(torch.tensor(x)).numpy()
    owner = securedl.Owner(securedl.compile(poly, x, batch=16, refreshes=1), ledger=tmp_path / "ledger")

    async def use(address: str) -> None:
        async with AsyncClient(address, owner) as client:
            await client.upload()
            before, parts = owner.verification.ledger.batches, [x[10 * k : 10 * k + 20] for k in range(8)]
            answers = await asyncio.gather(*(client.predict(part, probes=4) for part in parts))
            for number, answer in enumerate(answers):
                assert answer.report.passed, answer.report
                np.testing.assert_allclose(answer.logits, logits[10 * number : 10 * number + 20], atol=1e-3)
            assert owner.verification.ledger.batches - before == 8 * 2
            assert owner.verification.ledger.alarms == 0
            task = asyncio.create_task(client.predict(x, probes=4))
            await asyncio.sleep(0.1)
            await cancelled(task)
            asked = owner.verification.ledger.batches
            assert asked - before > 16  # what was begun is counted
            assert (await client.predict(x[:3], probes=4)).report.passed
            assert owner.verification.ledger.batches == asked + 1

    with protocol.Server(tmp_path / "store", f"unix:{tmp_path}/s") as server:
        run(use(server.address))


def test_the_name_loads_no_torch() -> None:
    code = "import protocol, sys; protocol.AsyncClient; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "protocol.async_client" in out.split()
    assert not {"torch", "tenseal", "securedl.client.owner", "protocol.server"} & set(out.split())
