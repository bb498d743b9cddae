"""A start that is refused leaves nothing that it made, and everything that was there."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from operating import ALICE, operated, tokens
from protocol_fakes import FakeOwner

from protocol import Client, Limits
from protocol.opening import Opening
from securedl.errors import ServerError


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below, with modes and digests."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mode:o} "
        + (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in sorted(folder.rglob("*"))
    }


def refused(folder: Path, *options: str) -> None:
    with pytest.raises(ServerError, match="securedl: "), operated(folder, *options):
        pass


@pytest.fixture
def taken():
    """An address at which something else listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one", "workers"])
@pytest.mark.parametrize("mistake", ["port", "metrics", "tokens", "stranger"])
def test_nothing_is_left(tmp_path: Path, taken: str, mistake: str, workers: Sequence[str]) -> None:
    """`stranger`: refused by the server itself, and so by each worker."""
    options = {
        "port": ("--listen", taken),
        "metrics": ("--metrics", taken),
        "tokens": ("--token-file", str(tmp_path / "missing")),
        "stranger": ("--listen", "0.0.0.0:0", "--token-file", str(tokens(tmp_path, ALICE))),
    }[mistake]
    folder = tmp_path / "made" / "too"
    refused(tmp_path, *options, *workers, "--store", str(folder))
    assert not (tmp_path / "made").exists()


def test_a_store_that_was_there_stays(tmp_path: Path, taken: str) -> None:
    with operated(tmp_path) as server, Client(server.address, FakeOwner()) as client:
        client.upload()
    before = contents(tmp_path / "store")
    assert any(name.endswith("weights.bin") for name in before)
    refused(tmp_path, "--listen", taken)
    assert contents(tmp_path / "store") == before
    (tmp_path / "empty").mkdir()
    refused(tmp_path, "--listen", taken, "--store", str(tmp_path / "empty"))
    assert (tmp_path / "empty").is_dir()  # a volume that was mounted, say


def test_what_others_use_or_may_miss_stays(tmp_path: Path) -> None:
    def left(name: str) -> bool:
        return (tmp_path / name).exists()

    with Opening(tmp_path / "shared", Limits()) as first, Opening(tmp_path / "shared", Limits()):
        first.undo()
        assert left("shared")  # of the second
    for name, made in (("counted", "usage.sqlite"), ("kept", "clients/local"), ("other", "notes")):
        with Opening(tmp_path / name, Limits()) as opening:
            (tmp_path / name / made).mkdir()
            opening.undo()
        assert left(f"{name}/{made}")
        assert left(f"{name}/salt")
    with Opening(tmp_path / "unused", Limits()) as opening:
        assert left("unused/salt")
        opening.undo()
    assert not left("unused")
    with pytest.raises(KeyError), Opening(tmp_path / "failed", Limits()):
        raise KeyError
    assert not left("failed")
    with Opening(tmp_path / "served", Limits()):
        pass
    assert left("served/salt")
