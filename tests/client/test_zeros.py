"""Encryptions of zero made ahead: each is used once, whoever asks, and nobody waits for them."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.client import owner as owners
from securedl.client import sealed
from securedl.client import zeros as module
from securedl.client.batch import Batch
from securedl.client.coefficients import encoded, from_residues, to_residues
from securedl.client.keys import Keys
from securedl.client.stock import AHEAD_BYTES
from securedl.client.zeros import Zeros
from securedl.errors import InputError
from securedl.he.ckks import VALUE_SCALE, ckks_parameters, coefficient_parameters
from securedl.he.record import SEED_BYTES, Record, Shape, pack, unpack
from securedl.he.schemes import scheme_of
from securedl.he.seal import SealContext

pytestmark = pytest.mark.he

COEFFICIENTS = coefficient_parameters()
VALUE = Shape(0, 2, VALUE_SCALE, seeded=True)
X = np.random.default_rng(0).normal(size=(60, 5))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle after a millisecond, and no thread that lingers."""
    monkeypatch.setattr(module, "QUIET_S", 1e-3)
    monkeypatch.setattr(module, "LINGER_S", 0.05)


@pytest.fixture(scope="module")
def plan() -> securedl.Plan:
    """5-6-4-3, a refresh between the layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    return securedl.compile(model, X, activations="client")


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(1e-3)


def filled(zeros: Zeros, count: int) -> None:
    """Wait for a stock of so many."""
    with zeros.working():
        pass
    until(lambda: len(zeros) == count)


def seed(data: bytes) -> bytes:
    return data[-SEED_BYTES:]


class Fake:
    """Makes records that are told apart by their seeds; slowly, so that threads meet."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s, self.made, self._lock = delay_s, 0, threading.Lock()

    def __call__(self, level: int) -> Record:
        with self._lock:
            self.made += 1
            number = self.made
        time.sleep(self.delay_s)
        shape = Shape(level, 2, 1.0, seeded=True)
        return Record(shape, np.zeros((1, level + 1, 8), np.uint64), number.to_bytes(64, "big"))


class TestStock:
    def test_it_fills_while_nobody_works(self) -> None:
        fake = Fake()
        zeros = Zeros(fake, {0: 3, 2: 5})
        assert len(zeros) == fake.made == 0, "nothing is made for an owner that asks nothing"
        filled(zeros, 8)
        found = [zeros.take(level) for level in (2, 2, 2, 2, 2, 0, 0, 0)]
        assert fake.made == 8
        assert Counter(record.shape.level for record in found) == {0: 3, 2: 5}
        assert zeros.take(1).shape.level == 1, "a level that is not kept"
        filled(zeros, 8)

    def test_not_while_somebody_works(self) -> None:
        fake = Fake(delay_s=1e-3)
        zeros = Zeros(fake, {0: 50})
        with zeros.working():
            pass
        until(lambda: len(zeros) > 2)
        with zeros.working(), zeros.working():
            time.sleep(0.02)  # one may have been begun
            made = fake.made
            time.sleep(0.05)
            assert fake.made == made < 50
        until(lambda: len(zeros) == 50)
        time.sleep(0.02)
        assert fake.made == 50

    def test_its_thread_ends(self) -> None:
        zeros = Zeros(Fake(), {0: 3})
        for _ in range(2):
            filled(zeros, 3)
            until(lambda: "securedl-zeros" not in {thread.name for thread in threading.enumerate()})
            zeros.take(0)

    @pytest.mark.parametrize("room", [{}, {0: 0}])
    def test_none(self, room: dict[int, int]) -> None:
        fake = Fake()
        zeros = Zeros(fake, room)
        with zeros.working():
            pass
        time.sleep(0.02)
        assert fake.made == 0
        assert zeros.take(0).shape.level == 0

    def test_one_that_cannot_be_made(self, caplog: pytest.LogCaptureFixture) -> None:
        def fails(level: int) -> Record:
            raise MemoryError(level)

        zeros = Zeros(fails, {0: 3})
        with zeros.working():
            pass
        until(lambda: "could be made ahead" in caplog.text)
        with pytest.raises(MemoryError):
            zeros.take(0)

    def test_an_error_while_working_is_the_end_of_it(self) -> None:
        zeros = Zeros(Fake(), {0: 3})
        with pytest.raises(KeyError), zeros.working():
            raise KeyError
        until(lambda: len(zeros) == 3)

    def test_many_threads_take_each_once(self) -> None:
        zeros = Zeros(Fake(), {0: 20})

        def take(_: int) -> bytes:
            with zeros.working():
                found = zeros.take(0).seed
            time.sleep(2e-3)
            assert found is not None
            return found

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(take, range(2000)))
        assert len(set(found)) == 2000


