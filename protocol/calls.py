"""Whose call it is, whether it has a seat, and how it ends: the way into every method of the server."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from protocol.access import Access, Tenant
from protocol.account import Account
from protocol.deadline import Deadline
from protocol.drain import Drain
from protocol.executor import Gone
from protocol.failures import status
from protocol.incoming import LAST_WAIT_S, Incoming
from protocol.logs import log_event
from protocol.metrics import Metrics
from protocol.offer import Offer
from protocol.seats import Seats
from protocol.store import Limits
from protocol.tokens import STRANGER
from protocol.usage import Usage
from securedl.errors import AuthenticationError, FormatError, ProtocolError, ServerError, UnreachableError

_log = logging.getLogger("protocol.server")
#: Short calls of one client at once, and of all strangers together.
SHORT_CALLS = 4
#: Streams of strangers, and of clients, that watch the server's health.
WATCHERS = 8
#: Threads are set aside for the short calls of so many clients, however few there are when the server starts.
CLIENTS = 32


class Calls:
    """The calls of one server.

    Args:
        folder: of the seats.
        threads: of one evaluation.
        idle_s: silence after which a stream is closed. greeting_s: the same before its first message, and of
            short calls.
    """

    def __init__(
        self,
        access: Access,
        limits: Limits,
        folder: Path,
        drain: Drain,
        offer: Offer,
        metrics: Metrics,
        usage: Usage,
        threads: int,
        idle_s: float,
        greeting_s: float,
    ) -> None:
        self._access, self._limits, self._folder, self._drain = access, limits, folder, drain
        self._offer, self._metrics, self._usage, self._threads = offer, metrics, usage, threads
        self._idle_s, self._greeting_s = idle_s, min(greeting_s, idle_s)
        self._room = SHORT_CALLS * (max(CLIENTS, access.count) + 1)
        #: All calls at once, and some for those who turn out to be no clients.
        self.workers = limits.max_sessions + self._room + WATCHERS + SHORT_CALLS
        self._watchers = Seats(folder, "watchers", WATCHERS, WATCHERS)
        self.share()

    def share(self) -> None:
        """Share the seats among the clients that there are now."""
        limits, clients = self._limits, self._access.count
        short = min(self._room, SHORT_CALLS * (clients + 1))
        self._short = Seats(self._folder, "short calls", short, SHORT_CALLS)
        self._sessions = Seats(
            self._folder, "sessions", limits.max_sessions, limits.sessions_of(clients)
        )  # fmt: skip

    @contextlib.contextmanager
    def short(
        self, method: str, requests: Iterator[bytes], context: Any, open_to_all: bool = False
    ) -> Iterator[tuple[Tenant, Incoming]]:
        """A short call: whose it is, and its messages.

        Args:
            open_to_all: strangers may call, too.
        """
        with (
            self._recognised(method, context, open_to_all) as tenant,
            self._short.one(tenant.client),
            self._watched(requests, context, None) as call,
        ):
            yield tenant, call

    @contextlib.contextmanager
    def watch(self, requests: Iterator[bytes], context: Any) -> Iterator[tuple[Tenant, Incoming]]:
        """A stream of the server's health."""
        with (
            self._recognised("watch", context, True) as tenant,
            self._watchers.one(tenant.client),
            self._watched(requests, context, None) as call,
        ):
            yield tenant, call

    @contextlib.contextmanager
    def session(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[Account]:
        """A session of one of the two long methods."""
        # What a client sends of an upload it makes meanwhile, which may take it longer.
        last_wait_s = LAST_WAIT_S if method == "predict" else None
        with (
            self._recognised(method, context) as tenant,
            self._sessions.one(tenant.client),
            self._watched(requests, context, self._drain, last_wait_s) as call,
        ):
            account = Account(
                method, tenant, context.peer(), call, self._metrics, self._usage, self._threads,
                self._limits.max_client_s,
            )  # fmt: skip
            with account.running(), self._offer.aside():
                yield account

    def hello(self, account: Account) -> tuple[bytes, Any]:
        """The client's greeting; from then on it has the time of a session."""
        return account.call.hello(self._idle_s)

    @contextlib.contextmanager
    def _recognised(self, method: str, context: Any, open_to_all: bool = False) -> Iterator[Tenant]:
        """The caller; an exception ends the call with its status code."""
        failure: Exception | None = None
        tenant = Tenant(STRANGER, STRANGER)
        try:
            if self._drain.begun and not open_to_all:
                raise UnreachableError("this server stops: ask again, it may be back or another be there")
            try:
                tenant = self._access.tenant(context)
            except AuthenticationError:
                if not open_to_all:
                    raise
            yield tenant
        except Gone:
            return
        except Exception as error:
            failure = error
        if failure is not None:
            self._refuse(method, context, tenant, failure)

    def _refuse(self, method: str, context: Any, tenant: Tenant, failure: Exception) -> None:
        code, sentence = status(failure)
        self._metrics.refusals.labels(code.name, tenant.label).inc()
        levels = {grpc.StatusCode.INTERNAL: logging.ERROR, grpc.StatusCode.UNAVAILABLE: logging.INFO}
        log_event(
            "refused", levels.get(code, logging.WARNING), method=method, tenant=tenant.label,
            peer=context.peer(), code=code.name, reason=sentence,
        )  # fmt: skip
        if not isinstance(failure, (ProtocolError, ServerError, FormatError)):
            _log.error("%s failed", method, exc_info=failure)
        context.abort(code, sentence)

    @contextlib.contextmanager
    def _watched(
        self,
        requests: Iterator[bytes],
        context: Any,
        drain: Drain | None,
        last_wait_s: float | None = None,
    ) -> Iterator[Incoming]:
        """A call that ends when its client is silent for too long."""
        deadline = Deadline(self._greeting_s, context.cancel)
        with contextlib.closing(deadline):
            alive = lambda: context.is_active() and not deadline.expired  # noqa: E731
            with contextlib.closing(Incoming(requests, deadline, alive, drain, last_wait_s)) as call:
                yield call
