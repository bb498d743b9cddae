"""What the processes of a server use, what its metrics say, and how its workers are ended."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

MIB = 2**20


@dataclass(frozen=True)
class Used:
    """By the processes of one server together; memory and disk in MiB.

    Attributes:
        rss: resident. anonymous: RSS without mapped files. files: open handles. disk: of the whole folder.
    """

    rss: float
    anonymous: float
    files: float
    threads: float
    disk: float


def children(pid: int) -> list[int]:
    """Process ids of its children, the oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found.append((int(fields[19]), int(path.parent.name)))
    return [child for _, child in sorted(found)]


def _of(pid: int) -> tuple[float, float, int, int]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        files = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:  # it has ended
        return 0.0, 0.0, 0, 0
    found = dict(re.findall(r"^(VmRSS|RssAnon|Threads):\s+(\d+)", text, re.MULTILINE))
    return (
        int(found.get("VmRSS", 0)) / 1024,
        int(found.get("RssAnon", 0)) / 1024,
        files,
        int(found["Threads"]),
    )


def _disk(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:  # it has gone
            continue
    return total / MIB


def used(pid: int, folder: Path) -> Used:
    """By a server, its workers and its store, now."""
    processes = [_of(one) for one in (pid, *children(pid))]
    rss, anonymous, files, threads = (float(sum(one)) for one in zip(*processes, strict=True))
    return Used(rss, anonymous, files, threads, _disk(folder))


def metrics(log: Path) -> dict[str, float]:
    """What the server of this JSON log exposes, each name summed over its labels; sessions by method, too."""
    events = (json.loads(line) for line in log.read_text().splitlines())
    address = next(event["address"] for event in events if event["event"] == "metrics")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            method = sample.labels.get("method", "")
            for name in {sample.name, f"{sample.name} {method}".strip()}:
                sums[name] = sums.get(name, 0.0) + sample.value
    return sums


class Restarts:
    """One worker after the other is ended, by SIGKILL and SIGTERM in turn."""

    def __init__(self, pid: int, workers: int, every_s: float) -> None:
        self._pid, self._workers, self._every_s = pid, workers, every_s
        self._signals: Iterator[int] = itertools.cycle((signal.SIGKILL, signal.SIGTERM))
        self._due = time.monotonic() + every_s
        self.count = 0

    def step(self) -> None:
        """End the oldest worker when it is time; called often."""
        if not self._every_s or time.monotonic() < self._due:
            return
        alive = children(self._pid)
        if alive:
            os.kill(alive[0], next(self._signals))
            self.count += 1
        self._due += self._every_s


@dataclass(frozen=True)
class Course:
    """How one of `Used`'s figures went once it had settled.

    Attributes:
        settled: median of the first quarter of what was seen. most: of all of it. end: median of the last.
    """

    settled: float
    most: float
    end: float

    @staticmethod
    def of(values: np.ndarray) -> Course:
        """Of a series [times]."""
        quarter = max(len(values) // 4, 1)
        return Course(
            float(np.median(values[:quarter])), float(values.max()), float(np.median(values[-quarter:]))
        )

    def flat(self, slack: float) -> bool:
        """Whether it has not grown from the first quarter to the last by more than this."""
        return self.end <= self.settled + slack
