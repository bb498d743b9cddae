"""Mutated messages, in both directions: every one is refused with a reason, none crashes anything.

The bulk runs on the sessions themselves, without sockets; a part of each kind crosses real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import grpc
import numpy as np
import pytest
from hostile import content, fields, flip, signed
from protocol_fakes import FakeBackend, FakeBatch, FakeOwner, predict

from protocol import Client, Store, sessions
from protocol import messages_pb2 as pb
from protocol.asking import Clock, Line, answered
from protocol.executor import Here
from protocol.expect import Expectations
from protocol.link import Stream
from protocol.models import load_model
from protocol.service import handler, method_path
from protocol.wire import (
    CHUNK_BYTES,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    Receiver,
    done_digest,
    frames,
    session_id,
)
from securedl.errors import FormatError, ProtocolError

REFUSALS = (ProtocolError, FormatError)
OWNER = FakeOwner()
EXPECTED = Expectations.of(OWNER.program)
PARAMS = OWNER.program.params


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A loaded model."""
    store = Store(tmp_path_factory.mktemp("store"))
    stored = store.create("local", OWNER.model_id, OWNER.program)
    with stored.writer() as writer:
        for number, step in enumerate(stored.table.keys):
            writer.write(number, OWNER.key(step))
        for index in range(len(stored.table.shapes)):
            writer.write(len(stored.table.keys) + index, OWNER.weight(index))
    return load_model(stored, FakeBackend(), 1, 1 << 30)


def hello() -> bytes:
    return pb.Hello(
        version=PROTOCOL_VERSION,
        model_id=OWNER.model_id,
        program_id=OWNER.program.id,
        nonce=bytes(NONCE_BYTES),
        program_bytes=len(OWNER.program.to_json()),
    ).SerializeToString()


QUERY = FakeBatch(OWNER, 0)._fresh(OWNER.program.query)


def changed(sent: list[bytes], session: bytes, shape, digest: str, rng: np.random.Generator) -> list[bytes]:
    """A sequence of frames with one of them changed."""
    at = int(rng.integers(len(sent)))
    if digest == "left":
        if rng.random() < 0.7:
            return [*sent[:at], *flip(sent[at], rng), *sent[at + 1 :]]
        return [*sent[:at], fields(sent[at], rng).SerializeToString(), *sent[at + 1 :]]
    if rng.random() < 0.5:
        frame = fields(sent[at], rng)
    else:
        frame = content(sent[at], PARAMS, shape, rng)
    return [*sent[:at], signed(frame, session), *sent[at + 1 :]]


def attack_server(model, digest: str, rng: np.random.Generator) -> None:
    """One query with one changed frame must end before the first refresh leaves."""
    mutated: list[bytes] = []
    sent: list[bytes] = []

    def source() -> Iterator[bytes]:
        session = session_id("Predict", hello(), welcome)
        sent.extend(f for i, tile in enumerate(QUERY) for f in frames(session, pb.QUERY, i, tile))
        mutated.extend(changed(sent, session, EXPECTED.query.shape, digest, rng))
        yield from mutated

    stream = sessions.predict(model, Here(), hello(), source(), lambda: True, sessions.Traffic())
    welcome = next(stream)
    out: list[bytes] = []
    with pytest.raises(REFUSALS):
        out.extend(_each(stream, out))
    # Only a frame too many is looked at after the query: it is refused where a refresh was due.
    assert mutated != sent
    assert not out or mutated[: len(sent)] == sent


def _each(stream: Iterator[bytes], out: list[bytes]) -> list[bytes]:
    """Run a stream to its end, keeping what it gave."""
    for message in stream:
        out.append(message)
    return []


def attack_client(digest: str, rng: np.random.Generator) -> None:
    """One tap or refresh with one changed frame must be refused before the owner sees it."""
    batch, session, messages = _Recorder(), bytes(32), list[list[bytes]]()
    for stage, (down, _) in enumerate(EXPECTED.shown):
        tiles = [batch.record(down.shape, rng) for _ in range(down.tiles)]
        messages.append(
            [f for i, tile in enumerate(tiles) for f in frames(session, down.kind, i, tile, 0, stage)]
        )
    at = int(rng.integers(len(messages)))
    sent = messages[at]
    mutated = changed(sent, session, EXPECTED.shown[at][0].shape, digest, rng)
    if mutated[: len(sent)] == sent:
        return  # a frame too many: refused when the next message is due, which this test does not reach
    source = chain(*messages[:at], mutated)
    with pytest.raises(REFUSALS):
        list(answered([Line(_Sink(), session, Receiver(session, source), [batch], EXPECTED)], Clock()))
    assert len(batch.seen) == at


