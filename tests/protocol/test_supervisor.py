"""The pauses after which workers that died are started again; real workers: test_workers.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from protocol import supervisor as module
from protocol.supervisor import FIRST_RESTART_S, LONGEST_RESTART_S, STEADY_S, Supervisor


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def pause(supervisor: Any, clock: Clock, lived: float, number: int = 0) -> float:
    """Until a worker that has lived so long is started again."""
    popen = SimpleNamespace(pid=1, returncode=-9, stdin=None)
    worker = SimpleNamespace(number=number, popen=popen, began=clock.now, ready=True)
    supervisor._workers[number] = worker
    clock.now += lived
    supervisor._has_ended(worker)
    found = supervisor._due.pop(number) - clock.now
    assert number not in supervisor._workers
    return float(found)


def started() -> Any:
    made: Any = Supervisor(["false"], 2, {}, lambda: None)
    made._started = True
    return made


def test_a_worker_that_dies_at_once_is_waited_for_ever_longer(clock: Clock) -> None:
    supervisor = started()
    pauses = [pause(supervisor, clock, 0.1) for _ in range(10)]
    assert pauses == pytest.approx([min(FIRST_RESTART_S * 2**k, LONGEST_RESTART_S) for k in range(10)])
    assert pauses[-1] == pytest.approx(LONGEST_RESTART_S)


def test_one_that_lived_begins_anew(clock: Clock) -> None:
    supervisor = started()
    for _ in range(5):
        pause(supervisor, clock, STEADY_S)
    assert pause(supervisor, clock, STEADY_S + 1) == pytest.approx(FIRST_RESTART_S)
    assert pause(supervisor, clock, 0.1) == pytest.approx(2 * FIRST_RESTART_S)


def test_each_worker_has_its_own(clock: Clock) -> None:
    supervisor = started()
    for _ in range(5):
        pause(supervisor, clock, 0.1)
    assert pause(supervisor, clock, 0.1, number=1) == pytest.approx(FIRST_RESTART_S)


def test_nothing_is_started_before_it_is_due(clock: Clock) -> None:
    supervisor = started()
    assert supervisor._patience() is None
    supervisor._due = {0: clock.now + 3, 1: clock.now + 2}
    assert supervisor._patience() == pytest.approx(2)
    clock.now += 5
    assert supervisor._patience() == 0
