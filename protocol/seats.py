"""How many calls run at once: of everybody together, and of each client, in all servers of one store."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from protocol.stored import disk
from securedl.errors import QuotaError


class Seats:
    """Room for so many calls of one kind; nobody waits for it.

    A seat is a lock on a file, of which the kernel gives it back however its process ends. All processes of a
    machine that name the same folder share them.

    Args:
        folder: for the files, which are empty and stay; made where it is missing.
        what: the kind, for messages and files.
        total: at once. each: of one client at once.
    """

    def __init__(self, folder: Path, what: str, total: int, each: int) -> None:
        self._folder, self._what, self._total, self._each = folder, what, total, min(each, total)
        self._prefix = what.replace(" ", "-")
        with disk():
            folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def one(self, client: str) -> Iterator[None]:
        """A seat of this client while the block runs.

        Raises:
            QuotaError: there is none. ServerError: the disk refuses.
        """
        with contextlib.ExitStack() as held:
            if not self._take(held, f"-{client}", self._each):
                raise QuotaError(
                    f"this client has {self._each} {self._what} open and may have no more at once: "
                    "end one, or try again later"
                )
            if not self._take(held, "", self._total):
                raise QuotaError(f"all {self._total} {self._what} of this server are taken: try again later")
            yield

    def _take(self, held: contextlib.ExitStack, whose: str, count: int) -> bool:
        """Lock the first free one of so many files; whether there was one."""
        for number in range(count):
            with disk():
                path = self._folder / f"{self._prefix}{whose}-{number}"
                file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            held.callback(os.close, file)  # which gives the lock back, for nobody inherits the file
            return True
        return False
