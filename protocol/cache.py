"""Loaded models, as many as memory has room for."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from weakref import WeakValueDictionary

from protocol.models import LoadedModel


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
