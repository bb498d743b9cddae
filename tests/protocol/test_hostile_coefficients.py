"""Mutated messages of a program in the coefficient form, with real keys: uploads, queries and refreshes to
the server; refreshes and answers, cut to four bytes a coefficient, to the client. Every one is refused with a
reason, none crashes anything, and nothing that is malformed is decrypted.

Four bytes are all of a cut coefficient's range, so any of them are a ciphertext: whether it is the right one
is for the checks of values to say. Of its bytes only header and length can be wrong.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hostile import fields, flip, signed
from protocol_fakes import random_record

from protocol import Client, Store, sessions
from protocol import messages_pb2 as pb
from protocol.asking import Clock, Line, answered
from protocol.executor import Here
from protocol.expect import Expectations, Expected
from protocol.link import Stream
from protocol.models import load_model
from protocol.wire import ID_BYTES, NONCE_BYTES, PROTOCOL_VERSION, Receiver, frames, session_id
from securedl.client.batch import Batch
from securedl.errors import FormatError, ProtocolError
from securedl.he.params import Parameters
from securedl.he.record import HEADER, Record, Shape, chain, key_shape, pack, residue_bytes, unpack
from securedl.he.vector.backend import VectorBackend

pytestmark = pytest.mark.he
REFUSALS = (ProtocolError, FormatError)


@dataclass(frozen=True)
class Blob:
    """What an honest side sends, and the shape of its first record; None for a program."""

    kind: int
    stage: int
    index: int
    data: bytes
    shape: Shape | None

    def frames(self, session: bytes) -> list[bytes]:
        """It takes one."""
        return list(frames(session, self.kind, self.index, self.data, 0, self.stage))


class Counting:
    """A decryptor that counts; everything else is the real one's."""

    def __init__(self, real: Any) -> None:
        self.real, self.count = real, 0

    def decrypt(self, *given: Any) -> Any:
        self.count += 1
        return self.real.decrypt(*given)


class Honest:
    """A model, and every blob of one upload and one query of it.

    Attributes:
        uploaded, up, down: blobs of an upload, and of a query to the server and from it.
    """

    def __init__(self, store: Store, plan: Any, x: np.ndarray) -> None:
        import securedl

        self.owner, self.x = securedl.Owner(plan), x
        self.program, self.params = self.owner.program, self.owner.program.params
        self.expected = Expectations.of(self.program)
        keys: Any = self.owner.keys
        keys._decryptor = self.decryptor = Counting(keys._decryptor)
        self.uploaded = list(self._blobs())
        stored = store.create("local", self.owner.model_id, self.program)
        with stored.writer() as writer:
            for number, blob in enumerate(self.uploaded[1:]):
                writer.write(number, blob.data)
        self.model = load_model(stored, VectorBackend(), 1, 1 << 30)
        self.up, self.down = self._query()

    def batch(self) -> Batch:
        """One query, without checks: they look at values, and must not be what refuses."""
        count = self.program.batch
        flat = self.x[:count].reshape(count, -1)
        return Batch(self.owner.keys, self.owner.plan.signature, flat, 0, [])

    def hello(self, model_id: bytes) -> bytes:
        return pb.Hello(
            version=PROTOCOL_VERSION,
            model_id=model_id,
            program_id=self.program.id,
            nonce=bytes(NONCE_BYTES),
            program_bytes=len(self.program.to_json()),
        ).SerializeToString()

    def _blobs(self) -> Iterator[Blob]:
        yield Blob(pb.PROGRAM, 0, 0, self.program.to_json(), None)
        for index, step in enumerate([None, *self.program.rotations]):
            yield Blob(pb.KEY, 0, index, self.owner.key(step), key_shape(self.params))
        weights = zip(self.owner.weights(), self.program.weight_shapes, strict=True)
        for index, (data, shape) in enumerate(weights):
            yield Blob(pb.WEIGHT, 0, index, data, shape)

    def _query(self) -> tuple[list[Blob], list[Blob]]:
        batch, up, down = self.batch(), list[Blob](), list[Blob]()
        evaluation = Here().begin(self.model, lambda: True)

        def send(tiles: list[bytes], expected: Expected, stage: int) -> list[bytes]:
            up.extend(Blob(expected.kind, stage, k, tile, expected.shape) for k, tile in enumerate(tiles))
            records = evaluation.step(unpack(self.params, tile, expected.shape) for tile in tiles)
            return [pack(self.params, record) for record in records]

        def take(tiles: list[bytes], expected: Expected, stage: int) -> list[bytes]:
            down.extend(Blob(expected.kind, stage, k, tile, expected.shape) for k, tile in enumerate(tiles))
            return tiles

        tiles = send(batch.query(), self.expected.query, 0)
        for stage, (sent, back) in enumerate(self.expected.refreshes):
            tiles = send(batch.refresh(stage, take(tiles, sent, stage)), back, stage)
        batch.finish(take(tiles, self.expected.answer, 0))
        assert batch.answer is not None
        assert not batch.alarms
        return up, down


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Honest:
    import torch
    from torch import nn

    import securedl

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3),
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(20, 3, 16, 16))
    plan = securedl.compile(net, x, activations="client", batch=3)
    return Honest(Store(tmp_path_factory.mktemp("store")), plan, x)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Honest:
    """Squares in slots between layers: refreshes that are cut, and others that are not."""
    import torch
    from torch import nn

    import securedl
    from securedl.compiler.rounds import Wanted, compile_rounds
    from securedl.network.outputs import Output
    from securedl.network.partition import partition
    from securedl.network.polynomial import PolynomialActivation

    torch.manual_seed(0)
    square = PolynomialActivation(np.array([0.4, 0.5, 0.3]), (-3, 3))
    net = nn.Sequential(nn.Linear(300, 60), square, nn.Linear(60, 3))
    x = np.random.default_rng(0).normal(size=(20, 300))
    found = partition(net, (300,), polynomials=True)
    wanted = Wanted(2, True, securedl.Link(), None, (), Output((3,), "classes"), 8.0)
    plan = compile_rounds(found.script, found.kernels, x, wanted)
    return Honest(Store(tmp_path_factory.mktemp("store")), plan, x)


