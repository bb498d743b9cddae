"""Loaded models, as many as memory has room for."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from protocol.models import ServedModel

SomeModel = TypeVar("SomeModel", bound=ServedModel)


class ModelCache(Generic[SomeModel]):
    """Loaded models, the least recently used of them dropped when they outgrow `max_bytes`.

    A session keeps the model it began with even when the cache has dropped it.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._max = default_cache_bytes() if max_bytes is None else max_bytes
        self._models: OrderedDict[tuple[str, bytes], SomeModel] = OrderedDict()
        self._stamps: dict[tuple[str, bytes], object] = {}
        # An entry lives as long as some thread holds or waits for its lock.
        self._loading: WeakValueDictionary[tuple[str, bytes], threading.Lock] = WeakValueDictionary()
        self._stale: set[tuple[str, bytes]] = set()
        self._lock = threading.Lock()

    @property
    def max_bytes(self) -> int:
        """Bytes that all models together may take."""
        return self._max

    def get(self, key: tuple[str, bytes], make: Callable[[], SomeModel], stamp: object = None) -> SomeModel:
        """The model of that key, made at most once at a time.

        Args:
            stamp: what tells it from another, or from none, that took its place on disk meanwhile.
        """
        with self._lock:
            gate = self._loading.setdefault(key, threading.Lock())
        with gate:
            with self._lock:
                if key in self._models and self._stamps[key] == stamp:
                    self._models.move_to_end(key)
                    return self._models[key]
                self._drop(key)
                self._stale.discard(key)
            model = make()
            with self._lock:
                if key in self._stale:  # removed meanwhile: it serves this caller and no other
                    self._stale.discard(key)
                    return model
                self._models[key], self._stamps[key] = model, stamp
                while len(self._models) > 1 and sum(m.cost for m in self._models.values()) > self._max:
                    self._drop(next(iter(self._models)))
            return model

    def discard(self, key: tuple[str, bytes]) -> None:
        """Forget a model that was removed or found damaged, also one that is being made right now."""
        with self._lock:
            self._drop(key)
            if key in self._loading:
                self._stale.add(key)

    def figures(self) -> tuple[int, int]:
        """How many models are loaded, and the bytes of memory that they may take."""
        with self._lock:
            return len(self._models), sum(model.cost for model in self._models.values())

    def _drop(self, key: tuple[str, bytes]) -> None:
        self._models.pop(key, None)
        self._stamps.pop(key, None)


def default_cache_bytes() -> int:
    """Half of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
