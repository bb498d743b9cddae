"""Uploads: resumed after every kind of interruption, and never half believed."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from protocol_fakes import FakeEvaluator, FakeOwner, predict, small_program

from protocol import Client, Limits, Store, stored
from protocol import store as stores
from securedl.errors import InputError, ProtocolError, QuotaError, SecureDLError, ServerError


def test_a_kill_in_the_middle_keeps_what_arrived(spawn, tmp_path, monkeypatch) -> None:
    """kill -9 half-way; a new server asks for the rest only."""
    server = spawn(tmp_path / "store", "127.0.0.1:0")
    owner = FakeOwner(program=small_program(diagonals=16), delay_s=0.01)
    half = threading.Event()

    def progress(stage: str, done: int, total: int) -> None:
        if total and done > total // 2 and not half.is_set():
            half.set()
            server.kill()

    with (
        Client(server.address, owner, progress=progress) as client,
        pytest.raises(ServerError, match=r"call upload\(\) again"),
    ):
        client.upload()
    total = len(owner.program.weight_shapes) + 1 + len(owner.program.rotations)
    server = spawn(tmp_path / "store", "127.0.0.1:0")
    with Client(server.address, owner) as client:
        assert not client.status().complete
        with pytest.raises(ProtocolError, match="not uploaded"):
            client.predict(1)
        client.upload()
        assert predict(client, 1).passed
        assert client.status().blobs == total


def test_a_resumed_upload_sends_the_rest_only(serve, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "SYNC_BYTES", 1)
    server, owner = serve(), FakeOwner()
    with Client(server.address, owner) as client:
        owner.delay_s = 0.02
        real = owner.weight
        with monkeypatch.context() as changed:
            changed.setattr(owner, "weight", lambda index: real(index) if index < 7 else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                client.upload()
        owner.made.clear()
        sent, total = client.upload().blobs, len(owner.program.weight_shapes)
        assert sent < total
        assert owner.made == list(range(total - sent, total))
        assert predict(client, 1).passed


def test_a_restart_finds_the_model(spawn, tmp_path) -> None:
    server, owner = spawn(tmp_path / "store", "127.0.0.1:0"), FakeOwner()
    with Client(server.address, owner) as client:
        client.upload()
    log = server.stop()
    assert "upload model=" + owner.model_id.hex() in log
    server = spawn(tmp_path / "store", "127.0.0.1:0")
    with Client(server.address, owner) as client:
        assert client.upload().blobs == 0
        assert predict(client, 1).passed


def test_a_client_finds_a_server_that_was_away(spawn, tmp_path) -> None:
    """Within seconds after many tries: gRPC by itself waits longer after each, up to two minutes."""
    address = f"unix:{tmp_path}/s"
    server, owner = spawn(tmp_path / "store", address), FakeOwner()
    with Client(server.address, owner) as client:
        client.upload()
        server.stop()
        gone = time.monotonic()
        while time.monotonic() < gone + 4:
            with pytest.raises(ServerError, match="no answer"):
                client.status()
            time.sleep(0.1)
        spawn(tmp_path / "store", address)
        back = time.monotonic()
        while True:
            try:
                assert client.status().known
                break
            except ServerError:
                assert time.monotonic() < back + 3
                time.sleep(0.05)


def test_one_upload_of_a_model_at_a_time(serve, monkeypatch) -> None:
    monkeypatch.setattr(stored, "LOCK_S", 0.1)
    server, slow, fast = serve(), FakeOwner(delay_s=0.1), FakeOwner()
    with Client(server.address, slow) as first, Client(server.address, fast) as second:
        thread = threading.Thread(target=first.upload)
        thread.start()
        while not second.status().known:
            time.sleep(0.01)
        time.sleep(0.1)
        with pytest.raises(ProtocolError, match="another upload"):
            second.upload()
        thread.join()
        assert second.upload().blobs == 0
        assert predict(second, 1).passed


def test_wrong_bytes_are_not_kept(serve, monkeypatch) -> None:
    server, owner = serve(), FakeOwner()
    real = owner.weight
    monkeypatch.setattr(owner, "weight", lambda index: real(index) if index != 3 else bytes(len(real(index))))
    with Client(server.address, owner) as client:
        with pytest.raises(ProtocolError, match="not a record"):
            client.upload()
        monkeypatch.undo()
        client.upload()
        assert predict(client, 1).passed


def test_quotas(serve, tmp_path) -> None:
    limited = serve(Store(tmp_path / "a", Limits(max_models=1)))
    with Client(limited.address, FakeOwner(0)) as client:
        client.upload()
    with Client(limited.address, FakeOwner(1)) as client:
        with pytest.raises(QuotaError, match="1 models and may keep 1"):
            client.upload()
        assert not client.remove()
    with Client(limited.address, FakeOwner(0)) as client:
        assert client.remove()
        assert not client.status().known
    with Client(limited.address, FakeOwner(1)) as client:
        client.upload()
    small = serve(Store(tmp_path / "b", Limits(max_bytes=1 << 16)))
    with Client(small.address, FakeOwner(0)) as client, pytest.raises(QuotaError, match="65,536 bytes"):
        client.upload()
    assert not list((tmp_path / "b" / "clients").glob("*/*"))


def test_a_full_disk_is_one_sentence(serve, monkeypatch) -> None:
    server, owner = serve(), FakeOwner()

    def full(*_):
        raise OSError(28, "No space left on device")

    with Client(server.address, owner) as client:
        with monkeypatch.context() as patch:
            patch.setattr(stores.os, "posix_fallocate", full)
            with pytest.raises(ServerError, match="disk of the server's store is full"):
                client.upload()
        with monkeypatch.context() as patch:
            patch.setattr(stores.os, "pwrite", full)
            with pytest.raises(ServerError, match="disk of the server's store is full"):
                client.upload()
        client.upload()
        assert predict(client, 1).passed


def test_damage_on_disk_is_noticed_and_repaired(serve, tmp_path) -> None:
    server, owner = serve(), FakeOwner()
    with Client(server.address, owner) as client:
        client.upload()
    server.stop()
    server = serve()
    with Client(server.address, owner) as client:
        weights = next((tmp_path / "store").glob("clients/*/*/weights.bin"))
        with open(weights, "r+b") as file:
            file.seek(5000)
            file.write(b"\0\1\2\3")
        with pytest.raises(ServerError, match="damaged"):
            client.predict(1)
        assert client.upload().blobs == 1
        assert predict(client, 1).passed


def test_a_store_that_cannot_be_used(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        Store(tmp_path / "file" / "store")


def test_two_clients_do_not_see_each_other(serve, tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    server = serve(token=["alpha-token", "beta-token"])
    owner = FakeOwner()
    with Client(server.address, owner, token="alpha-token") as alpha:
        alpha.upload()
        with Client(server.address, owner, token="beta-token") as beta:
            assert not beta.status().known
            assert not beta.remove()
            with pytest.raises(ProtocolError, match="no such model"):
                beta.predict(1)
        assert predict(alpha, 1).passed
    for token in ("alpha-token", "beta-token"):
        assert token not in caplog.text
        assert not [p for p in (tmp_path / "store").rglob("*") if token in p.name]
        files = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
        assert not [p for p in files if token.encode() in p.read_bytes()]


def test_sessions_are_limited_and_given_back(serve, tmp_path) -> None:
    slow = lambda params: FakeEvaluator(params, delay_s=0.05)  # noqa: E731
    server, owner = serve(Store(tmp_path / "s", Limits(max_sessions=1)), evaluator=slow), FakeOwner()
    refused: list[SecureDLError] = []

    def ask() -> None:
        with Client(server.address, owner) as client:
            try:
                assert predict(client, 1).passed
            except QuotaError as error:
                refused.append(error)

    with Client(server.address, owner) as client:
        client.upload()
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 2
    assert "try again later" in str(refused[0])
    ask()
    assert len(refused) == 2
