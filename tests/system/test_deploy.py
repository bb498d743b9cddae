"""docs/deploy.md, word for word, in a fresh copy of the checkout; settings of files and the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import protocol
from securedl.demo.processes import COMMAND_LINE, ServerProcess, running

pytestmark = pytest.mark.he

ROOT = Path(__file__).parents[2]


def test_settings_come_in_order(network: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag before the environment, that before the file, that before the default."""
    owner, settings = network((6, 8, 3)).owner(batch=4, ring=4096), folder / "server.toml"
    listen = f"unix:{folder / 'settings'}"
    settings.write_text(
        f'listen = "{listen}"\nstore = "{folder / "kept"}"\nquiet = true\n'
        "max-models = 3\nmax-gb = 5\nmax-sessions = 7\n"
    )
    monkeypatch.setenv("SECUREDL_SERVE_MAX_GB", "6")
    monkeypatch.setenv("SECUREDL_SERVE_MAX_SESSIONS", "8")
    command = [*COMMAND_LINE, "serve", "--config", str(settings), "--max-sessions", "9"]
    with running(command, folder / "settings.log") as process:
        assert process.address == listen
        with protocol.Client(listen, owner) as client:
            said = client.describe()
    assert (said["max_models"], said["max_bytes"], said["max_sessions"]) == (3, 6 << 30, 9)
    assert (folder / "kept").is_dir()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_gb = 3", "sets 'max_gb', which is no option: did you mean max-gb?"),
        ("tls-cert = ['x']", "sets tls-cert to ['x']: it must be a text, a number, true or false"),
        ("max-gb = ", "cannot read the settings in"),
        ("worker = true", "sets 'worker', which is no option"),
    ],
)
def test_wrong_settings_are_refused(
    line: str, words: str, cli: Any, assert_refused: Any, folder: Path
) -> None:
    (folder / "wrong.toml").write_text(line)
    assert_refused(cli("serve", "--config", folder / "wrong.toml"), words)


def test_a_variable_that_is_spelled_wrong_is_refused(
    cli: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECUREDL_SERVE_TOKENFILE", "tokens")
    assert_refused(cli("serve"), "sets SECUREDL_SERVE_TOKENFILE, which is no option: did you mean")


def blocks() -> list[str]:
    """Commands of the page's first part: those behind it show options alone."""
    page = (ROOT / "docs" / "deploy.md").read_text().partition("\n## ")[0]
    return re.findall(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_is_right(folder: Path) -> None:
    at, server = folder / "checkout", None
    at.mkdir()
    copied = ("deploy", "pyproject.toml", "README.md", "LICENSE", "securedl", "polyapprox", "protocol")
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in copied), str(at)], check=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of the owner, who has everything
    apart = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in apart}
    environment |= {"PATH": path, "HOME": str(folder)}
    alone = ["env", "-u", "PYTHONPATH", f"HOME={folder}", "bash", "-c"]
    said = []
    try:
        for block in blocks():
            if "securedl serve" in block and "pkill" not in block:
                first, _, command = block.rpartition("END\n")
                subprocess.run(["bash", "-ec", first + "END\n"], cwd=at, check=True, env=environment)
                server = ServerProcess([*alone, f"exec {command}"], folder / "page.log", cwd=at)
                assert server.address == "0.0.0.0:7443"
                continue
            done = subprocess.run(
                ["bash", "-ec", block], cwd=at, capture_output=True, text=True, check=False, env=environment
            )
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            said.append(done.stdout)
        assert server is not None
        logged = server.stop()
    finally:
        if server is not None:
            server.kill()
    installed, _, asked, seen = said
    assert "kernels are ready" in installed
    assert "passed" in asked
    assert re.search(r'securedl_queries_total\{tenant="alice"\} [1-9]', seen)
    assert "alice" in seen
    assert '"event": "tokens"' in logged
    assert "bob" not in seen.partition("alice")[0]
    assert '"event": "stopped"' in logged
