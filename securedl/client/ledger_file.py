"""A ledger in a file: one row for each call, written before anything is sent, and what all of them add up to.

An SQLite database. No sample, no answer, no key and no place of a probe is in it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from securedl.client.ledger import Ledger
from securedl.errors import InputError
from securedl.files import check_writable
from securedl.verify.report import SHOWN_ALARMS

#: What marks the file, "SDLl", and the version of its tables.
_MARK, _VERSION = 0x53444C6C, 1
#: How long a process waits for others that write.
_WAIT_S = 30.0
_TABLES = (
    """CREATE TABLE models (
        model TEXT PRIMARY KEY, probes INTEGER DEFAULT 0, alarmed INTEGER DEFAULT 0,
        batches INTEGER DEFAULT 0, alarms INTEGER DEFAULT 0, checkpoints INTEGER DEFAULT 0)""",
    """CREATE TABLE calls (
        number INTEGER PRIMARY KEY, asked TEXT, model TEXT, server TEXT, verify TEXT, samples INTEGER,
        batches INTEGER, checkpoints INTEGER DEFAULT 0, alarms INTEGER DEFAULT 0, first_alarms TEXT,
        probes INTEGER, alarmed INTEGER, recomputed INTEGER, seconds REAL)""",
    f"PRAGMA application_id = {_MARK}",
    f"PRAGMA user_version = {_VERSION}",
)


class LedgerFile(Ledger):
    """The counts of one model in a ledger's file, and its calls.

    Args:
        path: of the file, which is made if there is none; only its owner may read it.
        model: its id. before: what was counted elsewhere; of each count the larger one holds.

    Raises:
        InputError: the file is no ledger, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, model: str, before: Ledger) -> None:
        super().__init__(before.checked, before.alarmed, before.batches, before.alarms)
        self.path, self._model = path.absolute(), model
        check_writable(path)
        # Closing a file that SQLite has open would end the locks of the whole process.
        with in_words(path), suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        self._connect()
        with self.turn():
            pass

    def _connect(self) -> None:
        with in_words(self.path):
            self._process, self._connection = os.getpid(), opened(self.path, make=True)
            weakref.finalize(self, _close, self._connection, self._process)

    @contextmanager
    def turn(self, lasting: bool = True) -> Iterator[None]:
        """A transaction, with the counts that others have left.

        Raises:
            InputError: the file cannot be used any more.
        """
        with self._lock, in_words(self.path):
            os.stat(self.path)  # a file that was removed would still be written, and vanish
            if os.getpid() != self._process:  # SQLite forbids what a fork left
                self._connect()
            # Not lasting, it changes numbers in their places: without power some may be the older ones.
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'OFF'}")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._read()
                yield
                self._connection.execute(
                    "UPDATE models SET probes = ?, alarmed = ?, batches = ?, alarms = ? WHERE model = ?",
                    (self.checked, self.alarmed, self.batches, self.alarms, self._model),
                )

    def _read(self) -> None:
        self._connection.execute("INSERT OR IGNORE INTO models (model) VALUES (?)", (self._model,))
        self.checked, self.alarmed, self.batches, self.alarms = self._connection.execute(
            "SELECT max(probes, ?), max(alarmed, ?), max(batches, ?), max(alarms, ?) "
            "FROM models WHERE model = ?",
            (self.checked, self.alarmed, self.batches, self.alarms, self._model),
        ).fetchone()

    def enter(self, batches: int, samples: int, verify: str, server: str) -> int:
        """A row for a call that is asked now; its number."""
        now = datetime.now(timezone.utc).isoformat(" ", "milliseconds")
        written = self._connection.execute(
            "INSERT INTO calls (asked, model, server, verify, samples, batches) VALUES (?, ?, ?, ?, ?, ?)",
            (now, self._model, server, verify, samples, batches),
        )
        assert written.lastrowid is not None
        return written.lastrowid

    def note(self, number: int, alarm: bool) -> None:
        """Both rows change at every checkpoint. SQLite saves itself what it would write unchanged, and so
        an alarm alone would show in the time.
        """
        step = "SET checkpoints = checkpoints + 1"
        self._connection.execute(f"UPDATE models {step} WHERE model = ?", (self._model,))
        self._connection.execute(f"UPDATE calls {step}, alarms = ? WHERE number = ?", (alarm, number))

    def conclude(
        self, number: int, seconds: float, probes: int, alarmed: int, recomputed: int, alarms: Sequence[str]
    ) -> None:
        """The verdict, in the call's row."""
        self._connection.execute(
            "UPDATE calls SET seconds = ?, probes = ?, alarmed = ?, recomputed = ?, alarms = ?, "
            "first_alarms = ? WHERE number = ?",
            (seconds, probes, alarmed, recomputed, len(alarms), json.dumps(alarms[:SHOWN_ALARMS]), number),
        )


def opened(path: Path, make: bool = False) -> sqlite3.Connection:
    """A ledger; an empty file may be made one.

    While another process makes it, or leaves it as the last one, SQLite does not wait by itself.

    Raises:
        InputError: another file, or of another version. sqlite3.Error: it is damaged, or cannot be opened.
    """
    if not path.exists():
        raise InputError(f"there is no {path}: name the file that was given as Owner(plan, ledger=...)")
    place = f"{path.absolute().as_uri()}?mode=rw"
    until = time.monotonic() + _WAIT_S
    while True:
        connection = sqlite3.connect(
            place, timeout=_WAIT_S, isolation_level=None, check_same_thread=False, uri=True
        )
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE" if make else "BEGIN")
                _check(connection, path, make)
            if make:
                connection.execute("PRAGMA journal_mode = DELETE")  # a log would need locks that forks lose
            return connection
        except BaseException as error:
            connection.close()
            busy = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            if not busy or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _check(connection: sqlite3.Connection, path: Path, make: bool) -> None:
    mark, version, tables = (
        connection.execute(question).fetchone()[0]
        for question in (
            "PRAGMA application_id",
            "PRAGMA user_version",
            "SELECT count(*) FROM sqlite_master",
        )
    )
    if make and not mark and not tables:
        for statement in _TABLES:
            connection.execute(statement)
    elif mark != _MARK:
        raise InputError(f"{path} is no ledger: name the file that was given as Owner(plan, ledger=...)")
    elif version != _VERSION:
        raise InputError(f"the ledger {path} has version {version}, this program reads {_VERSION}")


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the system, in a sentence."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise InputError(f"cannot use {path} as a ledger: {error}") from error


def _close(connection: sqlite3.Connection, process: int) -> None:
    if os.getpid() == process:
        connection.close()
