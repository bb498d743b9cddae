"""Models in memory: an evaluator with its keys, and weights that are read when they are first used."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakValueDictionary

from protocol.expect import Expectations
from protocol.stored import Reader, StoredModel
from protocol.wire import check_record
from securedl.errors import InputError, ProtocolError
from securedl.he.interface import Evaluator, Handle
from securedl.he.params import Parameters
from securedl.he.record import Record, unpack_key
from securedl.program.program import Program

log = logging.getLogger("protocol.server")


class RecordSource(Protocol):
    """Weights of a model as checked records."""

    def record(self, index: int) -> Record:
        """One weight."""

    def __len__(self) -> int: ...


#: Puts another source in place of the stored weights: how tests make a dishonest server.
WrapWeights = Callable[[RecordSource], RecordSource]
EvaluatorFactory = Callable[[Parameters], Evaluator]

_EVALUATORS = {
    "seal": ("securedl.he.seal", "SealEvaluator"),
    "vector": ("securedl.he.vector", "VectorEvaluator"),
}


def evaluator_factory(name: str, threads: int) -> EvaluatorFactory:
    """Makes the named evaluator; its module is imported now, and no other's.

    Raises:
        InputError: no such evaluator, or it cannot be imported.
    """
    if name not in _EVALUATORS:
        raise InputError(f"evaluator {name!r} is unknown: use one of {sorted(_EVALUATORS)}")
    module, attribute = _EVALUATORS[name]
    try:
        kind: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"evaluator {name!r} cannot be loaded: {error}") from error
    if name == "vector":
        _warm_up(module)
        return lambda params: kind(params, threads=threads)
    return lambda params: kind(params)


@lru_cache
def _warm_up(module: str) -> None:
    """Compile the kernels now, not in the first query; once in a process."""
    vector: Any = importlib.import_module(module)
    began, cold = time.monotonic(), not vector.compiled()
    if cold:
        log.info("compiling kernels, once for this version: about 15 s")
    vector.warm_up()
    if cold:
        log.info("kernels compiled s=%.1f", time.monotonic() - began)


class StoredWeights:
    """Weights of a stored model, checked as they are read."""

    def __init__(self, stored: StoredModel, blobs: Reader) -> None:
        self._table, self._blobs = stored.table, blobs

    def __len__(self) -> int:
        return len(self._table.shapes)

    @property
    def program(self) -> Program:
        """The program whose weights these are."""
        return self._table.program

    def packed(self, index: int) -> memoryview:
        """Bytes of one weight; residues were checked when it was stored, its digest is checked now."""
        return self._blobs[len(self._table.keys) + index]

    def record(self, index: int) -> Record:
        """One weight."""
        return check_record(self._table.program.params, self.packed(index), self._table.shapes[index])


class Weights:
    """Handles of weights: places in a map of a file where the evaluator allows it (`mapped`).

    Others are kept as far as `room` bytes go. What no longer fits is read again for each query: queries
    scan the weights in one order, so replacing the oldest would evict each weight just before its next use.
    """

    def __init__(self, source: RecordSource, stored: StoredModel, evaluator: Evaluator, room: int) -> None:
        self._source, self._evaluator = source, evaluator
        self._shapes = stored.table.shapes
        self._row = 8 * stored.program.params.ring
        self._handles: dict[int, Handle] = {}
        self._packed = getattr(evaluator, "load_packed", None) if isinstance(source, StoredWeights) else None
        self._mapped = self._map(stored)
        self.room = room if self._mapped is None else 0
        self._room = self.room
        self._lock = threading.Lock()

    def _map(self, stored: StoredModel) -> Any:
        # Imported late: only the vector evaluator has packed weights, and only it may load its kernels.
        from protocol.mapped import MappedWeights, mappable

        source, packed, shapes = self._source, self._packed, self._shapes
        if packed is None or not isinstance(source, StoredWeights) or not mappable(stored.program.params):
            return None

        def load(index: int) -> Handle:  # not a method: through it the map would keep its owner alive
            handle: Handle = packed(source.packed(index), shapes[index])
            return handle

        try:
            return MappedWeights(stored, load)
        except OSError as error:
            log.warning(
                "weights stay in memory: their file cannot be made: %s", os.strerror(error.errno or 0)
            )
            return None

    def __getitem__(self, index: int) -> Handle:
        if index in self._handles:
            return self._handles[index]
        cost = self._cost(index)
        handle = self._load(index) if self._mapped is None else self._mapped[index]
        with self._lock:
            if index not in self._handles and cost <= self._room:
                self._room -= cost
                self._handles[index] = handle
        return handle

    def warm(self, alive: Callable[[], bool]) -> None:
        """Read what fits before the first query does."""
        for index in range(len(self._shapes)):
            if not alive():
                return
            # A query that is at it is gone ahead of, so that both share the work.
            busy = self._mapped is not None and self._mapped.busy(index)
            if not busy and self._cost(index) <= self._room:
                self[index]

    def _cost(self, index: int) -> int:
        """Bytes of memory that a handle keeps."""
        shape = self._shapes[index]
        return 0 if self._mapped is not None else shape.size * (shape.level + 1) * self._row

    def _load(self, index: int) -> Handle:
        if self._packed is not None:
            assert isinstance(self._source, StoredWeights)
            return self._packed(self._source.packed(index), self._shapes[index])
        load: Callable[[Record], Handle] = getattr(self._evaluator, "load_weight", self._evaluator.load)
        return load(self._source.record(index))


class Watched:
    """Weights that stop an evaluation nobody waits for any more.

    Args:
        alive: tells whether the client is still there; cheap.
    """

    def __init__(self, weights: Weights, alive: Callable[[], bool]) -> None:
        self._weights, self._alive = weights, alive

    def __getitem__(self, index: int) -> Handle:
        if not self._alive():
            raise Gone
        return self._weights[index]


class Gone(Exception):  # noqa: N818  (not an error: it ends a session quietly)
    """The client went away."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run; shared by all sessions that use it."""

    program: Program
    program_id: bytes
    expectations: Expectations
    evaluator: Evaluator
    weights: Weights
    cost: int


