"""The driver of evaluations: what it asks for, what it gives, and that it always closes them."""

from __future__ import annotations

import pytest

from securedl.program.drive import advance, drive
from securedl.program.execute import Shown


def counting(refreshes: int, closed: list[bool]):
    """An evaluation that asks so often for twice its number, and gives all that it was sent."""
    seen: list[int] = []
    try:
        for index in range(refreshes):
            seen += yield Shown(index, [2 * index])
        return seen
    finally:
        closed.append(True)


@pytest.mark.parametrize("refreshes", [0, 1, 3])
def test_each_refresh_is_asked_for_and_the_answer_comes_back(refreshes: int) -> None:
    asked: list[tuple[int, list[int]]] = []
    closed: list[bool] = []

    def refresh(request: Shown) -> list[int]:
        asked.append((request.index, request.tiles))
        return [10 + request.index]

    assert drive(counting(refreshes, closed), refresh) == [10 + k for k in range(refreshes)]
    assert asked == [(k, [2 * k]) for k in range(refreshes)]
    assert closed == [True]


@pytest.mark.parametrize("error", [ValueError, StopIteration, KeyboardInterrupt])
def test_a_failing_refresh_closes_the_evaluation(error: type[BaseException]) -> None:
    """Also when it raises what ends a generator: that is no answer."""
    closed: list[bool] = []

    def refresh(request: Shown) -> list[int]:
        raise error

    with pytest.raises(error):
        drive(counting(2, closed), refresh)
    assert closed == [True]


def test_step_by_step() -> None:
    running = counting(2, [])
    first = advance(running)
    assert isinstance(first, Shown)
    assert (first.index, first.tiles) == (0, [0])
    assert advance(running, [5]) == Shown(1, [2])
    assert advance(running, [7]) == [5, 7]
