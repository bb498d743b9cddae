"""Ledgers in files: what SQLite itself reads there, several processes, crashes, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import protocol
import securedl
from protocol import parts as asking
from securedl.client.ledger import KEY_TERM, Ledger
from securedl.client.ledger_file import LedgerFile
from securedl.client.ledger_summary import ledger_figures, ledger_text
from securedl.errors import AlarmError, InputError, ServerError

sys.path.insert(0, str(Path(__file__).parent))
from test_inference import QUERIES, Server, X, network, predict, scaled  # found by path, not by package

MODEL = "ab" * 16
COLUMNS = "server, verify, samples, batches, checkpoints, probes, alarmed, recomputed, alarms"


@pytest.fixture(scope="module")
def plan() -> securedl.Plan:
    """Every level ends in a refresh, four of them."""
    return securedl.compile(network("relu", 2), X, batch=32, ring=4096)


def opened(path: Path, **before: int) -> LedgerFile:
    return LedgerFile(path, MODEL, Ledger(**before))


def read(path: Path, question: str) -> list[Any]:
    """What SQLite finds there, beside whoever writes."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


class TestCounts:
    def test_a_call_from_question_to_verdict(self, tmp_path):
        ledger = opened(tmp_path / "ledger")
        entry = ledger.ask(3, 40, "probes", "unix:s")
        asked = f"SELECT {COLUMNS}, seconds IS NULL, first_alarms FROM calls"
        assert read(ledger.path, asked) == [("unix:s", "probes", 40, 3, 0, None, None, None, 0, 1, None)]
        for alarm in (False, True, True):
            entry.see(alarm)
        assert read(ledger.path, asked)[0][4:9] == (3, None, None, None, 1)
        assert ledger.alarms == 1
        entry.end(7, 2, 0, ["one", "two", "three", "four"])
        found = ("unix:s", "probes", 40, 3, 3, 7, 2, 0, 4, 0, '["one", "two", "three"]')
        assert read(ledger.path, asked) == [found]
        assert read(ledger.path, "SELECT * FROM models") == [(MODEL, 7, 2, 3, 1, 3)]

    def test_the_larger_count_holds(self, tmp_path):
        path = tmp_path / "ledger"
        assert opened(path, batches=100, checked=5).batches == 100
        opened(path, batches=100).ask(2)
        older = opened(path, batches=50, alarms=1)
        assert (older.batches, older.checked, older.alarms) == (102, 5, 1)
        assert opened(path, batches=150).batches == 150
        assert opened(path).to_array().tolist() == [5, 0, 150, 1]

    def test_owners_who_share_a_file_count_apart(self, tmp_path):
        one, other = opened(tmp_path / "ledger"), LedgerFile(tmp_path / "ledger", "cd" * 16, Ledger())
        one.ask(3).see(True)
        other.allow("refuse")
        other.ask(5)
        assert (one.batches, other.batches, other.alarms) == (3, 5, 0)

    def test_the_term_of_the_key_is_that_of_all(self, tmp_path):
        start = KEY_TERM * 9 // 10 - 2
        one, other = opened(tmp_path / "ledger", batches=start), opened(tmp_path / "ledger")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            one.ask(2)
        for batches in (1, KEY_TERM):  # and goes on beyond it
            with pytest.warns(
                UserWarning, match=r"more than 90 % of its term of 1,048,576 batches: Owner.rot"
            ):
                other.ask(batches)
        assert len(read(other.path, "SELECT * FROM calls")) == 3

    def test_an_alarm_stops_all_who_share_a_key(self, tmp_path):
        one, other = opened(tmp_path / "ledger"), opened(tmp_path / "ledger")
        one.ask(1).see(True)
        with pytest.raises(AlarmError, match=r"1 earlier call\(s\)"):
            other.allow("refuse")
        other.allow("continue")

    def test_an_alarm_is_as_much_work_as_none(self, tmp_path):
        """Bytes written at each checkpoint: a server could see the time of more."""
        ledger = opened(tmp_path / "ledger")
        written = []
        for alarms in ([False] * 4, [False, True, True, True]):
            entry, totals = ledger.ask(1, 1, "every", "unix:s"), [_written()]
            for alarm in alarms:
                entry.see(alarm)
                totals.append(_written())
            written.append(np.diff(totals).tolist())
        assert written[0] == written[1]
        assert len({*written[0]}) == 1
        assert written[0][0] > 0