class TestCopies:
    @pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_none(self, attempt: Callable[[Any], Any]) -> None:
        zeros = Zeros(Fake(), {0: 3})
        with pytest.raises(TypeError, match="used once"):
            attempt(zeros)
        with pytest.raises(TypeError, match="secret key"):
            attempt(Keys(COEFFICIENTS, ahead={0: 3}))

    def test_they_are_not_saved(self, plan, tmp_path) -> None:
        owner = securedl.Owner(plan, ahead=2)
        stock = sum(owner.keys.zeros._room.values())
        filled(owner.keys.zeros, stock)
        owner.save(tmp_path / "key", "p")
        data, head = (tmp_path / "key").read_bytes(), sealed._FILE
        _, _, salt, nonce = head.unpack_from(data)
        opened = sealed.AESGCM(sealed._derive("p", salt)).decrypt(nonce, data[head.size :], data[: head.size])
        loaded = securedl.Owner.load(tmp_path / "key", "p", ahead=2)
        assert len(loaded.keys.zeros) == 0
        filled(loaded.keys.zeros, stock)
        seeds = [zeros.take(0).seed for zeros in (owner.keys.zeros, loaded.keys.zeros) for _ in range(stock)]
        assert len(set(seeds)) == 2 * stock
        with np.load(io.BytesIO(opened)) as arrays:
            for array in arrays.values():
                assert not any(one in array.tobytes() for one in seeds if one)

    def test_a_forked_process_begins_anew(self) -> None:
        """Also one that was forked while its parent had a stock, or worked."""
        code = """
import os, time
from securedl.client import zeros as module
from securedl.client.keys import Keys
from securedl.he.ckks import coefficient_parameters
module.QUIET_S = 0
keys = Keys(coefficient_parameters(), ahead={0: 6})
def fill():
    with keys.zeros.working(): pass
    while len(keys.zeros) < 6: time.sleep(1e-3)
fill()
with keys.zeros.working():
    forked = os.fork() == 0
    assert len(keys.zeros) == (0 if forked else 6)
    seeds = [keys.zeros.take(0).seed.hex() for _ in range(9)]
fill()
seeds += [keys.zeros.take(0).seed.hex() for _ in range(9)]
os.write(1, " ".join([*seeds, ""]).encode())  # at once, so that the two do not mix
if forked: os._exit(0)
assert os.wait()[1] == 0
"""
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        found = run.stdout.split()
        assert len(found) == len(set(found)) == 36


class TestEncryption:
    def test_it_is_as_fresh(self) -> None:
        """What is decrypted is the plaintext and SEAL's error, of SEAL's size, another each time."""
        keys, rng = Keys(COEFFICIENTS, ahead={0: 8}), np.random.default_rng(4)
        filled(keys.zeros, 8)
        given, noises = rng.normal(size=(8, 4096)), []
        with keys.zeros.working():
            tiles = [keys.encrypt(values, VALUE, keys.zeros.take) for values in given]
            assert len(keys.zeros) == 0
        for values, data in zip(given, tiles, strict=True):
            assert unpack(COEFFICIENTS, data, VALUE).shape == VALUE
            plain = from_residues(COEFFICIENTS, encoded(COEFFICIENTS, values, VALUE).residues)[0]
            noise = keys.decrypt(data, VALUE, coefficients=True) * VALUE_SCALE - plain
            np.testing.assert_array_equal(noise, np.rint(noise))
            noises.append(noise)
        assert 3.1 < np.std(noises) < 3.3
        assert np.abs(np.corrcoef(noises) - np.eye(8)).max() < 0.1

    def test_slots_too(self) -> None:
        params = ckks_parameters(4096, 1)
        shape = Shape(1, 2, 2.0**30, seeded=True)
        keys, rng = Keys(params, ahead={1: 4}), np.random.default_rng(5)
        filled(keys.zeros, 4)
        errors = []
        with keys.zeros.working():
            for source in (keys.zeros.take, None):
                given = rng.uniform(-1, 1, (4, 2048))
                found = [keys.decrypt(keys.encrypt(one, shape, source), shape) for one in given]
                errors.append(np.std(found - given))
            assert len(keys.zeros) == 0
        assert errors[0] == pytest.approx(errors[1], rel=0.1)
        assert errors[0] < 1e-6

    def test_a_plaintext_takes_none(self) -> None:
        keys = Keys(COEFFICIENTS, ahead={0: 2})
        filled(keys.zeros, 2)
        keys.encrypt(np.ones(4096), Shape(0, 1, VALUE_SCALE), keys.zeros.take)
        with pytest.raises(InputError, match="do not fit"):
            keys.encrypt(np.full(4096, 1e300), VALUE, keys.zeros.take)
        assert len(keys.zeros) == 2