def load(
    stored: StoredModel, factory: EvaluatorFactory, wrap: WrapWeights | None, max_bytes: int
) -> LoadedModel:
    """Load keys now and weights later.

    Raises:
        ProtocolError: the upload is not complete.
    """
    missing = len(stored.missing())
    if missing:
        raise ProtocolError(
            f"{missing} of {len(stored.table)} parts of this model are not uploaded: call upload()"
        )
    blobs, params = stored.reader(), stored.program.params
    keys = {name: unpack_key(params, blobs[number]) for number, name in enumerate(stored.table.keys)}
    evaluator = factory(params)
    evaluator.set_keys(keys.pop(None, []), {step: key for step, key in keys.items() if step is not None})
    source: RecordSource = StoredWeights(stored, blobs)
    key_bytes, weight_bytes = stored.table.expanded()
    room = max(0, min(weight_bytes, max_bytes - key_bytes))
    weights = Weights(source if wrap is None else wrap(source), stored, evaluator, room)
    program, cost = stored.program, key_bytes + weights.room
    return LoadedModel(program, stored.program_id, Expectations.of(program), evaluator, weights, cost)


class ModelCache:
    """Loaded models, the least recently used of them dropped when they outgrow `max_bytes`.

    A session keeps the model it began with even when the cache has dropped it.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max = default_cache_bytes() if max_bytes is None else max_bytes
        self._models: OrderedDict[tuple[str, bytes], LoadedModel] = OrderedDict()
        # An entry lives as long as some thread holds or waits for its lock.
        self._loading: WeakValueDictionary[tuple[str, bytes], threading.Lock] = WeakValueDictionary()
        self._stale: set[tuple[str, bytes]] = set()
        self._lock = threading.Lock()

    @property
    def max_bytes(self) -> int:
        """Bytes that all models together may take."""
        return self._max

    def get(self, key: tuple[str, bytes], make: Callable[[], LoadedModel]) -> LoadedModel:
        """The model of that key, made at most once at a time."""
        with self._lock:
            gate = self._loading.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._models:
                    self._models.move_to_end(key)
                    return self._models[key]
                self._stale.discard(key)
            model = make()
            with self._lock:
                if key in self._stale:  # removed meanwhile: it serves this caller and no other
                    self._stale.discard(key)
                    return model
                self._models[key] = model
                while len(self._models) > 1 and sum(m.cost for m in self._models.values()) > self._max:
                    self._models.popitem(last=False)
            return model

    def discard(self, key: tuple[str, bytes]) -> None:
        """Forget a model that was removed or found damaged, also one that is being made right now."""
        with self._lock:
            self._models.pop(key, None)
            if key in self._loading:
                self._stale.add(key)


def default_cache_bytes() -> int:
    """Half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