def _written() -> int:
    """Bytes that this process has written."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


class TestProcesses:
    APPEND = """
import os, sys
from pathlib import Path
from securedl.client.ledger import Ledger
from securedl.client.ledger_file import LedgerFile

ledger = LedgerFile(Path(sys.argv[1]), "m", Ledger())
children = [os.fork() for _ in range(1)]
for number in range(20):
    entry = ledger.ask(3, 2, "every", str(os.getpid()))
    entry.see(number == 7)
    entry.end(1, 0, 2, ["alarm"] if number == 7 else [])
if all(children):
    os.waitpid(children[0], 0)
"""

    def test_several_append(self, tmp_path):
        """Three that make the file at once, and a fork of each."""
        path = tmp_path / "ledger"
        command = [sys.executable, "-W", "error", "-c", self.APPEND, str(path)]
        running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        said = [process.communicate(timeout=100)[1] for process in running]
        assert said == [""] * 3
        calls = read(path, "SELECT server, count(*), sum(alarms), count(seconds) FROM calls GROUP BY server")
        assert [row[1:] for row in calls] == [(20, 1, 20)] * 6
        assert read(path, "SELECT * FROM models") == [("m", 120, 0, 360, 6, 120)]
        assert read(path, "PRAGMA integrity_check") == [("ok",)]

    READ = (
        "import sys, sqlite3; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM calls'); c.close()"
    )

    def _read_by_another(self, path: Path) -> None:
        """A process of its own, once."""
        subprocess.run([sys.executable, "-c", self.READ, str(path)], check=True)

    def test_two_owners_of_a_process(self, tmp_path):
        """Closing any descriptor of a file ends the process's locks on it."""
        one, other = opened(tmp_path / "ledger"), LedgerFile(tmp_path / "ledger", "cd" * 16, Ledger())
        self._read_by_another(one.path)
        one.ask(3, 2, "every", "s").see(True)
        other.ask(1, 1, "every", "s")
        self._read_by_another(one.path)
        found = read(one.path, "SELECT model, batches, alarms FROM models ORDER BY model")
        assert found == [(MODEL, 3, 1), ("cd" * 16, 1, 0)]

    def test_a_fork_that_outlives_its_parent(self, tmp_path):
        """What SQLite has in memory of a file's locks, a fork inherits without the locks."""
        script = """
import os, sys
from pathlib import Path
from securedl.client.ledger import Ledger
from securedl.client.ledger_file import LedgerFile

ledger = LedgerFile(Path(sys.argv[1]), "m", Ledger())
ledger.ask(1, 1, "every", "parent")
(ours, theirs), (again, go) = os.pipe(), os.pipe()
if os.fork():
    os.close(theirs), os.close(go)
    os.read(ours, 1)  # the child has written
    os._exit(0)
ledger.ask(2, 1, "every", "child")
os.write(theirs, b".")
sys.stdin.read()  # until another process has read
ledger.ask(4, 1, "every", "child").see(True)
"""
        path = tmp_path / "ledger"
        command = [sys.executable, "-c", script, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            parent.wait(timeout=60)
            self._read_by_another(path)
            parent.communicate(timeout=60)  # the child goes on, and ends
        assert read(path, "SELECT batches, alarms FROM models") == [(7, 1)]

    @pytest.mark.he
    def test_a_killed_process(self, plan, tmp_path):
        """It dies after an alarm, before the verdict: an older save of its owner knows of both."""
        owner = securedl.Owner(plan, ledger=tmp_path / "ledger")
        owner.ask(QUERIES, probes=0)
        owner.save(tmp_path / "owner", "p")
        script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_inference import *

owner = securedl.Owner.load(sys.argv[1], "p", ledger=sys.argv[2])
server = Server(owner)
twice = scaled(server, 1, 2)
(batch,) = ask(server, QUERIES, 0).batches

def tamper(at, tiles):
    return twice(at, tiles) if at < 2 else os.kill(os.getpid(), {int(signal.SIGKILL)})

server.serve(batch, tamper)
"""
        command = [sys.executable, "-c", script, str(tmp_path / "owner"), str(tmp_path / "ledger")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        rows = read(tmp_path / "ledger", "SELECT batches, checkpoints, alarms, seconds FROM calls")
        assert rows == [(1, 0, 0, None), (1, 2, 1, None)]
        with pytest.raises(AlarmError):
            owner.ask(QUERIES, probes=0)
        again = securedl.Owner.load(tmp_path / "owner", "p", ledger=tmp_path / "ledger")
        assert again.verification.ledger.batches == 2
        with pytest.raises(AlarmError):
            again.ask(QUERIES, probes=0)
        securedl.Owner.load(tmp_path / "owner", "p").ask(QUERIES, probes=0)  # which knows of neither


@pytest.mark.he
class TestOwner:
    def test_calls_through_a_server(self, plan, tmp_path, monkeypatch):
        owner, before, asked = securedl.Owner(plan, ledger=str(tmp_path / "l")), [], asking.answered

        def spy(*args):
            before.append(read(tmp_path / "l", f"SELECT {COLUMNS} FROM calls WHERE seconds IS NULL"))
            return asked(*args)

        monkeypatch.setattr(asking, "answered", spy)
        modes, want = ("every", "probes", "none"), []
        with (
            protocol.Server(tmp_path / "store", f"unix:{tmp_path / 's'}", evaluator="seal") as server,
            protocol.Client(server.address, owner) as client,
        ):
            client.upload()
            for verify in modes:
                report = client.predict(QUERIES, verify=verify).report
                want.append((report.probes, 0, report.checked, 0))
        assert [report[2] for report in want] == [20, 0, 0]
        stages = len(plan.program.refreshes) + 1
        rows = read(tmp_path / "l", f"SELECT {COLUMNS} FROM calls WHERE seconds > 0")
        batches = rows[0][3]
        front = [(server.address, mode, 20, batches, batches * stages) for mode in modes]
        assert rows == [a + b for a, b in zip(front, want, strict=True)]
        assert before == [[(*row[:4], 0, None, None, None, 0)] for row in front], "nothing was sent then"

        with pytest.raises(ServerError), protocol.Client(server.address, owner) as client:
            client.predict(QUERIES)
        with pytest.raises(ServerError):
            protocol.Client(server.address, owner, retry_s=0).predict(QUERIES)
        assert read(tmp_path / "l", "SELECT count(*), count(seconds) FROM calls") == [(4, 3)]
        assert owner.verification.ledger.batches == 4 * batches

    def test_an_alarmed_call_whose_file_only_its_user_reads(self, plan, tmp_path):
        before = os.umask(0)
        try:
            owner = securedl.Owner(plan, ledger=tmp_path / "ledger")
        finally:
            os.umask(before)
        server = Server(owner)
        report = predict(server, tamper=scaled(server, "answer", 2)).report
        assert report.alarms
        row = read(tmp_path / "ledger", "SELECT alarms, first_alarms, probes, alarmed, recomputed FROM calls")
        probes = report.probes
        assert row == [(len(report.alarms), json.dumps(report.alarms[:3]), probes, probes, 0)]
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["ledger"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        data = b"".join(file.read_bytes() for file in files)
        known = owner.verification.probes.fingerprint.samples
        assert owner.model_id.hex().encode() in data
        for secret in (owner._key_id, owner._key_id.hex().encode(), QUERIES[0].tobytes(), known[0].tobytes()):
            assert secret not in data
            assert secret[:8] not in data

    def test_what_is_no_path(self, plan):
        with pytest.raises(InputError, match="ledger takes the path of a file, got an int"):
            securedl.Owner(plan, ledger=3)


class TestRefusals:
    def refused(self, path: Path, words: str) -> None:
        """Both to write and to read; what was there stays as it was."""
        before = path.read_bytes() if path.is_file() else None
        for call in (opened, ledger_figures):
            with pytest.raises(InputError, match=words) as caught:
                call(path)
            assert "\n" not in str(caught.value)
        assert before is None or path.read_bytes() == before

    def test_other_files(self, tmp_path):
        (tmp_path / "text").write_text("no ledger\n" * 500)
        self.refused(tmp_path / "text", "text as a ledger: file is not a database")
        foreign = sqlite3.connect(tmp_path / "foreign")
        foreign.execute("CREATE TABLE calls (number)")
        foreign.close()
        self.refused(tmp_path / "foreign", r"foreign is no ledger: name the file .* Owner\(plan, ledger=")

    def test_another_version(self, tmp_path):
        opened(tmp_path / "ledger")
        connection = sqlite3.connect(tmp_path / "ledger")
        connection.execute("PRAGMA user_version = 9")
        connection.close()
        self.refused(tmp_path / "ledger", "ledger has version 9, this program reads 1")

    def test_a_damaged_file(self, tmp_path):
        opened(tmp_path / "ledger").ask(1)
        data = bytearray((tmp_path / "ledger").read_bytes())
        assert len(data) > 8192
        data[4096:] = b"\x55" * (len(data) - 4096)
        (tmp_path / "ledger").write_bytes(data)
        self.refused(tmp_path / "ledger", "ledger as a ledger: database disk image is malformed")

    def test_places(self, tmp_path):
        with pytest.raises(InputError, match="it is a folder; name a file"):
            opened(tmp_path)
        with pytest.raises(InputError, match="there is no folder"):
            opened(tmp_path / "none" / "ledger")
        with pytest.raises(InputError, match=r"there is no .*none: name the file"):
            ledger_figures(tmp_path / "none")
        (tmp_path / "empty").touch()
        with pytest.raises(InputError, match="empty is no ledger"):
            ledger_figures(tmp_path / "empty")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]

    def test_one_that_was_removed(self, tmp_path):
        ledger = opened(tmp_path / "ledger")
        (tmp_path / "ledger").unlink()
        with pytest.raises(InputError, match=r"cannot use .*ledger as a ledger: .*No such file"):
            ledger.ask(1)
        assert ledger.batches == 0

    def test_one_that_another_holds(self, tmp_path, monkeypatch):
        from securedl.client import ledger_file

        ledger = opened(tmp_path / "ledger")
        monkeypatch.setattr(ledger_file, "_WAIT_S", 0.05)
        holder = sqlite3.connect(tmp_path / "ledger", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="database is locked"):
            opened(tmp_path / "ledger")
        holder.close()
        assert opened(tmp_path / "ledger").batches == ledger.batches


class TestSummary:
    @pytest.fixture
    def path(self, tmp_path) -> Path:
        """Four calls in each way of checking them, the last without a verdict."""
        ledger = opened(tmp_path / "ledger", batches=1000)
        ends: dict[str, list[tuple[int, int, int, list[str]]]] = {
            "every": [(4, 0, 30, []), (4, 2, 22, ["2 probe(s) differ"]), (4, 0, 30, [])],
            "probes": [(30, 0, 0, []), (30, 1, 0, ["1 probe(s) differ\x1b[2J"]), (37, 0, 0, [])],
            "none": [(0, 0, 0, [])] * 3,
        }
        for verify, verdicts in ends.items():
            for verdict in verdicts:
                entry = ledger.ask(2, 30, verify, "unix:s")
                entry.see(bool(verdict[3]))
                entry.end(*verdict)
            ledger.ask(2, 30, verify, "unix:s").see(verify == "none")
        return ledger.path

    def test_figures(self, path):
        (model,) = ledger_figures(path)
        modes = {mode["verify"]: mode for mode in model["modes"]}
        for verify, probes, alarmed, recomputed, alarms in (
            ("every", 12, 2, 82, 1), ("probes", 97, 1, 0, 1), ("none", 0, 0, 0, 1),
        ):  # fmt: skip
            found = modes[verify]
            assert (found["calls"], found["unfinished"], found["samples"], found["batches"]) == (4, 1, 90, 8)
            assert (found["probes"], found["alarmed"], found["recomputed"]) == (probes, alarmed, recomputed)
            assert found["alarms"] == alarms
        exact = stats.binomtest(1, 97).proportion_ci(0.90, "exact").high
        assert modes["every"]["bound"] == pytest.approx(8 / 90)
        assert modes["probes"]["bound"] == pytest.approx(exact)
        assert modes["none"]["bound"] == 1.0
        assert model["bound"] == pytest.approx((8 / 90 + exact + 1) / 3)
        assert (model["batches"], model["remaining"]) == (1024, KEY_TERM - 1024)
        assert (model["model"], model["calls"], model["unfinished"], model["alarms"]) == (MODEL, 12, 3, 3)
        latest = [(alarm["verify"], alarm["alarms"]) for alarm in model["latest_alarms"]]
        assert latest == [
            ("none", []),
            ("probes", ["1 probe(s) differ\x1b[2J"]),
            ("every", ["2 probe(s) differ"]),
        ]

    def test_text(self, path):
        text = ledger_text(ledger_figures(path))
        assert all(line.isprintable() for line in text.splitlines())
        assert text.splitlines()[2] == f"  key: 1,024 of 1,048,576 batches served, {KEY_TERM - 1024:,} remain"
        assert "12 calls, 20" in text
        assert text.splitlines()[4].split() == [
            "every",
            "4",
            "90",
            "12",
            "82",
            "1",
            "at",
            "most",
            "8.89",
            "%",
        ]
        assert "at most 37.9 % of all answers were tampered with beyond the tolerances (95 % conf" in text
        assert "3 calls with an alarm, 3 without a verdict" in text
        assert "unix:s: 1 probe(s) differ?[2J" in text
        assert "unix:s: an alarm, and no verdict" in text

    def test_nothing_asked(self, tmp_path):
        ledger = opened(tmp_path / "ledger")
        (model,) = ledger_figures(ledger.path)
        assert (model["calls"], model["samples"], model["bound"]) == (0, 0, 1.0)
        assert f"model {MODEL}\n  0 calls\n" in ledger_text([model])


class TestCommand:
    def test_ledger(self, command, tmp_path):
        ledger = opened(tmp_path / "ledger")
        ledger.ask(1, 5).end(1, 0, 5, [])
        status, out, _ = command("ledger", ledger.path, "--json", tmp_path / "json")
        figures = ledger_figures(ledger.path)
        assert (status, out) == (0, ledger_text(figures) + "\n")
        assert json.loads((tmp_path / "json").read_text()) == figures
        status, out, err = command("ledger", tmp_path / "json")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "file is not a database" in err

    def test_probes(self, command, tmp_path):
        wish = ("--samples", 1000, "--fraction", 0.05, "--confidence", 0.99, "--miss", 0.5)
        status, out, _ = command("probes", *wish, "--json", tmp_path / "json")
        found = json.loads((tmp_path / "json").read_text())
        assert found == {
            "samples": 1000, "fraction": 0.05, "confidence": 0.99, "miss": 0.5, "probes": found["probes"],
        }  # fmt: skip
        assert status == 0
        assert out.startswith(f"{found['probes']} probes at random places among 1,000 samples notice")
        for bad in (0, 1.5, "nan"):
            status, _, err = command("probes", "--samples", 1000, "--fraction", bad)
            assert status == 1
            assert "above 0, and at most 1" in err
