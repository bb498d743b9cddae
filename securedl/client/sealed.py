"""Files that hold a secret key: arrays, sealed by AES-256-GCM under scrypt(passphrase)."""

from __future__ import annotations

import hashlib
import io
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securedl.arguments import check_passphrase
from securedl.arguments import path as checked_path
from securedl.errors import InputError, KeyFileError
from securedl.files import write_atomically

_FILE = struct.Struct("<8sB16s12s")


@dataclass(frozen=True)
class Sealed:
    """A kind of file.

    Attributes:
        magic: its first 8 bytes. version: of its content. what: for people, with an article.
    """

    magic: bytes
    version: int
    what: str

    def save(self, path: str | Path, passphrase: str, arrays: Mapping[str, Any], caller: str) -> None:
        """Write arrays, readable for the user alone; whole or not at all.

        Raises:
            InputError: an empty passphrase, or a path that cannot be written.
        """
        target = checked_path(path, caller)
        check_passphrase(passphrase)
        if not passphrase:
            raise InputError("the passphrase is empty: the file holds the secret key")
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        header = _FILE.pack(self.magic, self.version, salt, nonce)
        sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, buffer.getvalue(), header)
        write_atomically(target, header + sealed)

    def load(self, path: str | Path, passphrase: str, caller: str, hints: Mapping[bytes, str]) -> Any:
        """The arrays that `save` wrote.

        Args:
            hints: what other files may be, by their first bytes.

        Raises:
            KeyFileError: no such file, another one, a wrong passphrase or a damaged file.
        """
        source = checked_path(path, caller)
        check_passphrase(passphrase)
        try:
            data = source.read_bytes()
        except OSError as error:
            raise KeyFileError(f"cannot read {path}: {error.strerror}") from error
        if len(data) < _FILE.size or data[:8] != self.magic:
            hint = next((hint for first, hint in hints.items() if data.startswith(first)), "")
            raise KeyFileError(f"{path} is not {self.what}{hint}")
        _, version, salt, nonce = _FILE.unpack_from(data)
        if version != self.version:
            raise KeyFileError(f"{path} has version {version}, this program reads {self.version}")
        try:
            opened = AESGCM(_derive(passphrase, salt)).decrypt(nonce, data[_FILE.size :], data[: _FILE.size])
        except InvalidTag:
            raise KeyFileError(f"{path} cannot be opened: wrong passphrase, or the file is damaged") from None
        return np.load(io.BytesIO(opened), allow_pickle=False)


def _derive(passphrase: str, salt: bytes) -> bytes:
    # 2^15 · 8 · 128 bytes = 32 MiB and about 0.1 s a guess.
    return hashlib.scrypt(passphrase.encode(), salt=salt, dklen=32, n=1 << 15, r=8, p=1, maxmem=1 << 26)
