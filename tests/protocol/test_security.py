"""Who may listen, who may speak, and what the server's process never loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from certificates import made_certificate
from protocol_fakes import FakeBackend, FakeOwner, predict

from protocol import Client, Server
from securedl.errors import AuthenticationError, InputError, SecureDLError, ServerError


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) files."""
    return made_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_with_a_token(serve, certificate) -> None:
    server, owner = serve(token="secret", tls=certificate), FakeOwner()
    with Client(server.address, owner, token="secret", tls=certificate[0]) as client:
        client.upload()
        assert predict(client, 1).passed
    with pytest.raises(SecureDLError), Client(server.address, owner, token="secret"):
        pass
    with pytest.raises(ServerError), Client(server.address, owner, token="secret", tls=True):
        pass


def test_everywhere_needs_token_and_tls(tmp_path, certificate) -> None:
    for options in ({}, {"token": "a"}, {"tls": certificate}):
        for address in ("0.0.0.0:0", "[::]:0", "example.org:1"):
            with pytest.raises(InputError, match="needs a token and TLS"):
                Server(tmp_path, address, "seal", **options)
    with Server(tmp_path, "0.0.0.0:0", FakeBackend(), token="a", tls=certificate) as server:
        port = server.address.rpartition(":")[2]
        with Client(f"127.0.0.1:{port}", FakeOwner(), token="a", tls=certificate[0]) as client:
            assert not client.status().known


@pytest.mark.parametrize("token", [None, "wrong", "secre", "secretx"])
def test_a_wrong_token(serve, token, caplog) -> None:
    server = serve(token="secret")
    with pytest.raises(AuthenticationError, match="token"), Client(server.address, FakeOwner(), token=token):
        pass
    client = Client(server.address, FakeOwner(), token=token)
    for method in (client.upload, client.status, client.remove, lambda: client.predict(1)):
        with pytest.raises(AuthenticationError):
            method()
    client.close()
    assert token is None or token not in caplog.text


def test_a_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(InputError, match="in the clear"):
        Client("192.0.2.1:7443", FakeOwner(), token="secret")


@pytest.mark.parametrize("token", ["", "a b", "é", "a\n"])
def test_bad_tokens(tmp_path, token) -> None:
    with pytest.raises(InputError, match="printable"):
        Client("127.0.0.1:1", FakeOwner(), token=token)
    with pytest.raises(InputError, match="printable"):
        Server(tmp_path, "127.0.0.1:0", FakeBackend(), token=token)


@pytest.mark.parametrize("tokens", [[], (), iter([]), {}.keys()])
def test_an_empty_list_of_tokens_is_refused(tmp_path, certificate, tokens) -> None:
    """It would let everybody in."""
    with pytest.raises(InputError, match="at least one"):
        Server(tmp_path, "127.0.0.1:0", FakeBackend(), token=tokens)
    with pytest.raises(InputError, match="at least one"):
        Server(tmp_path, "0.0.0.0:0", FakeBackend(), token=(t for t in tokens), tls=certificate)


def test_missing_tls_files(tmp_path) -> None:
    with pytest.raises(InputError, match=r"none.pem"):
        Client("127.0.0.1:1", FakeOwner(), tls=tmp_path / "none.pem")
    with pytest.raises(InputError, match="cannot be read"):
        Server(tmp_path, "127.0.0.1:0", FakeBackend(), tls=(tmp_path / "none.pem", tmp_path / "key"))


@pytest.mark.parametrize(("evaluator", "also"), [("vector", ["tenseal"]), ("seal", [])])
def test_the_server_loads_no_secret_code(tmp_path, evaluator, also) -> None:
    code = (
        "import sys, protocol\n"
        "from securedl.errors import InputError\n"
        "try:\n"
        f"    server = protocol.Server({str(tmp_path)!r}, 'unix:{tmp_path}/s', {evaluator!r}).start()\n"
        "    server.stop()\n"
        "except InputError as error:\n"
        "    print('unavailable' if 'cannot be loaded' in str(error) else error)\n"
        "print(*sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    if out.startswith("unavailable"):
        pytest.skip(f"the {evaluator} evaluator is not there")
    loaded = set(out.split())
    assert "protocol.server" in loaded
    assert not loaded & {
        "torch",
        "securedl.client.owner",
        "securedl.client.inference",
        "protocol.client",
        "protocol.async_client",
        *also,
    }
