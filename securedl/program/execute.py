"""Run a program on an evaluator. A generator: it yields what the client is shown, and is sent what must be
refreshed back fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from securedl.he.arithmetic import Arithmetic, H
from securedl.program.program import Program
from securedl.program.steps import Weights


@dataclass(frozen=True)
class Shown:
    """Tiles at level 0 that the client is sent.

    Attributes:
        index: counts from 0. refresh: whether it is asked to encrypt them afresh; else the server goes on
            with `held`, the same at a higher level.
    """

    index: int
    tiles: list[Any]
    held: list[Any] = field(default_factory=list)
    refresh: bool = True


@dataclass(frozen=True)
class Way:
    """How to come to a point of a program again, from what the client sent.

    What it sent is counted: 0 is the query, k + 1 the reply to what is shown k-th.

    Attributes:
        sent: what is needed of it. steps: numbers of the steps that must be done again.
        done: steps before the point.
    """

    sent: frozenset[int]
    steps: frozenset[int]
    done: int


def way_back(program: Program, replies: int) -> Way:
    """The way to where the client has replied so often: behind a refresh that all later steps stand on, its
    tiles are all that it takes.

    Args:
        replies: to what it was shown; from 0 on.
    """
    steps = program.steps
    done = [number for number, step in enumerate(steps) if step.shows][replies - 1] + 1 if replies else 0
    needed = {register for step in steps[done:] for register in step.reads()} | {program.output}
    sent, again, shown = set[int](), set[int](), replies
    for number in reversed(range(done)):
        step = steps[number]
        if step.out in needed:
            needed.discard(step.out)
            if step.refreshes:
                sent.add(shown)
            else:
                again.add(number)
                needed.update(step.reads())
        shown -= step.shows
    if 0 in needed:
        sent.add(0)
    return Way(frozenset(sent), frozenset(again), done)


def execute(
    program: Program,
    evaluator: Arithmetic[H],
    weights: Weights[H],
    query: list[H],
    each: Callable[[], None] = lambda: None,
) -> Generator[Shown, list[H] | None, list[H]]:
    """Evaluate `program` on the tiles of one query.

    Args:
        each: called before each step; what it raises ends the evaluation.

    Yields:
        Shown: send() the fresh tiles, at the level and scale the program names; None where it is no refresh.

    Returns:
        The output's tiles at level 0.
    """
    return go_on(program, evaluator, weights, 0, {0: query}, each)


def go_on(
    program: Program,
    evaluator: Arithmetic[H],
    weights: Weights[H],
    replies: int,
    sent: Mapping[int, list[H]],
    each: Callable[[], None] = lambda: None,
) -> Generator[Shown, list[H] | None, list[H]]:
    """`execute` from where the client has replied so often.

    Args:
        sent: what `way_back` needs.
    """
    way = way_back(program, replies)
    registers: dict[int, list[H]] = {0: sent[0]} if 0 in sent else {}
    shown = 0
    for number, (step, gone) in enumerate(zip(program.steps, dying(program), strict=True)):
        shown += step.shows
        if number >= way.done or number in way.steps:
            each()
            result = step.run(evaluator, program.lanes, [registers[r] for r in step.reads()], weights)
            if step.shows and number >= way.done:
                result = (
                    yield Shown(
                        shown - 1, [evaluator.mod_switch(tile, 0) for tile in result], result, step.refreshes
                    )
                ) or result  # in one statement: nothing here keeps what was sent
            registers[step.out] = result
        elif step.refreshes and shown in way.sent:
            registers[step.out] = sent[shown]
        for register in gone:
            registers.pop(register, None)
    return [evaluator.mod_switch(tile, 0) for tile in registers[program.output]]


def dying(program: Program) -> list[list[int]]:
    """Registers that each step is the last to read, or makes for nobody: memory is given back early."""
    uses: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        uses.update(dict.fromkeys(step.reads(), number))
        uses.setdefault(step.out, number)
    uses.pop(program.output, None)
    found: list[list[int]] = [[] for _ in program.steps]
    for register, number in uses.items():
        found[number].append(register)
    return found
