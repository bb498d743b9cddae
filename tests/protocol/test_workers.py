"""Several processes behind one port: they share it, the store and its limits, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from operating import ALICE, BOB, Operated, eventually, operated, tokens
from protocol_fakes import FakeOwner, predict
from test_limits import Asking

from protocol import Client
from protocol.seats import Seats
from protocol.supervisor import reserve
from securedl.errors import InputError, ProtocolError, QuotaError, ServerError

OWNER = FakeOwner()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def workers(server: Operated) -> list[int]:
    """Process ids of those that run."""
    lines = server.events("worker")
    gone = {line["pid"] for line in lines if line["state"] != "ready"}
    return [line["pid"] for line in lines if line["pid"] not in gone]


def test_two_workers_serve_reload_and_drain(tmp_path: Path) -> None:
    path = tokens(tmp_path, ALICE)
    with operated(tmp_path, "--workers", "2", "--token-file", str(path)) as server:
        first = workers(server)
        assert len(first) == 2
        peers = list[int]()
        for _ in range(12):  # connections fall to one of them by their ports
            with Client(server.address, OWNER, token=ALICE) as client:
                client.upload()
                assert predict(client, 1).passed
        tokens(tmp_path, ALICE, BOB)
        server.popen.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.events("tokens")) == 2)
        for _ in range(6):
            with Client(server.address, OWNER, token=BOB) as client:
                client.status()
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(10) == 0
        assert not any(alive(pid) for pid in first), peers


def test_a_worker_that_is_killed_is_started_again_and_no_answer_is_lost(tmp_path: Path) -> None:
    with operated(tmp_path, "--workers", "2", "--delay", "0.005", "--metrics", "127.0.0.1:0") as server:
        first, found = workers(server), list[Any]()
        with Client(server.address, OWNER) as client:
            client.upload()
            thread = threading.Thread(target=lambda: found.append(predict(client, 40)))
            thread.start()
            open_now = ("securedl_sessions_open", "predict", "local")
            eventually(lambda: server.metrics().get(open_now) == 1)
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            thread.join(60)
            assert found[0].passed
        eventually(lambda: len(workers(server)) == 2)
        assert not set(first) & set(workers(server))
        assert all(line["pause_s"] < 1 for line in server.events("worker") if line["state"] == "died")
        eventually(lambda: server.metrics()[open_now] == 0)


def test_no_worker_outlives_its_supervisor(tmp_path: Path) -> None:
    with operated(tmp_path, "--workers", "2") as server:
        running = workers(server)
        server.popen.kill()
        eventually(lambda: not any(alive(pid) for pid in running))


def test_a_port_is_one_deployment_s(tmp_path: Path) -> None:
    with operated(tmp_path, "--workers", "2") as server:
        with (
            pytest.raises(ServerError, match=r"cannot listen on .* it is in use"),
            operated(tmp_path, "--workers", "2", "--listen", server.address, name="second"),
        ):
            pass
        with (
            pytest.raises(ServerError, match="in use"),
            operated(tmp_path, "--listen", server.address, name="third"),
        ):
            pass
    held, address = reserve("127.0.0.1:0")
    with held, pytest.raises(InputError, match="in use"):  # also before anybody listens
        reserve(address)
    with pytest.raises(InputError, match="several workers share a TCP port"):
        reserve("unix:/tmp/s")


def test_a_worker_that_cannot_start_ends_all(tmp_path: Path) -> None:
    path = tokens(tmp_path, ALICE)
    began = time.monotonic()
    with (
        pytest.raises(ServerError, match="refusing to listen"),
        operated(tmp_path, "--workers", "2", "--listen", "0.0.0.0:0", "--token-file", str(path)),
    ):
        pass
    assert time.monotonic() < began + 20


def test_a_model_that_one_worker_removes_no_other_serves(tmp_path: Path, serve) -> None:
    """Two servers of one store, the second of which has it loaded."""
    first, second = serve(tmp_path / "store"), serve(tmp_path / "store")
    with Client(first.address, OWNER) as one, Client(second.address, OWNER) as other:
        one.upload()
        assert predict(other, 1).passed
        assert one.remove()
        with pytest.raises(ProtocolError, match="no such model"):
            other.predict(1)
        one.upload()
        assert predict(other, 1).passed


# --- seats -------------------------------------------------------------------------------------------

TAKE = """
import sys
from pathlib import Path
from protocol.seats import Seats
with Seats(Path(sys.argv[1]), "sessions", 3, 2).one(sys.argv[2]):
    print("taken", flush=True)
    sys.stdin.read()
"""


def taking(folder: Path, client: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(folder), client], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"taken\n"
    return process


def test_seats_of_two_processes_are_one_s(tmp_path: Path) -> None:
    """And come back however a process ends."""
    seats = Seats(tmp_path / "seats", "sessions", 3, 2)
    other = taking(tmp_path / "seats", "alice")
    try:
        with seats.one("alice"):
            with pytest.raises(QuotaError, match="this client has 2 sessions open"), seats.one("alice"):
                pass
            with seats.one("bob"), pytest.raises(QuotaError, match="all 3 sessions"), seats.one("carol"):
                pass
            other.kill()
            other.wait()
            with seats.one("alice"), seats.one("bob"):
                pass
    finally:
        other.kill()
        other.wait()
        for pipe in (other.stdin, other.stdout):
            assert pipe is not None
            pipe.close()
    assert (tmp_path / "seats").stat().st_mode & 0o777 == 0o700


def test_sessions_are_limited_across_workers(tmp_path: Path) -> None:
    with operated(tmp_path, "--workers", "2", "--max-sessions", "2") as server:
        with Client(server.address, OWNER) as client:
            client.upload()
        channels = [
            grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in "ab"
        ]
        held = [Asking(channel) for channel in channels]
        for _ in range(6):  # whichever worker it falls to
            with Client(server.address, OWNER) as client, pytest.raises(QuotaError, match="2 sessions open"):
                client.predict(1)
        for asking, channel in zip(held, channels, strict=True):
            asking.call.cancel()
            channel.close()


def test_a_taken_port_is_free_again_after_its_connections_ended(tmp_path: Path) -> None:
    """The server closed them first, so the kernel remembers them for a minute."""
    held, address = reserve("127.0.0.1:0")
    where = held.getsockname()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(where)
        listening.listen()
        with socket.create_connection(where) as client:
            listening.accept()[0].close()
            client.recv(1)
    held.close()
    reserve(address)[0].close()
