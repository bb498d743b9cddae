"""Tokens: their file, what a reload changes, and what it leaves."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest
from operating import ALICE, BOB, eventually, operated, tokens
from protocol_fakes import FakeOwner, predict
from test_limits import Asking

from protocol import Client, Store
from protocol.access import Access
from protocol.tokens import append_token, new_token, read_tokens
from securedl.errors import AuthenticationError, InputError

OWNER = FakeOwner()


def test_lines_of_a_file(tmp_path: Path) -> None:
    path = tokens(tmp_path, "", f"  {ALICE}   alice ", BOB, "")
    assert read_tokens(path) == {ALICE: "alice", BOB: ""}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "holds no token"),
        ((f"{ALICE} Alice",), "line 1 .* a tenant's name is 1 to 32 of a-z, 0-9 and -"),
        ((f"{ALICE} local",), "neither local nor stranger"),
        ((f"{ALICE} {'a' * 33}",), "1 to 32"),
        ((f"{ALICE} a b",), "at most one name"),
        ((f"{ALICE} x", f"{BOB} x"), "line 2 .* two tokens have the name x"),
        ((f"{ALICE} x", f"{ALICE} y"), "there twice"),
        (("\x07bell",), "printable ASCII"),
    ],
)
def test_bad_files_are_refused_and_no_token_is_told(
    tmp_path: Path, lines: tuple[str, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_tokens(tokens(tmp_path, *lines))
    assert not any(token in str(caught.value) for token in (ALICE, BOB, "bell"))


def test_new_tokens_go_to_a_file_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first, second = new_token(), new_token()
    append_token(path, first, "alice")
    path.write_text(path.read_text().rstrip("\n"))  # as some editors leave it
    append_token(path, second)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_tokens(path) == {first: "alice", second: ""}
    with pytest.raises(InputError, match="two tokens have the name alice"):
        append_token(path, new_token(), "alice")
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read or change the token file"):
        append_token(path, new_token())
    assert len(path.read_text().splitlines()) == 2


def test_labels_tell_no_token(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    access = Access(store, {ALICE: "alice", BOB: ""})
    assert {tenant.label for tenant in access.tenants()} == {"alice", store.client(BOB)[:8]}
    with pytest.raises(InputError, match="two tokens have the tenant"):
        access.replace({ALICE: "", BOB: store.client(ALICE)[:8]})
    assert len(access.tenants()) == 2


def test_a_reload_lets_new_tokens_in_and_removed_ones_out(tmp_path: Path) -> None:
    path = tokens(tmp_path, ALICE)
    with operated(tmp_path, "--token-file", str(path)) as server:
        with pytest.raises(AuthenticationError), Client(server.address, OWNER, token=BOB):
            pass
        with Client(server.address, OWNER, token=ALICE) as alice:
            alice.upload()
            with grpc.insecure_channel(server.address) as channel:
                asking = Asking(channel, ALICE)
                tokens(tmp_path, BOB)
                server.popen.send_signal(signal.SIGHUP)
                eventually(lambda: server.events("tokens"))
                with pytest.raises(AuthenticationError, match="not one of this server's tokens"):
                    alice.status()
                asking.query()  # of a session that was open
                assert next(asking.call)
                asking.call.cancel()
        with Client(server.address, OWNER, token=BOB) as bob:
            bob.upload()
            assert predict(bob, 1).passed


@pytest.mark.parametrize("bad", ["empty", "missing", "readable", "broken"])
def test_a_bad_file_changes_nothing(tmp_path: Path, bad: str) -> None:
    path = tokens(tmp_path, ALICE)
    with operated(tmp_path, "--token-file", str(path)) as server:
        if bad == "missing":
            path.unlink()
        elif bad == "readable":
            path.chmod(0o644)
        else:
            path.write_text("" if bad == "empty" else f"{BOB} name of three\n")
        server.popen.send_signal(signal.SIGHUP)
        (line,) = eventually(lambda: server.events("tokens"))
        assert line["level"] == "error"
        assert str(path) in line["problem"]
        assert BOB not in server.logged()
        with Client(server.address, OWNER, token=ALICE) as alice:
            assert not alice.status().known
