"""The store of a server that starts: where the start is refused, no folder is left that it made itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from protocol.store import Limits, Store

#: What a store holds that nobody has used.
UNUSED = {"salt", "clients", "seats"}


class Opening:
    """A store, for as long as the block runs. Where that ends with an exception, `undo` is called.

    Attributes:
        store: it.

    Raises:
        InputError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder.absolute()
        above = (self._folder, *self._folder.parents)
        self._made = [path for path in above if not os.path.exists(path)]
        self.store, self._lock = Store(folder, limits), self._shared()
        while not self._held():  # another start made it, and took it away again meanwhile
            os.close(self._lock)
            self.store, self._lock = Store(folder, limits), self._shared()

    def _shared(self) -> int:
        """The folder, with a lock that says that a server uses it."""
        file = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is ever taken away
            fcntl.flock(file, fcntl.LOCK_SH)
        return file

    def _held(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._folder), os.fstat(self._lock))
        except FileNotFoundError:
            return False

    def undo(self) -> None:
        """Remove the folder, and those above it that were made for it, unless it was there before, holds
        what somebody may miss, or another server uses it."""
        if self._folder not in self._made:
            return
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not UNUSED.issuperset(os.listdir(self._folder)):
                return
            (self._folder / "clients").rmdir()  # fails, as it should, where there is a client
            shutil.rmtree(self._folder / "seats", ignore_errors=True)
            (self._folder / "salt").unlink()
            for path in self._made:
                path.rmdir()

    def __enter__(self) -> Opening:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            self.undo()
        os.close(self._lock)
