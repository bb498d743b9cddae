"""Prices that a server offers: measured when nobody is kept waiting, believed only where they can be true."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import pytest
from protocol_fakes import FakeBackend, FakeEvaluator, FakeOwner, predict

import protocol
from protocol import Client, offer, priced
from protocol import messages_pb2 as pb
from protocol.offer import Offer
from protocol.service import SERVICE
from protocol.wire import PROTOCOL_VERSION
from securedl.client import priced as kept
from securedl.client.calibrate import ClientPrices, joined_prices
from securedl.errors import AuthenticationError, InputError, ProtocolError, ServerError
from securedl.he.prices import TYPICAL_MS, ServerPrices

SERVER = ServerPrices(0.005, 0.04, 0.05, 0.03, 0.02, 0.15)
OTHER = ServerPrices(0.006, 0.04, 0.05, 0.03, 0.02, 0.15)
CLIENT = ClientPrices(0.2, 0.4, 0.4, 0.8, 0.3)
WAIT_S = 10.0


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> list[str]:
    """A cache folder of its own, and measurements of the client that take no time; one word for each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    measured: list[str] = []

    def client_prices() -> Any:
        measured.append("client")
        return CLIENT

    monkeypatch.setattr(kept, "client_prices", client_prices)
    monkeypatch.setattr(priced, "_ASK_S", 0.01)
    return measured


