"""Calls of kernels, done by one thread or by several (see `team`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import numpy as np

from securedl.he.vector.buffers import address
from securedl.he.vector.team import LINE, OWN

#: Transformed values from which work is given to several threads, who then share it at little cost: a
#: relinearisation of three primes at N = 8192 is 160,000, and two threads take 0.8 of one's time.
_SHARED_VALUES = 100_000

#: Threads of this process that are at work on shared evaluations, of whatever evaluator.
_in_use = 0
_in_use_lock = Lock()


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
def _asked(threads: int) -> Iterator[int]:
    """How many others may help the caller, so that no more than `threads` are in use; they are meanwhile."""
    global _in_use
    with _in_use_lock:
        others = max(0, threads - 1 - _in_use)
        _in_use += 1 + others
    try:
        yield others
    finally:
        with _in_use_lock:
            _in_use -= 1 + others


class Crew:
    """Threads of one evaluator, the caller's among them."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "securedl-vector") if threads > 1 else None

    def do(self, *stages: Stage) -> None:
        """Do one stage after another, with all threads unless they are small together.

        The other threads come when they can; the caller waits for those only that are at work. While other
        evaluations of this process are at work fewer are asked: the processors have enough to do. What a
        thread raises is raised here, if it did so in time; the caller then has done its work.
        """
        if self._pool is None or sum(stage.values for stage in stages) < _SHARED_VALUES:
            _alone(stages)
            return
        with _asked(self._threads) as others:
            if others:
                _together(self._pool, stages, others)
            else:
                _alone(stages)


def _alone(stages: Sequence[Stage]) -> None:
    for stage in stages:
        stage.call(0, 0)


def _together(pool: ThreadPoolExecutor, stages: Sequence[Stage], others: int) -> None:
    jobs = [(stage, np.zeros((OWN + stage.flags) * LINE // 8, dtype=np.int64)) for stage in stages]

    def work(thread: int) -> None:
        for stage, team in jobs:  # held by this frame while the kernel runs
            stage.call(address(team), thread)

    asked = [pool.submit(work, thread) for thread in range(1, others + 1)]
    try:
        work(0)
    finally:
        jobs.clear()  # the pool keeps what was cancelled until a thread is free, but not the memory of stages
        begun = [other for other in asked if not other.cancel()]
    for other in begun:
        if other.done():
            other.result()
