"""Run an evaluation from refresh to refresh: the only place that steps the generator of `execute`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from securedl.he.arithmetic import H
from securedl.program.execute import RefreshRequest


def advance(
    running: Generator[RefreshRequest, list[H], list[H]], fresh: list[H] | None = None
) -> RefreshRequest | list[H]:
    """Start an evaluation, or go on with `fresh` tiles, as far as its next refresh or its answer."""
    try:
        return next(running) if fresh is None else running.send(fresh)
    except StopIteration as end:
        answer: list[H] = end.value
        return answer


def drive(
    running: Generator[RefreshRequest, list[H], list[H]], refresh: Callable[[RefreshRequest], list[H]]
) -> list[H]:
    """Run an evaluation to its end, and close it whatever happens.

    Args:
        running: what `execute` gave, not started yet.
        refresh: the fresh tiles for a request.

    Returns:
        The answer's tiles at level 0.
    """
    with contextlib.closing(running):
        found = advance(running)
        while isinstance(found, RefreshRequest):
            found = advance(running, refresh(found))
        return found
