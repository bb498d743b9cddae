"""The server's side of the two streams: generators from the client's bytes to the server's."""

from __future__ import annotations

import contextlib
import hashlib
import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from protocol import messages_pb2 as pb
from protocol.executor import Evaluation, Executor
from protocol.expect import Expected
from protocol.models import ServedModel
from protocol.store import Store
from protocol.stored import BlobWriter, StoredModel
from protocol.wire import (
    ID_BYTES,
    MAX_PROGRAM,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Receiver,
    done_digest,
    expand_ranges,
    frames,
    parse,
    ranges,
    session_id,
)
from securedl.errors import FormatError, ProtocolError, ServerError
from securedl.he.record import Record, Shape, pack, unpack
from securedl.program.program import Program

#: Runs of missing blobs that one Welcome names; an upload with more of them takes several streams.
MAX_RANGES = 4096


@dataclass
class Traffic:
    """Figures of one stream: payload bytes, queries or blobs, and what queries took.

    Attributes:
        wait_s, evaluate_s, send_s: until the client's tiles were there, computing, until it took the results.
        cpu_s: of this thread, computing, and of those that compute for it elsewhere.
    """

    received: int = 0
    sent: int = 0
    items: int = 0
    wait_s: float = 0.0
    evaluate_s: float = 0.0
    send_s: float = 0.0
    cpu_s: float = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.wait_s += time.perf_counter() - began

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the time of the block, and the processor's."""
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.evaluate_s += time.perf_counter() - began
            self.cpu_s += time.thread_time() - cpu

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Count the time of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.send_s += time.perf_counter() - began


class Turns:
    """What is done around the queries of a stream: nothing."""

    def between(self) -> contextlib.AbstractContextManager[None]:
        """Around the wait for the next query, or the end.

        Raises:
            UnreachableError: the stream shall end here.
        """
        return contextlib.nullcontext()

    def begin(self) -> None:
        """A query came.

        Raises:
            QuotaError: it shall not be evaluated.
        """

    def end(self) -> None:
        """It is answered."""


def read_hello(source: Iterator[bytes]) -> tuple[bytes, Any]:
    """The client's greeting, raw and parsed.

    Raises:
        ProtocolError: malformed, or of another version.
    """
    raw = next(source, None)
    if raw is None:
        raise ProtocolError("the stream ended before its Hello")
    hello: Any = parse(pb.Hello, raw)
    check_version(hello.version)
    lengths = (len(hello.model_id), len(hello.program_id), len(hello.nonce))
    if lengths != (ID_BYTES, ID_BYTES, NONCE_BYTES):
        raise ProtocolError(f"a Hello has ids of 16 bytes and a nonce of 32, got {lengths}")
    return raw, hello


def check_version(version: int) -> None:
    """Refuse another version of the protocol.

    Raises:
        ProtocolError: so it is.
    """
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the client speaks protocol version {version}, the server {PROTOCOL_VERSION}: upgrade the older "
            "side"
        )


def upload(
    store: Store, client: str, raw: bytes, hello: Any, source: Iterator[bytes], traffic: Traffic
) -> Iterator[bytes]:
    """Receive what is missing of a model. Whatever arrived whole is kept when this fails.

    Raises:
        ProtocolError, FormatError, QuotaError, ServerError: by their meaning.
    """
    stored = store.find(client, hello.model_id)
    if stored is None:
        if not 0 < hello.program_bytes <= MAX_PROGRAM:
            raise ProtocolError(f"a program has 1 to {MAX_PROGRAM} bytes, this one has {hello.program_bytes}")
        yield (welcome := _welcome(needs_program=True))
        receiver = Receiver(session := session_id("Upload", raw, welcome), source)
        data = receiver.blob(pb.PROGRAM, 0, hello.program_bytes)
        program = read_program(data, hello.program_id, store.limits.check)
        stored = store.create(client, hello.model_id, program)
        with stored.writer() as writer:
            if len(writer.missing()) < stored.figures.blobs:
                raise ProtocolError("another upload of this model began just now: call upload() again")
            yield _receive(stored, writer, range(stored.figures.blobs), session, receiver, traffic)
        return
    if stored.figures.program_id != hello.program_id:
        raise ProtocolError("the server keeps another plan under this model's id: remove it first")
    with stored.writer() as writer:
        runs = [pb.Range(first=f, count=c) for f, c in ranges(writer.missing(), MAX_RANGES)]
        yield (welcome := _welcome(missing=runs))
        session = session_id("Upload", raw, welcome)
        wanted = expand_ranges(runs, stored.figures.blobs)
        yield _receive(stored, writer, wanted, session, Receiver(session, source), traffic)


def _welcome(**fields: Any) -> bytes:
    welcome: Any = pb.Welcome(version=PROTOCOL_VERSION, nonce=secrets.token_bytes(NONCE_BYTES), **fields)
    raw: bytes = welcome.SerializeToString()
    return raw


