"""Run an evaluation from one look of the client to the next: the only place that steps `execute`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from securedl.he.arithmetic import H
from securedl.program.execute import Shown


def advance(
    running: Generator[Shown, list[H] | None, list[H]], fresh: list[H] | None = None
) -> Shown | list[H]:
    """Start an evaluation, or go on, with `fresh` tiles after a refresh: as far as what the client is shown
    next, or its answer.
    """
    try:
        return running.send(fresh)
    except StopIteration as end:
        answer: list[H] = end.value
        return answer


def drive(
    running: Generator[Shown, list[H] | None, list[H]], client: Callable[[Shown], list[H] | None]
) -> list[H]:
    """Run an evaluation to its end, and close it whatever happens.

    Args:
        running: what `execute` gave, not started yet.
        client: the fresh tiles for what is shown; None at a tap.

    Returns:
        The answer's tiles at level 0.
    """
    with contextlib.closing(running):
        found = advance(running)
        while isinstance(found, Shown):
            found = advance(running, client(found))
        return found
