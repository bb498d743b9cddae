"""Metrics and logs: what they say is what clients count, and tenants see nothing of each other in them."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from operating import ALICE, BOB, operated, tokens
from protocol_fakes import FakeOwner, predict

from protocol import Client
from protocol.expect import Expectations
from protocol.exposition import check_exposed
from protocol.logs import JsonFormatter, TextFormatter, log_event
from securedl.errors import AuthenticationError, InputError

OWNER = FakeOwner()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_metrics_are_what_clients_count(tmp_path: Path, workers: str) -> None:
    path = tokens(tmp_path, f"{ALICE} alice", f"{BOB} bob")
    options = ("--token-file", str(path), "--metrics", "127.0.0.1:0", "--workers", workers)
    asked, sizes = {"alice": 3, "bob": 2}, dict[str, int]()
    with operated(tmp_path, *options) as server:
        for name, token in (("alice", ALICE), ("bob", BOB)):
            with Client(server.address, OWNER, token=token) as client:
                sizes[name] = client.upload().bytes
                assert predict(client, asked[name] - 1).passed
                assert predict(client, 1).passed
        with pytest.raises(AuthenticationError), Client(server.address, OWNER, token="other"):
            pass
        found = server.metrics()
        once = Expectations.of(OWNER.program)
        received = once.query.bytes + sum(up.bytes for _, up in once.shown if up is not None)
        sent = once.answer.bytes + sum(down.bytes for down, _ in once.shown)
        for name, number in asked.items():
            assert found["securedl_queries_total", name] == number
            assert found["securedl_received_bytes_total", "predict", name] == number * received
            assert found["securedl_sent_bytes_total", "predict", name] == number * sent
            assert found["securedl_received_bytes_total", "upload", name] == sizes[name]
            assert found["securedl_sessions_total", "predict", "ok", name] == 2
            assert found["securedl_sessions_open", "predict", name] == 0
            assert found["securedl_uploads_total", name] == 1
            assert found["securedl_stage_milliseconds_count", "evaluate", name] == number
            assert 0 < found["securedl_computing_seconds_total", name] < 5
            assert found["securedl_store_models", name] == 1
            assert found["securedl_store_bytes", name] >= sizes[name]
        assert found["securedl_refusals_total", "UNAUTHENTICATED", "stranger"] == 1
        assert found["securedl_cache_misses_total",] >= 2
        assert found["securedl_cache_models",] >= 2
        assert found["securedl_cache_bytes",] > 0
        text = str(found) + server.logged()
    model = OWNER.model_id.hex()
    assert model not in str(found)
    assert not any(secret in text for secret in (ALICE, BOB))
    sessions = server.events("predict")
    assert {line["tenant"] for line in sessions} == {"alice", "bob"}
    assert len({line["session"] for line in sessions}) == 4
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") and line["outcome"] == "ok" for line in sessions)
    assert sum(line["items"] for line in sessions) == 5


@pytest.mark.parametrize(
    ("address", "anywhere", "words"),
    [
        ("0.0.0.0:9", False, "refusing to serve metrics on 0.0.0.0:9"),
        ("metrics.example:9", False, "--metrics-anywhere"),
        ("unix:/tmp/m", True, "over HTTP at HOST:PORT"),
        ("9090", False, "is no address"),
    ],
)
def test_metrics_stay_on_this_machine_unless_told(address: str, anywhere: bool, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_exposed(address, anywhere)
    assert check_exposed("127.0.0.1:9", False) == check_exposed("127.0.0.1:9", True)
    assert check_exposed("0.0.0.0:9", True).port == 9


def formatted(formatter: logging.Formatter, caplog: Any, *args: Any, **figures: Any) -> str:
    with caplog.at_level(logging.INFO):
        log_event(*args, **figures)
    return formatter.format(caplog.records[-1])


EVIL = 'a b\n2026-01-01 INFO predict outcome=ok\x1b[2J"=\u202e'


def test_nothing_from_the_network_forges_a_line(caplog) -> None:
    text = formatted(TextFormatter(), caplog, "refused", reason=EVIL, code="X")
    assert text.isprintable()
    assert text.isascii()
    assert text.endswith(" code=X")
    line = formatted(JsonFormatter(), caplog, "refused", reason=EVIL)
    assert line.isprintable()
    found = json.loads(line)
    assert (found["reason"], found["event"], found["level"]) == (EVIL, "refused", "info")
    assert found["time"].endswith("+00:00")


def test_other_lines_and_tracebacks_cannot_forge_any_either() -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed %s", (EVIL,), sys.exc_info())
    text = TextFormatter().format(record)
    assert len([line for line in text.splitlines() if not line.startswith("  | ")]) == 1
    assert "\x1b" not in text
    found = json.loads(JsonFormatter().format(record))
    assert found["message"] == f"failed {EVIL}"
    assert "ValueError" in found["traceback"]
