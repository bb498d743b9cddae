"""Encryptions of zero, made ahead while the client waits, each given once.

An encryption is one of zero with the message added; all that takes long in it needs no message. Two with the
same zero would show the difference of their messages, so a zero leaves the stock before it is used, and a
stock is never saved, copied or shared with a process that was forked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from securedl.he.params import Parameters
from securedl.he.record import Record

_log = logging.getLogger(__name__)

#: Nobody has encrypted or decrypted for so long: between calls, or while a distant server is waited for. In
#: shorter waits for a server on the same two busy cores, answers came later by as much as was saved.
QUIET_S = 0.02
#: A thread with a full stock waits so long for more to do; starting one takes as long as 100 µs.
LINGER_S = 5.0


def added(params: Parameters, plain: Record, zero: Record) -> Record:
    """The encryption of a plaintext, by one of zero at its level; the seed is the zero's."""
    shape = plain.shape
    primes = np.array(params.primes[: shape.level + 1], dtype=np.uint64)[:, None]
    total = zero.residues + plain.residues
    total -= primes * (total >= primes)
    return Record(replace(shape, size=2, seeded=True), total, zero.seed)


class _Shelf:
    """What one process has. All but `pid` and `changed` is read and written with `changed` held."""

    def __init__(self, room: Mapping[int, int]) -> None:
        self.pid = os.getpid()
        self.changed = threading.Condition()
        self.ready: dict[int, list[Record]] = {level: [] for level in room}
        self.working = 0
        self.quiet_since = 0.0
        self.filled_by_thread = False

    def lacking(self, room: Mapping[int, int]) -> int | None:
        """The level of which most is missing, or None."""
        missing = {level: room[level] - len(ready) for level, ready in self.ready.items()}
        level = max(missing, key=missing.__getitem__, default=None)
        return level if level is not None and missing[level] > 0 else None


class Zeros:
    """A stock of encryptions of zero. All methods may be called from any thread.

    How full it is depends on how many were taken, and when, never on what is encrypted.

    Args:
        make: a fresh encryption of zero of a level. room: how many of each level are kept.
    """

    def __init__(self, make: Callable[[int], Record], room: Mapping[int, int]) -> None:
        self._make, self._room = make, dict(room)
        self._own = _Shelf(self._room)

    def __reduce__(self) -> Any:
        raise TypeError("encryptions of zero are used once: they cannot be copied")

    def __len__(self) -> int:
        shelf = self._shelf()
        with shelf.changed:
            return sum(map(len, shelf.ready.values()))

    @property
    def full(self) -> bool:
        """Whether none would be made in idle time."""
        shelf = self._shelf()
        with shelf.changed:
            return shelf.lacking(self._room) is None

    def _shelf(self) -> _Shelf:
        if self._own.pid != os.getpid():  # what a forked process finds is its parent's
            self._own = _Shelf(self._room)
        return self._own

    def take(self, level: int) -> Record:
        """One that nobody had and nobody will have: from the stock, or else made now."""
        shelf = self._shelf()
        with shelf.changed:
            ready = shelf.ready.get(level)
            if ready:
                return ready.pop()
        return self._make(level)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """None are made ahead in the meantime; after it, what is missing."""
        shelf = self._shelf()
        with shelf.changed:
            shelf.working += 1
        try:
            yield
        finally:
            self._rest(shelf)

    def _rest(self, shelf: _Shelf) -> None:
        if shelf is not self._shelf():
            return
        with shelf.changed:
            shelf.working -= 1
            shelf.quiet_since = time.monotonic()
            if shelf.working or shelf.lacking(self._room) is None:
                return
            shelf.changed.notify()
            if shelf.filled_by_thread:
                return
            shelf.filled_by_thread = True
        try:
            threading.Thread(target=self._fill, args=(shelf,), name="securedl-zeros", daemon=True).start()
        except RuntimeError:  # too many threads, or Python is ending: all goes on without a stock
            shelf.filled_by_thread = False

    def _fill(self, shelf: _Shelf) -> None:
        try:
            while (level := self._wait(shelf)) is not None:
                zero = self._make(level)
                with shelf.changed:
                    shelf.ready[level].append(zero)
        except Exception:  # whoever encrypts next meets it, and can say it
            _log.exception("no encryption of zero could be made ahead")
            shelf.filled_by_thread = False

    def _wait(self, shelf: _Shelf) -> int | None:
        """The level of the next one, once there is time for it; None ends the thread."""
        with shelf.changed:
            while True:
                level = shelf.lacking(self._room)
                left = LINGER_S
                if level is not None and not shelf.working:
                    left = shelf.quiet_since + QUIET_S - time.monotonic()
                    if left <= 0:
                        return level
                told = shelf.changed.wait(left)
                if not told and level is None and shelf.lacking(self._room) is None:
                    shelf.filled_by_thread = False
                    return None
