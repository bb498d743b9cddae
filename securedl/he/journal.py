"""Which blobs are complete: an append-only file whose torn end is never believed.

An entry is 24 bytes: blob number (u32), blake2b-128 of the blob, and four check bytes over both, keyed
with the model. It is written after the blob itself is on disk.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from securedl.files import contents, open_file

ENTRY = struct.Struct("<I16s4s")


def blob_digest(data: bytes | memoryview) -> bytes:
    """16 bytes that tell a damaged blob from a whole one."""
    return hashlib.blake2b(data, digest_size=16).digest()


class Journal:
    """The journal of one model.

    Args:
        path: the file, which exists.
        model_id: keys the check bytes, so that another model's journal is not believed.
        count: blobs of the model; an entry beyond is damage.
    """

    def __init__(self, path: Path, model_id: bytes, count: int) -> None:
        self._path, self._key, self._count = path, model_id, count

    def read(self) -> tuple[dict[int, bytes], int]:
        """Digest of each complete blob by number, and the length in bytes of the sound part."""
        data = contents(self._path)
        done: dict[int, bytes] = {}
        sound = 0
        for start in range(0, len(data) - ENTRY.size + 1, ENTRY.size):
            number, digest, check = ENTRY.unpack_from(data, start)
            if number >= self._count or check != self._check(number, digest):
                break
            done[number] = digest
            sound = start + ENTRY.size
        return done, sound

    def append(self, entries: Iterable[tuple[int, bytes]], end: int, wait: bool = True) -> int:
        """Write entries from byte `end`, the sound part's, on; their own end, with `wait` once on disk."""
        with open(open_file(self._path, os.O_RDWR), "r+b") as file:
            file.truncate(end)
            file.seek(end)
            for number, digest in entries:
                file.write(ENTRY.pack(number, digest, self._check(number, digest)))
            file.flush()
            if wait:
                os.fsync(file.fileno())
            return file.tell()

    def replace(self, entries: dict[int, bytes]) -> None:
        """Put other entries in place of all of them, at once."""
        fresh = self._path.with_suffix(".new")
        with open(open_file(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            for number, digest in entries.items():
                file.write(ENTRY.pack(number, digest, self._check(number, digest)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)

    def _check(self, number: int, digest: bytes) -> bytes:
        content = struct.pack("<I", number) + digest
        return hashlib.blake2b(content, key=self._key, digest_size=4).digest()
