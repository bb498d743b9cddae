"""Who used how much of a server: computing seconds of each client and day, and use of each model.

It is kept in `usage.sqlite` of the store, which all servers of the store share. Nothing here is needed to
serve: where the file is damaged or the disk refuses, the log says so and service goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from protocol.logs import log_event

Found = TypeVar("Found")
#: How long a transaction waits for those of other processes: an answer waits for it.
BUSY_S = 0.2
#: Days whose seconds are kept.
KEPT_DAYS = 32
_DAY_S = 86_400
_SCHEMA = """
create table if not exists models (client text, model text, queries integer, seconds real, used real,
    primary key (client, model)) without rowid;
create table if not exists days (client text, day integer, seconds real,
    primary key (client, day)) without rowid;
"""


@dataclass(frozen=True)
class Use:
    """Of one model: queries answered, core seconds of them, and when the last was (s since 1970)."""

    queries: int = 0
    seconds: float = 0.0
    used: float | None = None


class Usage:
    """The usage of a store. Safe to use from many threads and processes.

    Args:
        folder: of the store.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "usage.sqlite"
        self._lock = threading.Lock()
        self._open: tuple[sqlite3.Connection, int] | None = None
        self._number = 0  # inode of the file that was opened last
        self._owed: dict[tuple[str, str, int], tuple[int, float, float]] = {}

    def charge(self, client: str, model_id: bytes, queries: int, seconds: float) -> None:
        """Add what a query, or a part of one, took. What cannot be written now is written with the next."""
        now = time.time()
        key = client, model_id.hex(), int(now // _DAY_S)
        with self._lock:
            before = self._owed.get(key, (0, 0.0, now))
            self._owed[key] = before[0] + queries, before[1] + seconds, now
            self._do(self._write)

    def seconds_today(self, client: str) -> float:
        """Core seconds of the client since midnight, UTC; 0 where nobody knows."""
        day = int(time.time() // _DAY_S)

        def read(db: sqlite3.Connection) -> float:
            query = "select seconds from days where client = ? and day = ?"
            row = db.execute(query, (client, day)).fetchone()
            return float(row[0]) if row else 0.0

        with self._lock:
            owed = sum(due[1] for key, due in self._owed.items() if (key[0], key[2]) == (client, day))
            return owed + (self._do(read) or 0.0)

    def models(self) -> dict[tuple[str, str], Use]:
        """Use by client and model (hex)."""

        def read(db: sqlite3.Connection) -> dict[tuple[str, str], Use]:
            rows = db.execute("select client, model, queries, seconds, used from models").fetchall()
            return {(row[0], row[1]): Use(int(row[2]), float(row[3]), row[4]) for row in rows}

        with self._lock:
            return self._do(read) or {}

    def forget(self, client: str, model_id: bytes) -> None:
        """A model was removed; what its queries took still counts for its client."""

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute("delete from models where client = ? and model = ?", (client, model_id.hex()))

        with self._lock:
            self._do(write)

    def close(self) -> None:
        """Write what is owed, and close the file; it opens again when it is needed."""
        with self._lock:
            if self._owed:
                self._do(self._write)
            self._close()

    def _write(self, db: sqlite3.Connection) -> None:
        with db:
            for (client, model, day), (queries, seconds, used) in self._owed.items():
                db.execute(
                    "insert into models values (?, ?, ?, ?, ?) on conflict do update set "
                    "used = excluded.used, queries = queries + excluded.queries, "
                    "seconds = seconds + excluded.seconds",
                    (client, model, queries, seconds, used),
                )
                db.execute(
                    "insert into days values (?, ?, ?) on conflict do update set "
                    "seconds = seconds + excluded.seconds",
                    (client, day, seconds),
                )
                db.execute("delete from days where client = ? and day < ?", (client, day - KEPT_DAYS))
        self._owed.clear()

    def _do(self, work: Callable[[sqlite3.Connection], Found]) -> Found | None:
        """What `work` gives; None where the file refuses, which is logged."""
        for again in (True, False):
            try:
                return work(self._connection())
            except sqlite3.OperationalError as error:  # busy, or the disk refuses: the file may be well
                log_event("usage", logging.WARNING, problem=f"not written or read now: {error}")
                return None
            except sqlite3.DatabaseError as error:
                if not again:
                    log_event("usage", logging.ERROR, problem=f"cannot be kept: {error}")
                    return None
                self._set_aside(error)
            except OSError as error:
                log_event("usage", logging.WARNING, problem=f"cannot be kept: {error.strerror}")
                return None
        return None

    def _connection(self) -> sqlite3.Connection:
        """To the file that is at its path now; another process may have set the one before aside."""
        if self._open is not None:
            db, number = self._open
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == number:
                    return db
            self._close()
        with contextlib.suppress(FileExistsError):  # opening it again would, on closing, drop SQLite's locks
            os.close(
                os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            )  # the others take its mode
        self._number = os.stat(self._path).st_ino
        db = sqlite3.connect(self._path, timeout=BUSY_S, check_same_thread=False)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")  # a power cut may take the last seconds, and no more
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        self._open = db, self._number
        return db

    def _set_aside(self, error: Exception) -> None:
        """Rename a damaged file, unless another process did so already."""
        self._close()
        with contextlib.suppress(OSError), open(self._path.with_suffix(".lock"), "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.stat(self._path).st_ino != self._number:
                return
            aside = self._path.with_name(f"usage.damaged-{time.time_ns()}.sqlite")
            os.rename(self._path, aside)
            for end in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{self._path}{end}", f"{aside}{end}")
            log_event("usage", logging.ERROR, problem=f"damaged and begun anew: {error}", kept=aside.name)

    def _close(self) -> None:
        if self._open is not None:
            with contextlib.suppress(sqlite3.Error):
                self._open[0].close()
            self._open = None
