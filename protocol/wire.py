"""Blobs as frames: chunks of at most 1 MiB, each with a digest bound to its session and its place.

Nothing here trusts the network for a length or an order: a receiver names the one frame that may come
next and refuses any other.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from protocol import messages_pb2 as pb
from protocol.waits import Dialogue, Wait, waited
from securedl.errors import ProtocolError

PROTOCOL_VERSION = 1
CHUNK_BYTES = 1 << 20
#: What gRPC may receive in one message: a chunk and its frame, or a Welcome full of ranges.
MAX_MESSAGE = CHUNK_BYTES + (1 << 16)
#: A program is the one blob whose length only its sender knows.
MAX_PROGRAM = 1 << 20
DIGEST_BYTES = 32
NONCE_BYTES = 32
ID_BYTES = 16

#: kind, channel, query, stage, index, offset, length of the data
_PLACE = struct.Struct("<IIIIIQQ")
_PERSON = b"securedl frame 1"

M = TypeVar("M")
_NO_WAIT = Wait()


def parse(kind: type[M], raw: bytes) -> M:
    """The message in `raw`, which must be the one way to write it: what is known, in order, once.

    Raises:
        ProtocolError: the bytes are not such a message, or not written that way.
    """
    message: Any = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise ProtocolError(f"{len(raw)} bytes are not a {kind.__name__} message") from error
    message.DiscardUnknownFields()
    if message.SerializeToString() != raw:
        raise ProtocolError(f"a {kind.__name__} message is written in another way than this version does")
    return message  # type: ignore[no-any-return]


def session_id(method: str, hello: bytes, welcome: bytes) -> bytes:
    """32 bytes that name a stream: any change to either greeting gives another."""
    digest = hashlib.blake2b(digest_size=32, person=b"securedl session")
    for part in (method.encode(), hello, welcome):
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.digest()


def frame_digest(session: bytes, frame: Any, data: bytes | memoryview) -> bytes:
    """blake2b of a frame's place and data, keyed with the session."""
    digest = hashlib.blake2b(key=session, digest_size=DIGEST_BYTES, person=_PERSON)
    place = (frame.kind, frame.channel, frame.query, frame.stage, frame.index, frame.offset)
    digest.update(_PLACE.pack(*place, len(data)))
    digest.update(data)
    return digest.digest()


def done_digest(session: bytes, done: Any) -> bytes:
    """Digest of the end of an upload."""
    digest = hashlib.blake2b(key=session, digest_size=DIGEST_BYTES, person=b"securedl done 1")
    digest.update(struct.pack("<IQI", done.blobs, done.blob_bytes, done.remaining))
    return digest.digest()


def frames(
    session: bytes, kind: int, index: int, data: bytes, query: int = 0, stage: int = 0
) -> Iterator[bytes]:
    """Serialised frames of one blob, in order."""
    view = memoryview(data)
    for offset in range(0, len(data), CHUNK_BYTES):
        part = view[offset : offset + CHUNK_BYTES]
        frame: Any = pb.Frame(
            kind=kind,
            query=query,
            stage=stage,
            index=index,
            offset=offset,
            data=bytes(part),
        )
        frame.digest = frame_digest(session, frame, part)
        yield frame.SerializeToString()


class Receiver:
    """Blobs of one session from serialised frames.

    Args:
        session: 32 bytes, as both sides derived it.
        source: serialised frames as they arrive. wait: for the next of them, where `source` does not.
    """

    def __init__(self, session: bytes, source: Iterator[bytes], wait: Wait = _NO_WAIT) -> None:
        self._session = session
        self._source, self._wait = source, wait
        self._ahead: bytes | None = None

    def ended(self) -> bool:
        """Whether the other side has closed its half; waits for the next frame otherwise."""
        if self._ahead is None:
            self._ahead = next(self._source, None)
        return self._ahead is None

    def blob(self, kind: int, index: int, length: int, query: int = 0, stage: int = 0) -> bytes:
        """The next blob, which must be exactly this one.

        Raises:
            ProtocolError: any other frame, a wrong digest, or the end of the stream.
        """
        return waited(self.arriving(kind, index, length, query, stage))

    def arriving(self, kind: int, index: int, length: int, query: int = 0, stage: int = 0) -> Dialogue[bytes]:
        """As `blob`."""
        out = bytearray(length)
        for offset in range(0, length, CHUNK_BYTES):
            yield self._wait
            data = self._frame((kind, query, stage, index, offset), min(CHUNK_BYTES, length - offset))
            if length == len(data):
                return data
            out[offset : offset + len(data)] = data
        return bytes(out)

    def _frame(self, place: tuple[int, int, int, int, int], length: int) -> bytes:
        name = pb.Kind.Name(place[0])
        if self.ended():
            raise ProtocolError(f"the stream ended where {name} frame {place[1:]} was due")
        assert self._ahead is not None
        frame: Any = parse(pb.Frame, self._ahead)
        self._ahead = None
        if frame.channel != 0:
            raise ProtocolError(f"{name} frame {place[1:]} should have channel 0, got {frame.channel}")
        found = (frame.kind, frame.query, frame.stage, frame.index, frame.offset)
        if found != place:
            raise ProtocolError(f"frame (kind, query, stage, index, offset) should be {place}, got {found}")
        data: bytes = frame.data
        if len(data) != length:
            raise ProtocolError(f"{name} frame {place[1:]} should hold {length} bytes, got {len(data)}")
        if not hmac.compare_digest(frame.digest, frame_digest(self._session, frame, data)):
            raise ProtocolError(f"{name} frame {place[1:]} has a wrong digest: it was changed or replayed")
        return data


def ranges(numbers: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Ascending numbers as at most `limit` runs (first, count); what does not fit is left out."""
    if not numbers:
        return []
    found = np.array(numbers)
    firsts = np.concatenate([[0], 1 + np.flatnonzero(np.diff(found) != 1)])
    counts = np.diff(np.append(firsts, len(found)))
    return list(zip(found[firsts].tolist(), counts.tolist(), strict=True))[:limit]


def expand_ranges(runs: Iterable[Any], count: int) -> list[int]:
    """Numbers of Range messages, which must be ascending, disjoint and below `count`.

    Raises:
        ProtocolError: they are not.
    """
    numbers: list[int] = []
    end = 0
    for run in runs:
        if run.count < 1 or run.first < end or run.first + run.count > count:
            raise ProtocolError(
                f"the server names blobs {run.first} to {run.first + run.count}; there are {count}"
            )
        end = run.first + run.count
        numbers.extend(range(run.first, end))
    return numbers
