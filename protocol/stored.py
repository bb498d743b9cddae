"""One encrypted model on disk: which blobs are complete, the one writer, and readers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from protocol.blobs import BlobTable
from protocol.figures import Figures
from protocol.wire import ID_BYTES
from securedl.errors import FormatError, ProtocolError, ServerError
from securedl.files import contents, open_file
from securedl.he.journal import Journal, blob_digest
from securedl.program.program import Program

#: A crash costs at most this much of an upload; an fsync for every blob would cost more than the blobs.
SYNC_BYTES = 4 << 20
#: How long an upload waits for one that was cut off to notice it.
LOCK_S = 3.0

DAMAGED = "this model's files were damaged on the server's disk: remove it there, then upload it again"
_REASONS = {
    errno.ENOSPC: "the disk of the server's store is full: free some space and repeat; the rest is kept",
    errno.EDQUOT: "the disk quota of the server's store is used up: raise it and repeat; the rest is kept",
    errno.EACCES: "the server may not write to its store: give it permission to that folder",
    errno.EPERM: "the server may not write to its store: give it permission to that folder",
    errno.EISDIR: "what is no ordinary file is in the server's store: remove the model, then upload it again",
    errno.ENXIO: "what is no ordinary file is in the server's store: remove the model, then upload it again",
    errno.EROFS: "the server's store is on a read-only disk: choose another folder",
}


@contextlib.contextmanager
def disk() -> Iterator[None]:
    """Turn what a disk can refuse into one sentence.

    Raises:
        ServerError: in place of OSError.
    """
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise refusal(error) from error


def refusal(error: OSError) -> ServerError:
    """What a disk refused, as one sentence."""
    number = error.errno or 0
    return ServerError(_REASONS.get(number, f"the server's store failed: {os.strerror(number)}"))


def stamp_of(folder: Path) -> tuple[int, int] | None:
    """What changes when the model in a folder is removed, or another takes its place; None where there is
    none.

    Raises:
        ServerError: the disk refuses.
    """
    with disk():
        try:
            found = (folder / "program.json").stat()
        except FileNotFoundError:
            return None
    return found.st_ino, found.st_mtime_ns


class StoredModel:
    """One model of one client. Reading needs no lock; writing goes through `writer`.

    Raises:
        FormatError: its files are not those of one model. OSError: the disk refuses.
    """

    def __init__(self, folder: Path, model_id: bytes) -> None:
        self.folder, self.model_id = folder, model_id
        try:
            self.figures = Figures.read(folder)
        except FileNotFoundError:  # of a release before there were any
            self.figures = Figures.of(BlobTable(Program.from_json(contents(folder / "program.json"))))
            self.figures.write(folder)
        self.journal = Journal(folder / "journal", model_id, self.figures.blobs)
        for name, size in self.figures.sizes.items():
            found = (folder / name).stat().st_size
            if found != size:
                raise FormatError(f"{name} of a stored model has {found} bytes where {size} are due")

    @cached_property
    def program(self) -> Program:
        """Its program, parsed when it is first asked for.

        Raises:
            ServerError: it is no longer what was stored, or the disk refuses.
        """
        with disk():
            data = contents(self.folder / "program.json")
        if hashlib.sha256(data).digest()[:ID_BYTES] != self.figures.program_id:
            raise ServerError(DAMAGED)
        return Program.from_json(data)

    @cached_property
    def table(self) -> BlobTable:
        """Its blobs."""
        return BlobTable(self.program)

    def missing(self) -> list[int]:
        """Numbers of the blobs that are not complete, ascending."""
        with disk():
            done, _ = self.journal.read()
        return [number for number in range(self.figures.blobs) if number not in done]

    @contextlib.contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """The one writer of this model; complete blobs are journalled when it closes, too.

        Raises:
            ProtocolError: another upload of the same model is under way.
        """
        with locked(self.folder / "lock") as taken:
            if not taken:
                raise ProtocolError("another upload of this model is under way: wait for it")
            with contextlib.closing(BlobWriter(self)) as writer:
                yield writer

    def reader(self) -> BlobReader:
        """The blobs, for whoever loads them."""
        return BlobReader(self)

    def forget_damaged(self) -> None:
        """Take every damaged blob for missing, so that one upload sends them all again."""
        with self.writer() as writer:
            blobs = self.reader()
            writer.forget({number for number in writer.done() if not blobs.whole(number)})


class BlobWriter:
    """Writes checked blobs to their places and journals them in groups."""

    def __init__(self, model: StoredModel) -> None:
        self._model = model
        with disk():
            self._done, self._end = model.journal.read()
            self._files = {name: open_file(model.folder / name, os.O_WRONLY) for name in model.figures.sizes}
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0

    def missing(self) -> list[int]:
        """Numbers of the blobs still to be written, ascending."""
        return [number for number in range(self._model.figures.blobs) if number not in self._done]

    def write(self, number: int, data: bytes) -> None:
        """Check a blob, then write it.

        Raises:
            FormatError: it is not what the program says; nothing is written.
            ServerError: the disk refuses.
        """
        blob = self._model.table[number]
        self._model.table.check(number, data)
        with disk():
            done = 0
            while done < len(data):
                done += os.pwrite(self._files[blob.file], memoryview(data)[done:], blob.offset + done)
        self._waiting.append((number, blob_digest(data)))
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Wait until the blobs are on disk, then journal them."""
        with disk():
            if not self._waiting:
                return
            for file in self._files.values():
                os.fdatasync(file)
            self._end = self._model.journal.append(self._waiting, self._end)
        self._done.update(self._waiting)
        self._waiting, self._waiting_bytes = [], 0

    def done(self) -> list[int]:
        """Numbers of the blobs that are journalled."""
        return list(self._done)

    def forget(self, numbers: set[int]) -> None:
        """Journal blobs as missing."""
        self.sync()
        self._done = {number: digest for number, digest in self._done.items() if number not in numbers}
        with disk():
            self._model.journal.replace(self._done)
        _, self._end = self._model.journal.read()

    def close(self) -> None:
        """Journal what is complete and close the files."""
        try:
            self.sync()
        finally:
            for file in self._files.values():
                os.close(file)


