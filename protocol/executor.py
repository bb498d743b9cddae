"""Where evaluations run. Only records go in and come out, so another process or machine may do the work."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic

import numpy as np

from protocol.cache import SomeModel
from protocol.models import LoadedModel, load_model
from protocol.store import Store
from protocol.stored import StoredModel, refusal
from protocol.watched import Watched
from securedl.he.backends import Backend
from securedl.he.record import Record
from securedl.he.weights import ModelWeights
from securedl.program.drive import advance
from securedl.program.execute import Shown, go_on
from securedl.program.steps import Port


class Gone(Exception):  # noqa: N818  (not an error: it ends a session quietly)
    """The client went away."""


class Evaluation(ABC):
    """One query on its way through a model's program.

    Attributes:
        away_s: processor seconds that evaluating threads of other processes have taken so far.
    """

    away_s: float = 0.0

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


class Executor(ABC, Generic[SomeModel]):
    """Loads models and evaluates their queries."""

    def start(self, store: Store, backend: Backend[Any], threads: int, cache_bytes: int | None) -> None:
        """Make ready to serve the models of a store.

        Args:
            threads: of one evaluation.
            cache_bytes: memory for loaded models; half of a machine's when None.

        Raises:
            InputError, ServerError: that is not possible.
        """

    def stop(self) -> None:
        """Give back what `start` took."""

    @abstractmethod
    def load(self, stored: StoredModel, backend: Backend[Any], threads: int, max_bytes: int) -> SomeModel:
        """A model that queries can be evaluated of.

        Args:
            max_bytes: of memory for its keys and weights.

        Raises:
            ProtocolError: the upload is not complete. ServerError: the disk refuses.
        """

    @abstractmethod
    def begin(self, model: SomeModel, alive: Callable[[], bool]) -> Evaluation:
        """An evaluation of one query, not started yet.

        Args:
            alive: tells whether the client is still there; cheap.
        """

    def warm(self, model: SomeModel, alive: Callable[[], bool]) -> None:
        """See to it that the next query finds the model ready.

        Raises:
            Gone: nobody waits for it any more.
        """
        rehearse(self, model, alive)

    def discard(self, client: str, model_id: bytes) -> None:
        """A model was removed, or found damaged: forget it. Evaluations of it go on."""


class Here(Executor[LoadedModel]):
    """In the thread that asks."""

    def load(self, stored: StoredModel, backend: Backend[Any], threads: int, max_bytes: int) -> LoadedModel:
        """Load keys now and weights later."""
        return load_model(stored, backend, threads, max_bytes)

    def begin(self, model: LoadedModel, alive: Callable[[], bool]) -> Evaluation:
        """An evaluation of one query, not started yet."""
        return _Local(model, alive, 0, {})

    def go_on(
        self, model: LoadedModel, alive: Callable[[], bool], replies: int, sent: Mapping[int, list[Record]]
    ) -> Evaluation:
        """An evaluation that was lost after a client had been shown `replies` times what it has replied to:
        its first step takes the last reply.

        Args:
            sent: the tiles that `way_back` needs, but for those.
        """
        return _Local(model, alive, replies, sent)

    def warm(self, model: LoadedModel, alive: Callable[[], bool]) -> None:
        """Read what fits of the weights, and answer a query of ones."""
        model.weights.warm(alive)
        rehearse(self, model, alive)


def rehearse(executor: Executor[SomeModel], model: SomeModel, alive: Callable[[], bool]) -> None:
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
    def __init__(
        self, model: LoadedModel, alive: Callable[[], bool], replies: int, sent: Mapping[int, list[Record]]
    ) -> None:
        self._replies, self._past = replies, sent
        self._model, self._weights = model, _Waited(model.weights, alive)
        self._watched = Watched(model.evaluator, self._weights.check)
        self._running: Generator[Shown, list[Any] | None, list[Any]] | None = None
        program = model.program
        self._sent = iter([*(down.sent for down, _ in program.shown), program.answer.sent][replies:])

    def step(self, tiles: Iterable[Record] | None) -> list[Record]:
        handles = None if tiles is None else [self._load(tile) for tile in tiles]
        if self._running is None:
            given = {number: [self._load(tile) for tile in past] for number, past in self._past.items()}
            if handles is not None:
                given[self._replies] = handles
            program, weights = self._model.program, self._weights
            self._running = go_on(program, self._watched, weights, self._replies, given, weights.check)
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
