"""Where evaluations run. Only records go in and come out, so another process or machine may do the work."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from protocol.models import LoadedModel
from protocol.stored import refusal
from protocol.watched import Watched
from securedl.he.record import Record
from securedl.he.weights import ModelWeights
from securedl.program.drive import advance
from securedl.program.execute import Shown, execute
from securedl.program.steps import Port


class Gone(Exception):  # noqa: N818  (not an error: it ends a session quietly)
    """The client went away."""


class Evaluation(ABC):
    """One query on its way through a model's program."""

    @abstractmethod
    def step(self, tiles: Iterable[Record] | None) -> list[Record]:
        """Go on to the next refresh or tap, or from the last one to the answer.

        Args:
            tiles: of the query at the first call, then of each refresh in the program's order; None after a
                tap.

        Returns:
            The tiles to be sent, at level 0.

        Raises:
            Gone: nobody waits for them any more.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what an unfinished evaluation holds."""


class Executor(ABC):
    """Evaluates the queries of loaded models."""

    @abstractmethod
    def begin(self, model: LoadedModel, alive: Callable[[], bool]) -> Evaluation:
        """An evaluation of one query, not started yet.

        Args:
            alive: tells whether the client is still there; cheap.
        """


class Here(Executor):
    """In the thread that asks."""

    def begin(self, model: LoadedModel, alive: Callable[[], bool]) -> Evaluation:
        """An evaluation of one query, not started yet."""
        return _Local(model, alive)


def rehearse(executor: Executor, model: LoadedModel, alive: Callable[[], bool]) -> None:
    """Answer a query of ones, which touches all that a query does: else the first takes five times as long.

    Raises:
        Gone: nobody waits for it any more.
    """
    program = model.program

    def ones(port: Port) -> list[Record]:
        shape = replace(port.fresh, seeded=False)
        residues = np.ones((shape.size, shape.level + 1, program.params.ring), np.uint64)
        return [Record(shape, residues)] * port.tiles

    with contextlib.closing(executor.begin(model, alive)) as evaluation:
        for port in (program.query, *(up for _, up in program.shown)):
            evaluation.step(None if port is None else ones(port))


class _Local(Evaluation):
    def __init__(self, model: LoadedModel, alive: Callable[[], bool]) -> None:
        self._model, self._weights = model, _Waited(model.weights, alive)
        self._watched = Watched(model.evaluator, self._weights.check)
        self._running: Generator[Shown, list[Any] | None, list[Any]] | None = None
        program = model.program
        self._sent = iter([*(down.sent for down, _ in program.shown), program.answer.sent])

    def step(self, tiles: Iterable[Record] | None) -> list[Record]:
        handles = None if tiles is None else [self._load(tile) for tile in tiles]
        if self._running is None:
            assert handles is not None  # the query
            program, weights = self._model.program, self._weights
            self._running = execute(program, self._watched, weights, handles, weights.check)
            found = advance(self._running)
        else:
            found = advance(self._running, handles)
        sent = found.tiles if isinstance(found, Shown) else found
        shape = next(self._sent)
        return [self._model.evaluator.sent(tile, shape) for tile in sent]

    def _load(self, tile: Record) -> Any:
        self._weights.check()
        return self._model.evaluator.load(tile)

    def close(self) -> None:
        if self._running is not None:
            self._running.close()


class _Waited:
    """Weights that stop an evaluation nobody waits for any more."""

    def __init__(self, weights: ModelWeights[Any], alive: Callable[[], bool]) -> None:
        self._weights, self._alive = weights, alive

    def check(self) -> None:
        """Gone, if so it is."""
        if not self._alive():
            raise Gone

    def __getitem__(self, index: int) -> Any:
        self.check()
        try:
            return self._weights[index]
        except ConnectionError:
            raise
        except OSError as error:
            raise refusal(error) from error
