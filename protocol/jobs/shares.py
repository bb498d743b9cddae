"""What a job has answered so far, in a folder beside its output: a job that breaks off goes on from there."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from securedl.errors import InputError
from securedl.files import contents, open_file, write_atomically
from securedl.network.graph import Array
from securedl.verify.report import Report

_ABOUT, _LOCK = "job.json", "lock"


class Share(NamedTuple):
    """Rows that are asked in one call: from `start` to before `stop`."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


def rows_of(shares: Iterable[Share]) -> int:
    """How many rows some shares have."""
    return sum(share.rows for share in shares)


@dataclass(frozen=True, eq=False)
class Answered:
    """The answers of a share.

    Attributes:
        logits: [rows, ...]; NaN where a sample was skipped or its answer is withheld. withheld: rows whose
            batch had an alarm, from the share's first. report: of the call.
    """

    logits: Array
    withheld: NDArray[np.int64]
    report: Report


class ShareFiles:
    """Files of answers in a folder, as every process of a job sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, share: Share, found: Answered) -> None:
        """Keep the answers of a share."""
        buffer = io.BytesIO()
        report = json.dumps(found.report.to_dict())
        np.savez(buffer, logits=found.logits, withheld=found.withheld, report=np.array(report))
        write_atomically(self._path(share), buffer.getvalue())

    def has(self, share: Share) -> bool:
        """Whether a share is answered."""
        return self._path(share).exists()

    def get(self, share: Share) -> Answered:
        """The answers of a share.

        Raises:
            InputError: its file is damaged.
        """
        path = self._path(share)
        try:
            with np.load(io.BytesIO(contents(path)), allow_pickle=False) as found:
                logits, withheld = found["logits"], found["withheld"]
                report = Report.from_dict(json.loads(str(found["report"])))
            if len(logits) != share.rows:
                raise ValueError("another share's")
        except Exception as error:  # of many kinds
            raise InputError(
                f"{path} is damaged: remove it, and the same command asks its rows again"
            ) from error
        return Answered(logits, withheld, report)

    def _path(self, share: Share) -> Path:
        return self.folder / f"{share.start:012d}.npz"


class ShareFolder(ShareFiles):
    """The shares of one job.

    Args:
        folder: made where it is missing, for its owner alone. job: what makes another job of it; and how many
            rows a share has, which is kept from an earlier process.

    Attributes:
        rows: of a share.

    Raises:
        InputError: the folder holds another job, or cannot be used, or another process works at this one.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], rows: int) -> None:
        super().__init__(folder)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = open_file(folder / _LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise InputError(f"cannot use the folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InputError(
                f"another process writes to {folder}: wait for it, or name another --out"
            ) from error
        try:
            self.rows = self._known(dict(job), rows)
        except BaseException:
            os.close(self._lock)
            raise

    def _known(self, job: dict[str, Any], rows: int) -> int:
        """How many rows a share has, of this job."""
        about = self.folder / _ABOUT
        if not about.exists():
            write_atomically(about, json.dumps({**job, "rows": rows}, indent=1).encode())
            return rows
        try:
            before = json.loads(contents(about))
            kept = int(before.pop("rows"))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{about} is damaged: remove the folder {self.folder} to begin anew") from error
        if changed := [name for name in job if before.get(name) != job[name]]:
            raise InputError(
                f"{self.folder} holds answers of a job with another {' and another '.join(changed)}: give "
                "what was given then to go on, name another --out, or remove the folder to begin anew"
            )
        return kept

    def shares(self, total: int) -> list[Share]:
        """All that the rows of a job are asked in."""
        return [Share(start, min(start + self.rows, total)) for start in range(0, total, self.rows)]

    def remove(self) -> None:
        """What is the job's in the folder, once its answers are elsewhere."""
        for path in (*self.folder.glob("[0-9]*.npz"), self.folder / _ABOUT, self.folder / _LOCK):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            self.folder.rmdir()

    def close(self) -> None:
        """Let others work at it."""
        with contextlib.suppress(OSError):
            os.close(self._lock)


@contextlib.contextmanager
def share_folder(folder: Path, job: Mapping[str, Any], rows: int) -> Iterator[ShareFolder]:
    """A `ShareFolder` that is this process's until the block ends."""
    found = ShareFolder(folder, job, rows)
    try:
        yield found
    finally:
        found.close()
