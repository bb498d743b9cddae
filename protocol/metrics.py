"""What a server counts, for Prometheus. Labels tell tenants by their short names, and never models.

In worker processes values are kept in files that their supervisor reads (`prometheus_client.multiprocess`).
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

NAMESPACE = "securedl"
_MS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 600_000)


class Metrics:
    """The values of one process.

    Attributes:
        registry: what an exposition reads.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, NAMESPACE, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, NAMESPACE, registry=self.registry, multiprocess_mode="livesum")

        self.open = gauge("sessions_open", "Sessions that run.", "method", "tenant")
        self.sessions = counter("sessions", "Sessions that ended.", "method", "tenant", "outcome")
        self.queries = counter("queries", "Queries answered.", "tenant")
        self.uploads = counter("uploads", "Uploads that ended well.", "tenant")
        self.received = counter("received_bytes", "Payload that came from clients.", "method", "tenant")
        self.sent = counter("sent_bytes", "Payload that was sent to clients.", "method", "tenant")
        self.refusals = counter("refusals", "Calls that ended with an error.", "code", "tenant")
        self.computing = counter("computing_seconds", "Core seconds of queries.", "tenant")
        self.stages = Histogram(
            "stage_milliseconds",
            "Of a query, or of a session that loaded its model.",
            ("stage", "tenant"),
            NAMESPACE,
            registry=self.registry,
            buckets=_MS,
        )
        self.hits = counter("cache_hits", "Sessions whose model was loaded already.")
        self.misses = counter("cache_misses", "Models that were loaded.")
        self.models = gauge("cache_models", "Loaded models.")
        self.cached = gauge("cache_bytes", "Memory that loaded models may take.")
