"""`securedl predict`: rows of files through a server, in shares that outlive what breaks a job off."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from protocol import Client, Server
from protocol.jobs import job, run
from protocol.jobs.asker import AskerFiles, Manner, secret_side, verifiers_of
from protocol.jobs.ray_askers import RayAskers
from protocol.jobs.shares import Share, share_folder
from protocol.store import Store
from securedl.cli import app
from securedl.demo.dishonest import DishonestBackend
from securedl.errors import InputError, SecureDLError, UnreachableError
from securedl.he.vector.backend import VectorBackend

TOLERANCE = 1e-4  # of answers around 1: far above the noise of the plan, far below any other answer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with an owner, a kit, samples and their answers by torch; and a server's address."""
    torch, securedl = pytest.importorskip("torch"), pytest.importorskip("securedl")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("jobs")
    x = np.random.default_rng(0).uniform(-1, 1, (700, 6)).astype(np.float32)
    layers = torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    net = securedl.approximate(torch.nn.Sequential(*layers), x)
    plan = securedl.compile(net, x, activations="server", checked_by="client")
    owner = securedl.Owner(plan)
    with Server(Store(folder / "store"), "127.0.0.1:0") as server:
        with Client(server.address, owner) as client:
            client.upload()
        owner.save(folder / "net.owner", "secret")
        owner.grant("ward").save(folder / "ward.kit", "secret")
        np.save(folder / "x.npy", x)
        np.savetxt(folder / "x.csv", x, delimiter=",", header="a,b,c,d,e,f", comments="", fmt="%.9g")
        with torch.no_grad():
            np.save(folder / "want.npy", net(torch.tensor(x)).numpy())
        (folder / "passphrase").write_text("secret\n")
        (folder / "passphrase").chmod(0o600)
        yield folder, server.address


def predict(model, rows: str, out: Path, *options: str, side: str = "ward.kit", address: str = ""):
    folder, served = model
    arguments = [str(folder / side), str(folder / rows), "--out", str(out), "--address", address or served]
    secret = ["--passphrase-file", str(folder / "passphrase"), "--ledger", str(out.parent / "ledger")]
    return CliRunner().invoke(app, ["predict", *arguments, *secret, *options])


def want(model) -> np.ndarray:
    return np.load(model[0] / "want.npy")


@pytest.mark.parametrize("side", ["ward.kit", "net.owner"])
@pytest.mark.parametrize("rows", ["x.npy", "x.csv"])
def test_answers_are_the_networks(model, tmp_path, side, rows, monkeypatch):
    monkeypatch.setattr(job, "SHARE_BATCHES", 4)
    out, verdict = tmp_path / "answers.npz", tmp_path / "verdict.json"
    found = predict(model, rows, out, "--json", str(verdict), side=side)
    assert found.exit_code == 0, found
    with np.load(out) as answers:
        np.testing.assert_allclose(answers["logits"], want(model), atol=TOLERANCE)
        np.testing.assert_array_equal(answers["labels"], want(model).argmax(axis=1))
    said = json.loads(verdict.read_text())
    assert said["passed"]
    assert said["checked"] == 700
    assert said["calls"] == 3
    assert "700 rows asked in 3 calls" in found.output
    assert out.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob("*.partial"))


def test_a_table_of_answers(model, tmp_path):
    out = tmp_path / "answers.csv"
    assert predict(model, "x.csv", out).exit_code == 0
    assert out.read_text().splitlines()[0] == "label,logit0,logit1,logit2"
    table = np.loadtxt(out, delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 0], want(model).argmax(axis=1))
    np.testing.assert_allclose(table[:, 1:], want(model), atol=TOLERANCE)


def test_a_job_goes_on_where_it_broke_off(model, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "SHARE_BATCHES", 2)
    out, asked, rows = tmp_path / "answers.npz", job.asked, list[int]()

    def failing(client, x, share, manner):
        rows.append(share.start)
        if len(rows) == 3:
            raise UnreachableError("the server went away")
        return asked(client, x, share, manner)

    monkeypatch.setattr(job, "asked", failing)
    broken = predict(model, "x.npy", out)
    assert isinstance(broken.exception, UnreachableError)
    assert not out.exists()
    kept = tmp_path / "answers.npz.partial"
    assert kept.stat().st_mode & 0o077 == 0
    assert f"240 rows are answered, and kept in {kept}" in broken.stderr
    other = predict(model, "x.npy", out, "--outliers", "clip")
    assert isinstance(other.exception, InputError)
    assert "another outliers" in str(other.exception)
    monkeypatch.setattr(job, "SHARE_BATCHES", 64)  # shares stay as they were begun
    again = predict(model, "x.npy", out)
    assert again.exit_code == 0
    assert "240 of 700 rows were answered before" in again.output
    assert rows == [0, 120, 240, 240, 360, 480, 600]
    with np.load(out) as answers:
        np.testing.assert_allclose(answers["logits"], want(model), atol=TOLERANCE)
    assert not kept.exists()


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    first, second = (share_folder(tmp_path / "a", {"model": "m"}, 5) for _ in range(2))
    with first, pytest.raises(InputError, match="another process"), second:
        pass
    (tmp_path / "a" / "mine").write_text("kept")
    with share_folder(tmp_path / "a", {"model": "m"}, 7) as folder:
        assert folder.shares(12) == [Share(0, 5), Share(5, 10), Share(10, 12)]
        folder.remove()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine"]


