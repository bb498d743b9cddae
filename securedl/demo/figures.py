"""What the demonstration found: figures for `--json`, and a report to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from securedl.client.inference import Answer
from securedl.demo.data import Split
from securedl.he.params import SECURITY_BITS
from securedl.plan.plan import Plan


def _accuracy(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of right labels."""
    return float(np.mean(labels == truth))


def collect_figures(
    data: str, plan: Plan, split: Split, model: nn.Module, poly: nn.Module, answer: Answer
) -> dict[str, Any]:
    """Accuracy, agreement and errors of the answer for the whole test part."""
    with torch.no_grad():
        x = torch.tensor(split.x_test, dtype=torch.float32)
        original, polynomial = model(x).numpy().argmax(axis=1), poly.double()(x.double()).numpy()
    error = float(np.abs(answer.logits - polynomial).max())
    best = np.sort(polynomial, axis=1)
    clear = best[:, -1] - best[:, -2] > error
    labels = np.asarray(answer.labels)
    same = labels == polynomial.argmax(axis=1)
    return {
        "data": data,
        "scheme": plan.program.params.scheme,
        "security_bits": SECURITY_BITS,
        "samples": len(split.x_test),
        "accuracy": {
            "original": _accuracy(original, split.y_test),
            "polynomial": _accuracy(polynomial.argmax(axis=1), split.y_test),
            "encrypted": _accuracy(labels, split.y_test),
        },
        "label_agreement": float(np.mean(same)),
        "label_agreement_outside_error": float(np.mean(same[clear])) if clear.any() else 1.0,
        "max_logit_error": error,
        "logit_range": float(np.ptp(polynomial)),
        "refreshes": len(plan.program.refreshes),
        "verification": {
            "honest": {
                "checked": answer.report.checked,
                "probes": answer.report.probes,
                "passed": answer.report.passed,
            }
        },
    }


def print_report(console: Console, plan: Plan, figures: dict[str, Any], answer: Answer) -> None:
    """One readable report."""
    console.rule(f"encrypted inference on {figures['data']}")
    console.print(plan.summary(), highlight=False)
    right, ms, size = figures["accuracy"], figures["ms"], figures["bytes"]
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_row("test samples", str(figures["samples"]))
    table.add_row(
        "accuracy",
        f"original {100 * right['original']:.2f} %, polynomial {100 * right['polynomial']:.2f} %, "
        f"encrypted {100 * right['encrypted']:.2f} %",
    )
    bits = np.log2(figures["max_logit_error"] / figures["logit_range"])
    table.add_row(
        "largest logit error", f"{figures['max_logit_error']:.2e} (2^{bits:.1f} of the logit range)"
    )
    table.add_row("labels as the polynomial model's", f"{100 * figures['label_agreement']:.2f} %")
    per_sample = ms["predict"] / figures["samples"]
    table.add_row("encrypted prediction", f"{ms['predict']:.0f} ms in all, {per_sample:.2f} ms a sample")
    stages = ("train", "approximate", "compile", "keys", "upload")
    table.add_row("before it, once", ", ".join(f"{s} {ms[s] / 1e3:.2f} s" for s in stages))
    sent = ", ".join(f"{kind} {count / 1e6:.2f} MB" for kind, count in size.items())
    table.add_row("on the link", sent)
    table.add_row("refreshes a batch", str(figures["refreshes"]))
    pids = figures["pids"]
    table.add_row("processes", f"client {pids['client']}, server {pids['server']} ({figures['evaluator']})")
    console.print(table)
    console.print("\n[bold]honest server[/bold]")
    console.print(answer.report.summary(), highlight=False)
    console.print("[bold]dishonest servers[/bold]")
    for act in figures["verification"]["dishonest"]:
        verdict = "[green]detected[/green]" if act["detected"] else "[red]NOT detected[/red]"
        ratio = f"{act['worst_ratio']:.3g}"
        console.print(
            f"  {act['attack']:6} on 5 % of one layer's encrypted diagonals: {verdict}, {ratio} x tolerance"
        )
