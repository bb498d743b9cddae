"""Weights prepared with the help of processes: the same as by one alone, and nothing is left of these."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.client import preparing, zero_process
from securedl.client.keys import Keys
from securedl.client.preparing import Helpers, Tile, prepared, processors
from securedl.errors import InputError, SecureDLError
from securedl.he.ckks import ckks_parameters, coefficient_parameters
from securedl.he.params import Parameters
from securedl.he.record import SEED_BYTES, Record, Shape

pytestmark = pytest.mark.he

COEFFICIENTS, SLOTS = coefficient_parameters(), ckks_parameters(4096, 1)
WEIGHT = Shape(0, 2, 2.0**21, seeded=True)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(5e-3)


class Patient(Helpers):
    """Ready before the first weight is asked of them; the last one is kept."""

    last: Patient
    processes: list[subprocess.Popen[bytes]]

    def __enter__(self) -> Patient:
        super().__enter__()
        Patient.last = self
        self.processes = [helper._process for helper in self._helpers]
        until(lambda: self.ready or not self._helpers)
        return self

    @property
    def ended(self) -> bool:
        return all(process.poll() is not None for process in self.processes)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two weights are enough for two processes."""
    monkeypatch.setattr(preparing, "Helpers", Patient)
    monkeypatch.setattr(preparing, "FIRST", 2)
    monkeypatch.setattr(preparing, "WORTH_S", -1.0)


def tiles(count: int, params: Parameters = COEFFICIENTS) -> list[Tile]:
    """Of all levels in turn, coefficients or slots."""
    rng, size = np.random.default_rng(count), params.ring if params is COEFFICIENTS else params.ring // 2
    shapes = [Shape(number % len(params.primes), 2, 2.0**21, seeded=True) for number in range(count)]
    return [(shape, rng.uniform(-1, 1, size)) for shape in shapes]


def compare(keys: Keys, packed: list[bytes], given: list[Tile]) -> None:
    """What is decrypted is what was given, in its order, and every seed is another."""
    for data, (shape, values) in zip(packed, given, strict=True):
        found = keys.decrypt(data, shape, coefficients=len(values) == keys.params.ring)
        np.testing.assert_allclose(found, values, atol=1e-3 if len(values) < keys.params.ring else 1e-5)
    assert len({data[-SEED_BYTES:] for data in packed}) == len(packed)
    assert len({data[100:200] for data in packed}) == len(packed)