def test_what_is_attacked(honest: Honest) -> None:
    """It merges, refreshes, has rotation keys, and no message of one tile only."""
    assert max(getattr(step, "merge", 0) for step in honest.program.steps) > 1
    assert len(honest.program.rotations) == 3
    assert [down.shape.cut for down, _ in honest.expected.refreshes] == [True, True]
    assert [blob.kind for blob in honest.up] == [pb.QUERY] * 3 + [pb.FRESH] * 2
    assert [blob.kind for blob in honest.down] == [pb.REFRESH] * 4 + [pb.ANSWER]
    assert all(len(blob.frames(bytes(32))) == 1 for blob in [*honest.uploaded, *honest.up, *honest.down])


# --- what is changed ---------------------------------------------------------------------------------


def malformed(params: Parameters, blob: Blob, rng: np.random.Generator) -> bytes:
    """A record that the program does not allow there, however it is signed."""
    shape, data = blob.shape, bytearray(blob.data)
    if shape is None:  # a program that is not the one that was named
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        return bytes(data)
    choice = rng.integers(4)
    if choice == 0 and not shape.cut:
        return _with_a_residue(data, params, shape, rng)
    if choice == 1:
        return _of_another_shape(params, blob, rng)
    return _with_a_field(data, params, shape, rng)


def _with_a_field(data: bytearray, params: Parameters, shape: Shape, rng: np.random.Generator) -> bytes:
    scale = shape.scale
    table: list[tuple[int, str, list[bytes | float]]] = [
        (0, "<4s", [b"SDL2", b"SDL0", bytes(4)]),
        (4, "<16s", [bytes(16), b"\xff" * 16, params.id[1:] + b"\0"]),
        (20, "<B", [shape.level + 1, shape.level + 2, 255]),
        (21, "<B", [n for n in (0, 1, 2, 3, 255) if n != shape.size]),
        (22, "<B", [n for n in (0, 1, 2, 255) if n != shape.seeded]),
        (23, "<B", [n for n in (0, 1, 2, 255) if n != shape.cut]),
        (24, "<d", [0.0, -scale, 2 * scale, np.nextafter(scale, 0), float("nan"), float("inf")]),
        (32, "<Q", [0, 2, 1 << 32, (1 << 64) - 1]),
    ]
    offset, form, values = table[rng.integers(len(table))]
    struct.pack_into(form, data, offset, values[int(rng.integers(len(values)))])
    return bytes(data)