def until(condition) -> None:
    """Wait for another thread."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Measuring:
    """In place of `server_prices`: waits `steps` times, and can be held up."""

    def __init__(self, steps: int = 3, found: Any = SERVER) -> None:
        self.steps, self.found = steps, found
        self.calls, self.done = 0, 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, backend, threads, wait) -> ServerPrices:
        self.calls += 1
        for _ in range(self.steps):
            wait()
            assert self.go.wait(WAIT_S)
            self.done += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class TestOffer:
    def test_it_is_measured_once_when_somebody_asks(self) -> None:
        measuring = Measuring()
        one = Offer(FakeBackend(), 1, measuring)
        time.sleep(0.02)
        assert measuring.calls == 0
        assert one.prices() == (None, True)
        until(lambda: one.prices()[0] is not None)
        assert one.prices() == (SERVER, False)
        assert measuring.calls == 1

    def test_many_who_ask_at_once_begin_one_measurement(self) -> None:
        measuring = Measuring()
        measuring.go.clear()
        one = Offer(FakeBackend(), 1, measuring)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: one.prices(), range(64))) == [(None, True)] * 64
        measuring.go.set()
        until(lambda: one.prices() == (SERVER, False))
        assert measuring.calls == 1

    def test_it_stands_aside(self) -> None:
        measuring = Measuring(100)
        one = Offer(FakeBackend(), 1, measuring)
        measuring.go.clear()
        one.prices()
        with one.aside():
            with one.aside():
                measuring.go.set()
            time.sleep(0.05)
            assert measuring.done <= 1
            assert one.prices() == (None, True)
        until(lambda: one.prices() == (SERVER, False))

    def test_it_gives_up_and_begins_again(self, monkeypatch) -> None:
        monkeypatch.setattr(offer, "PATIENCE_S", 0.02)
        measuring = Measuring()
        one = Offer(FakeBackend(), 1, measuring)
        with one.aside():
            one.prices()
            until(lambda: one._working is None)
            assert one._prices is None
        one.prices()
        until(lambda: one.prices() == (SERVER, False))
        assert measuring.calls == 2

    def test_what_cannot_be_measured_is_tried_once(self, caplog) -> None:
        measuring = Measuring(found=NotImplementedError("no merging here"))
        one = Offer(FakeBackend(), 1, measuring)
        with caplog.at_level(logging.WARNING):
            one.prices()
            until(lambda: one.prices() == (None, False))
        assert measuring.calls == 1
        assert "prices cannot be measured: no merging here" in caplog.text

    def test_stopping_ends_it(self) -> None:
        measuring = Measuring(10**6)
        one = Offer(FakeBackend(), 1, measuring)
        one.prices()
        one.stop()
        assert one._working is None
        assert one.prices() == (None, False)
        measuring.steps = 1
        one.start()
        until(lambda: one.prices() == (SERVER, False))


@pytest.fixture
def measuring(monkeypatch) -> Measuring:
    """Servers of this process measure like this."""
    made = Measuring()
    monkeypatch.setattr(Offer.__init__, "__defaults__", (made,))
    return made


class TestServer:
    def test_a_client_joins_them_with_its_own(self, serve, measuring, here) -> None:
        server = serve()
        found = protocol.prices(server.address)
        assert found == joined_prices(SERVER, CLIENT)
        assert protocol.prices(server.address) == found
        with Client(server.address, FakeOwner()) as client:
            assert client.prices() == found
            assert client.prices() is client.prices()
        assert (measuring.calls, here) == (1, ["client"])
        assert protocol.prices(server.address, fresh=True) == found
        assert (measuring.calls, here) == (1, ["client"] * 2)

    def test_describing_alone_measures_nothing(self, serve, measuring) -> None:
        with Client(serve().address, FakeOwner()) as client:
            assert set(client.describe()) == {
                "version", "evaluator", "max_models", "max_bytes", "max_sessions", "chunk_bytes"
            }  # fmt: skip
        assert measuring.calls == 0

    def test_queries_come_first(self, serve, measuring) -> None:
        """A measurement that would take for ever is under way; it stands still while a query is answered."""
        measuring.steps, seen = 10**9, list[int]()

        class Watching(FakeEvaluator):
            def dot(self, xs, ws):
                seen.append(measuring.done)
                time.sleep(0.005)
                return super().dot(xs, ws)

        server = serve(evaluator=Watching)
        with Client(server.address, FakeOwner()) as client:
            client.upload()
            server._offer.prices()
            for _ in range(3):
                before = measuring.done
                until(lambda before=before: measuring.done > before)
                seen.clear()
                assert predict(client, 2).passed
                assert len(seen) > 4
                assert max(seen) - min(seen) <= 1  # the step that was under way
        server.stop()

    def test_a_server_started_again_is_not_measured_again(self, serve, measuring, tmp_path) -> None:
        address = f"unix:{tmp_path}/s"
        serve(address=address).stop()
        first = serve(address=address)
        protocol.prices(address)
        first.stop()
        measuring.steps = 10**9
        serve(address=address)
        assert protocol.prices(address) == joined_prices(SERVER, CLIENT)

    def test_a_back_end_without_prices_says_so(self, serve) -> None:
        with pytest.raises(ProtocolError, match="cannot measure its prices: compile without"):
            protocol.prices(serve().address)

    def test_it_takes_a_token(self, serve, measuring) -> None:
        server = serve(token="secret")
        with pytest.raises(AuthenticationError):
            protocol.prices(server.address)
        assert measuring.calls == 0
        assert protocol.prices(server.address, token="secret") == joined_prices(SERVER, CLIENT)

    def test_a_closed_client_has_none(self, serve, measuring) -> None:
        client = Client(serve().address, FakeOwner())
        client.prices()
        client.close()
        with pytest.raises(InputError, match="closed"):
            client.prices()

    @pytest.mark.he
    def test_the_real_thing(self, serve, tmp_path) -> None:
        found = protocol.prices(serve(evaluator="vector").address)
        assert found.send == CLIENT.send
        assert 0 < found.product < found.relinearise


def description(**fields: Any) -> bytes:
    """What a server says, in all other ways well."""
    made: Any = pb.Description(version=PROTOCOL_VERSION, setup=bytes(16), prices=pb.Prices(**asdict(SERVER)))
    for name, value in fields.items():
        if name in TYPICAL_MS:
            setattr(made.prices, name, value)
        elif value is None:
            made.ClearField(name)
        else:
            setattr(made, name, value)
    raw: bytes = made.SerializeToString()
    return raw


@pytest.fixture
def saying(tmp_path):
    """A server that answers every Describe with the same bytes."""
    started = []

    def start(raw: bytes) -> str:
        def describe(request: bytes, context: Any) -> bytes:
            return raw

        server = grpc.server(ThreadPoolExecutor(2))
        table = {"Describe": grpc.unary_unary_rpc_method_handler(describe)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, table),))
        address = f"unix:{tmp_path}/h{len(started)}"
        server.add_insecure_port(address)
        server.start()
        started.append(server)
        return address

    yield start
    for server in started:
        server.stop(0).wait()


class TestHostileServer:
    @pytest.mark.parametrize("name", TYPICAL_MS)
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1e-9, 1e9, 1.7e308])
    def test_prices_that_no_server_can_have(self, saying, here, name, bad) -> None:
        with pytest.raises(ProtocolError, match=f"prices that no server can have: the price '{name}'"):
            protocol.prices(saying(description(**{name: bad})))
        assert here == []

    def test_a_good_one_is_taken(self, saying) -> None:
        assert protocol.prices(saying(description())) == joined_prices(SERVER, CLIENT)

    @pytest.mark.parametrize("setup", [b"", bytes(15), bytes(17), bytes(1 << 16)])
    def test_setups_of_another_length(self, saying, setup) -> None:
        with pytest.raises(ProtocolError, match="offers no prices"):
            protocol.prices(saying(description(setup=setup)))

    def test_another_version(self, saying) -> None:
        with pytest.raises(ProtocolError, match="offers no prices"):
            protocol.prices(saying(description(version=PROTOCOL_VERSION + 1)))

    @pytest.mark.parametrize("raw", [b"", b"\xff" * 100, description() + b"\x08\x01", description()[:-1]])
    def test_what_is_no_description(self, saying, raw) -> None:
        with pytest.raises(ProtocolError):
            protocol.prices(saying(raw))

    def test_one_that_measures_for_ever(self, saying, monkeypatch) -> None:
        monkeypatch.setattr(priced, "MEASURING_S", 0.1)
        began = time.monotonic()
        with pytest.raises(ServerError, match="has not measured its prices"):
            protocol.prices(saying(description(prices=None, measuring=True)))
        assert time.monotonic() - began < WAIT_S

    def test_one_that_knows_none(self, saying) -> None:
        with pytest.raises(ProtocolError, match="cannot measure its prices"):
            protocol.prices(saying(description(prices=None)))

    def test_one_that_speaks_of_another_servers_machine(self, saying) -> None:
        """Prices are kept under the address that they came from."""
        one, two = saying(description()), saying(description(product=OTHER.product))
        assert protocol.prices(one) == joined_prices(SERVER, CLIENT)
        assert protocol.prices(two) == joined_prices(OTHER, CLIENT)
        assert kept.KnownPrices().server(one, bytes(16)) == SERVER
        assert kept.KnownPrices().server(two, bytes(16)) == OTHER
        assert kept.KnownPrices().server(one, bytes(15) + b"x") is None

    def test_prices_nobody_asked_for_are_not_looked_at(self, saying) -> None:
        with Client(saying(description(product=math.nan)), FakeOwner()) as client:
            assert "prices" not in client.describe()


def test_a_server_of_an_earlier_release_refuses_the_question(serve, monkeypatch) -> None:
    """It knows no second field."""
    from protocol import server as module

    def parse(kind: Any, raw: bytes) -> Any:
        if kind is pb.DescribeRequest and pb.DescribeRequest.FromString(raw).prices:
            raise ProtocolError("a DescribeRequest message holds fields that this version does not know")
        return kind.FromString(raw)

    monkeypatch.setattr(module, "parse", parse)
    address = serve().address
    with pytest.raises(ProtocolError, match="a server of an earlier release has no prices: compile without"):
        protocol.prices(address)
    with Client(address, FakeOwner()) as client:
        assert client.describe()["version"] == PROTOCOL_VERSION


class TestKept:
    def files(self, tmp_path: Path) -> list[Path]:
        return sorted((tmp_path / "cache").rglob("*.json"))

    @pytest.mark.parametrize(
        "text",
        [
            b"", b"\xff", b"[]", b"7", b"{}", b'{"product": 1}', b'{"a": 1}', b"null",
            json.dumps({**asdict(SERVER), "load": math.nan}).encode(),
            json.dumps({**asdict(SERVER), "load": "1"}).encode(),
            json.dumps({**asdict(CLIENT), "send": -1}).encode(),
        ],
    )  # fmt: skip
    def test_damaged_files_are_measured_anew(self, serve, measuring, here, tmp_path, text) -> None:
        server = serve()
        found = protocol.prices(server.address)
        for path in self.files(tmp_path):
            path.write_bytes(text)
        assert protocol.prices(server.address) == found
        assert here == ["client"] * 2
        assert protocol.prices(server.address) == found
        assert here == ["client"] * 2

    def test_a_folder_that_cannot_be_written(self, serve, measuring, here, tmp_path) -> None:
        (tmp_path / "cache").write_text("a file")
        server = serve()
        for _ in range(2):
            assert protocol.prices(server.address) == joined_prices(SERVER, CLIENT)
        assert here == ["client"] * 2

    def test_they_are_the_users_alone(self, serve, measuring, tmp_path) -> None:
        protocol.prices(serve().address)
        assert len(self.files(tmp_path)) == 2
        assert all(path.stat().st_mode & 0o077 == 0 for path in self.files(tmp_path))


@pytest.mark.he
@pytest.mark.parametrize("factor", [0.01, 1000.0])
def test_the_worst_prices_choose_nothing_insecure(factor: float) -> None:
    """All that they decide is the layout: parameters and answers are the same."""
    torch = pytest.importorskip("torch")
    securedl = pytest.importorskip("securedl")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)
    ).double()
    x = torch.rand(24, 1, 8, 8, dtype=torch.float64).numpy()
    usual = securedl.compile(net, x, activations="client")
    for name in TYPICAL_MS:
        server = ServerPrices(**{**TYPICAL_MS, name: TYPICAL_MS[name] * factor})
        plan = securedl.compile(net, x, activations="client", prices=joined_prices(server, CLIENT))
        assert plan.program.params == usual.program.params
        assert abs(plan.simulate(x[:4]) - usual.simulate(x[:4])).max() < 1e-2
