"""Frames, greetings and the schema."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from protocol import messages_pb2 as pb
from protocol.wire import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    MAX_MESSAGE,
    Receiver,
    expand_ranges,
    frame_digest,
    frames,
    parse,
    ranges,
    session_id,
)
from securedl.errors import ProtocolError

ROOT = Path(__file__).parents[2]
SESSION = bytes(range(32))


def test_the_schema_is_the_generated_one(tmp_path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("needs grpcio-tools")
    out = tmp_path / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={out}"]
    subprocess.run([*command, "protocol/messages.proto"], cwd=ROOT, check=True)
    (fresh,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    kept = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(kept)
    fresh.ClearField("json_name") if fresh.DESCRIPTOR.fields_by_name.get("json_name") else None
    for message in fresh.message_type:
        for field in message.field:
            field.ClearField("json_name")
    for message in kept.message_type:
        for field in message.field:
            field.ClearField("json_name")
    assert fresh == kept


@pytest.mark.parametrize(
    "length", [1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 7]
)
def test_blobs_cross_in_chunks(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    sent = list(frames(SESSION, pb.WEIGHT, 5, data, 2, 3))
    assert len(sent) == -(-length // CHUNK_BYTES)
    assert max(map(len, sent)) < MAX_MESSAGE
    receiver = Receiver(SESSION, iter(sent))
    assert receiver.blob(pb.WEIGHT, 5, length, 2, 3) == data
    assert receiver.ended()


@pytest.mark.parametrize(
    ("kind", "index", "length", "query", "stage"),
    [
        (pb.KEY, 5, 100, 2, 3),
        (pb.WEIGHT, 6, 100, 2, 3),
        (pb.WEIGHT, 5, 101, 2, 3),
        (pb.WEIGHT, 5, 99, 2, 3),
        (pb.WEIGHT, 5, 100, 1, 3),
        (pb.WEIGHT, 5, 100, 2, 0),
    ],
)
def test_only_the_blob_that_is_due_is_taken(kind, index, length, query, stage) -> None:
    sent = frames(SESSION, pb.WEIGHT, 5, bytes(100), 2, 3)
    with pytest.raises(ProtocolError, match="should"):
        Receiver(SESSION, sent).blob(kind, index, length, query, stage)


@pytest.mark.parametrize("channel", [1, 2, 2**32 - 1])
def test_no_other_channel_is_there_yet(channel: int) -> None:
    """Nor does a frame move to one unnoticed: its digest covers the channel."""
    (sent,) = frames(SESSION, pb.WEIGHT, 5, bytes(100), 2, 3)
    frame = pb.Frame.FromString(sent)
    assert frame.channel == 0
    honest = frame.digest
    frame.channel = channel
    frame.digest = frame_digest(SESSION, frame, frame.data)
    assert frame.digest != honest
    for digest in (frame.digest, honest):
        frame.digest = digest
        with pytest.raises(ProtocolError, match=f"should have channel 0, got {channel}"):
            Receiver(SESSION, iter([frame.SerializeToString()])).blob(pb.WEIGHT, 5, 100, 2, 3)


def test_digests_are_bound_to_the_session() -> None:
    sent = frames(SESSION, pb.WEIGHT, 0, bytes(100))
    with pytest.raises(ProtocolError, match="digest"):
        Receiver(bytes(32), sent).blob(pb.WEIGHT, 0, 100)


def test_a_session_is_named_by_both_greetings() -> None:
    names = {session_id(m, h, w) for m in ("Upload", "Predict") for h in (b"", b"a") for w in (b"", b"a")}
    assert len(names) == 8
    assert session_id("Upload", b"ab", b"c") != session_id("Upload", b"a", b"bc")


def test_a_message_is_written_in_one_way() -> None:
    """No unknown, repeated, overlong or reordered fields, on any level."""
    nonce = pb.Hello(nonce=bytes(32)).SerializeToString()
    raw = pb.Hello(version=1, nonce=bytes(32)).SerializeToString()
    assert parse(pb.Hello, raw).version == 1
    for extra in (b"\x50\x01", b"\x08\x01", b"\x08", b"\xff" * 11):
        with pytest.raises(ProtocolError):
            parse(pb.Hello, raw + extra)
    for same in (nonce + b"\x08\x01", b"\x08\x81\x00" + nonce, b"\x08\x01\x28\x00" + nonce):
        assert pb.Hello.FromString(same) == pb.Hello.FromString(raw)
        with pytest.raises(ProtocolError, match="another way"):
            parse(pb.Hello, same)
    inner = pb.Range(first=3, count=1).SerializeToString()
    for run, known in ((inner, True), (inner + b"\x50\x01", False), (inner[2:] + inner[:2], False)):
        welcome = b"\x08\x01\x22" + bytes([len(run)]) + run
        assert pb.Welcome.FromString(welcome).missing[0].first == 3
        if known:
            assert parse(pb.Welcome, welcome).missing[0].first == 3
        else:
            with pytest.raises(ProtocolError, match="another way"):
                parse(pb.Welcome, welcome)


@pytest.mark.parametrize("length", [1, 100, 20_000])
def test_no_bit_of_a_frame_can_be_another(length: int) -> None:
    """Each bit of what is around the data, and some of the data's."""
    data = np.random.default_rng(length).bytes(length)
    (raw,) = frames(SESSION, pb.REFRESH, 1, data, 2, 3)
    digest = len(raw) - DIGEST_BYTES - 2
    around = {*range(min(32, len(raw))), *range(digest, len(raw))}
    assert len(around) > len(raw) - length
    for at in sorted(around):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            with pytest.raises(ProtocolError):
                Receiver(SESSION, iter([bytes(changed)])).blob(pb.REFRESH, 1, length, 2, 3)


def test_ranges() -> None:
    runs = ranges([0, 1, 2, 5, 7, 8], 9)
    assert runs == [(0, 3), (5, 1), (7, 2)]
    assert ranges([0, 1, 2, 5, 7, 8], 2) == [(0, 3), (5, 1)]
    messages = [pb.Range(first=first, count=count) for first, count in runs]
    assert expand_ranges(messages, 9) == [0, 1, 2, 5, 7, 8]
    for bad in ([(0, 0)], [(8, 2)], [(1, 1), (0, 1)], [(0, 2), (1, 1)], [(2**32 - 1, 2**32 - 1)]):
        with pytest.raises(ProtocolError):
            expand_ranges([pb.Range(first=first, count=count) for first, count in bad], 9)