class BlobReader:
    """Complete blobs of a model; damage on disk is noticed at the first reading.

    They are read and not mapped: a server needs each of them once, to make what it keeps of it.
    """

    def __init__(self, model: StoredModel) -> None:
        self._model = model
        self._files: dict[str, int] = {}
        self._sound: set[int] = set()
        with disk():
            self._digests, _ = model.journal.read()
            for name in model.figures.sizes:
                self._files[name] = open_file(model.folder / name, os.O_RDONLY)
                weakref.finalize(self, os.close, self._files[name])

    def __getitem__(self, number: int) -> bytes:
        """Bytes of a blob.

        Raises:
            ServerError: it is missing, or no longer what was stored; all such blobs then count as missing.
        """
        data = self._read(number)
        if number not in self._sound or len(data) < self._model.table[number].length:
            if self._digests.get(number) != blob_digest(data):
                self._model.forget_damaged()
                raise ServerError(
                    "a part of this model is missing or damaged on the server: call upload() again"
                )
            self._sound.add(number)
        return data

    def whole(self, number: int) -> bool:
        """Whether a blob is what was stored."""
        return self._digests.get(number) == blob_digest(self._read(number))

    def _read(self, number: int) -> bytes:
        blob = self._model.table[number]
        with disk():
            return os.pread(self._files[blob.file], blob.length, blob.offset)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock that is this file, and make it where it is missing; whether it was to be had in LOCK_S.

    The system unlocks it when its process dies.

    Raises:
        ServerError: the disk refuses.
    """
    with disk():
        file = open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        yield _take(file)
    finally:
        os.close(file)


def _take(lock: int) -> bool:
    """Lock a file, or give up after LOCK_S."""
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
