"""Models of a store in memory: loaded when they are first asked for, and warm after their upload."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from protocol.access import Tenant
from protocol.cache import ModelCache
from protocol.drain import Drain
from protocol.executor import Executor
from protocol.logs import log_event
from protocol.metrics import Metrics
from protocol.models import ServedModel
from protocol.offer import Offer
from protocol.store import Store
from securedl.errors import ProtocolError
from securedl.he.backends import Backend

#: Seconds that an upload waits until its model is loaded.
WARM_S = 5.0


class Loader:
    """Loaded models of a store, as an executor loads them.

    Args:
        threads: of one evaluation.
        cache_bytes: memory for all of them; half of the machine's when None.
    """

    def __init__(
        self,
        store: Store,
        backend: Backend[Any],
        threads: int,
        cache_bytes: int | None,
        executor: Executor[Any],
        metrics: Metrics,
    ) -> None:
        self._store, self._backend, self._threads, self._metrics = store, backend, threads, metrics
        self._executor = executor
        self.cache = ModelCache[Any](cache_bytes)
        self._warming = threading.Lock()

    def get(self, tenant: Tenant, model_id: bytes) -> ServedModel:
        """A model of this tenant's.

        Raises:
            ProtocolError: it is not there, or not complete. QuotaError: a query of it takes too much.
            ServerError: the disk refuses.
        """
        key, misses = (tenant.client, model_id), list[float]()

        def make() -> ServedModel:
            began = time.monotonic()
            model = self._load(key)
            misses.append(1e3 * (time.monotonic() - began))
            return model

        model: ServedModel = self.cache.get(key, make, self._store.stamp(*key))
        if misses:
            self._metrics.misses.inc()
            self._metrics.stages.labels("load", tenant.label).observe(misses[0])
            log_event("load", tenant=tenant.label, model=model_id.hex(), ms=round(misses[0]), cost=model.cost)
        else:
            self._metrics.hits.inc()
        self._count()
        return model

    def discard(self, client: str, model_id: bytes) -> None:
        """Forget one that was removed, or found damaged."""
        self.cache.discard((client, model_id))
        self._executor.discard(client, model_id)
        self._count()

    def _count(self) -> None:
        models, size = self.cache.figures()
        self._metrics.models.set(models)
        self._metrics.cached.set(size)

    def _load(self, key: tuple[str, bytes]) -> ServedModel:
        stored = self._store.find(*key)
        if stored is None:
            self._executor.discard(*key)
            raise ProtocolError(
                "this server has no such model of this client: call upload() first, with the same token"
            )
        self._store.limits.check(stored.program)  # another server, or an older one, may have allowed more
        model: ServedModel = self._executor.load(stored, self._backend, self._threads, self.cache.max_bytes)
        return model

    def warm(
        self,
        tenant: Tenant,
        model_id: bytes,
        waiting: Callable[[], bool],
        offer: Offer,
        drain: Drain,
    ) -> None:
        """Load a new model, and try it as long as somebody waits, so that the first query finds it ready;
        return after WARM_S at the latest. Whatever fails, fails again there.
        """
        until = time.monotonic() + WARM_S

        def alive() -> bool:
            return waiting() and not drain.begun and time.monotonic() < until

        def work() -> None:
            if not self._warming.acquire(blocking=False):  # one at a time: it takes no session's place
                return
            try:
                with contextlib.suppress(Exception), offer.aside():
                    self._executor.warm(self.get(tenant, model_id), alive)
            finally:
                self._warming.release()

        thread = threading.Thread(target=work, name="protocol-warm", daemon=True)
        thread.start()
        thread.join(WARM_S)
