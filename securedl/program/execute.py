"""Run a program on an evaluator. A generator: it yields what the client is shown, and is sent what must be
refreshed back fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
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
    registers: dict[int, list[H]] = {0: query}
    shown = 0
    for step, gone in zip(program.steps, dying(program), strict=True):
        each()
        result = step.run(evaluator, program.lanes, [registers[r] for r in step.reads()], weights)
        if step.shows:
            result = (
                yield Shown(shown, [evaluator.mod_switch(tile, 0) for tile in result], result, step.refreshes)
            ) or result  # in one statement: nothing here keeps what was sent
            shown += 1
        registers[step.out] = result
        for register in gone:
            del registers[register]
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
