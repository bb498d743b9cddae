"""Tests on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from protocol_fakes import FakeAnswer, FakeOwner

from protocol import AsyncClient

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


async def asked(client: AsyncClient, x: Any) -> FakeAnswer:
    """What the client of a fake owner predicts."""
    answer: object = await client.predict(x)
    assert isinstance(answer, FakeAnswer)
    return answer


async def soon(check: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
