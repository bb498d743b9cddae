"""Computing seconds and use of models: counted, limited, kept, and never in the way of an answer."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from operating import eventually, operated
from protocol_fakes import FakeEvaluator, FakeOwner, predict
from typer.testing import CliRunner

from protocol import Client, Limits, Store
from protocol.operator_commands import models_app
from protocol.stored import locked
from protocol.usage import Usage
from securedl.errors import InputError, QuotaError

OWNER = FakeOwner()
MODEL = bytes(range(16))


def test_what_is_charged_is_there(tmp_path: Path) -> None:
    Store(tmp_path)
    first, second = Usage(tmp_path), Usage(tmp_path)
    first.charge("alice", MODEL, 1, 1.5)
    second.charge("alice", MODEL, 2, 0.25)
    second.charge("bob", MODEL, 1, 8.0)
    assert [usage.seconds_today("alice") for usage in (first, second)] == [1.75] * 2
    use = first.models()["alice", MODEL.hex()]
    assert (use.queries, use.seconds) == (3, 1.75)
    assert use.used == pytest.approx(time.time(), abs=10)
    first.forget("alice", MODEL)
    assert set(second.models()) == {("bob", MODEL.hex())}
    assert second.seconds_today("alice") == 1.75
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("usage.sqlite*")} == {0o600}
    first.close()
    second.close()


def test_another_day_begins_at_nothing(tmp_path: Path, monkeypatch) -> None:
    usage, now = Usage(tmp_path), time.time()
    usage.charge("alice", MODEL, 1, 3.0)
    monkeypatch.setattr("protocol.usage.time.time", lambda: now + 86_400)
    assert usage.seconds_today("alice") == 0.0
    usage.close()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_damaged_file_is_set_aside(tmp_path: Path, caplog, when: str) -> None:
    usage, other = Usage(tmp_path), Usage(tmp_path)
    if when == "meanwhile":
        usage.charge("alice", MODEL, 1, 1.0)
        assert other.seconds_today("alice") == 1.0
        usage.close()
    for path in tmp_path.glob("usage.sqlite*"):
        path.unlink()
    (tmp_path / "usage.sqlite").write_bytes(b"no database" * 1000)
    usage.charge("alice", MODEL, 1, 2.0)
    other.charge("alice", MODEL, 1, 4.0)
    assert usage.seconds_today("alice") == other.seconds_today("alice") == 6.0
    assert len(list(tmp_path.glob("usage.damaged-*.sqlite"))) == 1
    assert "damaged and begun anew" in caplog.text
    usage.close()
    other.close()


def test_a_busy_file_delays_no_answer_and_loses_nothing(tmp_path: Path) -> None:
    usage = Usage(tmp_path)
    usage.charge("alice", MODEL, 1, 1.0)
    busy = sqlite3.connect(tmp_path / "usage.sqlite", isolation_level=None)
    busy.execute("begin immediate")
    began = time.monotonic()
    usage.charge("alice", MODEL, 1, 2.0)
    assert time.monotonic() < began + 1
    assert usage.seconds_today("alice") == 3.0
    busy.execute("rollback")
    busy.close()
    usage.charge("alice", MODEL, 1, 4.0)
    usage.close()
    assert Usage(tmp_path).models()["alice", MODEL.hex()].seconds == 7.0


def test_many_threads(tmp_path: Path) -> None:
    usages = [Usage(tmp_path) for _ in range(2)]

    def work(number: int) -> None:
        for _ in range(20):
            usages[number % 2].charge("alice", MODEL, 1, 0.5)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for usage in usages:
        usage.charge("alice", MODEL, 0, 0.0)  # what was owed
    assert usages[0].models()["alice", MODEL.hex()].queries == 80
    for usage in usages:
        usage.close()


class Busy(FakeEvaluator):
    """Computes for a while: a fake that sleeps takes no seconds."""

    def dot(self, xs, ws):
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return super().dot(xs, ws)


def test_a_client_has_its_seconds_and_no_more(serve, tmp_path: Path) -> None:
    """Also after a restart, and also while a stream runs."""
    store = Store(tmp_path / "store", Limits(max_client_s=0.5))
    with Client(serve(store, evaluator=Busy).address, OWNER) as client:
        client.upload()
        assert predict(client, 1).passed
        words = r"has used 0\.\d of its 0.5 s of computing today: ask again after midnight, UTC"
        with pytest.raises(QuotaError, match=words):
            client.predict(20)
        with pytest.raises(QuotaError, match=words):
            client.predict(1)
    with Client(serve(store).address, OWNER) as client, pytest.raises(QuotaError, match=words):
        client.predict(1)
    usage = Usage(tmp_path / "store")
    use = usage.models()["local", OWNER.model_id.hex()]
    assert 0.5 <= use.seconds < 1.0
    assert 2 <= use.queries < 10
    usage.close()


# --- securedl models ---------------------------------------------------------------------------------


def models(*arguments: object) -> str:
    done = CliRunner().invoke(models_app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def listed(store: Path) -> list[dict]:
    file = store.with_suffix(".json")
    models("ls", "--store", store, "--json", file)
    found: list[dict] = json.loads(file.read_text())
    return found


def test_models_of_a_server_that_runs(tmp_path: Path) -> None:
    store, old, new = tmp_path / "store", FakeOwner(1), FakeOwner(2)
    with operated(tmp_path) as server:
        with Client(server.address, old) as client:
            client.upload()
        with Client(server.address, new) as client:
            client.upload()
            assert predict(client, 3).passed
            eventually(lambda: server.events("predict"))
            before = listed(store)
            assert [(one["id"], one["queries"], one["complete"]) for one in before] == [
                (old.model_id.hex(), 0, True), (new.model_id.hex(), 3, True)
            ]  # fmt: skip
            assert before[0]["used"] is None
            assert before[1]["used"].endswith("+00:00")
            assert all(one["bytes"] > 1e5 and one["tenant"] == "local" for one in before)
            assert old.model_id.hex()[:8] in models("ls", "--store", store)
            assert "is deleted" in models("rm", new.model_id.hex(), "--store", store)
            with pytest.raises(Exception, match="no such model"):
                client.predict(1)
        assert [one["id"] for one in listed(store)] == [old.model_id.hex()]
        with pytest.raises(InputError, match="the store has no model 'ab'"):
            models("rm", "ab", old.model_id.hex(), "--store", store)
        assert len(listed(store)) == 1


def test_models_that_nobody_uses(serve, tmp_path: Path) -> None:
    store, owners = tmp_path / "store", [FakeOwner(number) for number in range(4)]
    address = serve(store).address
    for owner in owners:
        with Client(address, owner) as client:
            client.upload()
    folders = {path.name: path for path in store.glob("clients/local/*") if path.is_dir()}
    kept, used, unused, broken = (folders[owner.model_id.hex()] for owner in owners)
    for folder in (used, unused, broken):
        for path in folder.iterdir():
            os.utime(path, (1e9, 1e9))
    (broken / "journal").write_bytes(b"")
    os.utime(broken / "journal", (1e9, 1e9))
    with Client(address, owners[1]) as client:
        assert predict(client, 1).passed
    assert unused.name in models("gc", "--unused-days", 30, "--store", store, "--dry-run")
    assert len(listed(store)) == 4
    models("gc", "--unused-days", 30, "--store", store)
    assert {one["id"] for one in listed(store)} == {kept.name, used.name, broken.name}
    with locked(broken / "lock") as taken:
        assert taken
        assert "is being uploaded" in models("gc", "--unused-days", 30, "--store", store, "--incomplete")
    models("gc", "--unused-days", 30, "--store", store, "--incomplete")
    assert {one["id"] for one in listed(store)} == {kept.name, used.name}


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no store"):
        models("ls", "--store", tmp_path / "none")
    assert not (tmp_path / "none").exists()
