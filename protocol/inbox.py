"""A client's messages, read in a thread of their own: so a wait for the next one can be ended."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator


class Woken(Exception):  # noqa: N818  (not an error: somebody called `wake`)
    """The wait was ended."""


class Inbox:
    """An iterator of `source` that holds one message at most, beside the one that is being worked on.

    Args:
        source: ends, or raises, soon after the call does.
    """

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._queue: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="protocol-inbox", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self.next_in(None)

    def next_in(self, seconds: float | None) -> bytes:
        """The next message.

        Args:
            seconds: that it has to come; None: as long as it takes.

        Raises:
            Woken: by `wake`, or it did not come; nothing is lost.
        """
        try:
            found = self._queue.get(timeout=seconds)
        except queue.Empty:
            raise Woken from None
        if found is None:
            raise Woken
        if isinstance(found, BaseException):
            self._queue.put(found)  # for whoever asks again
            raise found
        self._room.release()
        return found

    def wake(self) -> None:
        """End the present wait, or the next one."""
        self._queue.put(None)

    def close(self) -> None:
        """Nobody wants more; the thread ends with the source."""
        self._closed = True
        self._room.release()

    def _read(self) -> None:
        end: BaseException = StopIteration()
        try:
            while self._room.acquire() and not self._closed:
                self._queue.put(next(self._source))
        except BaseException as error:
            end = error
        self._queue.put(end)
