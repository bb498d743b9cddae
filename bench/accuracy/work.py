"""Jobs, and the processes that do them."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from securedl.errors import FormatError
from securedl.files import write_atomically

from .cells import Cell, Job, run

#: Seconds that a fold takes compared with others: the longest jobs start first.
WEIGHT = {"ovarian": 8, "climate_crashes": 4}
#: Encrypted also in a quick run.
QUICK = (Cell("cnn", "crabs", "relu"), Cell("mlp", "wine", "sigmoid"), Cell("mlp", "fertility", "tanh"))


def jobs(cells: list[Cell], quick: bool, repetitions: int) -> list[Job]:
    """Every repetition of every cell, the longest first; the first repetition is encrypted too."""
    if quick:
        return [
            Job(cell, 0, encrypt=cell in QUICK, epochs=6, tuning_epochs=4, only_folds=2) for cell in cells
        ]
    found = [Job(cell, number, encrypt=number == 0) for cell in cells for number in range(repetitions)]
    return sorted(found, key=lambda job: -WEIGHT.get(job.cell.data, 1) * (4 if job.encrypt else 1))


def measure(
    work: list[Job], processes: int, console: Console, journal: Path | None = None
) -> dict[Cell, list[dict[str, Any]]]:
    """Results of all jobs, by cell, in order of repetition and fold.

    Args:
        journal: a file that keeps each job as it is done, a line of JSON; jobs found there are not repeated.

    Raises:
        BrokenProcessPool: a worker died, for want of memory for instance.
        FormatError: the journal is none.
    """
    done = {} if journal is None else read_journal(journal)
    results: dict[Cell, list[dict[str, Any]]] = {}
    for job in (job for job in work if job in done):
        results.setdefault(job.cell, []).extend(done[job])
    total, work = len(work), [job for job in work if job not in done]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        Progress(*columns, console=console, transient=True) as bar,
    ):
        task = bar.add_task("repetitions", total=total, completed=total - len(work))
        waiting = {pool.submit(run, job): job for job in work}
        try:
            for finished in as_completed(waiting):
                job, folds = waiting[finished], finished.result()
                results.setdefault(job.cell, []).extend(folds)
                if journal is not None:
                    with open(journal, "a", encoding="utf-8") as lines:
                        lines.write(json.dumps({"job": asdict(job), "folds": folds}) + "\n")
                bar.update(task, advance=1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for folds in results.values():
        folds.sort(key=lambda fold: (fold["repetition"], fold["fold"]))
    return results


def read_journal(path: Path) -> dict[Job, list[dict[str, Any]]]:
    """Jobs that were done, with their folds; a last line that was cut off is removed.

    Raises:
        FormatError: the file is no journal; it is not changed.
    """
    if not path.exists():
        return {}
    found = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is no journal: name another file") from error
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomically(path, whole.encode(), mode=0o644)
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            job = Job(**entry["job"] | {"cell": Cell(**entry["job"]["cell"])})
            found[job] = entry["folds"]
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(f"{path}, line {number}, is not a finished job: remove the file") from error
    return found
