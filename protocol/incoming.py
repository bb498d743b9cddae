"""What one client sends and takes in a call, watched for its silence and its end, and for the server's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from protocol.deadline import Deadline
from protocol.drain import Drain
from protocol.executor import Gone
from protocol.inbox import Inbox, Woken
from protocol.sessions import Traffic, read_hello
from securedl.errors import ProtocolError, UnreachableError

#: For how long a server that stops waits for a client that is silent in the middle of a query.
LAST_WAIT_S = 2.0


class Incoming:
    """One call: its source of messages and its way back, watched for silence, and its figures.

    Args:
        drain: ends a wait between queries. None: of a short method, which has no such waits.
        last_wait_s: the longest other wait for a message once the server stops; None: the usual one.
    """

    def __init__(
        self,
        requests: Iterator[bytes],
        deadline: Deadline,
        alive: Callable[[], bool],
        drain: Drain | None = None,
        last_wait_s: float | None = None,
    ) -> None:
        self.traffic = Traffic()
        self.model_id = b""
        self._deadline, self._drain, self._between = deadline, drain, False
        self._last_wait_s = last_wait_s
        self._held = contextlib.ExitStack()
        if drain is not None:
            inbox = self._held.enter_context(contextlib.closing(Inbox(requests)))
            self._held.enter_context(drain.telling(inbox.wake))
            requests = self._drained(inbox, drain)
        self.source = _until_gone(deadline.each(requests), alive)

    def outcome(self, error: BaseException) -> str:
        """How a session ended that `error` ended."""
        if isinstance(error, Gone):
            return "client-gone"
        return "drained" if isinstance(error, UnreachableError) else "failed"

    def close(self) -> None:
        """The call ended."""
        self._held.close()

    @contextlib.contextmanager
    def between(self) -> Iterator[None]:
        """While the block waits for the next query: there a server that stops ends the stream.

        Raises:
            UnreachableError: it stops.
        """
        self._between = True
        try:
            self._check_drain()
            yield
        finally:
            self._between = False

    def _check_drain(self) -> None:
        if self._between and self._drain is not None and self._drain.begun:
            raise self._stops()

    def _stops(self) -> UnreachableError:
        return UnreachableError(
            f"this server stops, and has answered {self.traffic.items} queries of this stream: ask the "
            "others again"
        )

    def _drained(self, inbox: Inbox, drain: Drain) -> Iterator[bytes]:
        since = time.monotonic()
        while True:
            left = None if self._last_wait_s is None else drain.left(self._last_wait_s, since)
            try:
                yield inbox.next_in(left)
                since = time.monotonic()  # when the next one is asked for: the server has said its own
            except Woken:
                self._check_drain()
                if left == 0:
                    raise self._stops() from None
            except StopIteration:
                return

    def request(self) -> bytes:
        """The one message of a short method.

        Raises:
            ProtocolError: there is none.
        """
        raw = next(self.source, None)
        if raw is None:
            raise ProtocolError("the call ended before its request")
        return raw

    def hello(self, idle_s: float) -> tuple[bytes, Any]:
        """The client's greeting. From then on it may be silent for `idle_s` seconds."""
        raw, hello = read_hello(self.source)
        self.model_id = hello.model_id
        self._deadline.allow(idle_s)
        return raw, hello

    def sending(self, messages: Iterator[bytes]) -> Iterator[bytes]:
        """The messages, each of which the client must take in time."""
        yield from self._deadline.past(messages)

    @property
    def expired(self) -> bool:
        """Whether the client was silent for too long."""
        return self._deadline.expired


def _until_gone(source: Iterator[bytes], alive: Callable[[], bool]) -> Iterator[bytes]:
    """Messages of a client; its disappearance is no error of the server."""
    while True:
        try:
            item = next(source)
        except StopIteration:
            if not alive():  # gRPC may end the messages of a cancelled call like this, too
                raise Gone from None
            return
        except UnreachableError:  # the server's own
            raise
        except Exception as error:
            raise Gone from error
        yield item
