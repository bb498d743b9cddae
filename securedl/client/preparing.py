"""Many weights encrypted with the help of processes, since SEAL's bindings hold the interpreter's lock.

Processes make encryptions of zero, most of the work; weights are encoded and added here. A process is a new
interpreter and no fork of this one, whose threads may hold locks. Nothing of the caller's is imported there,
and the secret key goes through its standard input alone. It ends with the generator that it works for, or
when its standard input does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TypeAlias

import numpy as np

from securedl.client.keys import Keys
from securedl.client.zero_process import FAILED, HANDSHAKE, READY, REASON, REQUEST, ZERO
from securedl.errors import SecureDLError
from securedl.he.params import Parameters
from securedl.he.record import SEED_BYTES, Record, Shape
from securedl.he.scheme import Slots

_log = logging.getLogger(__name__)

#: A shape, and slots or coefficients to encode and encrypt.
Tile: TypeAlias = tuple[Shape, Slots]

#: So many are encrypted here before it is decided; during the first, kernels are loaded.
FIRST = 16
#: What is left must take so many seconds here. A process is ready after 0.3 s, most of it work.
WORTH_S = 1.5
#: More processes would wait for this one, which does a fifth to a third of the work.
MAX_PROCESSES = 6
#: Bytes of zeros that are asked of a process at a time, and that it may have made before they are read.
GROUP_BYTES = PIPE_BYTES = 1 << 19
#: A process that closed its output has so long to end.
END_S = 1.0
_START = "import sys; sys.path[:] = sys.argv[1:]; from securedl.client.zero_process import main; main()"


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def prepared(keys: Keys, tiles: Iterable[Tile], count: int, processes: int) -> Generator[bytes, None, None]:
    """Tiles encrypted and packed, in their order.

    Args:
        count: of the tiles. processes: that may be started, where that is worth it; 1 is none.

    Raises:
        InputError: values that do not fit. SecureDLError: a process went away after it had begun.
    """
    rest = iter(tiles)
    here, took = (keys.encrypt(values, shape) for shape, values in rest), list[float]()
    while processes > 1 and len(took) < FIRST:
        began = time.perf_counter()
        packed = next(here, None)
        if packed is None:
            return
        took.append(time.perf_counter() - began)
        yield packed
    if processes == 1 or (count - FIRST) * statistics.median(took) < WORTH_S:
        yield from here
        return
    with Helpers(keys, min(processes, MAX_PROCESSES)) as helpers:
        while not helpers.ready:
            packed = next(here, None)
            if packed is None:
                return
            yield packed
        yield from helpers.encrypt(rest)


class Helpers:
    """Processes that make encryptions of zero, started at once and ready later; a context manager."""

    def __init__(self, keys: Keys, count: int) -> None:
        self._keys, self._count = keys, count
        self._helpers = list[_Helper]()
        self._told = False

    def __enter__(self) -> Helpers:
        try:
            for _ in range(self._count):
                self._helpers.append(_Helper(self._keys.params))
        except OSError as error:
            self._give_up(f"no process can be started ({error})")
        return self

    def __exit__(self, *error: object) -> None:
        for helper in self._helpers:
            helper.end()
        self._helpers = []

    def _give_up(self, reason: object) -> None:
        _log.warning("%s: one process encrypts all weights", reason)
        self.__exit__()

    @property
    def ready(self) -> bool:
        """Whether all can be asked; never, if one cannot be started."""
        if self._told or not self._helpers:
            return self._told
        try:
            if not all(helper.started for helper in self._helpers):
                return False
            body = self._keys.body()
            for helper in self._helpers:
                helper.tell(body)
        except SecureDLError as error:
            self._give_up(error)
            return False
        self._told = True
        return True

    def encrypt(self, tiles: Iterator[Tile]) -> Iterator[bytes]:
        """All tiles in their order, when they are ready. Two groups are asked of each ahead."""
        params, waiting = self._keys.params, deque[tuple[_Helper, list[Tile]]]()
        size = max(1, GROUP_BYTES // (8 * params.ring * len(params.primes)))

        def ask(helper: _Helper) -> None:
            if group := list(islice(tiles, size)):
                helper.ask([shape.level for shape, _ in group])
                waiting.append((helper, group))

        for helper in self._helpers * 2:
            ask(helper)
        while waiting:
            helper, group = waiting.popleft()
            for shape, values in group:
                yield self._keys.encrypt(values, shape, helper.take)
            ask(helper)


class _Helper:
    """One process. It is asked for zeros, and these are taken in the same order."""

    def __init__(self, params: Parameters) -> None:
        self._params, self._started = params, False
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # what is typed to interrupt this process is for this process
        )
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # as it is, it holds two of the smallest
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def started(self) -> bool:
        """Whether it has said so; nobody waits for that."""
        assert self._process.stdout is not None
        if not self._started:
            poll = select.poll()
            poll.register(self._process.stdout, select.POLLIN)
            if poll.poll(0):
                self._expect(READY)
                self._started = True
        return self._started

    def tell(self, body: bytes) -> None:
        """The secret key, once it has started."""
        meta = json.dumps(asdict(self._params)).encode()
        self._send(HANDSHAKE.pack(len(meta), len(body)) + meta + body)

    def ask(self, levels: list[int]) -> None:
        """For zeros of these levels."""
        self._send(REQUEST.pack(len(levels)) + bytes(levels))

    def take(self, level: int) -> Record:
        """The next one, which was asked for at this level."""
        self._expect(ZERO)
        seed, ring = self._read(SEED_BYTES), self._params.ring
        residues = np.frombuffer(self._read(8 * ring * (level + 1)), np.uint64).reshape(1, level + 1, ring)
        return Record(Shape(level, 2, 1.0, seeded=True), residues, seed)

    def end(self) -> None:
        """Whatever it does; nothing is left of it."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._process.wait()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def _read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise self._gone()
        return data

    def _expect(self, kind: bytes) -> None:
        found = self._read(1)
        if found == FAILED:
            (size,) = REASON.unpack(self._read(REASON.size))
            raise _failure(self._read(size).decode())
        if found != kind:
            raise _failure(f"it answered {found!r} where {kind!r} was due")

    def _gone(self) -> SecureDLError:
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return _failure("it fell silent")
        assert self._process.stderr is not None
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return _failure(": ".join([f"it ended with status {code}", *said[-1:]]))


def _failure(reason: str) -> SecureDLError:
    return SecureDLError(
        f"a process that helps to encrypt weights failed: {reason}; with Owner(plan, processes=1) this "
        "process does all the work"
    )
