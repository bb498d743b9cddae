"""What an owner and an answer show of themselves: no key, no weight, no sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from securedl.client.probes import Verification
from securedl.display import Card, shortened
from securedl.network.graph import Array
from securedl.plan.plan import Plan
from securedl.plan.summary import network_shape
from securedl.verify.report import Report

#: Labels shown of an answer.
SHOWN_LABELS = 10


def owner_card(model_id: bytes, plan: Plan, verifications: Sequence[Verification]) -> Card:
    """The model's name, the plan in a line, and what the key has served; nothing is computed for it.

    Args:
        verifications: of each channel.
    """
    ledgers, program = [one.ledger for one in verifications], plan.signature.channels[0]
    layers, count = len(plan.network.rows(program)), len(ledgers)
    channels = f", {count} channels" if count > 1 else ""
    checked, alarmed = sum(one.checked for one in ledgers), sum(one.alarmed for one in ledgers)
    shape, ring = network_shape(plan.network), program.params.ring
    rows = (
        ("plan", f"{layers} layers, {shape}, ring {ring}, batch {plan.batch}{channels}"),
        ("key", "secret, in this process; save(path, passphrase=...) keeps it"),
        ("served", f"{max(one.batches for one in ledgers)} batches"),
        ("probes", f"{checked} compared, {alarmed} in batches with an alarm"),
    )
    return Card(f"Owner of model {model_id.hex()}", rows)


def answer_card(
    logits: Array,
    labels: np.ndarray[Any, Any] | None,
    report: Report,
    timings: Mapping[str, float],
    traffic: Mapping[str, int],
) -> Card:
    """How many samples, the first labels, the verdict, and what it took.

    Args:
        logits: [samples, ...]. labels: [samples, ...], or None. timings: ms by stage, "total" among them.
        traffic: bytes by message kind.
    """
    stages = ", ".join(f"{name} {ms:.0f}" for name, ms in timings.items() if name != "total")
    total = f"{timings['total']:.0f} ms" if "total" in timings else "unknown"
    sent = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in traffic.items())
    verdict, compared, *_ = (line.strip() for line in report.summary().splitlines())
    rows = [
        ("labels", _labels(labels)),
        ("verification", verdict.removeprefix("verification: ")),
        *(("", part) for part in compared.split("; ")),
        ("time", total + (f": {stages}" if stages else "")),
        ("traffic", f"{sum(traffic.values()) / 1e6:.2f} MB" + (f": {sent}" if sent else "")),
    ]
    if report.alarms:
        rows.insert(4, ("", report.alarms[0]))
    rows[1:1] = [("", line) for line in report.outliers]
    count = f"{len(logits)} sample" + "s" * (len(logits) != 1)
    outputs = " x ".join(str(size) for size in logits.shape[1:])
    return Card(f"Answer for {count}, {outputs} outputs each", tuple(rows))


def _labels(labels: np.ndarray[Any, Any] | None) -> str:
    if labels is None:
        return "none: the outputs are values"
    shown = " ".join(shortened(str(label), 20) for label in labels[:SHOWN_LABELS].tolist())
    return shown + (" ..." if len(labels) > SHOWN_LABELS else "")
