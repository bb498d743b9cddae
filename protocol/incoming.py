"""What one client sends and takes in a call, watched for its silence and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from protocol.deadline import Deadline
from protocol.executor import Gone
from protocol.sessions import Traffic, read_hello
from securedl.errors import ProtocolError


class Incoming:
    """One call: its source of messages and its way back, watched for silence, and its figures."""

    def __init__(self, requests: Iterator[bytes], deadline: Deadline, alive: Callable[[], bool]) -> None:
        self.traffic = Traffic()
        self.model_id = b""
        self.source = _until_gone(deadline.each(requests), alive)
        self._deadline = deadline

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

    def figures(self) -> str:
        """For the log."""
        t = self.traffic
        return f"model={self.model_id.hex()} items={t.items} received={t.received} sent={t.sent}"


def _until_gone(source: Iterator[bytes], alive: Callable[[], bool]) -> Iterator[bytes]:
    """Messages of a client; its disappearance is no error of the server."""
    while True:
        try:
            item = next(source)
        except StopIteration:
            if not alive():  # gRPC may end the messages of a cancelled call like this, too
                raise Gone from None
            return
        except Exception as error:
            raise Gone from error
        yield item
