"""Encrypted models on disk. Nothing half-written is ever taken for complete, whenever the power goes.

    DIR/salt                                    16 bytes, so that folder names do not tell tokens
    DIR/seats/                                  files whose locks are the sessions that run (`Seats`)
    DIR/usage.sqlite                            who used how much (`Usage`)
    DIR/clients/CLIENT.lock                     held while room for a model is reserved
    DIR/clients/CLIENT/MODEL/program.json       the public program
                             figures            what is often asked of it
                             keys.bin           switch keys, at the offsets that `blobs` computes
                             weights.bin        weights, likewise
                             journal            which of them are complete
                             lock               held by the one upload that may write

A model belongs to the client that uploaded it; another client's looks the same as one that is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from protocol.blobs import BlobTable
from protocol.figures import Figures
from protocol.stored import DAMAGED, StoredModel, disk, locked, stamp_of
from protocol.wire import ID_BYTES
from securedl.errors import FormatError, InputError, ProtocolError, QuotaError, ServerError
from securedl.files import contents
from securedl.program.effort import effort
from securedl.program.program import Program

_log = logging.getLogger("protocol.server")
#: Half-made folders older than this were left by a server that died.
STALE_S = 3600


@dataclass(frozen=True)
class Limits:
    """What one client may keep, and how many streams the server works on at once.

    Attributes:
        max_bytes: on disk. A model takes up to three times the bytes of its upload, for its weights are kept
            as kernels read them, too (`he/vector/at_rest.py`); they count from the beginning.
        max_key_bytes: of memory for the keys of one model, as they are loaded.
        max_query_s, max_query_bytes: what one query may take, about: computing on one core, and memory.
        max_sessions: of all clients at once. max_client_sessions: of each; None: a fair share.
        max_client_s: core seconds of each client's queries in a day (UTC); None: as many as it likes.
    """

    max_models: int = 32
    max_bytes: int = 64 << 30
    max_sessions: int = 32
    max_client_sessions: int | None = None
    max_query_s: float = 600.0
    max_query_bytes: int = 2 << 30
    max_key_bytes: int = 16 << 30
    max_client_s: float | None = None

    def sessions_of(self, clients: int) -> int:
        """How many each of so many clients may have at once: so that no client can take all of several."""
        fair = max(1, self.max_sessions // clients)
        return fair if self.max_client_sessions is None else self.max_client_sessions

    def check(self, program: Program) -> None:
        """Refuse a program of which a query takes too much, or the keys do.

        Raises:
            QuotaError: so it does.
        """
        effort(program, self.max_query_s, self.max_query_bytes)
        keys, _ = BlobTable(program).expanded()
        if keys > self.max_key_bytes:
            raise QuotaError(
                f"the keys of this model take {keys:,} bytes of the server's memory, and "
                f"{self.max_key_bytes:,} are allowed: compile a smaller network, or ask for more"
            )


class Store:
    """All models in a folder, which is made where it is missing.

    Raises:
        InputError: the folder cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str], limits: Limits | None = None) -> None:
        self.folder, self.limits = Path(folder), limits or Limits()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.folder / "clients").mkdir(exist_ok=True, mode=0o700)
            _close(self.folder)
            self._salt = _salt(self.folder / "salt")
            with contextlib.suppress(FileNotFoundError):
                self._sweep()
        except OSError as error:
            raise InputError(
                f"the store {self.folder} cannot be used: {error.strerror}; name a folder you may write to"
            ) from error

    def client(self, token: str | None) -> str:
        """The folder name of whoever holds `token`; slow to guess back, so call it once per token."""
        if token is None:
            return "local"
        digest = hashlib.scrypt(token.encode(), salt=self._salt, n=1 << 14, r=8, p=1, dklen=16)
        return digest.hex()

    def find(self, client: str, model_id: bytes) -> StoredModel | None:
        """The client's model of that id, if it is there."""
        folder = self._folder(client, model_id)
        try:
            with disk():
                return StoredModel(folder, model_id) if folder.is_dir() else None
        except FormatError as error:
            raise ServerError(DAMAGED) from error

    def stamp(self, client: str, model_id: bytes) -> tuple[int, int] | None:
        """What changes when a model is removed, or another takes its place; None where there is none."""
        return stamp_of(self._folder(client, model_id))

    def writable(self, free: int) -> bool:
        """Whether models can be written, and so many bytes are free."""
        root = self.folder / "clients"
        try:
            found = os.statvfs(root)
        except OSError:
            return False
        room = found.f_bavail * found.f_frsize >= free and not found.f_flag & os.ST_RDONLY
        return room and os.access(root, os.W_OK | os.X_OK)

    def models(self, client: str) -> list[bytes]:
        """Ids of the client's models."""
        root = self.folder / "clients" / client
        with disk():
            names = [p.name for p in root.iterdir()] if root.is_dir() else []
        return sorted(bytes.fromhex(n) for n in names if len(n) == 2 * ID_BYTES and not n.startswith("."))

    def used(self, client: str) -> int:
        """Bytes on disk that the client's models take or may take."""
        used = 0
        for model_id in self.models(client):
            with disk(), contextlib.suppress(FileNotFoundError):
                used += _bytes(self._folder(client, model_id))
        return used

    def create(self, client: str, model_id: bytes, program: Program) -> StoredModel:
        """Room for a new model, all of it reserved on disk now; the model, if it is there already.

        Args:
            program: one that `Limits.check` allows; it was checked when it was read.

        Raises:
            QuotaError: the client's share is used up.
            ServerError: the disk refuses.
        """
        table, folder = BlobTable(program), self._folder(client, model_id)
        figures = Figures.of(table)
        with locked(folder.parent.with_suffix(".lock")) as taken:
            if not taken:
                raise ProtocolError("other uploads of this client begin just now: call upload() again")
            if not folder.is_dir():
                self._check_quota(client, figures.disk)
                self._make(folder, figures, program)
        return StoredModel(folder, model_id)

    def _make(self, folder: Path, figures: Figures, program: Program) -> None:
        """A model's folder, all at once."""
        with disk():
            folder.parent.mkdir(exist_ok=True)
            fresh = folder.parent / f".{secrets.token_hex(8)}"
            fresh.mkdir()
            try:
                _fill(fresh, program, figures)
                os.rename(fresh, folder)
            except OSError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            _sync_folder(folder.parent)

    def remove(self, client: str, model_id: bytes) -> bool:
        """Delete a model; whether it was there."""
        folder = self._folder(client, model_id)
        with disk():
            gone = folder.parent / f".{secrets.token_hex(8)}"
            try:
                os.rename(folder, gone)
            except FileNotFoundError:
                return False
            shutil.rmtree(gone)
            return True

    def _folder(self, client: str, model_id: bytes) -> Path:
        if len(model_id) != ID_BYTES:
            raise ProtocolError(f"a model id has {ID_BYTES} bytes, got {len(model_id)}")
        return self.folder / "clients" / client / model_id.hex()

    def _check_quota(self, client: str, wanted: int) -> None:
        models, limit = self.models(client), self.limits.max_models
        if len(models) >= limit:
            raise QuotaError(f"this client keeps {len(models)} models and may keep {limit}: remove one first")
        used = self.used(client)
        if used + wanted > self.limits.max_bytes:
            raise QuotaError(
                f"this model takes {wanted:,} bytes, but of this client's {self.limits.max_bytes:,} bytes on "
                f"the server {used:,} are used: remove a model first, or ask for more"
            )

    def _sweep(self) -> None:
        for folder in (self.folder / "clients").glob("*/.*"):
            if time.time() - folder.stat().st_mtime > STALE_S:
                shutil.rmtree(folder, ignore_errors=True)


