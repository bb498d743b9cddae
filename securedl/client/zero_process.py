"""A process that makes encryptions of zero for another, which started it and speaks to it through pipes.

It says that it is ready, and is told parameters and the secret key, then again and again the levels of some
zeros, and gives these in order. It ends with its standard input. `preparing` is the other side.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import BinaryIO

from securedl.client.keys import Keys
from securedl.he.params import Parameters

#: Bytes of the parameters, as JSON, and of the secret key, which follow.
HANDSHAKE = struct.Struct("<II")
#: How many levels follow, an octet each.
REQUEST = struct.Struct("<I")
#: What begins an answer: it is ready; a zero follows, seed and residues; or why there is none does, as text.
READY, ZERO, FAILED = b"r", b"z", b"f"
REASON = struct.Struct("<I")


def give(source: BinaryIO, target: BinaryIO) -> None:
    """Answer until `source` ends."""
    try:
        target.write(READY)
        target.flush()
        meta, body = (source.read(size) for size in HANDSHAKE.unpack(source.read(HANDSHAKE.size)))
        fields = json.loads(meta)
        keys = Keys(Parameters(**{**fields, "primes": tuple(fields["primes"])}), body)
        while len(head := source.read(REQUEST.size)) == REQUEST.size:
            for level in source.read(REQUEST.unpack(head)[0]):
                zero = keys.zero(level)
                assert zero.seed is not None
                target.write(b"".join((ZERO, zero.seed, zero.residues.tobytes())))
                target.flush()
    except BrokenPipeError:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}".encode()
        target.write(FAILED + REASON.pack(len(text)) + text)
        target.flush()


def main() -> None:
    """Serve standard input and output; whatever else is printed goes to standard error."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        give(sys.stdin.buffer, target)
    except BrokenPipeError:  # nobody reads any more
        os._exit(0)
