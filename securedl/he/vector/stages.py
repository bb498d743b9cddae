"""Calls of kernels, done by one thread or by several (see `team`)."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread

import numpy as np

from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.team import LINE, OWN

#: Transformed values from which work is given to several threads, who then share it at little cost: a
#: relinearisation of three primes at N = 8192 is 160,000, and two threads take 0.8 of one's time.
_SHARED_VALUES = 100_000

_log = logging.getLogger(__name__)
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


def _take(threads: int) -> int:
    """How many others may help the caller, so that no more than `threads` are in use; all are from now on."""
    global _in_use
    with _in_use_lock:
        others = max(0, threads - 1 - _in_use)
        _in_use += 1 + others
    return others


def _give_back(threads: int) -> None:
    global _in_use
    with _in_use_lock:
        _in_use -= threads


def _forked() -> None:
    """A forked process has none of the threads: its callers do everything themselves."""
    global _in_use, _in_use_lock
    _in_use, _in_use_lock = 1 << 62, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class _Together:
    """Stages that several threads do, one after another."""

    __slots__ = ("_jobs", "error")

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._jobs = [(stage, np.zeros((OWN + stage.flags) * LINE // 8, dtype=np.int64)) for stage in stages]
        self.error: BaseException | None = None

    def work(self, thread: int) -> None:
        """Do what is left; what a stage needs is held by this frame meanwhile."""
        for stage, team in self._jobs:
            stage.call(address(team), thread)

    def help(self, thread: int) -> None:
        """`work` for others than the caller, who hears of a failure in time and does the work."""
        try:
            self.work(thread)
        except BaseException as error:
            _log.exception("a thread of an evaluation failed; its caller goes on")
            self.error = error.with_traceback(None)  # whose frames hold the memory of the stages

    def forget(self) -> None:
        """Nothing is left: who comes now holds none of the memory of the stages."""
        self._jobs.clear()


_Asked = SimpleQueue[tuple[_Together, int] | None]


def _help(asked: _Asked) -> None:
    """What a thread of a crew does for as long as the crew lives."""
    while (job := asked.get()) is not None:
        together, thread = job
        together.help(thread)
        del job, together


class Crew:
    """Threads of one evaluator, the caller's among them; the others end when it is no longer used.

    Not an executor of the standard library: its futures take 25 µs of every call, of which a layer makes
    three in 4,500.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._asked: _Asked = SimpleQueue()
        weakref.finalize(self, _dismiss, self._asked, threads - 1)
        self._others = [
            Thread(target=_help, args=(self._asked,), name=f"securedl-vector-{k}", daemon=True)
            for k in range(1, threads)
        ]
        for thread in self._others:
            thread.start()

    def do(self, *stages: Stage) -> None:
        """Do one stage after another, with all threads unless they are small together.

        The other threads come when they can; the caller waits for those only that are at work. While other
        evaluations of this process are at work fewer are asked: the processors have enough to do. What a
        thread raises is raised here, if it did so in time; the caller then has done its work.
        """
        if self._threads == 1 or sum([stage.values for stage in stages]) < _SHARED_VALUES:
            _alone(stages)
            return
        others = None
        try:
            others = _take(self._threads)
            if others:
                self._do_together(stages, others)
            else:
                _alone(stages)
        finally:
            if others is not None:
                _give_back(1 + others)

    def _do_together(self, stages: Sequence[Stage], others: int) -> None:
        together = _Together(stages)
        for thread in range(1, others + 1):
            self._asked.put((together, thread))
        try:
            together.work(0)
        finally:
            together.forget()
        if together.error is not None:
            try:
                raise together.error
            finally:
                del together  # the error's traceback holds this frame


def _dismiss(asked: _Asked, threads: int) -> None:
    for _ in range(threads):
        asked.put(None)


def _alone(stages: Sequence[Stage]) -> None:
    for stage in stages:
        stage.call(0, 0)
