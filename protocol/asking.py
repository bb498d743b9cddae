"""The client's side of the queries of one stream."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.expect import Expectations, Expected
from protocol.link import Stream
from protocol.waits import Dialogue, Wait
from protocol.wire import Receiver, frames
from securedl.errors import FormatError, ProtocolError
from securedl.he.record import unpack


class SecretQuery(Protocol):
    """One query of `securedl.client.inference.Inference`: packed tiles in, packed tiles out."""

    def query(self) -> list[bytes]:
        """The encrypted query."""

    def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
        """Decrypt and encrypt afresh."""

    def tap(self, index: int, tiles: list[bytes]) -> None:
        """Decrypt what the server shows, and goes on with."""

    def settle(self) -> None:
        """What can be done while the server works."""

    def finish(self, tiles: list[bytes]) -> None:
        """Take the answer."""


#: Of a call, in order.
STAGES = ("prepare", "connect", "encrypt", "server", "refresh", "verify", "decrypt", "caller")


class Clock:
    """Milliseconds by stage, of one call. One stage is running at any time, so that all together are the
    caller's wall clock; it starts in "prepare".
    """

    def __init__(self) -> None:
        self._ms = dict.fromkeys(STAGES, 0.0)
        self._since = time.perf_counter()
        self._stage: str | None = STAGES[0]

    def turn(self, stage: str | None) -> str | None:
        """Go over to a stage, or stop the clock; the stage before."""
        now, before = time.perf_counter(), self._stage
        if before is not None:
            self._ms[before] += 1e3 * (now - self._since)
        self._stage, self._since = stage, now
        return before

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of a block to a stage, and to no other."""
        before = self.turn(stage)
        try:
            yield
        finally:
            self.turn(before)

    def timings(self) -> dict[str, float]:
        """ms of the caller's wall clock since the call began, each counted once, and their sum "total".

        prepare: samples and probes find their places. connect: streams are opened until the server greets;
        and the pauses before it is asked again. encrypt: queries. server: waiting for server and network.
        refresh: decrypted, and encrypted afresh. verify: what came is compared; the server works meanwhile.
        decrypt: answers, with their last checks and the report. caller: what the program does that is given
        one part after another by `predict_batches`.
        """
        self.turn(self._stage)
        return {**self._ms, "total": sum(self._ms.values())}


@dataclass(frozen=True)
class Line:
    """One stream and what is asked on it.

    Attributes:
        session: its id.
    """

    stream: Stream
    session: bytes
    receiver: Receiver
    batches: Sequence[SecretQuery]
    expectations: Expectations


def answered(
    lines: Sequence[Line], clock: Clock, tick: Callable[[], object] = lambda: None
) -> Generator[Wait | int, None, None]:
    """Send every batch and take its answer, on all streams by turns, all of which have as many batches. What
    it waits for, and the numbers of those that are answered and verified, one by one. The next query is
    encrypted while the server works on one, and is on its way before the answer is decrypted.

    Args:
        tick: called once for each tap, refresh and answer (`steps`), after what is due then was sent.

    Raises:
        ProtocolError: the server sent anything but what the program says.
    """
    asked = [_Asking(line, clock, tick) for line in lines]
    try:
        for one in asked:
            one.begin()
        for number in range(max(len(line.batches) for line in lines)):
            for one in asked:
                yield from one.answer(number)
            yield number
    finally:  # a server that goes away escapes no alarm
        with clock("verify"):
            for line in lines:
                for batch in line.batches:
                    batch.settle()


def steps(lines: Sequence[Line]) -> int:
    """How often `answered` ticks."""
    return sum(len(line.batches) * (len(line.expectations.shown) + 1) for line in lines)


class _Asking:
    def __init__(self, line: Line, clock: Clock, tick: Callable[[], object]) -> None:
        self._tick = tick
        self._stream, self._session, self._receiver = line.stream, line.session, line.receiver
        self._clock, self.expected, self._batches = clock, line.expectations, line.batches

    def begin(self) -> None:
        """Send the first query."""
        if self._batches:
            self.send(self.expected.query, 0, self.encrypt(self._batches[0]))

    def answer(self, number: int) -> Dialogue[None]:
        """Take the answer of a batch, and send the next."""
        following = number + 1
        ready = self.encrypt(self._batches[following]) if following < len(self._batches) else None
        tiles = yield from self.follow(number, self._batches[number])
        if ready is not None:
            self.send(self.expected.query, following, ready)
        with self._clock("decrypt"):
            self._batches[number].finish(tiles)
        self._tick()

    def encrypt(self, batch: SecretQuery) -> list[bytes]:
        with self._clock("encrypt"):
            return batch.query()

    def follow(self, number: int, batch: SecretQuery) -> Dialogue[list[bytes]]:
        """The refreshes and taps that the program lists, in its order; packed tiles of the answer."""
        for stage, (down, up) in enumerate(self.expected.shown):
            tiles = yield from self._receive(down, number, stage)
            if up is None:
                with self._clock("verify"):
                    batch.tap(stage, tiles)
            else:
                with self._clock("refresh"):
                    fresh = batch.refresh(stage, tiles)
                self.send(up, number, fresh, stage)
            self._tick()
            with self._clock("verify"):
                batch.settle()
        return (yield from self._receive(self.expected.answer, number, 0))

    def send(self, expected: Expected, number: int, tiles: list[bytes], stage: int = 0) -> None:
        if [len(tile) for tile in tiles] != [expected.length] * expected.tiles:
            raise FormatError(
                f"{expected.tiles} tiles of {expected.length} bytes should be sent, got "
                f"{[len(tile) for tile in tiles]}"
            )
        for index, tile in enumerate(tiles):
            self._stream.send(frames(self._session, expected.kind, index, tile, number, stage))

    def _receive(self, expected: Expected, number: int, stage: int) -> Dialogue[list[bytes]]:
        with self._clock("server"):
            tiles = yield from expected.arriving(self._receiver, number, stage)
        with self._clock("verify"):
            for tile in tiles:
                try:
                    unpack(self.expected.params, tile, expected.shape)
                except FormatError as error:
                    raise ProtocolError(f"the server sent what is no valid tile: {error}") from error
        return tiles
