"""Errors of this project as gRPC status codes, and back again."""

from __future__ import annotations

from typing import Any

import grpc

from securedl.errors import (
    AuthenticationError,
    FormatError,
    ProtocolError,
    QuotaError,
    SecureDLError,
    ServerError,
    UnreachableError,
)

MAX_DETAILS = 400

_CODES: list[tuple[type[Exception], Any]] = [
    (AuthenticationError, grpc.StatusCode.UNAUTHENTICATED),
    (QuotaError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (FormatError, grpc.StatusCode.INVALID_ARGUMENT),
    (ProtocolError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnreachableError, grpc.StatusCode.UNAVAILABLE),
    (ServerError, grpc.StatusCode.INTERNAL),
]
_PROTOCOL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def status(error: Exception) -> tuple[Any, str]:
    """Code and sentence for the other side; what we did not foresee stays in the log."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, str(error)[:MAX_DETAILS]
    return grpc.StatusCode.INTERNAL, "the server failed; its log says why"


def from_rpc(error: Any, address: str, doing: str) -> SecureDLError:
    """The exception to raise for a failed call.

    Args:
        error: grpc.RpcError of a call.
        doing: what was going on, with what to do about it, for when the server went away.
    """
    code, details = error.code(), _printable(error.details())
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return AuthenticationError(f"the server at {address} refused the token: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return QuotaError(f"the server at {address} refused: {details}")
    if code in _PROTOCOL:
        return ProtocolError(f"the server at {address} refused: {details}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ProtocolError(
            f"the server at {address} does not speak this version of the protocol: upgrade the older side"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerError(f"the server at {address} did not answer in time; {doing}")
    if code is grpc.StatusCode.INTERNAL:
        return ServerError(f"the server at {address} failed: {details}; {doing}")
    return UnreachableError(f"no answer from {address} ({details}); {doing}")


def _printable(text: str | None) -> str:
    """The server's own words: short, and without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in (text or "no reason given")[:MAX_DETAILS])
