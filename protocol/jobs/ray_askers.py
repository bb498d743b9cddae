"""Shares asked by the processes of a Ray cluster: each opens the owner's or kit's file for itself.

Paths, numbers of rows and counts are all that crosses Ray; samples, answers and passphrases stay in files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.jobs.asker import AskerFiles, Manner, asked, rows_for, secret_side, verifiers_of
from protocol.jobs.shares import Share, ShareFiles
from protocol.ray_cluster import RayCluster
from protocol.ray_pool import ActorPool, LostActorError
from securedl.client.ledger import Entry
from securedl.client.verifier import Verifier
from securedl.errors import InputError, SecureDLError, UnreachableError
from securedl.verify.placement import batches_of

#: Processes that one share may lose.
SHARE_ATTEMPTS = 3


@dataclass(frozen=True)
class LedgerCounts:
    """What one call has added to the ledger of a channel: as its attributes."""

    checked: int
    alarmed: int
    batches: int
    alarms: int


@dataclass(frozen=True)
class Verdict:
    """How a share's call ended.

    Attributes:
        counted: of each channel. compared: answers of which every value was. alarms: some of what differed.
            error: why there is no answer.
    """

    counted: tuple[LedgerCounts, ...]
    compared: int = 0
    alarms: tuple[str, ...] = ()
    error: SecureDLError | None = None


class AskerActor:
    """What runs in one process."""

    def __init__(self, places: AskerFiles, manner: Manner, folder: Path) -> None:
        self._places, self._manner, self._files = places, manner, ShareFiles(folder)
        self._open: tuple[Any, list[Verifier], Any] | None = None

    def ready(self) -> int:
        """Open all files, and connect; the process's number."""
        side = secret_side(self._places.secret, self._places.passphrase(), None, progress=False)
        rows, client = rows_for(self._places.rows, side), self._places.client(side, progress=False)
        self._open = client, verifiers_of(side), rows
        return os.getpid()

    def ask(self, share: Share) -> Verdict:
        """Ask a share, and leave its answers in the folder."""
        if self._open is None:
            self.ready()
        assert self._open is not None
        client, verifiers, rows = self._open
        before = [one.ledger.to_array() for one in verifiers]

        def counted() -> tuple[LedgerCounts, ...]:
            after = [one.ledger.to_array() for one in verifiers]
            return tuple(LedgerCounts(*(a - b).tolist()) for a, b in zip(after, before, strict=True))

        try:
            found = asked(client, rows, share, self._manner)
            self._files.put(share, found)
        except SecureDLError as error:
            return Verdict(counted(), error=error)
        return Verdict(counted(), found.report.checked, found.report.alarms)


class RayAskers:
    """The processes of a job; a context manager.

    Args:
        address: HOST:PORT of a cluster's head; None for one of our own on this machine. actors: how many.

    Raises:
        InputError: Ray is missing, or a process cannot use what it is given. ServerError: they do not start.
    """

    def __init__(
        self, address: str | None, actors: int, places: AskerFiles, manner: Manner, files: ShareFiles
    ) -> None:
        self._address, self._actors = address, actors
        self._places, self._manner, self._files = places, manner, files
        self._stopped = threading.Event()

    def __enter__(self) -> RayAskers:
        with ExitStack() as begun:
            cluster = RayCluster(self._address, 1)
            begun.callback(cluster.stop)
            arguments = self._places, self._manner, self._files.folder.absolute()
            self._pool = ActorPool(cluster, lambda: cluster.actor(AskerActor, 1, *arguments), self._actors)
            begun.callback(self._pool.stop)
            self._pool.wait()
            self._begun = begun.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._begun.close()

    def run(self, shares: Sequence[Share], verifiers: Sequence[Verifier]) -> Iterator[Share]:
        """Ask these, and enter each in the ledgers of this process; those that are answered, as they come.

        Raises:
            SecureDLError: one cannot be answered; the others are broken off.
        """
        with ThreadPoolExecutor(self._actors, "securedl-asker") as threads:
            calls = [threads.submit(self._ask, share, verifiers) for share in shares]
            try:
                for call in as_completed(calls):
                    yield call.result()
            finally:
                self._stopped.set()
                for call in calls:
                    call.cancel()

    def _ask(self, share: Share, verifiers: Sequence[Verifier]) -> Share:
        rows, manner = share.rows, self._manner
        probes = 0 if manner.verify == "none" else manner.probes
        due = [batches_of(rows, one.signature.program.batch, probes) for one in verifiers]
        entries = [
            one.ledger.ask(batches, rows, manner.verify, self._places.address)
            for one, batches in zip(verifiers, due, strict=True)
        ]

        def again() -> None:
            for entry, batches in zip(entries, due, strict=True):
                entry.more(batches)

        verdict = self._answered(share, again)
        for entry, counted, batches in zip(entries, verdict.counted, due, strict=True):
            self._conclude(entry, counted, batches, verdict)
        if verdict.error is not None:
            raise verdict.error
        if not self._files.has(share):
            raise InputError(
                f"a process has left its answers where this one does not see them: the folder "
                f"{self._files.folder} must be one that all nodes of the cluster share"
            )
        return share

    def _conclude(self, entry: Entry, counted: LedgerCounts, batches: int, verdict: Verdict) -> None:
        entry.more(max(0, counted.batches - batches))  # asked again when the server went away
        if counted.alarms:
            entry.see(alarm=True)
        entry.end(counted.checked, counted.alarmed, verdict.compared, verdict.alarms)

    def _answered(self, share: Share, again: Callable[[], object]) -> Verdict:
        """Of the process that did not die over it."""
        for _ in range(SHARE_ATTEMPTS):
            slot = self._pool.take("job")
            try:
                verdict: Verdict = self._pool.result(slot, slot.actor.ask.remote(share), self._look)
                return verdict
            except LostActorError:
                self._look()
                self._pool.lost(slot)
                again()
            finally:
                self._pool.give_back(slot)
        raise UnreachableError(
            f"{SHARE_ATTEMPTS} processes died over rows {share.start} to {share.stop - 1}: see Ray's logs, "
            "and whether their nodes have memory enough"
        )

    def _look(self) -> None:
        if self._stopped.is_set():
            raise UnreachableError("the job was broken off")