def _with_a_residue(data: bytearray, params: Parameters, shape: Shape, rng: np.random.Generator) -> bytes:
    """At or above its prime."""
    primes = chain(params, shape.level)
    widths, row = [residue_bytes(q) for q in primes], int(rng.integers(len(primes)))
    at = HEADER.size + params.ring * sum(widths[:row]) + int(rng.integers(params.ring)) * widths[row]
    top = (1 << 8 * widths[row]) - 1
    value = [primes[row], top, int(rng.integers(primes[row], top))][rng.integers(3)]
    data[at : at + widths[row]] = value.to_bytes(widths[row], "little")
    return bytes(data)


def _of_another_shape(params: Parameters, blob: Blob, rng: np.random.Generator) -> bytes:
    """A good record, but cut where it should not be, or the other way round; also brought to the due length,
    or with the due header.
    """
    due = blob.shape
    assert due is not None
    cut = Shape(0, 2, due.scale, cut=True)
    others = [cut, replace(cut, cut=False), replace(cut, cut=False, seeded=True), Shape(0, 1, due.scale)]
    others += [Shape(1, 2, due.scale, seeded=True), Shape(1, 2, due.scale), Shape(0, 3, due.scale)]
    others.remove(due) if due in others else None
    shape = others[int(rng.integers(len(others)))]
    record = random_record(params, replace(shape, cut=False), rng)
    residues = record.residues >> np.uint64(16) if shape.cut else record.residues
    data = pack(params, Record(shape, residues, record.seed))
    how = rng.integers(3)
    if how == 0:
        return (data + bytes(len(blob.data)))[: len(blob.data)]
    if how == 1 and len(data) != len(blob.data):
        return blob.data[: HEADER.size] + data[HEADER.size :]
    return data


def changed(
    params: Parameters, blobs: Sequence[Blob], session: bytes, anew: bool, rng: np.random.Generator
) -> tuple[list[bytes], int]:
    """Frames of the blobs, not all of them as they should be; and how many are before the first that is not.

    Args:
        anew: whether what is changed has the digest that its sender would give it.
    """
    sent = [frame for blob in blobs for frame in blob.frames(session)]
    while True:
        found = _changed(params, blobs, sent, session, anew, rng)
        if found != sent:
            pairs = zip(sent, found, strict=False)
            return found, next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(sent), len(found)))


def _changed(
    params: Parameters,
    blobs: Sequence[Blob],
    sent: list[bytes],
    session: bytes,
    anew: bool,
    rng: np.random.Generator,
) -> list[bytes]:
    at, other = (int(n) for n in rng.integers(len(sent), size=2))
    before, frame, after = sent[:at], sent[at], sent[at + 1 :]
    kind = rng.integers(10)
    if kind == 0:  # reordered
        order = list(sent)
        order[at], order[other] = order[other], order[at]
        return order
    if kind == 1:  # one elsewhere
        left = before + after
        return [*left[:other], frame, *left[other:]]
    if kind == 2:  # the end missing
        return sent[: max(1, at)]
    if kind == 3:  # one too many
        return [*before, sent[other], frame, *after] if at else [*sent, sent[other]]
    if kind == 4:  # one in another's place, or of another session
        foreign = blobs[other].frames(session if anew else bytes(32))
        return [*before, *foreign, *after]
    if not anew:
        return [*before, *flip(frame, rng), *after]
    if kind <= 6:
        return [*before, signed(fields(frame, rng), session), *after]
    message: Any = pb.Frame.FromString(frame)
    message.data = malformed(params, blobs[at], rng)
    return [*before, signed(message, session), *after]


# --- a hostile client --------------------------------------------------------------------------------


def attack_server(honest: Honest, anew: bool, rng: np.random.Generator) -> None:
    """What comes back is due for the whole messages before the first change, and no more."""
    good = 0

    def source() -> Iterator[bytes]:
        nonlocal good
        session = session_id("Predict", raw, welcome)
        mutated, good = changed(honest.params, honest.up, session, anew, rng)
        yield from mutated

    raw, got = honest.hello(honest.owner.model_id), list[bytes]()
    stream = sessions.predict(honest.model, Here(), raw, source(), lambda: True, sessions.Traffic())
    welcome = next(stream)
    with pytest.raises(REFUSALS):
        got.extend(_each(stream, got))
    assert len(got) == replies(honest, good)


