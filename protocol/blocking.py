"""The client's channel for threads, which wait themselves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from protocol.deadline import Deadline
from protocol.link import MESSAGES_AHEAD, Connection, Room, ShortCall, Stream, Tls
from protocol.service import method_path


class BlockingConnection(Connection):
    """See `Connection`."""

    client = ("Client", "with")

    def __init__(self, address: str, token: str | None, tls: Tls, timeout_s: float, connect_s: float) -> None:
        super().__init__(address, token, tls, timeout_s, connect_s)
        self._channel = self._open(grpc)

    def _ask(self, path: str, request: bytes) -> ShortCall:
        call, limits = self._channel.unary_unary(path), {"timeout": self._connect_s}
        return _ShortCall(lambda: call(request, metadata=self._metadata, **limits))

    def stream(self, method: str, doing: str) -> Stream:
        """See `Connection`."""
        self.check_open()

        def open_call(requests: Iterator[bytes]) -> Any:
            return self._channel.stream_stream(method_path(method))(requests, metadata=self._metadata)

        return _Stream(open_call, self.address, doing, self.timeout_s)

    def close(self) -> None:
        """Close the channel; running calls end."""
        self._closed = True
        self._channel.close()


class _ShortCall(ShortCall):
    def __init__(self, call: Callable[[], bytes]) -> None:
        self._call = call

    def reply(self) -> bytes:
        return self._call()


class _Room(Room):
    def __init__(self, timeout_s: float) -> None:
        self._left = threading.Semaphore(MESSAGES_AHEAD)
        self._timeout_s = min(timeout_s, threading.TIMEOUT_MAX)

    def block(self) -> None:
        self.late = not self._left.acquire(timeout=self._timeout_s)

    def free(self) -> None:
        self._left.release()


class _Stream(Stream):
    """`source` waits.

    Args:
        open_call: starts the call on an iterator of requests.
    """

    def __init__(
        self, open_call: Callable[[Iterator[bytes]], Any], address: str, doing: str, timeout_s: float
    ) -> None:
        super().__init__(address, doing, timeout_s)
        self._queue: queue.SimpleQueue[Iterable[bytes] | None] = queue.SimpleQueue()
        self._deadline = Deadline(timeout_s, lambda: self._call.cancel())
        self._room = _Room(timeout_s)
        self._call = open_call(self._requests())
        if not self._call.add_callback(self._end):
            self._end()
        self.source = self._responses()

    def send(self, messages: Iterable[bytes]) -> None:
        self._queue.put(messages)

    def finish(self) -> None:
        self._queue.put(None)

    def close(self) -> None:
        self.finish()
        self._call.cancel()
        self._deadline.close()

    def _requests(self) -> Iterator[bytes]:
        while (messages := self._queue.get()) is not None:
            try:
                for message in messages:
                    self._deadline.touch()
                    yield message
                    self._deadline.touch()
            except GeneratorExit:
                raise
            except BaseException as error:  # raised again where the caller waits
                self._failure = error
                self._call.cancel()
                return

    def _responses(self) -> Iterator[bytes]:
        try:
            yield from self._deadline.each(self._call)
        except grpc.RpcError as error:
            raise self._reason(error, self._deadline.expired) from error
        if self._failure is not None:
            raise self._failure