def _close(folder: Path) -> None:
    """See that nobody else reads what clients keep, whatever folder it was that we were given.

    Raises:
        InputError: others may put something in place of it. OSError: it belongs to another user.
    """
    if (mode := folder.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise InputError(f"everybody may write to the store {folder}: chmod o-w {folder}")
    if (folder / "clients").stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        _log.warning("others could read models in %s: now this user alone can", folder)
        (folder / "clients").chmod(0o700)


def _salt(path: Path) -> bytes:
    """The store's salt, made at its first use."""
    fresh = path.with_name(f".salt-{secrets.token_hex(8)}")
    if not path.exists():
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "wb") as handle:
            handle.write(secrets.token_bytes(16))
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    return contents(path)


def _bytes(folder: Path) -> int:
    """What a model may take on disk; what it does take, where its figures are damaged."""
    try:
        return Figures.read(folder).disk
    except (FormatError, OSError):
        return sum(path.stat().st_size for path in folder.iterdir())


def _fill(folder: Path, program: Program, figures: Figures) -> None:
    for name, size in figures.sizes.items():
        with open(folder / name, "wb") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
    (folder / "journal").touch()
    (folder / "lock").touch()
    figures.write(folder)
    with open(folder / "program.json", "wb") as file:
        file.write(program.to_json())
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
