"""Files that appear whole or not at all, and files that are nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from securedl.errors import InputError

#: First bytes of a saved plan (an archive of arrays), of a saved owner, and of a kit.
ARCHIVE, OWNER, KIT = b"PK", b"SDLOWNER", b"SDLQUERY"


@contextlib.contextmanager
def whole(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A file, written beside `path`, that takes its place when the block ends well, and vanishes otherwise.

    A crash leaves the old file or the new one. A link stays, and what it leads to is written.

    Raises:
        InputError: the folder is missing or cannot be written, the disk refuses, or a folder or a device is
            at `path`.
    """
    check_writable(path)
    target = Path(os.path.realpath(path))
    try:
        fd, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """All of `data` at `path`, or what was there before; errors are those of `whole`."""
    with whole(path, mode) as file:
        file.write(data)


def check_writable(*paths: Path | None) -> None:
    """That files can be written there; to be asked before the work whose results they hold. None is skipped.

    Raises:
        InputError: a folder or a device is there, or there is no folder for it, or none that can be written.
    """
    for path in paths:
        if path is None:
            continue
        folder = os.path.dirname(os.path.realpath(path))
        if os.path.isdir(path):
            raise InputError(f"cannot write {path}: it is a folder; name a file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"cannot write {path}: it is no ordinary file; name another")
        if not os.path.isdir(folder):
            raise InputError(f"cannot write {path}: there is no folder {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"cannot write {path}: you may not write to {folder}")


def open_file(path: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor, as `os.open` gives, of an ordinary file: nobody waits for the other end of a pipe.

    Raises:
        OSError: there is none, something else is there, or the system refuses.
    """
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EISDIR, "no ordinary file", str(path))
    return file


def contents(path: Path) -> bytes:
    """All bytes of an ordinary file; errors are those of `open_file`."""
    with open(open_file(path, os.O_RDONLY), "rb") as file:
        return file.read()


def private_text(path: Path, what: str) -> str:
    """The text of a file that nobody else can read.

    Raises:
        InputError: it cannot be read, or others can read or change it.
    """
    try:
        check_private(path, os.stat(path), what)
        return contents(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the {what} {path}: {error}") from error


def check_private(path: Path, found: os.stat_result, what: str) -> None:
    """Refuse a file that others can read, or may change.

    Raises:
        InputError: so they can.
    """
    if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise InputError(f"others may read or change the {what} {path}: chmod 600 {path}")
