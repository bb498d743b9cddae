"""A server's prices: what may be one, and that a measurement finds the times that operations take."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from securedl.errors import InputError
from securedl.he import prices
from securedl.he.backends import Backend
from securedl.he.prices import TYPICAL_MS, ServerPrices, cold_ms, server_prices, setup_id

TRUE = {"product": 0.003, "relinearise": 0.05, "merge": 0.07, "load": 0.011, "dump": 0.013, "layer": 0.2}


class Clock:
    """In place of `time`: moves on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def spend(self, ms: float) -> None:
        self.now += ms / 1e3


class Timed(Backend[Any]):
    """A back end whose operations take the times in `ms`."""

    name = "timed"

    def __init__(self, clock: Clock, ms: dict[str, float]) -> None:
        self.clock, self.ms, self.keys, self.threads = clock, ms, 0, 0

    def open(self, params: Any, threads: int = 1) -> Any:
        self.threads = threads
        return self

    def set_keys(self, relinearisation: Any, rotations: Any) -> None:
        assert len(relinearisation) == 1
        self.keys = len(rotations)

    def load(self, record: Any) -> Any:
        self.clock.spend(self.ms["load"])
        return record

    def load_packed(self, data: bytes, shape: Any) -> Any:
        return data

    def products(self, sums: Any) -> list[Any]:
        terms = sum(len(ws) for _, ws in sums)
        total = terms * self.ms["product"] + len(sums) * self.ms["relinearise"]
        self.clock.spend(self.ms["layer"] + total)
        return [xs[0] for xs, _ in sums]

    def merge(self, handles: Any, of: int) -> Any:
        assert len(handles) == of
        self.clock.spend((of - 1) * self.ms["merge"])
        return handles[0]

    def sent(self, handle: Any, shape: Any) -> Any:
        self.clock.spend(self.ms["dump"])
        return SimpleNamespace(shape=shape, residues=[])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(prices, "time", made)
    return made


def test_the_measurement_finds_what_operations_take(clock: Clock) -> None:
    backend = Timed(clock, TRUE)
    found = server_prices(backend, threads=3)
    assert asdict(found) == pytest.approx(TRUE)
    assert backend.threads == 3
    assert backend.keys == 4  # 16 answers are merged in four steps


def test_one_slow_call_changes_nothing(clock: Clock) -> None:
    """Something else had the processor for a while."""
    calls = iter(range(1000))
    found = cold_ms(lambda: clock.spend(500.0 if next(calls) == 3 else 2.0))
    assert found == pytest.approx(2.0)


def test_slow_operations_are_timed_less_often(clock: Clock) -> None:
    calls = []

    def call() -> None:
        clock.spend(400.0)
        calls.append(1)

    cold_ms(call)
    assert len(calls) == 6  # the first is not timed


def test_differences_that_vanish_are_prices_still(clock: Clock) -> None:
    """A back end whose long sums seem to take no longer than its short ones."""
    found = server_prices(Timed(clock, {**TRUE, "product": 0.0, "layer": 0.0, "dump": 1e9}))
    assert found.product == TYPICAL_MS["product"] / 100
    assert found.layer == TYPICAL_MS["layer"] / 100
    assert found.dump == TYPICAL_MS["dump"] * 1000


def test_what_waits_is_asked_before_each_call_and_ends_it(clock: Clock) -> None:
    waits = []
    server_prices(Timed(clock, TRUE), wait=lambda: waits.append(clock.now))
    assert len(waits) > 90
    steps = [after - before for before, after in itertools.pairwise(waits)]
    assert max(steps) < 10e-3

    def gone() -> None:
        raise ConnectionError("enough")

    with pytest.raises(ConnectionError, match="enough"):
        server_prices(Timed(clock, TRUE), wait=gone)


@pytest.mark.parametrize("name", TRUE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-300, 1e300, True, "1", None])
def test_what_no_server_needs_is_refused(name: str, bad: Any) -> None:
    with pytest.raises(InputError, match=f"the price '{name}'"):
        ServerPrices(**{**TRUE, name: bad})


def test_limits_are_inclusive() -> None:
    ServerPrices(**{name: ms / 100 for name, ms in TYPICAL_MS.items()})
    ServerPrices(**{name: ms * 1000 for name, ms in TYPICAL_MS.items()})


def test_setups_differ() -> None:
    assert setup_id("vector", 1) == setup_id("vector", 1)
    assert len({setup_id("vector", 1), setup_id("vector", 2), setup_id("seal", 1)}) == 3
    assert len(setup_id("vector", 1)) == 16


def test_the_real_back_end_has_prices() -> None:
    from securedl.he.backends import backend

    found = server_prices(backend("vector"))
    assert found.product < found.relinearise
    assert found.relinearise < 30
