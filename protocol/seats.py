"""How many calls run at once: of everybody together, and of each client."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from securedl.errors import QuotaError


class Seats:
    """Room for so many calls of one kind; nobody waits for it.

    Args:
        what: the kind, for messages.
        total: at once. each: of one client at once.
    """

    def __init__(self, what: str, total: int, each: int) -> None:
        self._what, self._total, self._each = what, total, each
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self, client: str) -> Iterator[None]:
        """A seat of this client while the block runs.

        Raises:
            QuotaError: there is none.
        """
        with self._lock:
            if self._taken[client] >= min(self._each, self._total):
                raise QuotaError(
                    f"this client has {self._taken[client]} {self._what} open and may have no more at once: "
                    "end one, or try again later"
                )
            if self._taken.total() >= self._total:
                raise QuotaError(f"all {self._total} {self._what} of this server are taken: try again later")
            self._taken[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[client] -= 1
                self._taken += Counter()  # those at zero are forgotten
