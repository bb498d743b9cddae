"""Timings add up: each moment of a call is counted to one stage, whatever happens in it."""

from __future__ import annotations

import threading
import time

import pytest
from protocol_fakes import FakeEvaluator, FakeOwner, predict

from protocol import Client
from protocol.asking import STAGES, Clock


def slept(seconds: float) -> float:
    """Sleep; the milliseconds that it really took, on a machine that has other work too."""
    began = time.perf_counter()
    time.sleep(seconds)
    return 1e3 * (time.perf_counter() - began)


def slow(params):
    return FakeEvaluator(params, delay_s=0.02)


def adds_up(timings: dict[str, float], seconds: float) -> bool:
    """Whether stages are the whole, and the whole is what a clock around the call showed."""
    assert set(timings) == {*STAGES, "total"}
    assert min(timings.values()) >= 0
    assert sum(timings[stage] for stage in STAGES) == timings["total"]
    return abs(timings["total"] - 1e3 * seconds) < max(5.0, 20.0 * seconds)


def test_stages_follow_each_other() -> None:
    clock = Clock()
    with clock("refresh"):
        refresh = slept(0.02)
        with clock("verify"):
            verify = slept(0.04)
        refresh += slept(0.02)
    clock.turn(None)
    time.sleep(0.05)  # of no call
    found = clock.timings()
    assert found["verify"] == pytest.approx(verify, abs=15)
    assert found["refresh"] == pytest.approx(refresh, abs=15)
    assert found["total"] == pytest.approx(verify + refresh, abs=25)


@pytest.mark.parametrize("batches", [1, 5])
def test_a_call(serve, batches: int) -> None:
    with Client(serve(evaluator=slow).address, FakeOwner()) as client:
        client.upload()
        began = time.perf_counter()
        timings = predict(client, batches).timings
        assert adds_up(timings, time.perf_counter() - began)
    assert timings["server"] > 20 * batches
    assert timings["connect"] > 0
    assert timings["caller"] < 5


def test_parts_and_what_the_program_does_between_them(serve) -> None:
    with Client(serve(evaluator=slow).address, FakeOwner()) as client:
        client.upload()
        began = time.perf_counter()
        parts = client.predict_batches(3)
        caller = sum(slept(0.1) for _ in parts)
        seconds = time.perf_counter() - began
        time.sleep(0.2)  # after the call
        assert adds_up(parts.answer.timings, seconds)
    assert parts.answer.timings["caller"] == pytest.approx(caller, abs=30)


def test_a_server_that_comes_back(spawn, tmp_path) -> None:
    address = f"unix:{tmp_path}/s"
    server = spawn(tmp_path / "store", address)
    with Client(server.address, FakeOwner()) as client:
        client.upload()
        parts, began = client.predict_batches(3), time.perf_counter()
        next(parts)
        server.kill()
        back = threading.Timer(0.5, spawn, (tmp_path / "store", address))
        back.start()
        for _ in parts:
            pass
        assert adds_up(parts.answer.timings, time.perf_counter() - began)
        back.join()
    assert parts.answer.timings["connect"] > 400  # it was away for so long


def test_an_upload(serve) -> None:
    class Preparing(FakeOwner):
        def prepare(self, progress=None) -> None:
            time.sleep(0.05)

    with Client(serve().address, Preparing(delay_s=0.01)) as client:
        began = time.perf_counter()
        sent = client.upload()
        seconds = time.perf_counter() - began
    assert sent.prepare_s == pytest.approx(0.05, abs=0.02)
    assert sent.seconds + sent.prepare_s == pytest.approx(seconds, abs=max(5e-3, 0.02 * seconds))
