"""The client's greeting at the beginning of a stream."""

from __future__ import annotations

import secrets
from typing import Any

from protocol import messages_pb2 as pb
from protocol.link import Stream
from protocol.side import KnownChannel
from protocol.waits import Dialogue
from protocol.wire import NONCE_BYTES, PROTOCOL_VERSION, parse, session_id
from securedl.errors import ProtocolError


def greet(
    stream: Stream, method: str, known: KnownChannel, program_bytes: int = 0
) -> Dialogue[tuple[bytes, Any]]:
    """Exchange greetings; the session's id and the server's Welcome.

    Raises:
        ProtocolError: it is no Welcome, or one to something else.
    """
    hello: Any = pb.Hello(
        version=PROTOCOL_VERSION,
        model_id=known.channel.model_id,
        program_id=known.program_id,
        nonce=secrets.token_bytes(NONCE_BYTES),
        program_bytes=program_bytes,
    )
    sent = hello.SerializeToString()
    stream.send([sent])
    received = yield from stream.message()
    if received is None:
        raise ProtocolError("the server ended the stream before its Welcome")
    welcome: Any = parse(pb.Welcome, received)
    if welcome.version != PROTOCOL_VERSION or len(welcome.nonce) != NONCE_BYTES:
        raise ProtocolError("the server's Welcome is malformed")
    if method == "Predict" and (welcome.needs_program or welcome.missing):
        raise ProtocolError("the server's Welcome to a query speaks of an upload")
    return session_id(method, sent, received), welcome
