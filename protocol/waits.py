"""What a client waits for, and who waits for it: a thread, or an event loop.

What a client says is written once, as generators that yield what they wait for before they use it
(`Dialogue`). `waited` goes through one in the caller's thread, `protocol.async_client` on an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

Outcome = TypeVar("Outcome")


class Wait:
    """Something to wait for. Waiting raises nothing: how it went shows where it is used. This one is over."""

    def block(self) -> None:
        """Wait in this thread; nothing is done where its use waits by itself."""

    async def passed(self) -> None:
        """Wait on the event loop."""


#: Yields what it waits for, and returns what comes of it.
Dialogue: TypeAlias = Generator[Wait, None, Outcome]


class Pause(Wait):
    """A time to wait, in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def block(self) -> None:
        """See `Wait`."""
        time.sleep(self._seconds)

    async def passed(self) -> None:
        """See `Wait`."""
        await asyncio.sleep(self._seconds)


def waited(dialogue: Dialogue[Outcome]) -> Outcome:
    """What comes of it, in this thread."""
    with contextlib.closing(dialogue):
        while True:
            try:
                wait = next(dialogue)
            except StopIteration as end:
                found: Outcome = end.value
                return found
            wait.block()