def read_program(
    data: bytes, program_id: bytes, check: Callable[[Program], object] = lambda program: None
) -> Program:
    """The program of that id, from a stranger's bytes.

    Args:
        check: refuses it; called before what takes longer.

    Raises:
        FormatError: they are not, or are written in another way.
    """
    if hashlib.sha256(data).digest()[:ID_BYTES] != program_id:
        raise FormatError("the program is not the one that the Hello names")
    program = Program.from_json(data)
    check(program)
    if program.to_json() != data:
        raise FormatError("the program is written in another way than this version does")
    return program


def _receive(
    stored: StoredModel,
    writer: BlobWriter,
    wanted: Sequence[int],
    session: bytes,
    receiver: Receiver,
    traffic: Traffic,
) -> bytes:
    """Take the wanted blobs and put them on disk; the message that says so."""
    for number in wanted:
        blob = stored.table[number]
        index = number if blob.kind == pb.KEY else number - len(stored.table.keys)
        data = receiver.blob(blob.kind, index, blob.length)
        writer.write(number, data)
        traffic.items += 1
        traffic.received += len(data)
    if not receiver.ended():
        raise ProtocolError("the client sent more than was missing")
    writer.sync()
    remaining = len(writer.missing())
    done: Any = pb.Done(blobs=traffic.items, blob_bytes=traffic.received, remaining=remaining)
    done.digest = done_digest(session, done)
    raw: bytes = done.SerializeToString()
    return raw


def predict(
    model: ServedModel,
    executor: Executor[Any],
    raw: bytes,
    source: Iterator[bytes],
    alive: Callable[[], bool],
    traffic: Traffic,
    turns: Turns | None = None,
) -> Iterator[bytes]:
    """Answer query after query until the client closes its half.

    Raises:
        ProtocolError, FormatError: what came is not what the program says.
        UnreachableError, QuotaError: as `turns` says.
        ServerError: the evaluation failed.
    """
    welcome = _welcome()
    yield welcome
    session = session_id("Predict", raw, welcome)
    receiver = Receiver(session, source)
    turns = turns or Turns()
    while True:
        with turns.between():
            if receiver.ended():
                return
        turns.begin()
        with contextlib.closing(executor.begin(model, alive)) as evaluation:
            yield from _Query(model, session, receiver, traffic).run(evaluation)
        traffic.items += 1
        turns.end()


class _Query:
    """One query of a stream; its number is the queries before it."""

    def __init__(self, model: ServedModel, session: bytes, receiver: Receiver, traffic: Traffic) -> None:
        self._params, self._expected = model.program.params, model.expectations
        self._session, self._receiver = session, receiver
        self._traffic, self._number = traffic, traffic.items

    def run(self, evaluation: Evaluation) -> Iterator[bytes]:
        """Frames of the refreshes, the taps and the answer."""
        expected = self._expected
        sent = self._step(evaluation, self._receive(expected.query, 0))
        for stage, (down, up) in enumerate(expected.shown):
            yield from self._send(down, stage, sent)
            sent = self._step(evaluation, None if up is None else self._receive(up, stage))
        yield from self._send(expected.answer, 0, sent)

    def _step(self, evaluation: Evaluation, tiles: Iterator[Record] | None) -> list[Record]:
        before = evaluation.away_s
        try:
            with self._traffic.evaluating():
                return evaluation.step(tiles)
        finally:
            self._traffic.cpu_s += evaluation.away_s - before

    def _receive(self, expected: Expected, stage: int) -> Iterator[Record]:
        """The tiles of a message, all of which have arrived; each is checked when its turn comes."""
        with self._traffic.waiting():
            packed = expected.receive(self._receiver, self._number, stage)
        self._traffic.received += expected.bytes
        return (unpack(self._params, tile, expected.shape) for tile in packed)

    def _send(self, expected: Expected, stage: int, tiles: list[Record]) -> Iterator[bytes]:
        if len(tiles) != expected.tiles:
            raise ServerError(f"the evaluation gave {len(tiles)} tiles where {expected.tiles} are due")
        for index, tile in enumerate(tiles):
            data = self._pack(expected.shape, tile)
            self._traffic.sent += len(data)
            with self._traffic.sending():
                yield from frames(self._session, expected.kind, index, data, self._number, stage)

    def _pack(self, due: Shape, record: Record) -> bytes:
        """A result with the scale that the program names: the evaluator's own differs in its last bits."""
        found = record.shape
        if replace(found, scale=due.scale) != due:
            raise ServerError(f"the evaluation gave {found} where {due} is due")
        if not math.isclose(found.scale, due.scale, rel_tol=1e-6):
            raise ServerError(f"the evaluation gave scale {found.scale} where {due.scale} is due")
        return pack(self._params, Record(due, record.residues))