class TestSlots:
    """The encoder of slots; its oracle is SEAL's."""

    @pytest.mark.parametrize(("ring", "levels"), [(4096, 1), (8192, 3), (16384, 6)])
    def test_they_are_seals(self, ring: int, levels: int) -> None:
        params, rng = ckks_parameters(ring, levels), np.random.default_rng(ring)
        context = SealContext(params)
        encoder = scheme_of(params).encoder(context)
        for level in range(levels + 1):
            for scale, largest in ((2.0**30, 1.0), (float(params.primes[-1]), 1.0), (2.0**26 + 1 / 3, 30.0)):
                slots, shape = rng.uniform(-largest, largest, ring // 2), Shape(level, 1, scale)
                seals = context.plaintext_record(encoder.encode(slots, shape), level)
                ours = encoded(params, slots, shape)
                assert ours.shape == seals.shape
                primes = np.array(params.primes[: level + 1], dtype=np.int64)[:, None]
                apart = (ours.residues.astype(np.int64) - seals.residues.astype(np.int64)) % primes
                coefficients = from_residues(params, apart[:, :1].astype(np.uint64))
                assert np.abs(coefficients).max() <= 1, "rounded up by one, down by the other"
                assert np.count_nonzero(coefficients) <= 2
                if not coefficients.any():
                    assert not apart.any(), "nor modulo the other primes"

    def test_large_ones_are_reduced(self) -> None:
        """As far as a word goes: beyond what the transforms take, and modulo each prime."""
        params = ckks_parameters(8192, 2)
        rng = np.random.default_rng(1)
        given = np.trunc(rng.uniform(-1, 1, 8192) * 2.0**61)
        found = to_residues(params, 2, given[None])
        for level, prime in enumerate(params.primes):
            small = np.array([(int(c) + prime // 2) % prime - prime // 2 for c in given], dtype=np.float64)
            np.testing.assert_array_equal(found[0, level], to_residues(params, 2, small[None])[0, level])
        back = from_residues(params, found[:, :1])[0]
        q = params.primes[0]
        assert all((int(c) - int(b)) % q == 0 for c, b in zip(given, back, strict=True))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, 1e300])
    @pytest.mark.parametrize("level", [0, 1])
    def test_those_that_do_not_fit(self, bad: float, level: int) -> None:
        slots = np.zeros(2048)
        slots[7] = bad
        with pytest.raises(InputError, match="do not fit scale and level"):
            encoded(ckks_parameters(4096, 1), slots, Shape(level, 1, 2.0**30))


def asked(owner: securedl.Owner, batches: int) -> Iterator[Batch]:
    inference = owner.ask(np.tile(X[:1], (batches * owner.plan.batch, 1)), probes=0, verify="none")
    assert len(inference.batches) == batches
    yield from inference.batches


def talk(owner: securedl.Owner, batch: Batch, spoil: bool = False) -> list[bytes]:
    """All that a client sends in a query; a server returns zeros, or with `spoil` what is out of range."""
    params, sent = owner.program.params, batch.query()
    for index, (down, _) in enumerate(owner.program.refreshes):
        residues = np.zeros((2, down.level + 1, params.ring), np.uint64)
        residues[0] = 2**31 if spoil else 0  # in a cut record, half of the modulus
        back = pack(params, Record(down.sent, residues))
        sent += batch.refresh(index, [back] * down.tiles)
    return sent


class TestQueries:
    def test_as_many_as_some_queries_take(self, plan) -> None:
        tiles = sum(port.tiles for port in plan.signature.back)
        assert securedl.Owner(plan, ahead=3).keys.zeros._room == {0: 3 * tiles}
        assert securedl.Owner(plan, ahead=0).keys.zeros._room == {0: 0}
        most = securedl.Owner(plan, ahead=10**9).keys.zeros._room[0]
        assert AHEAD_BYTES - 8 * 4096 <= most * 8 * 4096 <= AHEAD_BYTES

    @pytest.mark.parametrize("wrong", [-1, 1.5, "4", None, True])
    def test_no_such_number(self, plan, wrong: Any, tmp_path) -> None:
        with pytest.raises(InputError, match="ahead"):
            securedl.Owner(plan, ahead=wrong)
        with pytest.raises(InputError, match="ahead"):
            securedl.Owner.load(tmp_path, "p", ahead=wrong)

    @pytest.mark.parametrize("spoil", [False, True])
    def test_queries_and_refreshes_take_them(self, plan, monkeypatch, spoil: bool) -> None:
        """As many after an alarm, when zeros are sent, as before."""
        owner = securedl.Owner(plan, ahead=2)
        keys = owner.keys
        (stock,) = keys.zeros._room.values()
        filled(keys.zeros, stock)
        monkeypatch.setattr(module, "QUIET_S", 60)
        (batch,) = asked(owner, 1)
        ready = {record.seed for record in keys.zeros._own.ready[0]}
        sent = talk(owner, batch, spoil)
        assert bool(batch.alarms) == spoil
        assert {seed(tile) for tile in sent} <= ready
        assert len({seed(tile) for tile in sent}) == len(sent) == stock // 2
        assert len(keys.zeros) == stock - stock // 2

    def test_none_are_made_during_the_work_of_a_query(self, plan, monkeypatch) -> None:
        owner, seen = securedl.Owner(plan, ahead=1), list[int]()

        def noted(of: Any, name: str) -> None:
            real = getattr(of, name)

            def run(*args: Any, **kwargs: Any) -> Any:
                seen.append(owner.keys.zeros._own.working)
                return real(*args, **kwargs)

            monkeypatch.setattr(of, name, run)

        noted(owner.keys, "encrypt")
        noted(owner.keys, "decrypt")
        noted(owners, "Inference")
        (batch,) = asked(owner, 1)
        talk(owner, batch)
        port = owner.program.answer
        params = owner.program.params
        batch.finish([pack(params, Record(port.sent, np.zeros((2, 1, params.ring), np.uint64)))] * port.tiles)
        assert set(seen) == {1}
        assert len(seen) > 4
        assert owner.keys.zeros._own.working == 0

    def test_no_two_tiles_share_one(self, plan) -> None:
        """Two threads ask, and a third prepares weights."""
        owner = securedl.Owner(plan, ahead=3)

        def ask(_: int) -> list[bytes]:
            found = []
            for batch in asked(owner, 20):
                found += talk(owner, batch)
                time.sleep(2e-3)
            return found

        with ThreadPoolExecutor(3) as threads:
            parts = [threads.submit(ask, number) for number in range(2)]
            parts.append(threads.submit(lambda: list(owner.weights())))
            tiles = [tile for part in parts for tile in part.result()]
        seeds = {seed(tile) for tile in tiles}
        assert len(seeds) == len(tiles)
        firsts = {tile[64:128] for tile in tiles}
        assert len(firsts) == len(tiles)


def test_seals_generator_is_seeded_anew_each_time() -> None:
    """Half of the bits of seeds are ones, and no two of 400 agree in a word."""
    keys = Keys(COEFFICIENTS)
    seeds = np.array([np.frombuffer(keys.zero(0).seed or b"", np.uint64) for _ in range(400)])
    assert len(np.unique(seeds)) == seeds.size
    bits = np.unpackbits(seeds.view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)
