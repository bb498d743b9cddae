"""Metrics over HTTP, for Prometheus: those of a process or of all workers, and what the store keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, multiprocess, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from protocol import address as addresses
from protocol.access import Access
from protocol.logs import log_event
from protocol.store import Store
from securedl.errors import InputError


class StoreCollector(Collector):
    """What each tenant keeps."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access

    def collect(self) -> Iterator[Any]:
        """Looked up when it is asked for."""
        size = GaugeMetricFamily("securedl_store_bytes", "On disk, reserved room too.", labels=["tenant"])
        models = GaugeMetricFamily("securedl_store_models", "Models on disk.", labels=["tenant"])
        for tenant in self._access.tenants():
            models.add_metric([tenant.label], len(self._store.models(tenant.client)))
            size.add_metric([tenant.label], self._store.used(tenant.client))
        yield from (size, models)


def registry_of_workers(folder: Path) -> CollectorRegistry:
    """The metrics of all processes that keep theirs in a folder."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return registry


def check_exposed(address: str, anywhere: bool) -> addresses.Address:
    """Where metrics may be served.

    Raises:
        InputError: no HOST:PORT, or others could read them, and nobody said that they may.
    """
    found = addresses.parse_address(address)
    if found.unix:
        raise InputError(f"metrics are served over HTTP at HOST:PORT, not at {address}")
    if not found.local and not anywhere:
        raise InputError(
            f"refusing to serve metrics on {address}: there is no TLS and no token; listen on 127.0.0.1, or "
            "add --metrics-anywhere where only the monitoring can reach that address"
        )
    return found


def expose(
    registry: CollectorRegistry, more: Iterable[Collector], address: str, anywhere: bool = False
) -> str:
    """Serve metrics in a thread of its own, as long as the process lives; the address with its real port.

    Raises:
        InputError: the address cannot be used.
    """
    found = check_exposed(address, anywhere)
    for one in more:
        registry.register(one)
    try:
        server, _ = start_http_server(found.port, found.host, registry)
    except OSError as error:
        raise InputError(f"cannot serve metrics on {address}: {error.strerror}") from error
    real = f"{address.rpartition(':')[0]}:{server.server_port}"
    log_event("metrics", address=real)
    return real
