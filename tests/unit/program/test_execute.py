"""Programs by hand on the simulator: what is asked, at which level, and what stays in memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any, ClassVar

import numpy as np
import pytest

from securedl.he.ckks import ckks_parameters
from securedl.he.clear import ClearEvaluator, ClearHandle
from securedl.he.record import Shape
from securedl.program.execute import execute, go_on, way_back
from securedl.program.program import Program
from securedl.program.steps import AddWeight, Multiply, Port, Refresh, Tap

PARAMS = ckks_parameters(8192, 3)
S = 2.0**40


def fresh(values, level: int, scale: float = S):
    return ClearEvaluator(PARAMS).fresh(np.full(4096, float(values)), Shape(level, 2, scale))


def test_a_refresh_leaves_at_level_0_and_comes_back_where_the_program_says():
    square = S * S / PARAMS.primes[2]
    steps = (
        Multiply(1, 0, 0, 2, square),  # from level 3, by way of level 2
        AddWeight(2, 1, 1, square, 0),
        Refresh(3, 2, 2, 3, S),
        Multiply(4, 3, 0, 3, S * S / PARAMS.primes[3]),
    )
    program = Program(PARAMS, 4096, 1, True, Port(2, 3, S), steps, 4)
    weights = [fresh(10, 1, square), fresh(20, 1, square)]
    running = execute(program, ClearEvaluator(PARAMS), weights, [fresh(2, 3), fresh(3, 3)])
    request = next(running)
    assert request.index == 0
    assert [(t.level, t.scale) for t in request.tiles] == [(0, square)] * 2
    assert [t.slots[0] for t in request.tiles] == [14, 29]
    with pytest.raises(StopIteration) as stop:
        running.send([fresh(5, 3), fresh(7, 3)])
    answer = stop.value.value
    assert [(t.level, t.size) for t in answer] == [(0, 2)] * 2
    assert [t.slots[0] for t in answer] == [10, 21]


def test_a_tap_is_shown_at_level_0_and_gone_on_with_above():
    square = S * S / PARAMS.primes[3]
    steps = (Tap(1, 0, 3), Multiply(2, 1, 1, 3, square), Tap(3, 2, 2), Refresh(4, 3, 1, 1, S))
    program = Program(PARAMS, 4096, 1, True, Port(1, 3, S), steps, 4)
    query = fresh(3, 3)
    running = execute(program, ClearEvaluator(PARAMS), [], [query])
    first = next(running)
    assert (first.index, first.refresh, first.held) == (0, False, [query])
    assert [(t.level, t.scale, t.slots[0]) for t in first.tiles] == [(0, S, 3.0)]
    second, third = running.send(None), running.send(None)
    assert (second.index, second.refresh, third.index, third.refresh) == (1, False, 2, True)
    assert [(t.level, t.slots[0]) for t in (*second.held, *second.tiles, *third.tiles)] == [
        (2, 9.0),
        (0, 9.0),
        (0, 9.0),
    ]


def test_refreshes_are_numbered_in_order():
    steps = (Refresh(1, 0, 1, 1, S), Refresh(2, 1, 1, 2, S), Refresh(3, 2, 1, 3, S))
    program = Program(PARAMS, 4096, 1, True, Port(1, 3, S), steps, 3)
    running = execute(program, ClearEvaluator(PARAMS), [], [fresh(1, 3)])
    assert next(running).index == 0
    assert running.send([fresh(1, 1)]).index == 1
    assert running.send([fresh(1, 2)]).index == 2


def test_what_nobody_reads_is_not_kept():
    class Kept(ClearEvaluator):
        made: ClassVar[list[weakref.ref[ClearHandle]]] = []

        def multiply(self, a, b):
            self.made.append(weakref.ref(found := super().multiply(a, b)))
            return found

    products = [Multiply(number, 0, 0, 3, S * S / PARAMS.primes[3]) for number in range(1, 9)]
    steps = (*products, Refresh(9, 0, 1, 3, S))
    program = Program(PARAMS, 4096, 1, True, Port(1, 3, S), steps, 9)
    running = execute(program, Kept(PARAMS), [], [fresh(2, 3)])
    next(running)
    gc.collect()
    assert len(Kept.made) == 8
    assert not any(one() for one in Kept.made)


def test_it_ends_where_nobody_waits():
    def gone() -> None:
        raise ConnectionError("gone")

    steps = (Multiply(1, 0, 0, 3, S * S / PARAMS.primes[3]),)
    program = Program(PARAMS, 4096, 1, True, Port(1, 3, S), steps, 1)
    with pytest.raises(ConnectionError):
        next(execute(program, ClearEvaluator(PARAMS), [], [fresh(2, 3)], gone))


def test_an_empty_program_gives_the_query_back_at_level_0():
    program = Program(PARAMS, 4096, 1, True, Port(1, 3, S), (), 0)
    with pytest.raises(StopIteration) as stop:
        next(execute(program, ClearEvaluator(PARAMS), [], [fresh(4, 3)]))
    assert stop.value.value[0].level == 0
    assert stop.value.value[0].slots[0] == 4


SQUARE2, SQUARE3 = S * S / PARAMS.primes[2], S * S / PARAMS.primes[3]
#: Steps, their result, and what each point needs: of what was sent, and steps that are done again.
WAYS: dict[str, tuple[tuple[Any, ...], list[tuple[set[int], set[int]]]]] = {
    "the query is read behind the refresh": (
        (
            Multiply(1, 0, 0, 2, SQUARE2),
            Refresh(2, 1, 1, 3, S),
            Multiply(3, 2, 0, 3, SQUARE3),
        ),
        [({0}, set()), ({0, 1}, set())],
    ),
    "all stands on the last refresh": (
        (Refresh(1, 0, 1, 1, S), Refresh(2, 1, 1, 2, S), Refresh(3, 2, 1, 3, S)),
        [({0}, set()), ({1}, set()), ({2}, set()), ({3}, set())],
    ),
    "taps are gone on from": (
        (Tap(1, 0, 3), Multiply(2, 1, 1, 3, SQUARE3), Tap(3, 2, 2), Refresh(4, 3, 1, 3, S)),
        [({0}, set()), ({0}, {0}), ({0}, {0, 1, 2}), ({3}, set())],
    ),
    "two registers, one of them from before": (
        (
            Refresh(1, 0, 1, 3, S),
            Multiply(2, 1, 1, 3, SQUARE3),
            Refresh(3, 2, 1, 2, SQUARE3),
            Multiply(4, 3, 2, 2, SQUARE3 * SQUARE3 / PARAMS.primes[2]),
        ),
        [({0}, set()), ({1}, set()), ({1, 2}, {1})],
    ),
}


def way_of(program: Program, replies: int):
    way = way_back(program, replies)
    return set(way.sent), set(way.steps)


@pytest.mark.parametrize("name", WAYS)
def test_an_evaluation_goes_on_from_any_point(name: str):
    """With no more than the way names, and the same is shown from there on."""
    steps, ways = WAYS[name]
    program = Program(PARAMS, 4096, 1, True, Port(1, 3, S), steps, steps[-1].out)
    assert [way_of(program, replies) for replies in range(len(ways))] == ways
    sent = [[fresh(2, 3)]]
    for number, (_, up) in enumerate(program.shown):
        sent.append([] if up is None else [fresh(3 + number, up.level, up.scale)])

    def rest(running, replies: int):
        shown = []
        try:
            found = next(running)
            while True:
                replies += 1
                shown.append((found.index, found.refresh, [tile.slots[0] for tile in found.tiles]))
                found = running.send(sent[replies] or None)
        except StopIteration as end:
            return shown, [(tile.level, tile.slots[0]) for tile in end.value]

    shown, answer = rest(execute(program, ClearEvaluator(PARAMS), [], sent[0]), 0)
    assert len(shown) == len(ways) - 1
    for replies, (needed, _) in enumerate(ways):
        given = {number: sent[number] for number in needed}
        running = go_on(program, ClearEvaluator(PARAMS), [], replies, given)
        assert rest(running, replies) == (shown[replies:], answer)
