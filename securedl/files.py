"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from securedl.errors import InputError


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` beside `path`, then rename: a crash leaves the old file or the new one.

    Raises:
        InputError: the folder is missing or cannot be written.
    """
    try:
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except OSError as error:
        os.unlink(name)
        raise InputError(f"cannot write {path}: {error.strerror}") from error
