"""Mutated messages and programs against a server process: all refused, none dear, and it serves as before."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import protocol
from protocol import messages_pb2 as pb
from protocol.blobs import BlobTable
from protocol.expect import Expectations
from protocol.service import CLIENT_OPTIONS, method_path
from protocol.wire import ID_BYTES, NONCE_BYTES, PROTOCOL_VERSION, frames, session_id
from securedl.errors import SecureDLError
from securedl.program.program import Program

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol"))
from hostile import content, fields, flip, signed  # found by path, not by package
from yardstick import slowness

pytestmark = pytest.mark.he

#: What a refused request may cost: seconds of processor time, and bytes of memory beyond those before it.
MOST_S, MOST_BYTES = 0.2, 64 << 20
#: Between the first tenth of all messages and the end the server may have grown by so many bytes.
MOST_GROWTH = 32 << 20
REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """What the kernel says of a server."""

    pid: int

    def seconds(self) -> float:
        """Of processor time, so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _kib(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    def memory(self) -> int:
        """Bytes in use."""
        return 1024 * self._kib("VmRSS")

    def peak(self) -> int:
        """Bytes in use at most, since `forget`."""
        return 1024 * self._kib("VmHWM")

    def forget(self) -> None:
        """The peak begins anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@dataclass
class Attacker:
    """A client that sends what it likes, and knows what an honest one would."""

    channel: Any
    owner: Any
    rng: np.random.Generator
    #: Names that begin like a model's that is on the server.
    known: bytes
    query: list[bytes]
    accepted: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.program = self.owner.program
        self.json, self.expected = self.program.to_json(), Expectations.of(self.program)
        self.table = BlobTable(self.program)

    def hello(self, model_id: bytes, program: bytes | None = None) -> bytes:
        program = self.json if program is None else program
        return pb.Hello(
            version=PROTOCOL_VERSION, model_id=model_id, nonce=self.rng.bytes(NONCE_BYTES),
            program_id=hashlib.sha256(program).digest()[:ID_BYTES], program_bytes=len(program),
        ).SerializeToString()  # fmt: skip

    def call(self, method: str, first: bytes, after: Any = None) -> list[bytes]:
        """What came back; `after` makes the next messages of the session, once it has begun."""
        sending: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        sending.put(first)
        stream = self.channel.stream_stream(method_path(method))(iter(sending.get, None), timeout=30)
        back: list[bytes] = []
        try:
            if after is not None:
                back.append(next(stream))
                for message in after(session_id(method, first, back[0])):
                    sending.put(message)
            sending.put(None)
            back.extend(stream)
        except StopIteration:
            pass
        except grpc.RpcError as error:
            self.codes[error.code().name] += 1
            if error.code() not in REFUSALS:
                self.accepted.append(f"{method} ended with {error.code()}: {error.details()}")
        finally:
            sending.put(None)
        return back

    # The kinds of attack. Each tells whether the server had to do honest work, which may cost more.

    def greeting(self) -> bool:
        """A changed first message of a stream, or a short method's."""
        method = ("Predict", "Upload", "Status", "Remove", "Describe")[self.rng.integers(5)]
        if method in ("Predict", "Upload"):
            raw = self.hello(self.known)
        elif method == "Describe":
            raw = pb.DescribeRequest(version=PROTOCOL_VERSION).SerializeToString()
        else:
            raw = pb.ModelRequest(
                version=PROTOCOL_VERSION, model_id=self.rng.bytes(ID_BYTES)
            ).SerializeToString()
        changed = b"".join(flip(raw, self.rng))
        back = self.call(method, changed)
        taken = len(back) > 1 and (method == "Predict" or pb.Done.FromString(back[1]).blobs)
        if method in ("Predict", "Upload") and taken:  # of a whole model nothing is missing: none is taken
            self.accepted.append(f"{method}: a greeting alone was answered")
        return False

    def programs(self) -> bool:
        """An upload of a changed program under its own name."""
        data = self._changed_program()
        try:
            valid = Program.from_json(data).to_json() == data
        except SecureDLError:
            valid = False
        model = self.rng.bytes(ID_BYTES)
        names = [pb.PROGRAM]
        back = self.call(
            "Upload", self.hello(model, data), lambda session: frames(session, names[0], 0, data)
        )
        if len(back) > 1:
            self.accepted.append("a program without weights was done")
        if valid:  # another program, not a wrong one
            self.call("Remove", pb.ModelRequest(version=1, model_id=model).SerializeToString())
        return valid

    def _changed_program(self) -> bytes:
        if self.rng.random() < 0.3:
            return b"".join(flip(self.json, self.rng))
        tree = json.loads(self.json)
        for _ in range(self.rng.integers(1, 4)):
            self._change(tree)
        return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()

    def _change(self, tree: Any) -> None:
        """One place of a tree, in place."""
        while True:
            places = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
            if not places:
                return
            at = places[self.rng.integers(len(places))]
            if isinstance(tree[at], (dict, list)) and self.rng.random() < 0.8:
                tree = tree[at]
                continue
            kind = self.rng.integers(5)
            if kind == 0:
                del tree[at]
            elif kind == 1 and isinstance(tree, list):
                tree.insert(at, tree[at])
            elif kind == 2 and isinstance(tree[at], (int, float)):
                tree[at] = type(tree[at])(tree[at] * 2 ** int(self.rng.integers(-3, 30)) + 1)
            else:
                odd: list[Any] = [
                    0,
                    -1,
                    1,
                    2**31,
                    2**63,
                    1e308,
                    -0.5,
                    None,
                    True,
                    "",
                    "x",
                    [],
                    {},
                    [[]],
                    {"a": 1},
                ]
                tree[at] = odd[self.rng.integers(len(odd))]
            return

    def parts(self) -> bool:
        """A part of a model, changed, where that part is due."""

        def after(session: bytes) -> Iterator[bytes]:
            (first, *_) = frames(session, pb.KEY, 0, b"\1" * self.table[0].length)
            if self.rng.random() < 0.5:
                yield from flip(first, self.rng)[:1]
            else:
                yield signed(fields(first, self.rng), session)

        if len(self.call("Upload", self.hello(self.known[::-1]), after)) > 1:
            self.accepted.append("a changed part of a model was taken")
        return False

    def queries(self) -> bool:
        """A query, changed before its digest is made or after."""
        honest = False

        def after(session: bytes) -> Iterator[bytes]:
            nonlocal honest
            sent = [f for i, tile in enumerate(self.query) for f in frames(session, pb.QUERY, i, tile)]
            at = int(self.rng.integers(len(sent)))
            if self.rng.random() < 0.4:
                changed = [*sent[:at], *flip(sent[at], self.rng), *sent[at + 1 :]]
            elif self.rng.random() < 0.5:
                changed = [
                    *sent[:at], signed(fields(sent[at], self.rng), session), *sent[at + 1 :],
                ]  # fmt: skip
            else:
                frame = content(sent[at], self.program.params, self.expected.query.shape, self.rng)
                changed = [*sent[:at], signed(frame, session), *sent[at + 1 :]]
            honest = changed[: len(sent)] == sent  # a frame too many, seen when the next is due
            yield from changed

        if len(self.call("Predict", self.hello(self.known), after)) > 1 and not honest:
            self.accepted.append("a changed query was answered")
        return honest


def attack(network: Any, serving: Any, folder: Path, name: str, count: int) -> None:
    """So many messages; the figures are printed."""
    net = network((6, 8, 3))
    owner = net.owner(batch=4, ring=4096)
    at = folder / name
    at.mkdir()
    with serving(at, name=name) as process, protocol.Client(f"unix:{at / name}", owner) as client:
        client.upload()
        assert client.predict(net.x[:3], probes=2).report.passed
        with grpc.insecure_channel(f"unix:{at / name}", options=CLIENT_OPTIONS) as channel:
            batch = owner.ask(net.x[:3], probes=1).batches[0]
            attacker = Attacker(channel, owner, np.random.default_rng(0), owner.model_id, batch.query())
            begun = attacker.hello(owner.model_id[::-1])  # a model of which only the program is there
            attacker.call("Upload", begun, lambda session: frames(session, pb.PROGRAM, 0, attacker.json))
            attacker.codes.clear()
            attacker.accepted.clear()
            server = Process(process.pid)
            kinds = (attacker.greeting, attacker.programs, attacker.parts, attacker.queries)
            dearest, largest, early = 0.0, 0, 0
            for number in range(count):
                server.forget()
                seconds, memory = server.seconds(), server.memory()
                honest = kinds[number % len(kinds)]()
                if not honest:
                    dearest = max(dearest, server.seconds() - seconds)
                    largest = max(largest, server.peak() - memory)
                if number == count // 10:
                    early = server.memory()
            grown = server.memory() - early
        assert client.predict(net.x[:3], probes=2).report.passed
    said = process.logged()
    print(
        f"{count} messages: {dict(attacker.codes)}; at most {1e3 * dearest:.0f} ms and "
        f"{largest / 2**20:.1f} MiB each; grown by {grown / 2**20:.1f} MiB"
    )
    assert not attacker.accepted, attacker.accepted[:5]
    assert "Traceback" not in said
    assert sum(attacker.codes.values()) > count / 2
    assert dearest <= MOST_S * slowness()
    assert largest <= MOST_BYTES
    assert grown <= MOST_GROWTH


def test_mutated_messages_are_refused(network: Any, serving: Any, folder: Path) -> None:
    attack(network, serving, folder, "few", 1200)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_thousand_are(network: Any, serving: Any, folder: Path) -> None:
    attack(network, serving, folder, "many", 50_000)
