"""A server's own installation: from the lock file, without what only owners need; and it serves."""

from __future__ import annotations

import os
import re
import subprocess
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import protocol
import securedl
from securedl.demo.processes import running

pytestmark = pytest.mark.he

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"torch", "tenseal", "scipy", "scikit-learn", "pooch"}


def names(lines: list[str]) -> dict[str, str]:
    """Distributions, and what is asked of their versions."""
    found = [
        re.match(r"([A-Za-z0-9_.-]+?)\s*([=<>!~].*)?$", line.partition(";")[0].strip()) for line in lines
    ]
    return {match[1].lower().replace("_", "-"): match[2] or "" for match in found if match}


def locked() -> list[str]:
    """Lines of the lock file, each with its hashes."""
    return (ROOT / "deploy" / "server.txt").read_text().replace("\\\n", " ").splitlines()


def test_the_lock_file_is_whole() -> None:
    wanted = (ROOT / "deploy" / "server.in").read_text().splitlines()
    asked = names([line for line in wanted if line and not line.startswith("#")])
    pinned = names([line.partition("--hash")[0] for line in locked()])
    assert set(asked) <= set(pinned)
    assert not set(pinned) & LEFT_OUT
    for line in locked():
        assert re.search(r"==[\w.]+", line), line
        assert "--hash=sha256:" in line
        assert "://" not in line
    own = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert own
    floors = names(re.findall(r'"(.*)"', own[1]))
    for name, floor in asked.items():
        assert floors[name] == floor, f"{name}: {floor} here, {floors[name]} in pyproject.toml"


@pytest.fixture(scope="module")
def slim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with a server in it, as deploy/Dockerfile makes one; its folder of programs."""
    folder = tmp_path_factory.mktemp("slim")
    venv.create(folder / "venv", with_pip=True)
    (folder / "source").mkdir()
    copied = ("deploy", "pyproject.toml", "README.md", "LICENSE", "securedl", "polyapprox", "protocol")
    subprocess.run(["cp", "-r", *(str(ROOT / name) for name in copied), str(folder / "source")], check=True)
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    commands = re.findall(r"^RUN (pip install .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(
            [str(folder / "venv" / "bin" / "python"), "-m", *command.split()],
            cwd=folder / "source", env=alone(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin"


def alone() -> dict[str, str]:
    """The environment without what leads to this checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_it_has_none_of_what_owners_need(slim: Path) -> None:
    listed = subprocess.run(
        [str(slim / "python"), "-m", "pip", "list", "--format=freeze"],
        capture_output=True, text=True, check=True, env=alone(),
    )  # fmt: skip
    found = names(listed.stdout.splitlines())
    assert "securedl" in found
    assert not set(found) & LEFT_OUT
    done = subprocess.run(
        [str(slim / "securedl"), "demo"], capture_output=True, text=True, check=False, env=alone(), cwd=slim
    )
    assert done.returncode == 1
    assert re.fullmatch(r"securedl: this needs \w+, which a server does without: .*\n", done.stderr)


@pytest.mark.slow
def test_it_serves(slim: Path, network: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    plan = securedl.compile(net.model, net.x, batch=32, ring=8192)
    owner, address = securedl.Owner(plan), f"unix:{folder / 'slim'}"
    command = [str(slim / "securedl"), "serve", "--listen", address, "--store", str(folder / "slim-store")]
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with running(command, folder / "slim.log", cwd=slim), protocol.Client(address, owner) as client:
        client.upload()
        answer = client.predict(net.x[:40])
        subprocess.run([str(slim / "securedl"), "health", address, "--ready"], check=True, cwd=slim)
    assert answer.report.passed
    wanted = plan.simulate(net.x[:40], noise_seed=None)
    np.testing.assert_allclose(answer.logits, wanted, atol=1e-3 * np.ptp(wanted))