def test_a_damaged_share_is_said(tmp_path):
    with share_folder(tmp_path / "a", {}, 5) as folder:
        (folder.folder / "000000000000.npz").write_bytes(b"PK damaged")
        with pytest.raises(InputError, match="damaged: remove it"):
            folder.get(Share(0, 5))


def test_answers_of_a_dishonest_server_are_withheld(model, tmp_path):
    """It tampers with the weights of every batch, so that no answer is the network's."""
    folder, _ = model
    store, out, verdict = Store(tmp_path / "store"), tmp_path / "answers.npz", tmp_path / "verdict.json"
    with Server(store, "127.0.0.1:0", evaluator=DishonestBackend(VectorBackend(), "noise", 0)) as server:
        with Client(server.address, secret_side(folder / "net.owner", "secret", None)) as client:
            client.upload()
        found = predict(model, "x.npy", out, "--json", str(verdict), side="net.owner", address=server.address)
        assert found.exit_code == 1
        assert "700 of 700 answers are withheld" in str(found.exception)
        assert not json.loads(verdict.read_text())["passed"]
        with np.load(out) as answers:
            assert np.isnan(answers["logits"]).all()
            assert (answers["labels"] == -1).all()
        refused = predict(model, "x.npy", out, side="net.owner", address=server.address)
        assert "earlier call(s)" in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--actors", "2"), "are of --ray"),
        (("--tls-ca", "none.pem"), "none.pem cannot be read"),
        (("--token-file", "none"), "cannot read the token file"),
    ],
)
def test_options_that_cannot_be_used(model, tmp_path, options, sentence):
    found = predict(model, "x.npy", tmp_path / "answers.npz", *options)
    assert isinstance(found.exception, SecureDLError)
    assert sentence in str(found.exception)
    assert not list(tmp_path.glob("answers*"))


def test_files_that_cannot_be_used(model, tmp_path):
    folder, _ = model
    bad = np.load(folder / "x.npy")
    bad[650] = 100.0
    np.save(tmp_path / "bad.npy", bad)
    np.save(tmp_path / "wide.npy", np.zeros((5, 7)))
    for rows, out, sentence in (
        (tmp_path / "bad.npy", "a.npz", r"x\[650\]"),
        (tmp_path / "wide.npy", "a.npz", "shape"),
        (folder / "x.npy", "a.json", "written as"),
        (folder / "x.npy", "none/a.npz", "no folder"),
    ):
        found = predict(model, str(rows), tmp_path / out)
        assert isinstance(found.exception, InputError), found
        assert re.search(sentence, str(found.exception))
    assert not list(tmp_path.glob("a*"))


ray_only = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@ray_only
def test_processes_of_a_cluster(model, tmp_path, monkeypatch):
    """One is killed meanwhile: its share is asked again, and every call is in the ledger."""
    folder, address = model
    places = AskerFiles(folder / "ward.kit", folder / "passphrase", folder / "x.npy", address)
    side = secret_side(places.secret, "secret", tmp_path / "ledger")
    asking = job.Asking(side, places, Manner(), "refuse", progress=False)
    monkeypatch.setattr(job, "SHARE_BATCHES", 1)
    with asking.folder(tmp_path / "partial") as files, RayAskers(None, 2, places, Manner(), files) as askers:
        shares, done, pool = files.shares(len(asking)), list[Share](), askers._pool
        slot = pool.each()[0]
        pid = pool.result(slot, slot.actor.ready.remote())
        killed = threading.Event()
        for share in askers.run(shares, asking.verifiers):
            done.append(share)
            if not killed.is_set():
                killed.set()
                os.kill(pid, signal.SIGKILL)
        assert sorted(done) == shares
        found = asking.answer(files)
    np.testing.assert_allclose(found.logits, want(model), atol=TOLERANCE)
    assert found.report.passed
    assert found.report.checked == 700
    (ledger,) = (one.ledger for one in verifiers_of(side))
    assert len(shares) <= ledger.batches <= len(shares) + 1
    assert not ledger.alarms


@ray_only
def test_each_process_opens_the_file_for_itself(model, tmp_path):
    folder, address = model
    places = AskerFiles(folder / "ward.kit", None, folder / "x.npy", address)
    options = run.Job(places, Manner(), tmp_path / "a.npz", tmp_path / "ledger", "refuse", 2, None)
    with pytest.raises(InputError, match="--passphrase-file"):
        run.run_job(options, lambda: "secret")
