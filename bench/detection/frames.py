"""What a dishonest server does to the messages themselves: none may get as far as being decrypted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from protocol import messages_pb2 as pb
from protocol.wire import frame_digest, session_id
from securedl.he.record import HEADER

#: One frame, and how to give one its digest, to what is sent instead.
Change = Callable[[Any, Callable[[Any], bytes]], list[bytes]]


def _fields(**values: int) -> Change:
    def change(frame: Any, signed: Callable[[Any], bytes]) -> list[bytes]:
        for name, value in values.items():
            setattr(frame, name, getattr(frame, name) + value)
        return [signed(frame)]

    return change


def _data(work: Callable[[bytearray], bytes | bytearray]) -> Change:
    def change(frame: Any, signed: Callable[[Any], bytes]) -> list[bytes]:
        frame.data = bytes(work(bytearray(frame.data)))
        return [signed(frame)]

    return change


def _above(data: bytearray) -> bytearray:
    """A first residue that is above its prime."""
    data[HEADER.size : HEADER.size + 6] = b"\xff" * 6
    return data


def _left(frame: Any, signed: Callable[[Any], bytes]) -> list[bytes]:
    """One bit of a residue is another, under the digest that the frame had."""
    data = bytearray(frame.data)
    data[-1] ^= 1
    frame.data = bytes(data)
    return [frame.SerializeToString()]


def _answer(frame: Any, signed: Callable[[Any], bytes]) -> list[bytes]:
    """The refresh is called the answer."""
    frame.kind, frame.stage = pb.ANSWER, 0
    return [signed(frame)]


#: What is done to the first frame of each query, or of its answer.
CHANGES: dict[str, Change] = {
    "refresh twice": lambda frame, signed: [signed(frame), signed(frame)],
    "refresh missing": _answer,
    "refreshes reordered": _fields(stage=1),
    "of another query": _fields(query=1),
    "of another tile": _fields(index=1),
    "a digest that is wrong": _left,
    "a residue above its prime": _data(_above),
    "a level that is wrong": _data(lambda data: data[:20] + bytes([1]) + data[21:]),
    "a scale that is wrong": _data(lambda data: data[:24] + bytes(8) + data[32:]),
    "a byte too few": _data(lambda data: data[:-1]),
    "a byte too many": _data(lambda data: data + b"\0"),
    "no bytes": _data(lambda data: b""),
    "no frame": lambda frame, signed: [b"\xff" * 100],
    "the end": lambda frame, signed: [],
    "the end in place of the answer": lambda frame, signed: [],
}


def changed(how: str, hello: Callable[[], bytes], out: Iterator[bytes]) -> Iterator[bytes]:
    """An honest session's messages, the first frame of each query (or of its answer) changed.

    Args:
        hello: the client's greeting, once it has come.
    """
    yield (welcome := next(out))
    session, query = session_id("Predict", hello(), welcome), -1

    def signed(frame: Any) -> bytes:
        frame.digest = frame_digest(session, frame, frame.data)
        raw: bytes = frame.SerializeToString()
        return raw

    for raw in out:
        frame = pb.Frame.FromString(raw)
        early = how.endswith("the answer") and frame.kind != pb.ANSWER
        if early or frame.query == query:
            yield raw
            continue
        query = frame.query
        instead = CHANGES[how](frame, signed)
        yield from instead
        if not instead:
            return
