"""bench.delay: its links are as slow as they should be."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.delay import Way, delayed, ends
from securedl.demo.processes import running


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends everything back."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    while data := peer.recv(1 << 16):
                        peer.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()
        listening.shutdown(socket.SHUT_RDWR)


def sent(address: str, size: int, times: int = 1) -> float:
    """The fewest seconds until so many bytes have gone and come back."""
    found = []
    with socket.create_connection(ends(address)) as there:
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(times):
            began = time.perf_counter()
            writing = threading.Thread(target=there.sendall, args=(bytes(size),))
            writing.start()
            left = size
            while left:
                left -= len(there.recv(1 << 16))
            found.append(time.perf_counter() - began)
            writing.join()
    return min(found)


@pytest.mark.parametrize("rtt_ms", [1.0, 60.0])
def test_a_small_message_takes_a_round_trip(echo: tuple[str, int], rtt_ms: float) -> None:
    with delayed(echo, rtt_ms, 10_000.0) as address:
        took = 1e3 * sent(address, 1, times=5)
    assert rtt_ms <= took < rtt_ms + 20


def test_a_large_one_takes_its_time_at_the_rate(echo: tuple[str, int]) -> None:
    size, mbit_s, rtt_ms = 500_000, 20.0, 20.0
    due = size * 8e-6 / mbit_s + rtt_ms / 1e3  # it comes back while it still goes
    with delayed(echo, rtt_ms, mbit_s) as address:
        took = sent(address, size)
    assert due <= took < 1.3 * due


def test_bytes_leave_one_after_the_other() -> None:
    way = Way(delay_s=0.5, byte_s=0.001)
    assert way.enter(100, now=10.0) == pytest.approx(10.6)
    assert way.enter(100, now=10.0) == pytest.approx(10.7)
    assert way.enter(100, now=20.0) == pytest.approx(20.6)


def test_a_process_of_its_own_says_where_it_listens(echo: tuple[str, int], tmp_path: Path) -> None:
    to = f"{echo[0]}:{echo[1]}"
    command = [sys.executable, "-m", "bench.delay", "--to", to, "--rtt-ms", "2", "--mbit-s", "1000"]
    with running(command, tmp_path / "log") as proxy:
        assert sent(proxy.address, 10) > 2e-3