class _Sink(Stream):
    """Leads nowhere."""

    def __init__(self) -> None:
        pass

    def send(self, messages: Iterable[bytes]) -> None:
        for _ in messages:
            pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Recorder(FakeBatch):
    """Keeps what reaches the owner."""

    def __init__(self) -> None:
        super().__init__(OWNER, 1)
        self.seen: list[object] = []

    def record(self, shape, rng: np.random.Generator) -> bytes:
        from protocol_fakes import random_record

        from securedl.he.record import pack

        return pack(PARAMS, random_record(PARAMS, shape, rng))

    def query(self) -> list[bytes]:
        return QUERY

    def tap(self, index: int, tiles: list[bytes]) -> None:
        self.seen.append(tiles)

    def refresh(self, index: int, tiles: list[bytes]) -> list[bytes]:
        self.seen.append(tiles)
        _, back = OWNER.program.shown[index]
        assert back is not None
        return self._fresh(back)


@pytest.mark.parametrize("digest", ["left", "made anew"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_two_thousand_changed_messages(model, side: str, digest: str) -> None:
    run_attacks(model, side, digest, 500)


@pytest.mark.slow
@pytest.mark.parametrize("digest", ["left", "made anew"])
@pytest.mark.parametrize("side", ["server", "client"])
def test_twelve_thousand_changed_messages(model, side: str, digest: str) -> None:
    run_attacks(model, side, digest, 3000)


def run_attacks(model, side: str, digest: str, count: int) -> None:
    rng = np.random.default_rng([count, side == "server", digest == "left"])
    for _ in range(count):
        attack_server(model, digest, rng) if side == "server" else attack_client(digest, rng)


def test_changed_messages_on_a_real_socket(serve) -> None:
    """200 of each; the server refuses each with its reason, and works on."""
    server, rng = serve(), np.random.default_rng(5)
    with Client(server.address, OWNER) as client:
        client.upload()
        with grpc.insecure_channel(server.address) as channel:
            call = channel.stream_stream(method_path("Predict"))
            for number in range(400):
                code = _attack_socket(call, ("left", "made anew")[number % 2], rng)
                assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
        assert predict(client, 1).passed


def _attack_socket(call, digest: str, rng: np.random.Generator):
    import queue

    waiting: queue.SimpleQueue = queue.SimpleQueue()
    waiting.put(hello())
    running = call(iter(waiting.get, None), timeout=10)
    session = session_id("Predict", hello(), next(running))
    sent = [f for i, tile in enumerate(QUERY) for f in frames(session, pb.QUERY, i, tile)]
    for frame in changed(sent, session, EXPECTED.query.shape, digest, rng):
        waiting.put(frame)
    waiting.put(None)
    with pytest.raises(grpc.RpcError) as caught:
        list(running)
    return caught.value.code()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0",
        b"\xff" * 100,
        pb.Hello(version=PROTOCOL_VERSION).SerializeToString(),
        pb.Hello(version=2, model_id=bytes(16), program_id=bytes(16), nonce=bytes(32)).SerializeToString(),
        pb.Hello(
            version=1, model_id=b"../../etc/passwd", program_id=bytes(16), nonce=bytes(32)
        ).SerializeToString(),
        pb.Hello(
            version=1, model_id=bytes(16), program_id=bytes(16), nonce=bytes(32), program_bytes=2**63
        ).SerializeToString(),
    ],
)
@pytest.mark.parametrize("method", ["Predict", "Upload"])
def test_bad_greetings(serve, raw: bytes, method: str) -> None:
    with grpc.insecure_channel(serve().address) as channel:
        running = channel.stream_stream(method_path(method))(iter([raw]), timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            list(running)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("program", [b"{}", b"[1,", b"null", b'{"version":1}', b"[" * 100_000, b"\xff\xfe"])
def test_bad_programs(serve, tmp_path, program: bytes) -> None:
    with Client(serve().address, OWNER) as client:
        (known,) = client._models()
        client._known = (replace(known, json=program),)
        with pytest.raises(ProtocolError):
            client.upload()
    assert not list((tmp_path / "store").glob("clients/*/*"))


class EvilServer:
    """Speaks the protocol, with the method given here in place of a real one."""

    def __init__(self, predict=None, upload=None, version: int = PROTOCOL_VERSION) -> None:
        self._predict, self._upload, self._version = predict, upload, version

    def describe(self, requests, context):
        yield pb.Description(version=self._version, chunk_bytes=CHUNK_BYTES).SerializeToString()

    def status(self, requests, context):
        yield b""

    remove = status

    def upload(self, requests, context):
        yield from self._upload(requests)

    def predict(self, requests, context):
        yield from self._predict(requests)


@pytest.fixture
def evil():
    """Start evil servers; each gives its address."""
    from concurrent.futures import ThreadPoolExecutor

    started = []

    def start(**methods) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((handler(EvilServer(**methods)),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        started.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in started:
        server.stop(0).wait()


def test_another_version(evil) -> None:
    with pytest.raises(ProtocolError, match=r"version 7.*upgrade"), Client(evil(version=7), OWNER):
        pass


def test_hostile_welcomes(evil) -> None:
    good = pb.Welcome(version=PROTOCOL_VERSION, nonce=bytes(32))
    bad = [b"", b"\xff\xff", pb.Welcome(version=PROTOCOL_VERSION).SerializeToString()]
    bad += [pb.Welcome(version=9, nonce=bytes(32)).SerializeToString()]
    bad += [pb.Welcome(version=PROTOCOL_VERSION, nonce=bytes(32), needs_program=True).SerializeToString()]
    turn = iter(bad)
    with Client(evil(predict=lambda requests: iter([next(turn)])), OWNER) as client:
        for _ in bad:
            with pytest.raises(ProtocolError):
                client.predict(1)
    for runs in ([(0, 10**6)], [(5, 1), (2, 1)], [(2**32 - 1, 2**32 - 1)], [(0, 0)]):
        raw = good.SerializeToString()
        raw += pb.Welcome(missing=[pb.Range(first=f, count=c) for f, c in runs]).SerializeToString()
        address = evil(upload=lambda requests, raw=raw: iter([raw]))
        with Client(address, OWNER) as client, pytest.raises(ProtocolError, match="blobs"):
            client.upload()


def test_a_server_that_lies_about_an_upload(evil) -> None:
    def upload(requests):
        yield pb.Welcome(version=PROTOCOL_VERSION, nonce=bytes(32)).SerializeToString()
        yield pb.Done(blobs=3, digest=bytes(32)).SerializeToString()

    with Client(evil(upload=upload), OWNER) as client, pytest.raises(ProtocolError, match="account"):
        client.upload()


@pytest.mark.parametrize("runs", [[(0, 1)], None], ids=["one part", "all"])
def test_a_server_that_always_misses_something(evil, runs) -> None:
    """Each part is sent once; a server that has it nevertheless not is not fed for ever."""
    streams: list[int] = []

    def upload(requests):
        hello = next(requests)
        welcome = pb.Welcome(version=PROTOCOL_VERSION, nonce=bytes(32), needs_program=runs is None)
        welcome.missing.extend(pb.Range(first=f, count=c) for f, c in runs or [])
        yield (raw := welcome.SerializeToString())
        found = [pb.Frame.FromString(frame) for frame in requests]
        blobs = [frame for frame in found if frame.kind != pb.PROGRAM]
        done = pb.Done(blobs=len(blobs), blob_bytes=sum(len(frame.data) for frame in blobs), remaining=1)
        done.digest = done_digest(session_id("Upload", hello, raw), done)
        streams.append(len(blobs))
        assert len(streams) < 5
        yield done.SerializeToString()

    with (
        Client(evil(upload=upload), OWNER) as client,
        pytest.raises(ProtocolError, match=r"asks again for \d+ parts"),
    ):
        client.upload()
    assert sum(blobs > 0 for blobs in streams) == 1  # a second stream was ended at once


def test_a_server_that_changes_its_own_messages(evil, model) -> None:
    """The honest session behind a hand that changes one message: the client refuses each."""
    rng = np.random.default_rng(8)

    def predict(requests):
        raw = next(requests)
        out = sessions.predict(model, Here(), raw, requests, lambda: True, sessions.Traffic())
        yield next(out)
        target = int(rng.integers(2))
        for number, frame in enumerate(out):
            changed = flip(frame, rng) if number == target else [frame]
            if not changed:
                return
            yield from changed

    with Client(evil(predict=predict), OWNER, timeout_s=10) as client:
        for _ in range(100):
            with pytest.raises(ProtocolError):
                client.predict(1)


def test_a_server_that_asks_for_a_refresh_too_many(evil, model) -> None:
    """A replayed refresh is not decrypted again."""

    def predict(requests):
        raw = next(requests)
        out = sessions.predict(model, Here(), raw, requests, lambda: True, sessions.Traffic())
        yield next(out)
        refresh = next(out)
        yield refresh
        yield refresh

    with Client(evil(predict=predict), OWNER) as client, pytest.raises(ProtocolError, match="should be"):
        client.predict(1)
