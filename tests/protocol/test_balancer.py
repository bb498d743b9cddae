"""Several servers on one store behind a load balancer: a client knows one address, and loses no answer."""

from __future__ import annotations

import contextlib
import itertools
import select
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from operating import ALICE, BOB, eventually, operated, tokens
from protocol_fakes import FakeOwner, predict
from test_limits import Asking

from protocol import Client
from securedl.errors import QuotaError

OWNER = FakeOwner()


class Balancer(socketserver.ThreadingTCPServer):
    """Each connection goes to the next server that takes it."""

    block_on_close = False

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.next, self.count = itertools.cycle(addresses), len(addresses)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.taken: list[str] = []


class Connection(socketserver.BaseRequestHandler):
    """One of them."""

    server: Balancer

    def handle(self) -> None:
        """Until either side has had enough."""
        for address in itertools.islice(self.server.next, self.server.count):
            host, port = address.split(":")
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as back:
                self.server.taken.append(address)
                self._carry(back)
                return

    def _carry(self, back: socket.socket) -> None:
        back.settimeout(None)
        other = {self.request: back, back: self.request}
        while True:
            for one in select.select(list(other), [], [])[0]:
                data = one.recv(1 << 16)
                if not data:
                    return
                other[one].sendall(data)


@pytest.fixture
def balanced(tmp_path: Path) -> Iterator[Any]:
    """Two servers, each a process of its own, and the balancer before them."""
    path = tokens(tmp_path, f"{ALICE} alice", BOB)
    options = [
        "--token-file", str(path), "--metrics", "127.0.0.1:0", "--max-sessions", "4", "--delay", "0.005",
    ]  # fmt: skip
    with (
        operated(tmp_path, *options, name="first") as first,
        operated(tmp_path, *options, name="second") as second,
        Balancer([first.address, second.address]) as balancer,
    ):
        threading.Thread(target=balancer.serve_forever, args=(0.05,), daemon=True).start()
        yield balancer, {server.address: server for server in (first, second)}
        balancer.shutdown()


def test_one_store_serves_behind_both(balanced: Any) -> None:
    """What is uploaded by one connection is asked by the next, at the other server."""
    balancer, servers = balanced
    with Client(balancer.address, OWNER, token=ALICE) as client:
        client.upload()
    elsewhere = balancer.address.replace(
        "127.0.0.1", "localhost"
    )  # else gRPC takes the same connection again
    with Client(elsewhere, OWNER, token=ALICE) as client:
        assert predict(client, 1).passed
    assert set(balancer.taken) == set(servers)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_goes_away_costs_no_answer(balanced: Any, how: int) -> None:
    balancer, servers = balanced
    found = list[Any]()
    with Client(balancer.address, OWNER, token=ALICE) as client:
        client.upload()
        asked = servers.pop(balancer.taken[-1])
        (other,) = servers.values()
        thread = threading.Thread(target=lambda: found.append(predict(client, 40)))
        thread.start()
        eventually(lambda: asked.metrics().get(("securedl_sessions_open", "predict", "alice")) == 1)
        asked.popen.send_signal(how)
        thread.join(60)
    assert found[0].passed
    assert len(found[0].matches) == 40 * 3  # what a tap shows, a refresh and the answer
    assert sum(line["items"] for line in other.events("predict")) >= 1


def test_quotas_hold_for_both_together(balanced: Any) -> None:
    """Two of four sessions are Alice's, whichever server she asks."""
    balancer, servers = balanced
    with Client(balancer.address, OWNER, token=ALICE) as client:
        client.upload()
    with contextlib.ExitStack() as held:
        for address in servers:
            channel = held.enter_context(grpc.insecure_channel(address))
            held.callback(Asking(channel, ALICE).call.cancel)
        for address in servers:
            with Client(address, OWNER, token=ALICE) as client, pytest.raises(QuotaError, match="2 sessions"):
                client.predict(1)
