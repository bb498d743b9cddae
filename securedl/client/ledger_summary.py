"""What a ledger's file says of an owner's life: figures for scripts, lines for a person."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from securedl.client.ledger import KEY_TERM
from securedl.client.ledger_file import in_words, opened
from securedl.display import printable, shortened
from securedl.verify.statistics import upper_bound_tampered

CONFIDENCE = 0.95
#: Alarmed calls that are listed, the latest ones.
SHOWN_CALLS = 5
#: Characters of an alarm.
SHOWN_TEXT = 200
_MODES = """
    SELECT verify, count(*) AS calls, count(*) - count(seconds) AS unfinished,
        ifnull(sum(samples) FILTER (WHERE seconds IS NOT NULL), 0) AS samples, sum(batches) AS batches,
        ifnull(sum(probes), 0) AS probes, ifnull(sum(alarmed), 0) AS alarmed,
        ifnull(sum(recomputed), 0) AS recomputed, sum(alarms > 0) AS alarms
    FROM calls WHERE model = ? GROUP BY verify ORDER BY verify"""
_ALARMS = """
    SELECT asked, server, verify, first_alarms AS alarms FROM calls
    WHERE model = ? AND alarms > 0 ORDER BY number DESC LIMIT ?"""


def ledger_figures(path: Path) -> list[dict[str, Any]]:
    """Of each model: what was asked, what was checked, alarms, bounds, and what is left of the key's term.

    Raises:
        InputError: no such file, or it is no ledger, or a damaged one.
    """
    with in_words(path):
        connection = opened(path)
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        try:
            return [_model(connection, dict(row)) for row in connection.execute("SELECT * FROM models")]
        finally:
            connection.close()


def _model(connection: sqlite3.Connection, counts: dict[str, Any]) -> dict[str, Any]:
    model = counts["model"]
    modes = [dict(row) for row in connection.execute(_MODES, (model,))]
    for mode in modes:
        mode["bound"] = _bound(mode)
    samples = sum(mode["samples"] for mode in modes)
    span = "SELECT min(asked), max(asked) FROM calls WHERE model = ?"
    first, last = connection.execute(span, (model,)).fetchone()
    alarmed = [dict(row) for row in connection.execute(_ALARMS, (model, SHOWN_CALLS))]
    return {
        "model": model,
        "first": first,
        "last": last,
        "batches": counts["batches"],
        "remaining": max(0, KEY_TERM - counts["batches"]),
        "calls": sum(mode["calls"] for mode in modes),
        "unfinished": sum(mode["unfinished"] for mode in modes),
        "samples": samples,
        "alarms": counts["alarms"],
        "bound": sum(mode["bound"] * mode["samples"] for mode in modes) / samples if samples else 1.0,
        "confidence": CONFIDENCE,
        "modes": modes,
        "latest_alarms": [call | {"alarms": json.loads(call["alarms"] or "[]")} for call in alarmed],
    }


def _bound(mode: dict[str, Any]) -> float:
    """At most this fraction of a mode's answers was tampered with: where all were compared, those in batches
    with an alarm; where probes were, by Clopper and Pearson.
    """
    if mode["verify"] == "every" and mode["samples"]:
        return float(1.0 - mode["recomputed"] / mode["samples"])
    if mode["verify"] == "probes":
        return upper_bound_tampered(mode["probes"], mode["alarmed"], CONFIDENCE)
    return 1.0


def ledger_text(figures: list[dict[str, Any]]) -> str:
    """The same, some lines for each model."""
    return "\n\n".join("\n".join(_lines(model)) for model in figures) or "no call is in this ledger"


def _lines(model: dict[str, Any]) -> list[str]:
    heads = ("verify", "calls", "samples", "probes", "recomputed", "alarms")
    rows = [heads, *([f"{mode[head]}" for head in heads] for mode in model["modes"])]
    bounds = ["tampered with", *(f"at most {100 * mode['bound']:.3g} %" for mode in model["modes"])]
    return [
        f"model {model['model']}",
        f"  {model['calls']} calls" + (f", {model['first']} to {model['last']}" if model["calls"] else ""),
        f"  key: {model['batches']:,} of {KEY_TERM:,} batches served, {model['remaining']:,} remain",
        *(
            "".join([f"  {row[0]:8}", *(f"{cell:>11}" for cell in row[1:]), f"  {bound}"])
            for row, bound in zip(rows, bounds, strict=True)
        ),
        f"  at most {100 * model['bound']:.3g} % of all answers were tampered with beyond the tolerances "
        f"({100 * model['confidence']:g} % confidence)",
        f"  {model['alarms']} calls with an alarm, {model['unfinished']} without a verdict",
        *(f"  {_alarm(call)}" for call in model["latest_alarms"]),
    ]


def _alarm(call: dict[str, Any]) -> str:
    what = "; ".join(call["alarms"]) or "an alarm, and no verdict"
    return shortened(printable(f"{call['asked']} {call['server']}: {what}"), SHOWN_TEXT)