def _each(stream: Iterator[bytes], got: list[bytes]) -> list[bytes]:
    """Run a stream to its end, keeping what it gave."""
    for message in stream:
        got.append(message)
    return []


def replies(honest: Honest, good: int) -> int:
    """Tiles that are due when so many tiles of the client have come."""
    expected, due = honest.expected, 0
    downs = [*(down for down, _ in expected.refreshes), expected.answer]
    for up, down in zip([expected.query, *(up for _, up in expected.refreshes)], downs, strict=True):
        good -= up.tiles
        due += down.tiles * (good >= 0)
    return due


@pytest.mark.parametrize("anew", [False, True], ids=["digest left", "digest made anew"])
def test_a_hostile_client(honest: Honest, anew: bool) -> None:
    run(attack_server, honest, anew, 100)


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True], ids=["digest left", "digest made anew"])
def test_a_hostile_client_for_long(honest: Honest, anew: bool) -> None:
    run(attack_server, honest, anew, 3000)


def run(attack: Any, honest: Honest, anew: bool, count: int) -> None:
    rng = np.random.default_rng([count, anew])
    for _ in range(count):
        attack(honest, anew, rng)


# --- a hostile upload --------------------------------------------------------------------------------


def attack_store(honest: Honest, store: Store, anew: bool, rng: np.random.Generator) -> None:
    """Only what came whole and right is kept."""
    model_id = rng.bytes(ID_BYTES)
    raw, hello = sessions.read_hello(iter([honest.hello(model_id)]))
    good = 0

    def source() -> Iterator[bytes]:
        nonlocal good
        session = session_id("Upload", raw, welcome)
        mutated, good = changed(honest.params, honest.uploaded, session, anew, rng)
        yield from mutated

    stream = sessions.upload(store, "local", raw, hello, source(), sessions.Traffic())
    welcome = next(stream)
    with pytest.raises(REFUSALS):
        next(stream)
    stored = store.find("local", model_id)
    if good == 0:
        assert stored is None
        return
    assert stored is not None
    assert stored.missing() == list(range(good - 1, len(honest.uploaded) - 1))
    blobs = stored.reader()
    assert all(blobs[k] == honest.uploaded[k + 1].data for k in range(good - 1))
    store.remove("local", model_id)


def test_a_hostile_upload(honest: Honest, tmp_path) -> None:
    upload(honest, Store(tmp_path), 30)


@pytest.mark.slow
def test_a_hostile_upload_for_long(honest: Honest, tmp_path) -> None:
    upload(honest, Store(tmp_path), 600)


def upload(honest: Honest, store: Store, count: int) -> None:
    rng = np.random.default_rng(count)
    for number in range(count):
        attack_store(honest, store, bool(number % 2), rng)


# --- a hostile server --------------------------------------------------------------------------------


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


def attack_client(honest: Honest, anew: bool, rng: np.random.Generator) -> None:
    """What is decrypted are the whole messages before the first change."""
    session, batch, before = rng.bytes(32), honest.batch(), honest.decryptor.count
    mutated, good = changed(honest.params, honest.down, session, anew, rng)
    receiver = Receiver(session, iter(mutated))
    line = Line(_Sink(), session, receiver, [batch], honest.expected)
    if good == len(honest.down):
        list(answered([line], Clock()))
        assert not receiver.ended()  # a frame too many: `Client.predict` refuses it
    else:
        with pytest.raises(ProtocolError):
            list(answered([line], Clock()))
        assert batch.answer is None
    due = [*(down.tiles for down, _ in honest.expected.refreshes), honest.expected.answer.tiles]
    whole = max(n for n in (0, *np.cumsum(due)) if n <= good)
    assert honest.decryptor.count - before == whole


@pytest.mark.parametrize("anew", [False, True], ids=["digest left", "digest made anew"])
def test_a_hostile_server(honest: Honest, anew: bool) -> None:
    run(attack_client, honest, anew, 100)


