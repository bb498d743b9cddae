"""bench.models: the tables say what the figures are, and a file of them is made in parts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.models.__main__ import kept
from bench.models.networks import NETWORKS
from bench.models.report import line, markdown, plot
from securedl.errors import InputError

ROW: dict[str, Any] = {
    "network": "wine", "link": {"rtt_ms": 1.0, "mbit_s": 1e4}, "accuracy": 0.9722,
    "activations": "client", "tested": 36, "asked": 36,
    "labels_equal": 35, "largest_error": 1.2e-5, "stated_error": 3e-5, "unit_ms": 0.5, "server_ms": 2.0,
    "server_units": 4.0, "load_ms": 0.1, "dump_ms": 0.2, "client_ms": 3.0, "client_units": 6.0,
    "server_two_ms": 1.5, "server_two_units": 3.0, "estimated_server_ms": 2.5, "estimated_client_ms": 2.7,
    "client_ready_ms": 1.5, "estimated_client_ready_ms": 1.4,
    "compile_s": 1.5, "prepare_s": 0.1, "client_mib": 500.0, "server_mib": 300.0, "weights": 2, "keys": 3,
    "key_bytes": 250_000, "upload_bytes": 300_000, "query_bytes": 25_000, "answer_bytes": 33_000, "trips": 2,
    "passed": True, "probes": 8, "one_ms": 11.0, "per_s": 90.0, "upload_s": 0.1,
}  # fmt: skip
MACHINE = {"processor": "a processor", "python": "3.11", "torch": "2", "commit": "abc"}


def test_a_page_of_them() -> None:
    other = {**ROW, "network": "paper", "activations": "server", "passed": False}
    page = markdown([ROW, other], MACHINE, 15)
    client, server = page.partition("## Activations by the server")[::2]
    assert "| wine | 97.22% of 36 | 35 of 36 | 1.2e-05 | 3.0e-05 | passed, 8 probes |" in client
    assert "| paper | 97.22% of 36 | 35 of 36 | 1.2e-05 | 3.0e-05 | ALARM, 8 probes |" in server
    assert "| wine | 2.0 (4.0x) | 1.5 (3.0x) | 2.5 (+25%) | 0.3 | 3.0 (6.0x) | 2.7 (-10%) |" in client
    assert "| 2.7 (-10%) | 1.5 | 1.4 (-7%) | 11 | 90 |" in server
    assert "| wine | 2 | 0.3 | 0.2 | 25 + 33 | 2 | 1.5 | 0.1 | 300 | 500 |" in client
    assert "a relinearisation took 500 to 500 µs" in page
    assert line(ROW).split()[:4] == ["wine", "client", "97.22%", "35/36"]


def test_a_picture_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot([ROW], tmp_path / "models.png")
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_an_earlier_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    assert kept(path) == {}
    path.write_text(json.dumps({"machine": MACHINE, "rows": [ROW]}))
    assert kept(path) == {("wine", "client"): ROW}
    path.write_text("[1]")
    with pytest.raises(InputError, match="no file of bench"):
        kept(path)


def test_bad_arguments_end_before_any_work(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.models", "--json", str(tmp_path / "none" / "x.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "bench.models: cannot write" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_network_of_the_tables_is_there() -> None:
    assert list(NETWORKS) == ["wine", "digits", "cryptonets", "lenet", "paper", "ions", "resnet20", "vgg"]