class TestTheSame:
    @pytest.mark.parametrize("params", [COEFFICIENTS, SLOTS])
    def test_as_alone(self, eager: None, params: Parameters, monkeypatch: pytest.MonkeyPatch) -> None:
        keys, given = Keys(params), tiles(75, params)
        alone, took = list(prepared(keys, given, len(given), 1)), list[int]()
        take = preparing._Helper.take

        def counted(helper: preparing._Helper, level: int) -> Record:
            took.append(level)
            return take(helper, level)

        monkeypatch.setattr(preparing._Helper, "take", counted)
        together = list(prepared(keys, given, len(given), 3))
        assert len(took) == 73, "all after the first two"
        compare(keys, together, given)
        compare(keys, alone, given)
        assert len({data[-SEED_BYTES:] for data in alone + together}) == 150
        assert len(Patient.last.processes) == 3
        assert Patient.last.ended

    def test_an_owners_weights(self, eager: None) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(300, 60), nn.ReLU(), nn.Linear(60, 3))
        plan = securedl.compile(model, np.random.default_rng(0).normal(size=(60, 300)), activations="client")
        given = list(plan.weight_slots())
        assert len(given) > 4
        owner = securedl.Owner(plan, processes=2)
        compare(owner.keys, list(owner.weights()), given)
        compare(owner.keys, list(owner.weights([3, 1])), [given[1], given[3]])
        assert len(Patient.last.processes) == 2
        assert list(owner.weights([])) == []

    def test_plain_weights_need_none(self, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        x = np.random.default_rng(0).normal(size=(60, 5))
        owner = securedl.Owner(securedl.compile(model, x, weights="plain", ring=4096), processes=2)
        monkeypatch.setattr(subprocess, "Popen", None)
        assert len(list(owner.weights())) == len(owner.program.weight_shapes) > 1


class TestWhen:
    def test_few_are_made_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the weights of all small networks: a process would not be ready before they are done."""
        monkeypatch.setattr(subprocess, "Popen", None)
        keys, given = Keys(COEFFICIENTS), tiles(40)
        compare(keys, list(prepared(keys, given, len(given), 8)), given)
        assert list(prepared(keys, [], 0, 8)) == []

    def test_never_with_one(self, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(subprocess, "Popen", None)
        keys, given = Keys(COEFFICIENTS), tiles(5)
        compare(keys, list(prepared(keys, given, 10**9, 1)), given)

    def test_they_are_made_here_until_all_are_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And to the end, where that comes first."""
        monkeypatch.setattr(preparing, "WORTH_S", -1.0)
        monkeypatch.setattr(preparing, "_START", "import time; time.sleep(100)")
        keys, given = Keys(COEFFICIENTS), tiles(40)
        compare(keys, list(prepared(keys, given, len(given), 2)), given)

    def test_as_many_as_processors(self) -> None:
        assert processors() == len(os.sched_getaffinity(0)) >= 1

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
    def test_no_such_number(self, wrong: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="processes"):
            securedl.Owner.load(tmp_path, "p", processes=wrong)


class TestTheEnd:
    def test_a_closed_generator(self, eager: None) -> None:
        keys = Keys(COEFFICIENTS)
        made = prepared(keys, tiles(200), 200, 2)
        for _ in range(5):
            next(made)
        assert not Patient.last.ended
        assert all(os.getsid(process.pid) == process.pid for process in Patient.last.processes), "no Ctrl-C"
        made.close()
        assert Patient.last.ended

    def test_values_that_do_not_fit(self, eager: None) -> None:
        given = tiles(60)
        given[40][1][7] = 1e300
        made = prepared(Keys(COEFFICIENTS), given, len(given), 2)
        with pytest.raises(InputError, match="do not fit"):
            list(made)
        assert Patient.last.ended

    def test_values_that_cannot_be_had(self, eager: None) -> None:
        def given() -> Iterator[Tile]:
            yield from tiles(30)
            raise KeyError("lost")

        with pytest.raises(KeyError, match="lost"):
            list(prepared(Keys(COEFFICIENTS), given(), 60, 2))
        assert Patient.last.ended

    def test_a_killed_process(self, eager: None) -> None:
        made = prepared(Keys(COEFFICIENTS), tiles(200), 200, 2)
        for _ in range(5):
            next(made)
        Patient.last.processes[1].kill()
        with pytest.raises(SecureDLError, match=r"status -9.*processes=1"):
            list(made)
        assert Patient.last.ended

    def test_an_error_in_a_process(self) -> None:
        with Patient(Keys(COEFFICIENTS), 1) as helpers:
            (helper,) = helpers._helpers
            helper.ask([0, 9])
            assert helper.take(0).seed
            with pytest.raises(SecureDLError, match="failed: IndexError: tuple index out of range"):
                helper.take(9)

    def test_one_with_another_key(self) -> None:
        """As anything that goes wrong there: it is said here."""
        keys = Keys(COEFFICIENTS)
        keys.body = lambda: bytes(8)  # type: ignore[method-assign]
        with Patient(keys, 1) as helpers, pytest.raises(SecureDLError, match="failed: RuntimeError: "):
            list(helpers.encrypt(iter(tiles(2))))

    @pytest.mark.parametrize(
        "start", ["raise SystemExit('no such thing')", "import securedl.nothing", "print('hello')"]
    )
    def test_one_that_cannot_start(
        self, eager: None, start: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """All goes on here, with a warning."""
        monkeypatch.setattr(preparing, "_START", start)
        keys, given = Keys(COEFFICIENTS), tiles(10)
        with caplog.at_level(logging.WARNING):
            compare(keys, list(prepared(keys, given, len(given), 2)), given)
        assert "one process encrypts all weights" in caplog.text
        assert any(text in caplog.text for text in ("no such thing", "No module named", "answered b'h'"))
        assert Patient.last.ended

    def test_no_process_at_all(
        self, eager: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        keys, given = Keys(COEFFICIENTS), tiles(10)
        compare(keys, list(prepared(keys, given, len(given), 2)), given)
        assert "no process can be started" in caplog.text


#: As a user may write it: nothing guards the file from being imported.
SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in what runs in the background
print("begins", flush=True)
import numpy as np
from securedl.client import preparing
from securedl.client.keys import Keys
from securedl.he.ckks import coefficient_parameters
from securedl.he.record import Shape

preparing.FIRST, preparing.WORTH_S = 2, -1.0
keys, shape = Keys(coefficient_parameters()), Shape(0, 2, 2.0**21, seeded=True)
take, helpers = preparing._Helper.take, set()
def counted(helper, level):
    helpers.add(helper._process.pid)
    return take(helper, level)
preparing._Helper.take = counted
tiles = ((shape, np.ones(4096)) for _ in range(10**9))
for data in preparing.prepared(keys, tiles, 10**9, 2):
    if len(helpers) == 2:
        print(*helpers, flush=True)
        if sys.argv[1] == "end": break
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        signal.pause()
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["end", "SIGKILL", "SIGINT", "SIGTERM"])
def test_none_outlives_a_script(how: str, tmp_path: Path) -> None:
    """Nor is the script run again in them."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, str(script), how], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(securedl.__file__).parents[1])},
    )  # fmt: skip
    begins, pids = run.stdout.splitlines()
    assert begins == "begins"
    assert run.returncode == (0 if how == "end" else -getattr(signal, how)), run.stderr
    until(lambda: not any(running(int(pid)) for pid in pids.split()))


class TestSecrets:
    def test_neither_arguments_nor_environment_hold_the_key(self) -> None:
        keys = Keys(COEFFICIENTS)
        secret = keys.body()[-8 * 4096 :]
        with Patient(keys, 1) as helpers:
            (process,) = helpers.processes
            proc = Path(f"/proc/{process.pid}")
            assert (proc / "cmdline").read_bytes().split(b"\0")[1:3] == [b"-c", preparing._START.encode()]
            for name in ("cmdline", "environ"):
                seen = (proc / name).read_bytes()
                assert secret[:32] not in seen
                assert secret[:32].hex().encode() not in seen
            opened = [os.readlink(file) for file in (proc / "fd").iterdir()]
            files = [name for name in opened if name.startswith("/")]
            assert all(name.startswith(("/dev/", "/memfd")) for name in files), files


class TestProcess:
    """The other side, in this process."""

    def served(self, *parts: bytes) -> bytes:
        target = io.BytesIO()
        zero_process.give(io.BytesIO(b"".join(parts)), target)
        return target.getvalue()

    def start(self, keys: Keys) -> list[bytes]:
        meta, body = json.dumps(asdict(keys.params)).encode(), keys.body()
        return [zero_process.HANDSHAKE.pack(len(meta), len(body)), meta, body]

    def test_zeros_under_the_key(self) -> None:
        keys = Keys(SLOTS)
        found = self.served(*self.start(keys), zero_process.REQUEST.pack(2), bytes([1, 0]))
        lengths = [1 + 64 + 2 * 8 * 4096, 1 + 64 + 8 * 4096]
        assert found[:1] == zero_process.READY
        assert len(found) == 1 + sum(lengths)
        assert found[1:2] == found[1 + lengths[0] :][:1] == zero_process.ZERO

    def test_it_says_what_is_wrong(self) -> None:
        keys = Keys(SLOTS)
        start = self.start(keys)
        start[2] = bytes(len(start[2]))
        found = self.served(*start)
        assert found[:2] == zero_process.READY + zero_process.FAILED
        assert len(found) == 6 + zero_process.REASON.unpack(found[2:6])[0]
        assert self.served()[1:2] == zero_process.FAILED

    def test_it_ends_with_its_input(self) -> None:
        keys = Keys(SLOTS)
        assert self.served(*self.start(keys)) == zero_process.READY
        assert self.served(*self.start(keys), b"\0") == zero_process.READY
