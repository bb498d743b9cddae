"""Several threads in one kernel: every unit is done once, whoever comes, and what others left can be read."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securedl.errors import InputError
from securedl.he.arithmetic import Group
from securedl.he.vector import VectorEvaluator, stages
from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.cache import inner
from securedl.he.vector.kernels.team import DONE, LINE, OWN, done, draw, flag, signal, wait
from securedl.he.vector.stages import Crew, Stage

sys.path.insert(0, str(Path(__file__).parent))
from vector_oracle import Oracle, oracle  # found by path, not by package

pytestmark = pytest.mark.he


@inner
def fill_and_sum(team: Any, halves: Any, values: Any, sums: Any, who: Any, me: Any) -> None:
    """Each half of the units fills a row of values; each of the others adds up all rows, and counts."""
    number, unit = draw(team), 0
    for k in range(halves):
        if unit == number:
            for j in range(values.shape[1]):
                values[k, j] = k + 1
            who[unit] += me
            signal(flag(team, OWN))
            number = done(team, number)
        unit += 1
    for k in range(halves):
        if unit == number:
            wait(flag(team, OWN), halves)
            sums[k] += values.sum()
            who[unit] += me
            number = done(team, number)
        unit += 1
    wait(flag(team, DONE), unit)


def counters() -> np.ndarray:
    return np.zeros((OWN + 1) * LINE // 8, dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(threads=st.integers(1, 5), halves=st.integers(1, 40), width=st.integers(1, 2000))
def test_every_unit_is_done_once_and_after_what_it_waits_for(threads: int, halves: int, width: int) -> None:
    team = counters()
    values, sums, who = np.zeros((halves, width)), np.zeros(halves), np.zeros(2 * halves, dtype=np.int64)

    def work(me: int) -> bool:
        fill_and_sum(address(team), halves, values, sums, who, me)
        return bool((who != 0).all())  # nobody leaves before all is done

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(work, range(1, threads + 1)))
    assert set(who) <= set(range(1, threads + 1))
    assert (sums == width * halves * (halves + 1) / 2).all()
    assert team[DONE * LINE // 8] == 2 * halves


@pytest.mark.parametrize("team", [True, False], ids=["others never come", "no team"])
def test_one_thread_does_everything_where_no_other_comes(team: bool) -> None:
    counts = counters()
    values, sums, who = np.zeros((7, 5)), np.zeros(7), np.zeros(14, dtype=np.int64)
    fill_and_sum(address(counts) if team else 0, 7, values, sums, who, 1)
    assert (who == 1).all()
    assert (sums == 140).all()
    if team:  # who comes now finds nothing to do
        fill_and_sum(address(counts), 7, values, sums, who, 2)
        assert (who == 1).all()


def stage(call: Callable[[int, int], object], memory: object = None) -> Stage:
    def called(team: int, thread: int) -> None:
        call(team, thread)

    return Stage(called, 0, 10**9, memory)


class Memory:
    """Something to refer to weakly."""


def test_a_stage_does_not_wait_for_threads_that_are_busy_elsewhere() -> None:
    """Nor does anything keep what the stage held."""
    crew, begun, release, found, memory = Crew(2), Event(), Event(), [], Memory()

    def busy(team: int, thread: int) -> None:
        if thread == 0:
            assert begun.wait(10)
        else:
            begun.set()
            release.wait(60)

    try:
        crew.do(stage(busy))
        crew.do(stage(lambda team, thread: found.append(thread), memory))
        assert found == [0]
        known = weakref.ref(memory)
        del memory
        assert known() is None
    finally:
        release.set()


def test_threads_end_with_their_crew() -> None:
    crew = Crew(3)
    others = crew._others
    crew.do(stage(lambda team, thread: None))
    assert all(thread.is_alive() for thread in others)
    del crew
    for thread in others:
        thread.join(10)
    assert not any(thread.is_alive() for thread in others)


def test_no_more_threads_are_asked_than_an_evaluator_has() -> None:
    """Whatever several evaluators do at once."""
    found: list[int] = []

    def inside(team: int, thread: int) -> None:
        found.append(stages._in_use)

    def call(team: int, thread: int) -> None:
        if thread == 0:
            Crew(3).do(stage(inside))
            assert stages._in_use == 3

    Crew(3).do(stage(call))
    assert found == [4]  # the caller of the second, which gets no help
    assert stages._in_use == 0


def test_memory_is_kept_for_who_is_at_work_when_the_caller_fails() -> None:
    crew, begun, failed, memory = Crew(2), Event(), Event(), Memory()
    known, kept = weakref.ref(memory), []

    def call(team: int, thread: int) -> None:
        if thread == 0:
            assert begun.wait(10)
            failed.set()
            raise InputError("on purpose")
        begun.set()
        assert failed.wait(10)
        time.sleep(0.1)
        kept.append(known() is not None)

    some = stage(call, memory)
    del memory
    with pytest.raises(InputError, match="on purpose"):
        crew.do(some)
    others = crew._others
    del some, crew
    for thread in others:
        thread.join(10)
    assert kept == [True]
    gc.collect()  # the caller's error holds frames
    assert known() is None
    assert stages._in_use == 0


@pytest.mark.parametrize("late", [False, True])
def test_another_threads_failure_is_raised_or_logged(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised where the caller can still hear of it; nothing of the stage is kept."""
    crew, begun, go_on, memory = Crew(2), Event(), Event(), Memory()
    known = weakref.ref(memory)
    made: list[stages._Together] = []
    logged: list[object] = []

    def call(team: int, thread: int) -> None:
        if thread == 1:
            begun.set()
            assert go_on.wait(10)
            raise InputError("on purpose")
        assert begun.wait(10)
        if not late:
            go_on.set()
            while made[0].error is None:
                time.sleep(0.001)

    def make(*arguments: Any) -> Any:
        made.append(real(*arguments))
        return made[0]

    real = stages._Together
    monkeypatch.setattr(stages, "_Together", make)
    monkeypatch.setattr(stages._log, "exception", logged.append)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(*(() if late else (InputError,))):
            crew.do(stage(call, memory))
            assert late
        go_on.set()
        crew._asked.put(None)
        crew._others[0].join(10)
        made.clear()
        del memory
        assert known() is None
    finally:
        gc.enable()
    assert len(logged) == 1
    assert stages._in_use == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_evaluates_alone() -> None:
    code = """
import os, sys
from securedl.he.vector.stages import Crew, Stage
crew, seen = Crew(2), []
some = Stage(lambda team, thread: seen.append(thread), 0, 10**9, None)
crew.do(some)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
seen.clear()
before = crew._asked.qsize()
crew.do(some)
os._exit(0 if seen == [0] and crew._asked.qsize() == before else 1)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def operations(vector: VectorEvaluator, o: Oracle, level: int) -> list[bytes]:
    """The residues of all that stages do, of ciphertexts of one level."""
    rng = np.random.default_rng(level)
    xs, cubic = [vector.load(o.record(rng, 2, level)) for _ in range(5)], vector.load(o.record(rng, 3, level))
    weights = [vector.load_weight(o.record(rng, 2, level)) for _ in range(4)]
    handles = [
        *vector.dots(xs[:2], [xs[2:4], xs[3:]]),
        *vector.dots(xs[:2], [weights[:2], weights[2:]]),
        vector.relinearise(cubic),
        *vector.rotate(xs[0], [1, 2, 2, 0, 3]),
        *vector.rotate(xs[1], [5]),
        vector.rotate_sum(xs, [1, 0, 3, 0, 64]),
    ]
    if level > 0:
        handles += [
            vector.rescale(cubic),
            vector.rescale(vector.load(o.record(rng, 1, level))),
            vector.relinearise_rescale(cubic),
            vector.multiply_rescale(xs[0], xs[1]),
            vector.multiply_rescale(xs[2], xs[2]),
            vector.giant_steps(
                [Group(xs[:2], xs[2:4], 1), Group(xs[:2], xs[3:], 0), Group(xs[1:2], xs[:1], 5)]
            ),
        ]
    return [vector.dump(handle).residues.tobytes() for handle in handles]


SMALL = [
    oracle("ckks", 4096, (44,), 48),
    oracle("ckks", 4096, (35, 31), 38),
    oracle("bgv", 4096, (35, 31), 38, 65537),
    oracle("ckks", 8192, (48, 40, 20), 50),  # the special prime is transformed on doubles
    oracle("bgv", 8192, (48, 40, 20), 50, 65537),
]


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("o", SMALL, ids=lambda o: f"{o.params.scheme}-{len(o.params.primes)}")
def test_kernels_give_the_same_residues_to_any_team(
    o: Oracle, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every level, with all threads at once, and with the last doing everything before the others come."""
    levels = range(len(o.params.primes))
    expected = [operations(o.vector(1), o, level) for level in levels]
    vector = o.vector(threads)

    def at_once(*some: Stage) -> None:
        for stage in some:
            team, ready = np.zeros((OWN + stage.flags) * LINE // 8, dtype=np.int64), Barrier(threads)

            def work(thread: int, stage: Stage = stage, team: Any = team, ready: Barrier = ready) -> None:
                ready.wait(10)
                stage.call(address(team), thread)

            list(pool.map(work, range(threads)))

    def last_first(*some: Stage) -> None:
        for stage in some:
            team = np.zeros((OWN + stage.flags) * LINE // 8, dtype=np.int64)
            for thread in reversed(range(threads)):
                stage.call(address(team), thread)

    with ThreadPoolExecutor(threads) as pool:
        for do in (at_once, at_once, last_first):
            monkeypatch.setattr(vector._engine, "do", do)
            assert [operations(vector, o, level) for level in levels] == expected
    monkeypatch.undo()
    monkeypatch.setattr(stages, "_SHARED_VALUES", 0)
    assert [operations(vector, o, level) for level in levels] == expected
