"""A time limit on each single wait in a stream; gRPC's own deadline is on the whole stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Deadline:
    """Calls `expire` once when one wait takes longer than `seconds`.

    Attributes:
        expired: whether it did.
    """

    def __init__(self, seconds: float, expire: Callable[[], object]) -> None:
        self.expired = False
        self._seconds, self._expire = seconds, expire
        self._due: float | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="protocol-deadline", daemon=True)
        self._thread.start()

    def each(self, source: Iterator[T]) -> Iterator[T]:
        """The items of `source`; only the wait for each of them counts."""
        while True:
            self._due = time.monotonic() + self._seconds
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self._due = None
            yield item

    def past(self, messages: Iterator[T]) -> Iterator[T]:
        """The items of `messages`; only the wait until each of them was taken counts."""
        for item in messages:
            self._due = time.monotonic() + self._seconds
            try:
                yield item
            finally:
                self._due = None

    def allow(self, seconds: float) -> None:
        """The limit of each wait from the next one on."""
        self._seconds = seconds

    def touch(self) -> None:
        """Something moved: begin the present wait anew."""
        if self._due is not None:
            self._due = time.monotonic() + self._seconds

    def close(self) -> None:
        """End the watching thread."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def _watch(self) -> None:
        with self._wake:
            while not self._closed:
                due = self._due
                if due is not None and time.monotonic() > due:
                    self.expired = True
                    self._expire()
                    return
                remaining = self._seconds if due is None else due - time.monotonic()
                self._wake.wait(max(0.01, min(remaining, self._seconds, 1.0)))
