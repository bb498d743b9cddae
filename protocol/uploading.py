"""The client's side of an upload: what the server lacks of a model, over as many streams as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from protocol import messages_pb2 as pb
from protocol.greeting import greet
from protocol.link import Connection
from protocol.side import KnownChannel
from protocol.waits import Dialogue
from protocol.wire import done_digest, expand_ranges, frames, parse
from securedl.errors import FormatError, ProtocolError, ServerError
from securedl.progress import Steps


@dataclass(frozen=True)
class Upload:
    """What an upload sent: parts of the model, their bytes, and how long it took; before it, how long probes
    and tolerances took. Both times together are those of the call.
    """

    blobs: int
    bytes: int
    seconds: float
    prepare_s: float = 0.0


def send_models(link: Connection, models: Sequence[KnownChannel], told: Steps) -> Dialogue[tuple[int, int]]:
    """Send what the server lacks of each channel's model; how many parts that were, and their bytes.

    Args:
        told: is called with bytes that were handed over, and those of all channels.

    Raises:
        ServerError, QuotaError, ProtocolError: as of `Client.upload`.
    """
    blobs, size, total = 0, 0, sum(known.table.total_bytes for known in models)
    before = 0
    for known in models:
        sent, remaining = set[int](), 1
        while remaining:
            done = yield from _send_once(link, known, sent, partial(_shifted, told, before, total))
            size, remaining = size + done.blob_bytes, done.remaining
            if remaining and not done.blobs:
                raise ProtocolError("the server misses parts of the model but does not say which")
        blobs += len(sent)
        before += known.table.total_bytes
    return blobs, size


def _shifted(told: Steps, before: int, total: int, done: int) -> None:
    told(before + done, total)


def _send_once(
    link: Connection, known: KnownChannel, sent: set[int], told: Callable[[int], object]
) -> Dialogue[Any]:
    """One stream. sent: numbers of the parts that earlier ones brought, to which this one's are added.

    Raises:
        ProtocolError: the server asks for one of them again, as one that keeps nothing would for ever.
    """
    table, program = known.table, known.json
    with link.stream("Upload", "what arrived is kept: call upload() again") as stream:
        session, welcome = yield from greet(stream, "Upload", known, len(program))
        count = len(table)
        missing = list(range(count)) if welcome.needs_program else expand_ranges(welcome.missing, count)
        if again := sent.intersection(missing):
            raise ProtocolError(
                f"the server at {link.address} asks again for {len(again)} parts that it said it "
                "has kept: its store is damaged, or it is hostile"
            )
        if welcome.needs_program:
            stream.send(frames(session, pb.PROGRAM, 0, program))
        yield from stream.feed(_blob_frames(session, known, missing, told))
        stream.finish()
        raw = yield from stream.message()
        if raw is None:
            raise ProtocolError("the server ended the upload without a word")
        done: Any = parse(pb.Done, raw)
        size = sum(table[number].length for number in missing)
        honest = (done.blobs, done.blob_bytes) == (len(missing), size)
        if not honest or done.digest != done_digest(session, done):
            raise ProtocolError("the server's account of the upload is wrong")
        sent.update(missing)
        with contextlib.suppress(ServerError):  # loading may take longer than this client waits
            yield from stream.expect_end()
    return done


def _blob_frames(
    session: bytes, known: KnownChannel, missing: list[int], told: Callable[[int], object]
) -> Generator[bytes, None, None]:
    table, channel = known.table, known.channel
    done = table.total_bytes - sum(table[number].length for number in missing)
    indices = [number - len(table.keys) for number in missing if number >= len(table.keys)]
    told(done)
    with contextlib.closing(channel.weights(indices)) as weights:
        for number in missing:
            blob = table[number]
            index = number if blob.kind == pb.KEY else number - len(table.keys)
            data = channel.key(blob.name) if blob.kind == pb.KEY else next(weights)
            if len(data) != blob.length:
                raise FormatError(
                    f"the owner made part {number} of {len(data)} bytes where {blob.length} are due"
                )
            yield from frames(session, blob.kind, index, data)
            done += len(data)
            told(done)