@pytest.mark.slow
@pytest.mark.parametrize("anew", [False, True], ids=["digest left", "digest made anew"])
def test_a_hostile_server_for_long(honest: Honest, anew: bool) -> None:
    run(attack_client, honest, anew, 3000)


def attack_batch(honest: Honest, anew: bool, rng: np.random.Generator) -> None:
    """What the protocol hands to the secret side is looked at there once more: it relies on nobody."""
    batch, tiles = honest.batch(), [blob.data for blob in honest.down]
    downs = [*(down for down, _ in honest.expected.refreshes), honest.expected.answer]
    ends = [0, *np.cumsum([down.tiles for down in downs])]
    stage = int(rng.integers(len(downs)))
    batch.query()
    for number in range(stage):
        batch.refresh(number, tiles[ends[number] : ends[number + 1]])
    mine, whole = tiles[ends[stage] : ends[stage + 1]], 0
    at, kind = int(rng.integers(len(mine))), rng.integers(8)
    if kind == 0:
        mine = mine[:at]
    elif kind == 1:
        mine = [*mine, mine[at]]
    elif kind == 2:  # at another time than its own
        stage = int(rng.choice([k for k in (-1, 0, 1, 2, 3, 1 << 40) if k != stage]))
        mine = [tiles[0]] * (downs[stage].tiles if 0 <= stage < len(downs) else 1)
    else:
        whole = at  # ciphertexts that the program allows come first
        cut, data = int(rng.integers(len(mine[at]))), mine[at]
        wrong = [data[:cut], data + data[: cut + 1]][kind % 2] if kind < 5 else b""
        mine[at] = wrong or malformed(honest.params, honest.down[ends[stage] + at], rng)
    before = honest.decryptor.count
    with pytest.raises(REFUSALS):
        batch.finish(mine) if stage == len(downs) - 1 else batch.refresh(stage, mine)
    assert honest.decryptor.count - before == whole
    assert batch.answer is None


def test_a_batch_by_itself(honest: Honest) -> None:
    run(attack_batch, honest, False, 100)


@pytest.mark.slow
def test_a_batch_by_itself_for_long(honest: Honest) -> None:
    run(attack_batch, honest, True, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [attack_server, attack_client, attack_batch])
def test_with_squares_in_slots(mixed: Honest, attack: Any) -> None:
    assert [down.shape.cut for down, _ in mixed.expected.refreshes] == [True, False]
    assert [up.shape.level for _, up in mixed.expected.refreshes] == [1, 0]
    for anew in (False, True):
        run(attack, mixed, anew, 500)


# --- on a real socket --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["asking", "sessions"])
def test_on_a_real_socket(honest: Honest, serve, side: str, monkeypatch) -> None:
    """One frame of each stream is another than it should be, of either side; both work on.

    A stream that was refused may go on sending while the next one begins: each counts its own frames.
    """
    import protocol.asking
    import protocol.sessions

    module = {"asking": protocol.asking, "sessions": protocol.sessions}[side]
    server = serve(evaluator="vector")
    sent = honest.up if side == "asking" else honest.down
    streams: dict[bytes, tuple[np.random.Generator, int, Iterator[int]]] = {}

    def frames_of(session: bytes, kind: int, index: int, data: bytes, query: int, stage: int) -> Any:
        if session not in streams:
            rng = np.random.default_rng([3, len(streams)])
            streams[session] = rng, int(rng.integers(len(sent))), itertools.count()
        rng, target, numbers = streams[session]
        for frame in frames(session, kind, index, data, query, stage):
            if next(numbers) != target:
                yield frame
            elif rng.random() < 0.5:
                yield from flip(frame, rng) or [frame[:-1]]
            else:
                message: Any = pb.Frame.FromString(frame)
                message.data = malformed(honest.params, replace(sent[target], data=data), rng)
                yield signed(message, session)

    with Client(server.address, honest.owner, timeout_s=20) as client:
        client.upload()
        with monkeypatch.context() as patched:
            patched.setattr(module, "frames", frames_of)
            for _ in range(25):
                with pytest.raises(ProtocolError):
                    client.predict(honest.x[:3], probes=0)
        assert client.predict(honest.x[:3], probes=0).report.passed
