"""The client for event loops: the loop stays free, calls run at once, and end where they are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looping import OWNER, asked, run, soon
from protocol_fakes import FakeAnswer, FakeBatch, FakeEvaluator, FakeInference, FakeOwner

import protocol
from protocol import AsyncClient, Client, Limits, Store
from securedl.errors import (
    InputError,
    ProtocolError,
    QuotaError,
    ServerError,
)


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
            answer = await asked(client, 3)
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
            assert (await asked(client, 2)).passed

    run(use())
    assert len(set(meeting.met)) == 13


def test_eight_queries_at_once(serve) -> None:
    async def use() -> None:
        async with AsyncClient(serve(evaluator=_slow).address, OWNER) as client:
            await client.upload()
            answers = await asyncio.gather(*(asked(client, 2) for _ in range(8)))
            assert [len(answer.matches) for answer in answers] == [6] * 8
            assert all(answer.passed for answer in answers)

    run(use())


def _slow(params) -> FakeEvaluator:
    return FakeEvaluator(params, delay_s=0.02)


def test_calls_at_once_go_on_where_one_fails(serve) -> None:
    async def use() -> None:
        async with AsyncClient(serve(evaluator=_slow).address, OWNER) as client:
            await client.upload()
            calls = [asked(client, x) for x in (2, "many", 1)]
            one, two, three = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(two, TypeError)
            for found in (one, three):
                assert isinstance(found, FakeAnswer)
                assert found.passed

    run(use())


# --- cancelled -------------------------------------------------------------------------------------


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _seated(client: AsyncClient) -> FakeAnswer:
    """An answer, once the only seat is free: a server frees it after its last word."""
    for _ in range(100):
        with contextlib.suppress(QuotaError):
            return await asked(client, 1)
        await asyncio.sleep(0.05)
    raise AssertionError("the seat was never free")


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
            await _seated(client)
            whole = len(dots)
            evaluators[0].delay_s = 0.6
            dots.clear()
            task = asyncio.create_task(_seated(client))
            await soon(lambda: bool(dots))
            with pytest.raises(QuotaError):
                await client.predict(1)
            await cancelled(task)
            await soon(lambda: "outcome=client-gone" in caplog.text)
            assert 0 < len(dots) < whole
            evaluators[0].delay_s = 0.0
            assert (await _seated(client)).passed

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
            assert (await asked(client, 1)).passed

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
            assert (await asked(client, 1)).passed

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
            before, parts = owner.verification.ledger.batches, [x[10 * k : 10 * k + 10] for k in range(8)]
            answers = await asyncio.gather(*(client.predict(part, probes=4) for part in parts))
            for number, answer in enumerate(answers):
                assert answer.report.passed, answer.report
                np.testing.assert_allclose(answer.logits, logits[10 * number : 10 * number + 10], atol=1e-3)
            assert owner.verification.ledger.batches - before == 8
            assert owner.verification.ledger.alarms == 0
            task = asyncio.create_task(client.predict(x, probes=4))
            await asyncio.sleep(0.1)
            await cancelled(task)
            left = client.predict_batches(x, probes=4)
            assert (await anext(left)).passed
            await left.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(left)
            with pytest.raises(ProtocolError, match="without an answer"):
                _ = left.answer
            served = owner.verification.ledger.batches
            assert served - before > 8  # what was begun is counted
            assert (await client.predict(x[:3], probes=4)).report.passed
            assert owner.verification.ledger.batches == served + 1

    with protocol.Server(tmp_path / "store", f"unix:{tmp_path}/s") as server:
        run(use(server.address))


def test_the_name_loads_no_torch() -> None:
    code = "import protocol, sys; protocol.AsyncClient; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "protocol.async_client" in out.split()
    assert not {"torch", "tenseal", "securedl.client.owner", "protocol.server"} & set(out.split())


def test_the_example_of_the_page(serve) -> None:
    page = (Path(__file__).parents[2] / "docs/kits.md").read_text()
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "AsyncClient" in one)
    address, names = serve().address, dict[str, Any]()
    with Client(address, OWNER) as client:
        client.upload()
    exec(code.replace("part.passed", "part.matches"), names)  # a fake's part has no verdict
    found = run(names["answers"](address, OWNER, [1, 2]))
    assert [len(answer.matches) for answer in found] == [3, 6]
    assert all(answer.passed for answer in found)
