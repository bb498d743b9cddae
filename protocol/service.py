"""The methods of the service, and their gRPC handlers. Messages cross gRPC as bytes; `wire` parses them."""

from __future__ import annotations

from typing import Any

import grpc

from protocol.wire import MAX_MESSAGE

SERVICE = "securedl.v1.Inference"
UNARY = ("Describe", "Status", "Remove")
STREAMS = ("Upload", "Predict")

KEEPALIVE_MS = 20_000
#: Whoever connects says what it speaks in this time: silent connections would use up the server's files.
HANDSHAKE_MS = 5_000
COMMON_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),
]
#: Room for the clients' pings.
SERVER_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
]
#: A server that was away is found again within a second: gRPC would wait for up to two minutes. The second
#: figure is how long an attempt may take: one over TLS is three or four round trips.
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
CLIENT_OPTIONS = [*COMMON_OPTIONS, ("grpc.enable_http_proxy", 0), *_RECONNECT]


def method_path(method: str) -> str:
    """The full name of a method."""
    return f"/{SERVICE}/{method}"


def handler(servicer: Any) -> Any:
    """A generic handler that sends each method to the servicer's method of that name in lower case.

    All of them are given an iterator of messages, the short ones too: gRPC would wait for the one message of
    those before it asks the servicer, as long as a stranger likes.
    """
    table = {
        name: grpc.stream_stream_rpc_method_handler(getattr(servicer, name.lower()))
        for name in (*UNARY, *STREAMS)
    }
    return grpc.method_handlers_generic_handler(SERVICE, table)


def health_handler(servicer: Any) -> Any:
    """The same for the standard health service."""
    table = {
        name: grpc.stream_stream_rpc_method_handler(getattr(servicer, name.lower()))
        for name in ("Check", "Watch")
    }
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", table)
