"""A job: rows of a file checked, asked in shares, and joined in their order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protocol.jobs.asker import AskerFiles, Manner, asked, rows_for, verifiers_of
from protocol.jobs.shares import Share, ShareFiles, ShareFolder, rows_of, share_folder
from securedl.client.inference import SKIPPED
from securedl.client.kit import Kit
from securedl.client.owner import Owner
from securedl.errors import InputError, ProtocolError
from securedl.network.graph import Array
from securedl.progress import Progress, Steps, stage
from securedl.verify.placement import batches_of
from securedl.verify.report import Report, together
from securedl.verify.statistics import upper_bound_tampered

#: Ciphertext batches of a share at most; and where several processes ask, shares for each of them at least.
SHARE_BATCHES, SHARES_EACH = 64, 4
#: Rows that are checked at once, and bytes that are read at once.
ROWS_AT_ONCE, BYTES_AT_ONCE = 4096, 1 << 22


@dataclass(frozen=True, eq=False)
class JobAnswer:
    """What a job gives.

    Attributes:
        logits, labels: as of an `Answer`; rows that were skipped or are withheld have NaN and -1.
        withheld: rows whose batch had an alarm. report: of all calls. calls: how many these were.
    """

    logits: Array
    labels: NDArray[np.int64] | None
    withheld: NDArray[np.int64]
    report: Report
    calls: int


class Asking:
    """Rows of a file, and who asks them.

    Args:
        side: an owner or a kit. after_alarm: as of `Client.predict`, for alarms before this job.

    Raises:
        InputError: rows that cannot be asked, all of which are looked at. AlarmError: an earlier call of this
            owner ended with an alarm.
    """

    def __init__(
        self,
        side: Owner | Kit,
        places: AskerFiles,
        manner: Manner,
        after_alarm: str,
        progress: Progress = None,
    ) -> None:
        self.side, self.places, self.manner, self._progress = side, places, manner, progress
        self.verifiers = verifiers_of(side)
        for one in self.verifiers:
            one.ledger.allow(after_alarm)
        self.rows = rows_for(places.rows, side)
        with stage("read", progress) as told:
            self._check(told.part(0, 2))
            self._digest = _digest(places.rows, told.part(1, 2))

    def __len__(self) -> int:
        return len(self.rows)

    def _check(self, told: Steps) -> None:
        """All rows, before any is asked."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            told(start, len(self))
            some = np.asarray(self.rows[start : start + ROWS_AT_ONCE])
            try:
                for one in self.verifiers:
                    one.screened(some, self.manner.outliers)
            except InputError as error:
                where = f", where x[0] is row {start}" if start else ""
                raise InputError(f"the rows x of {self.places.rows}{where}: {error}") from error

    def connect(self) -> None:
        """See whether the server has the model.

        Raises:
            ServerError, AuthenticationError: as `protocol.Client.describe`. ProtocolError: it has not.
        """
        with self.places.client(self.side, self._progress) as client:
            found = client.status()
        if not found.complete:
            lacks = f"lacks {found.missing} of {found.blobs} parts of" if found.known else "has not"
            raise ProtocolError(
                f"the server at {self.places.address} {lacks} this model: its owner uploads it first, by "
                "protocol.Client(address, owner).upload()"
            )

    def share_rows(self, askers: int = 1) -> int:
        """How many rows are asked in one call: what so many ciphertext batches hold beside the probes."""
        batch, probes = self._batch, 0 if self.manner.verify == "none" else self.manner.probes
        every = batches_of(len(self), batch, probes)
        batches = SHARE_BATCHES if askers == 1 else min(SHARE_BATCHES, -(-every // (SHARES_EACH * askers)))
        lanes = batches * batch
        lost = max(probes, batches) if batch > 1 and probes else probes
        return lanes - lost if lanes > 2 * lost else max(lanes, lost)

    @property
    def _batch(self) -> int:
        return self.verifiers[0].signature.program.batch

    def folder(self, path: Path, askers: int = 1) -> AbstractContextManager[ShareFolder]:
        """Where its answers are kept while it lasts: a context manager that gives a `ShareFolder`.

        Raises:
            InputError: it cannot be used.
        """
        about = {
            "file of samples": self._digest, "model": self.side.model_id.hex(), **asdict(self.manner)
        }  # fmt: skip
        return share_folder(path, about, self.share_rows(askers))

    def prepare(self) -> None:
        """Make an owner's probes now, if there are to be any."""
        if isinstance(self.side, Owner) and self.manner.verify != "none":
            self.side.prepare(self._progress)

    def here(self, missing: Sequence[Share], files: ShareFiles, told: Steps) -> None:
        """Ask shares by one client of this process, one after the other.

        Args:
            told: how many rows are answered, of all.

        Raises:
            SecureDLError: as `Client.predict`.
        """
        left = rows_of(missing)

        def within(name: str, done: int, total: int) -> None:
            if name == "predict" and total:
                told(len(self) - left + share.rows * done // total, len(self))

        with self.places.client(self.side, progress=within) as client:
            for share in missing:
                files.put(share, asked(client, self.rows, share, self.manner))
                left -= share.rows

    def answer(self, folder: ShareFolder) -> JobAnswer:
        """All answers, in their order.

        Raises:
            InputError: the file of a share is damaged.
        """
        shares = folder.shares(len(self))
        found = [folder.get(share) for share in shares]
        logits = np.concatenate([one.logits for one in found])
        labels = self.verifiers[0].signature.output.labels(logits)
        unknown = np.isnan(logits).reshape(len(logits), -1).any(axis=1)
        if labels is not None:
            labels[unknown] = SKIPPED
        report = together([one.report for one in found], [share.start for share in shares], self._bound())
        withheld = np.concatenate([s.start + one.withheld for s, one in zip(shares, found, strict=True)])
        return JobAnswer(logits, labels, withheld, report, len(shares))

    def _bound(self) -> float:
        ledgers = [one.ledger for one in self.verifiers]
        return max(upper_bound_tampered(one.checked, one.alarmed) if one.checked else 1.0 for one in ledgers)


def _digest(path: Path, told: Steps) -> str:
    """SHA-256 of a file."""
    size, found, done = path.stat().st_size, hashlib.sha256(), 0
    with open(path, "rb") as file:
        while some := file.read(BYTES_AT_ONCE):
            found.update(some)
            done += len(some)
            told(done, size)
    return found.hexdigest()
