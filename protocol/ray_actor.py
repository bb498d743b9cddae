"""What runs in a Ray actor: evaluations of models that it maps from the same store; Ray is not imported."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protocol.cache import ModelCache, default_cache_bytes
from protocol.executor import Evaluation, Gone, Here
from protocol.models import LoadedModel
from protocol.stored import DAMAGED, StoredModel, disk, stamp_of
from securedl.errors import FormatError, InputError, ProtocolError, SecureDLError, ServerError
from securedl.he.backends import Backend
from securedl.he.record import Record

#: Ended evaluations that are remembered, for calls that overtake each other on their way.
REMEMBERED = 4096


@dataclass(frozen=True)
class ModelPlace:
    """Where a model lies, and which one it is.

    Attributes:
        stamp: of its files, as `stamp_of` gives it.
    """

    folder: str
    model_id: bytes
    program_id: bytes
    stamp: tuple[int, int] | None

    @property
    def key(self) -> tuple[str, bytes]:
        """Its name in caches: that of its client, and its id."""
        return Path(self.folder).parent.name, self.model_id


@dataclass(frozen=True)
class Stepped:
    """What one step gave.

    Attributes:
        tiles: None where nobody waits for them any more. cpu_s: of the thread that evaluated.
    """

    tiles: list[Record] | None
    cpu_s: float


class EvaluationActor:
    """Evaluates queries, several at once, each in a thread.

    Args:
        store: its folder, which this process only reads, but for what back ends derive from weights.
        threads: of one evaluation.
        cache_bytes: memory for loaded models; half of this machine's, shared by `actors`, when None.
    """

    def __init__(
        self, store: str, backend: Backend[Any], threads: int, cache_bytes: int | None, actors: int
    ) -> None:
        self._store, self._backend, self._threads = store, backend, threads
        room = default_cache_bytes() if cache_bytes is None else cache_bytes
        self._models = ModelCache[LoadedModel](room // actors)
        self._running: dict[str, Evaluation] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._trouble: SecureDLError | None = None
        try:
            if not (Path(store) / "salt").is_file():
                raise InputError(
                    f"a Ray actor on the node {os.uname().nodename} finds no store in {store}: "
                    "the same folder must be mounted at the same path on every node"
                )
            backend.prepare()
        except SecureDLError as error:
            self._trouble = error

    def ready(self) -> int:
        """This process's id, once it can evaluate.

        Raises:
            InputError: it never can.
        """
        if self._trouble is not None:
            raise self._trouble
        return os.getpid()

    def step(
        self,
        query: str,
        place: ModelPlace,
        replies: int,
        tiles: list[Record] | None,
        past: Mapping[int, list[Record]] | None,
    ) -> Stepped:
        """One step of an evaluation.

        Args:
            query: its name.
            replies: how often the client has replied before.
            tiles: as for `Evaluation.step`.
            past: None where the evaluation is here already; else it begins, or goes on from what is given.

        Raises:
            ProtocolError, ServerError: as its meaning is.
        """
        self.ready()
        if past is not None:
            self._begin(query, place, replies, past)
        began = time.thread_time()
        found: list[Record] | None = None
        with contextlib.suppress(Gone):
            found = self._evaluation(query).step(None if tiles is None else map(_own, tiles))
        return Stepped(found, time.thread_time() - began)

    def _begin(self, query: str, place: ModelPlace, replies: int, past: Mapping[int, list[Record]]) -> None:
        own = {number: [_own(tile) for tile in tiles] for number, tiles in past.items()}
        evaluation = Here().go_on(self._model(place), lambda: query not in self._ended, replies, own)
        with self._lock:
            self._running[query] = evaluation

    def _evaluation(self, query: str) -> Evaluation:
        with self._lock:
            if query in self._ended:
                self._running.pop(query, None)
                raise Gone
            return self._running[query]

    def _model(self, place: ModelPlace) -> LoadedModel:
        return self._models.get(place.key, lambda: self._load(place), place.stamp)

    def _load(self, place: ModelPlace) -> LoadedModel:
        folder = Path(place.folder)
        if place.stamp is None or stamp_of(folder) != place.stamp:
            raise ProtocolError("this model was removed meanwhile: call upload() again")
        try:
            with disk():
                stored = StoredModel(folder, place.model_id)
        except FormatError as error:
            raise ServerError(DAMAGED) from error
        if stored.figures.program_id != place.program_id:
            raise ProtocolError("this model was removed meanwhile: call upload() again")
        return Here().load(stored, self._backend, self._threads, self._models.max_bytes)

    def warm(self, query: str, place: ModelPlace) -> None:
        """Load a model and try it, until `end` is called with the same name."""
        with contextlib.suppress(Gone):
            Here().warm(self._model(place), lambda: query not in self._ended)

    def end(self, query: str) -> None:
        """Nobody waits for an evaluation any more: it stops at its next operation."""
        with self._lock:
            self._ended[query] = None
            while len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
            self._running.pop(query, None)

    def discard(self, client: str, model_id: bytes) -> None:
        """Forget a model."""
        self._models.discard((client, model_id))

    def figures(self) -> tuple[int, int, int]:
        """How many models are loaded, bytes of memory that they may take, and evaluations not ended."""
        return *self._models.figures(), len(self._running)


def _own(record: Record) -> Record:
    """A copy that may be written to: what Ray hands over lies in its shared memory."""
    return Record(record.shape, np.array(record.residues), record.seed)
