"""Members of archives, read into memory and bounded: nothing is extracted to a path an archive names."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from securedl.errors import FormatError

#: What the readers of the standard library raise on hostile bytes; RuntimeError is an encrypted member.
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
    RuntimeError, IndexError, OverflowError,
)  # fmt: skip
MOST_MEMBERS = 100_000


class Reader(Protocol):
    """Anything that bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes."""


def _check_name(path: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise FormatError(f"{path.name}: the archive names a file outside itself, {name!r}: it is refused")


def _bounded(path: Path, name: str, file: Reader, limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise FormatError(f"{path.name}: {name!r} is longer than {limit} bytes: it is refused")
    return data


def is_zip(path: Path) -> bool:
    """Whether the file begins as zip archives do."""
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def zip_members(path: Path, wanted: Callable[[str], bool], limit: int) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the wanted members, in the archive's order, each at most `limit` bytes.

    Raises:
        FormatError: no zip archive, a damaged one, or one that is made to do harm.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if len(infos) > MOST_MEMBERS:
                raise FormatError(f"{path.name}: {len(infos)} files in one archive: it is refused")
            for info in infos:
                _check_name(path, info.filename)
            for info in infos:
                if info.is_dir() or not wanted(info.filename):
                    continue
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise FormatError(f"{path.name}: {info.filename!r} is packed in an unusual way")
                with archive.open(info) as file:
                    data = _bounded(path, info.filename, file, limit)
                yield info.filename, data
    except FormatError:
        raise
    except BROKEN as error:
        raise FormatError(f"{path.name} is no zip archive, or a damaged one: {error}") from error


def member(path: Path, name: str, limit: int) -> bytes:
    """The one member called `name` in any folder of a zip archive; a file that is no archive, whole.

    UCI serves a set as a zip archive, and (older addresses) as the bare file.
    """
    if not is_zip(path):
        with open(path, "rb") as file:
            return _bounded(path, name, file, limit)

    def wanted(other: str) -> bool:
        return other.rsplit("/", 1)[-1].lower() == name.lower()

    found = list(zip_members(path, wanted, limit))
    if len(found) != 1:
        raise FormatError(f"{path.name} holds {len(found)} files called {name}; expected one")
    return found[0][1]


def gunzip(path: Path, limit: int) -> bytes:
    """A gzip file's content, at most `limit` bytes."""
    try:
        with gzip.open(path) as file:
            return _bounded(path, path.name, file, limit)
    except FormatError:
        raise
    except BROKEN as error:
        raise FormatError(f"{path.name} is no gzip file, or a damaged one: {error}") from error


class _Limited:
    """A stream that ends with an error after `limit` bytes: a small archive cannot unpack for hours."""

    def __init__(self, path: Path, file: Reader, limit: int) -> None:
        self.path, self.file, self.left, self.limit = path, file, limit, limit

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(self.left + 1 if size < 0 else min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise FormatError(f"{self.path.name} unpacks to more than {self.limit} bytes: it is refused")
        return data


def tar_members(path: Path, names: set[str], limit: int, total: int) -> dict[str, bytes]:
    """Members of a .tar.gz by their names without folders, each at most `limit` bytes, `total` unpacked.

    Raises:
        FormatError: damaged, a name is missing or twice there, or a member is not a plain file.
    """
    found: dict[str, bytes] = {}
    try:
        with (
            gzip.open(path) as packed,
            tarfile.open(fileobj=cast(Any, _Limited(path, packed, total)), mode="r|") as archive,
        ):
            for info in archive:
                _check_name(path, info.name)
                name = info.name.rsplit("/", 1)[-1]
                if name not in names:
                    continue
                file = archive.extractfile(info) if info.isreg() else None
                if file is None or name in found:
                    raise FormatError(f"{path.name}: {info.name!r} is no plain file, or there twice")
                found[name] = _bounded(path, info.name, file, limit)
    except FormatError:
        raise
    except BROKEN as error:
        raise FormatError(f"{path.name} is no .tar.gz archive, or a damaged one: {error}") from error
    if missing := sorted(names - found.keys()):
        raise FormatError(f"{path.name} lacks {', '.join(missing)}")
    return found
