"""One run: a deployment, its clients, and what came of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import secrets
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bench.load.clients import NETWORKS, Calls, client, prepare
from bench.load.watch import Course, Restarts, Used, metrics, used
from securedl.demo.processes import ServerProcess, running, serve_command
from securedl.files import write_atomically

#: Resources are compared with what they were after so many seconds, or a sixth of a shorter run: pools and
#: caches are full by then.
SETTLED_S = 60.0
#: What they may grow by from the first quarter of what follows to the last: MiB, handles, threads. SQLite's
#: journal of usage takes 4 MiB before it begins anew.
SLACK = Used(rss=32, anonymous=32, files=4, threads=4, disk=6)
#: The uploads of all clients may take as long as this, and so may their last calls.
PATIENCE_S = 180.0


@dataclass(frozen=True)
class Figures:
    """What all clients of one run saw; latencies in ms.

    Attributes:
        probes: whose answers were compared, under as many keys as there are clients.
        wrong, lost, alarms, asked_again, worst_error: see `Calls`.
        ms_a_sample: of each client. restarts: workers that were ended. used: how each figure of `Used` went.
        grown: those that did; disagreements: metrics that are not what the clients counted; in calm runs.
        failures: clients or servers that ended early, and why.
    """

    clients: int
    seconds: float
    workers: int
    calls: int
    samples: int
    probes: int
    queries: int
    wrong: int
    lost: int
    alarms: int
    asked_again: int
    worst_error: float
    median_ms: float
    p95_ms: float
    longest_ms: float
    ms_a_sample: tuple[float, ...]
    restarts: int
    used: dict[str, Course]
    grown: tuple[str, ...]
    disagreements: tuple[str, ...]
    failures: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every client was served, and rightly, and nothing grew."""
        faults = self.wrong or self.lost or self.alarms or self.failures or self.grown or self.disagreements
        return not faults and self.calls >= self.clients


def serving(
    folder: Path, tokens: list[str], threads: int, workers: int
) -> AbstractContextManager[ServerProcess]:
    """`securedl serve` in `folder`, with metrics and a log of JSON lines."""
    (folder / "tokens").touch(mode=0o600)
    write_atomically(folder / "tokens", "".join(f"{token} t{n}\n" for n, token in enumerate(tokens)).encode())
    options = [
        "--threads", str(threads), "--token-file", str(folder / "tokens"), "--workers", str(workers),
        "--metrics", "127.0.0.1:0", "--log-format", "json", "--grace", "10",
    ]  # fmt: skip
    return running(serve_command(folder / "store", "127.0.0.1:0", *options), folder / "log")


def run(clients: int, seconds: float, threads: int = 1, workers: int = 1, restart_s: float = 0.0) -> Figures:
    """Serve, ask from all clients for so long, and collect.

    Args:
        restart_s: a worker is ended every so many seconds; 0: none.
    """
    context = multiprocessing.get_context("spawn")
    ready, until, results = context.Semaphore(0), context.Value("d", 0.0, lock=False), context.Queue()
    with tempfile.TemporaryDirectory(prefix="sdl") as name:
        folder = Path(name)
        for index in range(min(clients, len(NETWORKS))):
            prepare(folder, index)
        tokens = [secrets.token_hex(16) for _ in range(clients)]
        with serving(folder, tokens, threads, workers) as server:
            processes = [
                context.Process(target=client, args=(folder, server.address, token, k, ready, until, results))
                for k, token in enumerate(tokens)
            ]
            for process in processes:
                process.start()
            in_time = all(ready.acquire(timeout=PATIENCE_S) for _ in processes)
            until.value = time.time() + seconds if in_time else 1.0
            restarts = Restarts(server.pid, workers, restart_s)
            seen = _watch(server.pid, folder / "store", until.value, restarts)
            calls, failures = _collect(processes, results)
            if not in_time:
                failures.append(f"the clients were not ready after {PATIENCE_S:.0f} s each")
            disagreements: list[str] = []
            if server.popen.poll() is not None:
                failures.append(f"the server ended with status {server.popen.returncode}")
            elif not restart_s:  # what was being computed when a worker was ended is in no client's count
                disagreements = _disagreements(calls, folder / "log")
    return _figures(calls, seconds, workers, seen, restarts.count, disagreements, failures)


def _watch(pid: int, store: Path, until: float, restarts: Restarts) -> list[Used]:
    """What the server uses, once a second."""
    seen = [used(pid, store)]
    while time.time() < until:
        time.sleep(1.0)
        restarts.step()
        seen.append(used(pid, store))
    return seen


def _collect(processes: list[Any], results: Any) -> tuple[list[Calls], list[str]]:
    calls: list[Calls] = []
    with contextlib.suppress(queue.Empty):
        for _ in processes:
            calls.append(results.get(timeout=PATIENCE_S))
    for process in processes:
        process.join(timeout=30)
        if process.is_alive():
            process.kill()
    failures = [c.failure for c in calls if c.failure]
    silent = set(range(len(processes))) - {c.client for c in calls}
    return calls, failures + [f"client {k} ended without a word" for k in sorted(silent)]


def _disagreements(calls: Sequence[Calls], log: Path) -> list[str]:
    """Metrics that are not what the clients counted."""
    time.sleep(1.0)  # the last sessions end when their clients are gone
    found, number = metrics(log), len(calls)
    due = {
        "securedl_queries_total": sum(c.queries for c in calls),
        "securedl_sessions_total predict": sum(len(c.latencies) for c in calls),
        "securedl_sessions_open": 0,
        "securedl_uploads_total": number,
        "securedl_refusals_total": 0,
    }
    both = found["securedl_received_bytes_total predict"] + found["securedl_sent_bytes_total predict"]
    told = [
        f"{name} is {found.get(name, 0):.0f} where clients count {count}"
        for name, count in due.items()
        if found.get(name, 0) != count
    ]
    if both != (total := sum(c.bytes for c in calls)):
        told.append(f"bytes of queries are {both:.0f} where clients count {total}")
    return told


def _figures(
    calls: list[Calls], seconds: float, workers: int, seen: list[Used], restarts: int,
    disagreements: list[str], failures: list[str],
) -> Figures:  # fmt: skip
    calls = sorted(calls, key=lambda one: one.client)
    latencies = [ms for c in calls for ms in c.latencies] or [np.nan]
    settled = min(int(SETTLED_S), len(seen) // 6)
    series = np.array([astuple(one) for one in seen[settled:]]).T
    courses = {one.name: Course.of(values) for one, values in zip(fields(Used), series, strict=True)}
    return Figures(
        clients=len(calls),
        seconds=seconds,
        workers=workers,
        calls=sum(len(c.latencies) for c in calls),
        samples=sum(c.samples for c in calls),
        probes=sum(c.probes for c in calls),
        queries=sum(c.queries for c in calls),
        wrong=sum(c.wrong for c in calls),
        lost=sum(c.lost for c in calls),
        alarms=sum(c.alarms for c in calls),
        asked_again=sum(c.asked_again for c in calls),
        worst_error=max((c.worst_error for c in calls), default=np.nan),
        median_ms=float(np.median(latencies)),
        p95_ms=float(np.quantile(latencies, 0.95)),
        longest_ms=float(np.max(latencies)),
        ms_a_sample=tuple(c.ms_a_sample for c in calls),
        restarts=restarts,
        used=courses,
        grown=tuple(
            name for name, one in courses.items() if not restarts and not one.flat(getattr(SLACK, name))
        ),
        disagreements=tuple(disagreements),
        failures=tuple(failures),
    )
