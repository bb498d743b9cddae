"""The client's channel for event loops: gRPC's calls are the loop's, what is made of bytes is a thread's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio

from protocol.link import MESSAGES_AHEAD, Connection, Room, ShortCall, Stream, Tls
from protocol.service import method_path
from securedl.errors import InputError

Done = TypeVar("Done")


async def in_thread(work: Callable[[], Done]) -> Done:
    """Done in a thread, which nothing stops: who is cancelled meanwhile waits for it first."""
    run = contextvars.copy_context().run
    running = asyncio.get_running_loop().run_in_executor(None, run, work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    failed = running.exception()  # looked at, so that nobody says it was not
    if cancelled is not None:
        raise cancelled
    if failed is not None:
        raise failed
    return running.result()


class AsyncConnection(Connection):
    """See `Connection`. It belongs to the event loop that it is first used on."""

    client = ("AsyncClient", "async with")

    def __init__(self, address: str, token: str | None, tls: Tls, timeout_s: float, connect_s: float) -> None:
        super().__init__(address, token, tls, timeout_s, connect_s)
        self._loop: asyncio.AbstractEventLoop | None = None

    def join(self) -> None:
        """Before anything else on an event loop.

        Raises:
            InputError: it is another one than before, or the channel is closed.
        """
        self.check_open()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._channel = loop, self._open(grpc.aio)
        elif self._loop is not loop:
            raise InputError("this client is used on another event loop: open one AsyncClient on each")

    def _ask(self, path: str, request: bytes) -> ShortCall:
        call, limits = self._channel.unary_unary(path), {"timeout": self._connect_s}
        return _ShortCall(lambda: call(request, metadata=self._metadata, **limits))

    def stream(self, method: str, doing: str) -> Stream:
        """See `Connection`."""
        self.check_open()
        assert self._loop is not None  # a client joins first

        def open_call() -> Any:
            return self._channel.stream_stream(method_path(method))(metadata=self._metadata)

        return _Stream(open_call, self._loop, self.address, doing, self.timeout_s)

    async def close(self) -> None:
        """Close the channel; running calls end."""
        self._closed = True
        if self._loop is not None:
            await self._channel.close()


def _ended(code: grpc.StatusCode, details: str) -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def _opened(open_call: Callable[[], Any]) -> Any:
    """A call, or the grpc.RpcError of a channel that was closed meanwhile."""
    try:
        return open_call()
    except grpc.aio.UsageError as error:
        return _ended(grpc.StatusCode.CANCELLED, str(error))


async def _outcome(call: Any, reply: Awaitable[Any]) -> Any:
    """What a call gave, or the grpc.RpcError of its end, be it here that it was ended."""
    try:
        return await reply
    except grpc.RpcError as error:
        return error
    except asyncio.CancelledError:
        if not call.done():
            raise
        return _ended(await call.code(), await call.details())


class _ShortCall(ShortCall):
    def __init__(self, open_call: Callable[[], Any]) -> None:
        self._open_call = open_call
        self._found: Any = None

    async def passed(self) -> None:
        call = _opened(self._open_call)
        if isinstance(call, grpc.RpcError):
            self._found = call
            return
        asked = asyncio.ensure_future(_outcome(call, call))
        try:
            await asyncio.wait([asked])
        except asyncio.CancelledError:
            call.cancel()
            raise
        self._found = asked.result()

    def reply(self) -> bytes:
        if isinstance(self._found, grpc.RpcError):
            raise self._found
        found: bytes = self._found
        return found


class _Room(Room):
    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._left, self._loop, self._timeout_s = asyncio.Semaphore(MESSAGES_AHEAD), loop, timeout_s

    async def passed(self) -> None:
        try:
            await asyncio.wait_for(self._left.acquire(), self._timeout_s)
        except asyncio.TimeoutError:
            self.late = True

    def free(self) -> None:
        _soon(self._loop, self._left.release)


def _soon(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *args: Any) -> None:
    """On the event loop, from any thread; nowhere, once it has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what, *args)


class _Stream(Stream):
    """`source` gives what `passed` has waited for.

    Args:
        open_call: starts the call; on the loop, as everything with it.
    """

    def __init__(
        self,
        open_call: Callable[[], Any],
        loop: asyncio.AbstractEventLoop,
        address: str,
        doing: str,
        timeout_s: float,
    ) -> None:
        super().__init__(address, doing, timeout_s)
        self._open_call, self._loop = open_call, loop
        self._queue: asyncio.Queue[Iterable[bytes] | None] = asyncio.Queue()
        self._room = _Room(loop, timeout_s)
        self._due, self._expired = math.inf, False
        self._call: Any = None
        self._sending: asyncio.Task[None] | None = None
        self._came: Any = None
        self.source = self._responses()
        _soon(loop, self._begin)

    def _begin(self) -> None:
        call = _opened(self._open_call)
        if isinstance(call, grpc.RpcError):
            self._came = call
            self._end()
            return
        self._call = call
        self._call.add_done_callback(lambda _: self._end())
        self._sending = self._loop.create_task(self._send_all())

    def send(self, messages: Iterable[bytes]) -> None:
        _soon(self._loop, self._queue.put_nowait, messages)

    def finish(self) -> None:
        _soon(self._loop, self._queue.put_nowait, None)

    def close(self) -> None:
        _soon(self._loop, self._stop)

    def _stop(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._call.cancel()

    async def _send_all(self) -> None:
        try:
            await self._call.wait_for_connection()
            while (messages := await self._queue.get()) is not None:
                each = iter(messages)
                while (message := await in_thread(partial(next, each, None))) is not None:
                    self._touch()
                    # `write` would hide what ended a call behind its own failure: of 320 calls that a server
                    # refused at once, 65 said no more than "Internal error from Core".
                    await self._call._cython_call.send_serialized_message(message)
                    self._touch()
            await self._call.done_writing()
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the call is over: whoever waits for a message learns why
        except Exception as error:  # raised again where the caller waits
            self._failure = error
            self._call.cancel()

    def _touch(self) -> None:
        """Something moved: begin the present wait anew."""
        self._due = time.monotonic() + self._timeout_s

    async def passed(self) -> None:
        if self._came is not None:
            return
        self._touch()
        coming = asyncio.ensure_future(_outcome(self._call, self._call.read()))
        while not coming.done():
            await asyncio.wait([coming], timeout=self._due - time.monotonic())
            if not coming.done() and time.monotonic() >= self._due:
                self._expired, self._due = True, math.inf
                self._call.cancel()
        self._came = coming.result()

    def _responses(self) -> Iterator[bytes]:
        while True:
            came, self._came = self._came, None
            if isinstance(came, grpc.RpcError):
                raise self._reason(came, self._expired) from came
            if came is grpc.aio.EOF:
                break
            yield came
        if self._failure is not None:
            raise self._failure
