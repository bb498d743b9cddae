"""Several threads in one kernel: every unit is done once, whoever comes, and what others left can be read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event, get_ident
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securedl.errors import InputError
from securedl.he.vector.buffers import address
from securedl.he.vector.cache import inner
from securedl.he.vector.stages import Crew, Stage
from securedl.he.vector.team import DONE, LINE, OWN, done, draw, flag, signal, wait

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


LARGE_WORK = 10**9


def test_a_stage_does_not_wait_for_threads_that_are_busy_elsewhere() -> None:
    crew = Crew(2)
    release, found = Event(), []
    busy = crew._pool.submit(release.wait, 60)  # type: ignore[union-attr]
    crew.do(Stage(lambda team, thread: found.append(thread), 0, LARGE_WORK, None))
    assert found == [0]
    assert not busy.done()
    release.set()


def test_several_evaluations_at_once_do_not_ask_for_threads() -> None:
    found: list[int] = []

    def call(team: int, thread: int) -> None:
        if thread == 0:
            Crew(2).do(Stage(lambda team, thread: found.append(team), 0, LARGE_WORK, None))

    Crew(2).do(Stage(call, 0, LARGE_WORK, None))
    assert found == [0]


def test_all_threads_have_stopped_when_one_fails() -> None:
    """They write to memory that their caller gives back."""
    crew = Crew(2)
    begun, ended, caller = Event(), Event(), get_ident()

    def call(team: int, thread: int) -> None:
        if get_ident() == caller:
            assert begun.wait(10)
            raise InputError("on purpose")
        begun.set()
        time.sleep(0.2)
        ended.set()

    with pytest.raises(InputError, match="on purpose"):
        crew.do(Stage(call, 0, LARGE_WORK, None))
    assert ended.is_set()
