"""The standard health service, `grpc.health.v1.Health`: whether the server lives, is ready, and has a model.

    ""                      it serves, and does not stop
    securedl.v1.Inference   and its store can take an upload
    model/HEX               this model of the caller's, who needs its token, is complete

What another client has and what nobody has look the same. Strangers may ask for the first two, a few
at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from protocol.access import Tenant
from protocol.calls import Calls
from protocol.drain import Drain
from protocol.service import SERVICE
from protocol.store import Store
from protocol.tokens import STRANGER
from protocol.wire import ID_BYTES
from securedl.errors import AuthenticationError, FormatError

MODEL = "model/"
#: Free bytes without which the store is not ready: keys and weights of the smallest plans take some 10 MB.
LEAST_FREE = 64 << 20
#: How often a watched status, and the state of the disk, are looked at; and how long one watches.
LOOK_S, WATCH_S = 1.0, 600.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NO_SERVICE = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Answers of one server."""

    def __init__(self, calls: Calls, store: Store, drain: Drain) -> None:
        self._calls, self._store, self._drain = calls, store, drain
        self._looked, self._writable = -LOOK_S, False

    def check(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The status of one service, once."""
        with self._calls.short("check", requests, context, open_to_all=True) as (tenant, call):
            found = self._status(tenant, _service(call.request()))
            if found == NO_SERVICE:
                context.set_code(grpc.StatusCode.NOT_FOUND)
                context.set_details("there is no such service here")
                return
            yield from call.sending(iter([_response(found)]))

    def watch(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The status of one service, and every change of it, until the server stops or WATCH_S are over."""
        with self._calls.watch(requests, context) as (tenant, call):
            yield from call.sending(self._changes(tenant, _service(call.request()), context))

    def _changes(self, tenant: Tenant, service: str, context: Any) -> Iterator[bytes]:
        until, told, last = time.monotonic() + WATCH_S, None, False
        while context.is_active():
            found = self._status(tenant, service)
            if found != told:
                yield _response(found)
                told = found
            if last or time.monotonic() > until:
                return
            last = self._drain.wait(LOOK_S)

    def _status(self, tenant: Tenant, service: str) -> int:
        if service.startswith(MODEL):
            return self._model(tenant, service.removeprefix(MODEL))
        if service not in ("", SERVICE):
            return int(NO_SERVICE)
        well = not self._drain.begun and (service == "" or self._ready())
        return int(SERVING if well else NOT_SERVING)

    def _model(self, tenant: Tenant, name: str) -> int:
        if tenant.client == STRANGER:
            raise AuthenticationError("the health of a model is told to whom it belongs: it needs a token")
        try:
            model_id = bytes.fromhex(name)
        except ValueError:
            model_id = b""
        if len(model_id) != ID_BYTES or (stored := self._store.find(tenant.client, model_id)) is None:
            return int(NO_SERVICE)
        complete = not self._drain.begun and not stored.missing()
        return int(SERVING if complete else NOT_SERVING)

    def _ready(self) -> bool:
        """Whether the store can take an upload; looked at once a second however many ask."""
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._writable, self._looked = self._store.writable(LEAST_FREE), now
        return self._writable


def _service(raw: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(raw).service)
    except DecodeError as error:
        raise FormatError("this is no request for the server's health") from error


def _response(status: int) -> bytes:
    raw: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    return raw
