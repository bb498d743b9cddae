"""The store by itself: what is believed after an interruption."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from protocol_fakes import FakeOwner, predict

from protocol import Client, Store
from protocol.stored import StoredModel
from securedl.errors import FormatError, InputError, ProtocolError, ServerError
from securedl.he.journal import ENTRY, Journal, blob_digest


@pytest.fixture
def stored(tmp_path):
    """An empty model, its owner and its blobs."""
    owner = FakeOwner()
    model = Store(tmp_path).create("local", owner.model_id, owner.program)
    blobs = [owner.key(step) for step in model.table.keys] + list(
        owner.weights(range(len(model.table.shapes)))
    )
    return model, blobs


def found_again(folder: Path, model: StoredModel) -> StoredModel:
    """As another server finds it."""
    found = Store(folder).find("local", model.model_id)
    assert found is not None
    return found


def fill(model, blobs, count: int) -> None:
    with model.writer() as writer:
        for number in range(count):
            writer.write(number, blobs[number])


def test_what_was_written_is_read_back(stored) -> None:
    model, blobs = stored
    fill(model, blobs, len(blobs))
    assert model.missing() == []
    reader = model.reader()
    assert [bytes(reader[number]) for number in range(len(blobs))] == blobs


@pytest.mark.parametrize("cut", range(1, ENTRY.size))
def test_a_torn_entry_is_not_believed(stored, cut: int) -> None:
    model, blobs = stored
    fill(model, blobs, 5)
    path = model.folder / "journal"
    path.write_bytes(path.read_bytes()[:-cut])
    assert 4 in model.missing()
    assert 3 not in model.missing()
    with model.writer() as writer:
        writer.write(4, blobs[4])
    assert model.missing() == list(range(5, len(blobs)))


def test_a_journal_of_garbage_is_not_believed(stored) -> None:
    model, blobs = stored
    fill(model, blobs, 5)
    path = model.folder / "journal"
    data = bytearray(path.read_bytes())
    data[2 * ENTRY.size + 1] ^= 1
    path.write_bytes(data)
    assert model.missing() == list(range(2, len(blobs)))


def test_a_blob_that_was_never_journalled_is_missing(stored) -> None:
    """As after a kill between writing and journalling."""
    model, blobs = stored
    (model.folder / "weights.bin").write_bytes(b"".join(blobs[len(model.table.keys) :]))
    assert len(model.missing()) == len(blobs)
    with pytest.raises(ServerError, match="missing"):
        model.reader()[0]


def test_every_blob_is_checked_before_it_is_written(stored) -> None:
    model, blobs = stored
    keys = len(model.table.keys)
    with model.writer() as writer:
        for number in (0, keys):
            good = blobs[number]
            for bad in (good[:-1], good + b"\0", b"X" + good[1:], good[:45] + b"\xff" * 40 + good[85:]):
                with pytest.raises(FormatError):
                    writer.write(number, bad)
        with pytest.raises(IndexError):
            writer.write(len(blobs), blobs[0])
    assert len(model.missing()) == len(blobs)


def test_damaged_files_ask_for_removal(stored, tmp_path) -> None:
    model, _ = stored
    (model.folder / "weights.bin").write_bytes(b"short")
    with pytest.raises(ServerError, match="remove it"):
        Store(tmp_path).find("local", model.model_id)
    assert Store(tmp_path).remove("local", model.model_id)


@pytest.mark.parametrize("kind", ["pipe", "folder", "gone"])
@pytest.mark.parametrize(
    "name",
    ["program.json", "keys.bin", "weights.bin", "journal", "lock", "figures", "packed.bin", "packed.journal"],
)
def test_whatever_stands_in_place_of_a_file_nothing_waits_for_it(serve, tmp_path, name, kind) -> None:
    """Each is an error in one sentence, if it matters, and the model can be removed and uploaded again."""
    owner, server = FakeOwner(), serve(evaluator="vector")
    with Client(server.address, owner, timeout_s=10) as client:
        client.upload()
        server.stop()
        folder = next((tmp_path / "store").glob("clients/*/*"))
        packed = next(folder.glob("packed-*.bin"))
        path = packed.with_suffix(Path(name).suffix) if name.startswith("packed") else folder / name
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        server = serve(address=server.address, evaluator="vector")
        calls = (lambda: predict(client, 1), client.upload, client.status)
        for call in calls:
            with contextlib.suppress(ServerError, ProtocolError):
                call()
        client.remove()
        client.upload()
        predict(client, 1)


def test_models_are_for_their_server_alone(tmp_path, caplog) -> None:
    """In a folder that was there, and everybody could read, too."""
    for folder in (tmp_path / "there", tmp_path / "new"):
        if folder.name == "there":
            folder.mkdir(mode=0o755)
            (folder / "clients").mkdir(mode=0o755)
        Store(folder)
        assert stat.S_IMODE((folder / "clients").stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "salt").stat().st_mode) == 0o600
    assert "others could read models in" in caplog.text
    assert str(tmp_path / "new") not in caplog.text
    (tmp_path / "there").chmod(0o757)
    with pytest.raises(InputError, match="everybody may write to the store"):
        Store(tmp_path / "there")


def test_a_stale_reader_does_not_forget_a_repaired_blob(stored) -> None:
    model, blobs = stored
    fill(model, blobs, len(blobs))
    reader = model.reader()
    with model.writer() as writer:
        writer.forget({3})
    with model.writer() as writer:
        writer.write(3, FakeOwner(9).key(None) if model.table.keys[3:4] else FakeOwner(9).weight(0))
    with pytest.raises(ServerError):
        reader[3]
    assert model.missing() == []


def test_one_look_finds_all_the_damage(stored) -> None:
    """Whichever part is read first: several damaged ones are sent again by one upload."""
    model, blobs = stored
    fill(model, blobs, len(blobs))
    damaged = [1, len(model.table.keys), len(blobs) - 1]
    for number in damaged:
        blob = model.table[number]
        with open(model.folder / blob.file, "r+b") as file:
            file.seek(blob.offset + blob.length // 2)
            file.write(b"damage")
    reader = model.reader()
    assert reader[0] == blobs[0]
    with pytest.raises(ServerError, match=r"call upload\(\) again"):
        reader[damaged[1]]
    assert model.missing() == damaged


def test_a_model_of_a_release_without_figures(stored, tmp_path) -> None:
    model, blobs = stored
    fill(model, blobs, len(blobs))
    figures = (model.folder / "figures").read_bytes()
    for found, kept in ((None, True), (figures[:-1], False), (figures[:9] + b"x" + figures[10:], False)):
        (model.folder / "figures").unlink()
        if found is not None:
            (model.folder / "figures").write_bytes(found)
        if kept:
            assert found_again(tmp_path, model).missing() == []
            assert (model.folder / "figures").read_bytes() == figures
        else:
            with pytest.raises(ServerError, match="damaged"):
                found_again(tmp_path, model)


def test_a_program_that_changed_on_disk_is_not_run(stored, tmp_path) -> None:
    """Nor is it looked at before it is needed."""
    model, _ = stored
    path = model.folder / "program.json"
    path.write_bytes(path.read_bytes().replace(b'"batch":128', b'"batch":256'))
    found = found_again(tmp_path, model)
    assert found.missing()
    with pytest.raises(ServerError, match="damaged"):
        found.program  # noqa: B018


def test_racing_uploads_stay_within_the_limits(tmp_path) -> None:
    """Twelve at once, in processes of their own on one store, where two models are allowed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from protocol_fakes import FakeOwner\n"
        "from protocol import Limits, Store\n"
        "from securedl.errors import QuotaError\n"
        "owner, store = FakeOwner(int(sys.argv[3])), Store(sys.argv[1], Limits(max_models=2))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    store.create('local', owner.model_id, owner.program); print('made')\n"
        "except QuotaError:\n"
        "    print('refused')\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, str(tmp_path / "store"), here]
    racing = [
        subprocess.Popen([*command, str(k)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for k in range(12)
    ]
    for process in racing:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].strip() for process in racing]
    assert sorted(said) == ["made"] * 2 + ["refused"] * 10
    assert len(list((tmp_path / "store").glob("clients/local/*"))) == 2


@pytest.mark.parametrize("model_id", [b"", b"short", bytes(17)])
def test_model_ids_cannot_name_other_folders(tmp_path, model_id) -> None:
    with pytest.raises(ProtocolError):
        Store(tmp_path).find("local", model_id)


def test_tokens_become_folder_names_that_do_not_tell_them(tmp_path) -> None:
    names = {Store(tmp_path / store).client("token") for store in ("a", "a", "b")}
    assert len(names) == 2
    assert all("token" not in name for name in names)


def test_journal_append_replaces_what_is_after_the_sound_part(tmp_path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"garbage")
    journal = Journal(path, bytes(16), 10)
    end = journal.append([(1, blob_digest(b"a"))], 0)
    journal.append([(2, blob_digest(b"b"))], end)
    assert journal.read() == ({1: blob_digest(b"a"), 2: blob_digest(b"b")}, 2 * ENTRY.size)
