"""`securedl health`, and the check of the Dockerfile."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import made_certificate
from operating import ALICE

from protocol.health_check import check_health
from securedl.errors import InputError, ServerError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def silent() -> Iterator[str]:
    """Where connections are taken, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield f"127.0.0.1:{found.getsockname()[1]}"


def test_a_server_that_serves(serve, monkeypatch) -> None:
    monkeypatch.setattr("protocol.health.LOOK_S", 0.0)
    server = serve(token=[ALICE])
    check_health(server.address, ready=True, tls=False, timeout_s=5)
    monkeypatch.setattr("protocol.health.LEAST_FREE", 1 << 62)
    check_health(server.address, ready=False, tls=False, timeout_s=5)
    with pytest.raises(ServerError, match="does not serve: it stops, or its store cannot be written or is"):
        check_health(server.address, ready=True, tls=False, timeout_s=5)


def test_a_socket_of_the_same_machine(serve, tmp_path: Path) -> None:
    server = serve(address=f"unix:{tmp_path}/s", tls=made_certificate(tmp_path))
    check_health(server.address, ready=True, tls=True, timeout_s=5)


@pytest.mark.parametrize("first", ["localhost", "127.0.0.1", "*.example.org", "only the subject"])
def test_the_certificate_may_be_of_any_name(serve, tmp_path: Path, first: str) -> None:
    certificate = made_certificate(tmp_path, None if first == "only the subject" else [first])
    server = serve(tls=certificate)
    check_health(server.address, ready=True, tls=True, timeout_s=5)


def test_an_authority_is_trusted_alone(serve, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ours, other = made_certificate(tmp_path), made_certificate(tmp_path / "other")
    server = serve(tls=ours)
    check_health(server.address, ready=True, tls=ours[0], timeout_s=5)
    with pytest.raises(ServerError, match=r"no answer from .*whether it runs there, and whether with TLS"):
        check_health(server.address, ready=True, tls=other[0], timeout_s=5)
    with pytest.raises(InputError, match=r"key\.pem is no authority: it has no PEM certificate"):
        check_health(server.address, ready=True, tls=ours[1], timeout_s=5)
    with pytest.raises(InputError, match=r"nowhere cannot be read: No such file"):
        check_health(server.address, ready=True, tls=tmp_path / "nowhere", timeout_s=5)


def test_one_that_does_not_answer(serve, tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(ServerError, match=r"no TLS connection to 127\.0\.0\.1"):
        check_health(server.address, ready=False, tls=True, timeout_s=5)
    server.stop()
    for tls, message in (
        (False, r"no answer from 127\.0\.0\.1"),
        (True, r"no TLS connection .*: Connection refu"),
    ):
        with pytest.raises(ServerError, match=message):
            check_health(server.address, ready=False, tls=tls, timeout_s=5)
    with pytest.raises(InputError, match="'here' is no address"):
        check_health("here", ready=False, tls=False, timeout_s=5)


@pytest.mark.parametrize("tls", [False, True])
def test_one_that_is_silent_is_waited_for_as_long_as_said(tls: bool, silent: str) -> None:
    with pytest.raises(ServerError, match="timed out" if tls else "did not answer in time"):
        check_health(silent, ready=False, tls=tls, timeout_s=0.3)


def test_the_check_of_the_dockerfile(serve, tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    program, *words = json.loads(re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.MULTILINE)[0])
    assert program == "securedl"
    listens = re.findall(r'"--listen", "0\.0\.0\.0:(\d+)"', text)
    assert words[1] == f"127.0.0.1:{listens[0]}"
    server = serve(tls=made_certificate(tmp_path), token=[ALICE])
    words[1] = server.address
    command = [sys.executable, "-m", "securedl.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{server.address} serves\n")
    server.stop()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"securedl: no TLS connection to {server.address}: Connection refused\n"
