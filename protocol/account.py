"""One session's figures, on their way to the metrics, to the store's usage, and to the log."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from protocol.access import Tenant
from protocol.incoming import Incoming
from protocol.logs import log_event
from protocol.metrics import Metrics
from protocol.sessions import Traffic, Turns
from protocol.usage import Usage
from securedl.errors import QuotaError


class Account(Turns):
    """What one session used.

    Args:
        method: "upload" or "predict".
        threads: of one evaluation: its core seconds are those of the thread that asks, as many times.
        max_client_s: core seconds that a client may use in a day.
    """

    def __init__(
        self,
        method: str,
        tenant: Tenant,
        peer: str,
        call: Incoming,
        metrics: Metrics,
        usage: Usage,
        threads: int,
        max_client_s: float | None,
    ) -> None:
        self.tenant, self.call = tenant, call
        self._method, self._peer, self._metrics, self._usage = method, peer, metrics, usage
        self._threads, self._max_client_s = threads, max_client_s
        self._session, self._began = secrets.token_hex(4), time.monotonic()
        self._settled = replace(call.traffic)

    def between(self) -> contextlib.AbstractContextManager[None]:
        """Around the wait for the next query: there a server that stops ends the stream."""
        return self.call.between()

    def begin(self) -> None:
        """A query came.

        Raises:
            QuotaError: the client has used its seconds of today.
        """
        limit = self._max_client_s
        if limit is None:
            return
        used = self._usage.seconds_today(self.tenant.client)
        if used >= limit:
            raise QuotaError(
                f"this client has used {used:.1f} of its {limit:g} s of computing today: ask again after "
                "midnight, UTC, or ask for more"
            )

    def end(self) -> None:
        """It is answered."""
        spent = self._settle()
        stages = self._metrics.stages
        for stage, seconds in (
            ("wait", spent.wait_s), ("evaluate", spent.evaluate_s), ("send", spent.send_s),
        ):  # fmt: skip
            stages.labels(stage, self.tenant.label).observe(1e3 * seconds)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The session: counted while it runs, and told when it ends."""
        open_now = self._metrics.open.labels(self._method, self.tenant.label)
        open_now.inc()
        outcome = "failed"
        try:
            yield
            outcome = "ok"
        except GeneratorExit:
            outcome = "client-gone"
            raise
        except BaseException as error:
            outcome = self.call.outcome(error)
            raise
        finally:
            open_now.dec()
            self._settle()
            self._tell("idle" if outcome == "client-gone" and self.call.expired else outcome)

    def _settle(self) -> Traffic:
        """Count what came since the last time; how much it was."""
        now, before = replace(self.call.traffic), self._settled
        self._settled = now
        spent = Traffic(
            now.received - before.received, now.sent - before.sent, now.items - before.items,
            now.wait_s - before.wait_s, now.evaluate_s - before.evaluate_s, now.send_s - before.send_s,
            now.cpu_s - before.cpu_s,
        )  # fmt: skip
        label = self.tenant.label
        self._metrics.received.labels(self._method, label).inc(spent.received)
        self._metrics.sent.labels(self._method, label).inc(spent.sent)
        if self._method == "predict" and (spent.items or spent.cpu_s):
            seconds = self._threads * spent.cpu_s
            self._metrics.queries.labels(label).inc(spent.items)
            self._metrics.computing.labels(label).inc(seconds)
            self._usage.charge(self.tenant.client, self.call.model_id, spent.items, seconds)
        return spent

    def _tell(self, outcome: str) -> None:
        label, traffic = self.tenant.label, self.call.traffic
        self._metrics.sessions.labels(self._method, label, outcome).inc()
        if self._method == "upload" and outcome == "ok":
            self._metrics.uploads.labels(label).inc()
        figures: dict[str, Any] = {
            "model": self.call.model_id.hex(), "items": traffic.items, "received": traffic.received,
            "sent": traffic.sent, "ms": round(1e3 * (time.monotonic() - self._began)), "tenant": label,
            "peer": self._peer, "session": self._session,
        }  # fmt: skip
        if self._method == "predict":
            figures |= {
                "wait_ms": round(1e3 * traffic.wait_s), "evaluate_ms": round(1e3 * traffic.evaluate_s),
                "send_ms": round(1e3 * traffic.send_s), "core_s": round(self._threads * traffic.cpu_s, 3),
            }  # fmt: skip
        log_event(self._method, logging.INFO, **figures, outcome=outcome)
