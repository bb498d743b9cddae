"""That a server stops: known to every call, and said to those that wait for their clients."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Drain:
    """The beginning of a server's end."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._since = 0.0
        self._told: set[Callable[[], None]] = set()
        self._lock = threading.Lock()

    @property
    def begun(self) -> bool:
        """Whether the server stops."""
        return self._begun.is_set()

    def left(self, seconds: float, since: float) -> float | None:
        """What is left of so many seconds from its beginning, or from `since` if that was later (monotonic
        clock); None while it has not begun."""
        if not self.begun:
            return None
        return max(0.0, max(since, self._since) + seconds - time.monotonic())

    def begin(self) -> None:
        """Tell everybody."""
        if not self.begun:
            self._since = time.monotonic()
        self._begun.set()
        with self._lock:
            told = list(self._told)
        for tell in told:
            tell()

    def forget(self) -> None:
        """The server starts anew."""
        self._begun.clear()

    def wait(self, seconds: float) -> bool:
        """Until it begins, or for so long; whether it has begun."""
        return self._begun.wait(seconds)

    @contextlib.contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` when it begins while the block runs. Whoever looks at `begun` in it misses nothing."""
        with self._lock:
            self._told.add(tell)
        try:
            yield
        finally:
            with self._lock:
                self._told.discard(tell)
