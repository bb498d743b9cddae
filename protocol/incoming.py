"""What one client sends in a stream, watched for its silence and its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from protocol.deadline import Deadline
from protocol.executor import Gone
from protocol.sessions import Traffic, read_hello


class Incoming:
    """One stream: its source of messages, watched for silence, and its figures."""

    def __init__(self, requests: Iterator[bytes], deadline: Deadline, alive: Callable[[], bool]) -> None:
        self.traffic = Traffic()
        self.model_id = b""
        self.source = _until_gone(deadline.each(requests), alive)

    def hello(self) -> tuple[bytes, Any]:
        """The client's greeting."""
        raw, hello = read_hello(self.source)
        self.model_id = hello.model_id
        return raw, hello

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
