"""Calls of kernels, done by one thread or by several (see `team`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import numpy as np

from securedl.he.vector.buffers import address
from securedl.he.vector.team import LINE, OWN

#: Transformed values from which work is given to several threads, who then share it at little cost: a
#: relinearisation of three primes at N = 8192 is 160,000, and two threads take 0.8 of one's time.
_SHARED_VALUES = 100_000

#: Evaluations of this process that are at work and would use several threads, in whatever engine.
_evaluations = 0
_evaluations_lock = Lock()


@dataclass(eq=False, slots=True)
class Stage:
    """One call of a kernel, with all its memory.

    Attributes:
        call: takes the address of a team's counters (0 for one thread alone) and the thread's number in the
            team.
        flags: counters that the kernel needs beside a team's own.
        values: how much work it is, in transformed values.
        memory: what it reads and writes, kept until it is done.
    """

    call: Callable[[int, int], None]
    flags: int
    values: int
    memory: object


@contextmanager
def _counted() -> Iterator[int]:
    """Counts one evaluation while it is at work, and gives how many are."""
    global _evaluations
    with _evaluations_lock:
        _evaluations += 1
        now = _evaluations
    try:
        yield now
    finally:
        with _evaluations_lock:
            _evaluations -= 1


class Crew:
    """Threads of one evaluator, the caller's among them."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "securedl-vector") if threads > 1 else None

    def do(self, *stages: Stage) -> None:
        """Do one stage after another, with all threads unless they are small together.

        The other threads come when they can; the caller waits for those only that are at work. While other
        evaluations of this process are at work fewer are asked: the processors have enough to do.
        """
        if self._pool is None or sum(stage.values for stage in stages) < _SHARED_VALUES:
            _alone(stages)
            return
        with _counted() as evaluations:
            others = self._threads - evaluations
            if others > 0:
                _together(self._pool, stages, others)
            else:
                _alone(stages)


def _alone(stages: Sequence[Stage]) -> None:
    for stage in stages:
        stage.call(0, 0)


def _together(pool: ThreadPoolExecutor, stages: Sequence[Stage], others: int) -> None:
    teams = [np.zeros((OWN + stage.flags) * LINE // 8, dtype=np.int64) for stage in stages]

    def work(thread: int) -> None:
        for stage, team in zip(stages, teams, strict=True):
            stage.call(address(team), thread)

    asked = [pool.submit(work, thread) for thread in range(1, others + 1)]
    try:
        work(0)
    except BaseException:  # the others write to memory that the caller is about to give back
        wait([other for other in asked if not other.cancel()])
        raise
    for other in asked:
        other.cancel()
