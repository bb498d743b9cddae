"""`securedl predict`: the rows of a file, asked and verified."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol.jobs.asker import AskerFiles, Manner, secret_side
from protocol.jobs.job import Asking, JobAnswer
from protocol.jobs.shares import Share, ShareFolder, rows_of
from protocol.jobs.written import check_output, write_answer
from securedl.errors import AlarmError, InputError
from securedl.progress import stage


@dataclass(frozen=True)
class Job:
    """What is asked, and how.

    Attributes:
        out: for the answers. ledger: every call is entered there. actors: processes of a Ray
            cluster that ask, 0 without. ray_address: of its head.
    """

    places: AskerFiles
    manner: Manner
    out: Path
    ledger: Path
    after_alarm: str
    actors: int
    ray_address: str | None


def run_job(job: Job, passphrase: Callable[[], str]) -> JobAnswer:
    """Ask the rows, and write their answers.

    Args:
        passphrase: asks for it, where it is in no file.

    Raises:
        SecureDLError: what was given cannot be used, or the server cannot; shares that are answered are kept.
        AlarmError: there were alarms; answers without one are written.
    """
    places, manner, began = job.places, job.manner, time.monotonic()
    check_output(job.out)
    if job.actors and places.passphrase_file is None:
        raise InputError("with --ray each process opens the file for itself: give --passphrase-file FILE")
    text = places.passphrase() if places.passphrase_file else passphrase()
    side = secret_side(places.secret, text, job.ledger)
    asking = Asking(side, places, manner, job.after_alarm)
    asking.connect()
    folder_path = job.out.with_name(job.out.name + ".partial")
    with asking.folder(folder_path, max(1, job.actors)) as folder:
        shares = folder.shares(len(asking))
        missing = [share for share in shares if not folder.has(share)]
        if len(missing) < len(shares):
            kept = len(asking) - rows_of(missing)
            print(f"{kept:,} of {len(asking):,} rows were answered before, in {folder_path}", flush=True)
        with _keeping(folder, shares):
            _ask(job, asking, missing, folder)
        found = asking.answer(folder)
        write_answer(job.out, found)
        folder.remove()
    seconds = time.monotonic() - began
    print(found.report.summary())
    print(
        f"{len(asking):,} rows asked in {found.calls} call{'s' * (found.calls != 1)} and {seconds:,.1f} s: "
        f"{job.out}"
    )
    return found


def refuse_alarms(found: JobAnswer, out: Path) -> None:
    """Say that answers are withheld.

    Raises:
        AlarmError: there were alarms.
    """
    if not found.report.passed:
        raise AlarmError(
            f"the server answered wrongly: {len(found.withheld):,} of {len(found.logits):,} answers are "
            f"withheld in {out}, NaN with label -1"
        )


def _ask(job: Job, asking: Asking, missing: Sequence[Share], folder: ShareFolder) -> None:
    """Ask the shares that are missing."""
    if missing and not job.actors:
        asking.prepare()
        with stage("predict", None) as told:
            asking.here(missing, folder, told)
    elif missing:
        from protocol.jobs.ray_askers import RayAskers

        actors, left = min(job.actors, len(missing)), rows_of(missing)
        print(f"starting {actors} processes ...", flush=True)
        askers = RayAskers(job.ray_address, actors, job.places, job.manner, folder)
        with askers, stage("predict", None) as told:
            told(len(asking) - left, len(asking))
            for share in askers.run(missing, asking.verifiers):
                left -= share.rows
                told(len(asking) - left, len(asking))


@contextmanager
def _keeping(folder: ShareFolder, shares: Sequence[Share]) -> Iterator[None]:
    """Say what is kept where a job breaks off."""
    try:
        yield
    except BaseException:
        kept = [share for share in shares if folder.has(share)]
        if kept:
            print(
                f"securedl: {rows_of(kept):,} rows are answered, and kept in {folder.folder}: the same "
                "command goes on from there",
                file=sys.stderr,
            )
        else:
            folder.remove()
        raise
