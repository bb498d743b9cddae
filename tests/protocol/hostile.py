"""Changes to frames, with the digest left as it was or made anew."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from protocol import messages_pb2 as pb
from protocol.wire import frame_digest
from securedl.he.record import HEADER, Shape, chain, residue_bytes

#: (offset in a record's header, struct format, values) that no record may have.
_HEADER: list[tuple[int, str, Sequence[bytes | float]]] = [
    (0, "<4s", [b"SDL2", bytes(4)]),
    (4, "<16s", [bytes(16), b"\xff" * 16]),
    (20, "<B", [2, 3, 255]),
    (21, "<B", [0, 1, 3, 255]),
    (22, "<B", [2, 255]),
    (23, "<B", [1, 255]),
    (24, "<d", [0.0, -1.0, 1.0, float("nan"), float("inf"), 2.0**30 + 2**-20]),
    (32, "<Q", [0, 2, 2**64 - 1]),
]


def flip(raw: bytes, rng: np.random.Generator) -> list[bytes]:
    """Bits flipped, bytes cut, added, or put elsewhere; nothing repaired."""
    data = bytearray(raw)
    kind = rng.integers(7)
    at = int(rng.integers(len(data)))
    if kind <= 2:
        at = at if kind else int(rng.integers(min(64, len(data))))
        data[at] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        data = data[:at]
    elif kind == 4:
        data += rng.bytes(int(rng.integers(1, 40)))
    elif kind == 5:
        return [raw, raw]
    else:
        return []
    return [bytes(data)]


def fields(raw: bytes, rng: np.random.Generator) -> pb.Frame:
    """A frame in another place than its own, or of another length."""
    frame = pb.Frame.FromString(raw)
    name = ("kind", "query", "stage", "index", "offset", "data", "channel")[rng.integers(7)]
    if name == "data":
        cut = int(rng.integers(1, len(frame.data)))
        frame.data = [b"", frame.data[:cut], frame.data[:-1], frame.data + b"\0"][rng.integers(4)]
    elif name == "kind":
        frame.kind = int(rng.choice([k for k in (0, 1, 2, 3, 4, 5, 6, 7, 8, 99) if k != frame.kind]))
    else:
        others = [v for v in (0, 1, 2, 2**31, 2**32 - 1) if v != getattr(frame, name)]
        setattr(frame, name, int(rng.choice(others)))
    return frame


def content(raw: bytes, params, shape: Shape, rng: np.random.Generator) -> pb.Frame:
    """A record that the program does not allow, in a frame that it does."""
    frame = pb.Frame.FromString(raw)
    data = bytearray(frame.data)
    if rng.random() < 0.5:
        offset, form, values = _HEADER[rng.integers(len(_HEADER))]
        value = values[int(rng.integers(len(values)))]
        struct.pack_into(form, data, offset, value)
        if bytes(data) == frame.data:
            data[0] ^= 1
    else:
        _residue(data, params, shape, rng)
    frame.data = bytes(data)
    return frame


def _residue(data: bytearray, params, shape: Shape, rng: np.random.Generator) -> None:
    """One residue at or above its prime."""
    primes = chain(params, shape.level)
    polynomial, row = int(rng.integers(shape.size - shape.seeded)), int(rng.integers(len(primes)))
    widths = [residue_bytes(q) for q in primes]
    start = HEADER.size + params.ring * (polynomial * sum(widths) + sum(widths[:row]))
    start += int(rng.integers(params.ring)) * widths[row]
    top = 1 << 8 * widths[row]
    value = [primes[row], top - 1, int(rng.integers(primes[row], top))][rng.integers(3)]
    data[start : start + widths[row]] = value.to_bytes(widths[row], "little")


def signed(frame: pb.Frame, session: bytes) -> bytes:
    """The frame with the digest that its sender would give it."""
    frame.digest = frame_digest(session, frame, frame.data)
    return frame.SerializeToString()
