"""A certificate that is read again: what new connections see, and what those that are there notice."""

from __future__ import annotations

import shutil
import signal
import ssl
from pathlib import Path

import grpc
import pytest
from certificates import made_certificate
from operating import ALICE, Operated, eventually, operated, tokens
from protocol_fakes import FakeOwner, predict
from test_limits import Asking

from protocol import Client
from protocol.certificate import Certificate
from securedl.errors import InputError

OWNER = FakeOwner()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Of the server, whose files they are."""
    (tmp_path / "live").mkdir()
    return made_certificate(tmp_path / "live")


@pytest.fixture
def other(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "other").mkdir()
    return made_certificate(tmp_path / "other")


def shown(server: Operated) -> bytes:
    """The certificate that a new connection is shown, PEM, as OpenSSL sees it."""
    host, _, port = server.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=10).encode()


def options(pair: tuple[Path, Path], *more: str) -> tuple[str, ...]:
    return ("--tls", *map(str, pair), *more)


def test_new_connections_see_a_new_one_at_once_and_others_go_on(tmp_path: Path, pair, other) -> None:
    before, after = pair[0].read_bytes(), other[0].read_bytes()
    with operated(tmp_path, *options(pair, "--token-file", str(tokens(tmp_path, ALICE)))) as server:
        assert shown(server) == before
        with Client(server.address, OWNER, token=ALICE, tls=pair[0]) as client:
            client.upload()
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(before)) as channel:
            asking = Asking(channel, ALICE)
            for fresh, live in zip(other, pair, strict=True):
                shutil.copy(fresh, live)
            assert shown(server) == before  # until it is told
            server.popen.send_signal(signal.SIGHUP)
            eventually(lambda: server.events("certificate"))
            assert shown(server) == after
            assert shown(server) == after
            asking.query()  # of a connection that was there
            assert next(asking.call)
            asking.call.cancel()
        with Client(server.address, OWNER, token=ALICE, tls=other[0]) as client:
            assert predict(client, 1).passed
        assert [line["level"] for line in server.events("tokens")] == ["info"]


@pytest.mark.parametrize("bad", ["certificate missing", "key missing", "another key", "junk", "empty"])
def test_a_pair_that_cannot_be_used_changes_nothing(tmp_path: Path, pair, other, bad: str) -> None:
    before = pair[0].read_bytes()
    with operated(tmp_path, *options(pair, "--token-file", str(tokens(tmp_path, ALICE)))) as server:
        if bad == "certificate missing":
            pair[0].unlink()
        elif bad == "key missing":
            pair[1].unlink()
        elif bad == "another key":
            shutil.copy(other[0], pair[0])
        else:
            pair[0].write_text("" if bad == "empty" else "-----BEGIN CERTIFICATE-----\njunk\n")
        server.popen.send_signal(signal.SIGHUP)
        (line,) = eventually(lambda: server.events("certificate"))
        assert line["level"] == "error"
        assert str(pair[0]) in line["problem"] or str(pair[1]) in line["problem"]
        assert shown(server) == before
        shutil.copy(other[0], pair[0])
        shutil.copy(other[1], pair[1])
        server.popen.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.events("certificate")) == 2)
        assert shown(server) == other[0].read_bytes()


def test_tokens_and_certificate_are_read_each_by_itself(tmp_path: Path, pair, other) -> None:
    path = tokens(tmp_path, ALICE)
    with operated(tmp_path, *options(pair, "--token-file", str(path))) as server:
        path.unlink()
        shutil.copy(other[0], pair[0])
        shutil.copy(other[1], pair[1])
        server.popen.send_signal(signal.SIGHUP)
        eventually(lambda: server.events("certificate") and server.events("tokens"))
        assert server.events("tokens")[0]["level"] == "error"
        assert shown(server) == other[0].read_bytes()


def test_all_workers_read_it_again(tmp_path: Path, pair, other) -> None:
    with operated(tmp_path, *options(pair, "--workers", "2")) as server:
        shutil.copy(other[0], pair[0])
        shutil.copy(other[1], pair[1])
        server.popen.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.events("certificate")) == 2)
        for _ in range(12):  # connections fall to one of them by their ports
            assert shown(server) == other[0].read_bytes()


def test_a_pair_that_is_none_is_refused_at_the_start(pair, other) -> None:
    """gRPC would only say that it cannot listen."""
    with pytest.raises(InputError, match=r"the key .* is not that of the certificate"):
        Certificate(pair[0], other[1])


def test_a_server_that_starts_again_shows_what_was_read_last(serve, pair, other) -> None:
    server = serve(tls=pair)
    shutil.copy(other[0], pair[0])
    shutil.copy(other[1], pair[1])
    server.certificate.reload()
    server.stop()
    server.start()
    host, _, port = server.address.rpartition(":")
    assert ssl.get_server_certificate((host, int(port)), timeout=10).encode() == other[0].read_bytes()
