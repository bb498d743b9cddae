"""Networks from end to end, with activations="client", encrypted weights, one sample a query.

    python -m bench.models [--quick] [--network NAME ...] [--json FILE]

Server and client times are medians of one process with a thread for each, in ms and as multiples of this
run's relinearisation at N = 8192 with four primes; answers come from a server process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import securedl
from bench.models.measure import peak_mib, relinearisation_us, served, sizes, timed
from bench.models.networks import NETWORKS
from bench.models.training import accuracy, task, trained
from securedl.client.calibrate import measured_prices
from securedl.errors import SecureDLError
from securedl.files import check_writable

#: Calibration samples.
CALIBRATION = 512
#: Epochs of training with --quick.
QUICK_EPOCHS = 1


def row(name: str, quick: bool) -> dict[str, Any]:
    """All figures of one network."""
    network = NETWORKS[name]
    data = task(network)
    model = trained(name, data, QUICK_EPOCHS if quick and network.images else None)
    print(f"{name}: compiling", flush=True)
    began = time.perf_counter()
    prices = measured_prices()
    plan = securedl.compile(model, data.x_train[:CALIBRATION], activations="client", prices=prices)
    compiled = time.perf_counter() - began
    asked = data.x_test[: network.asked[quick]]
    print(f"{name}: timing, then {len(asked)} samples encrypted", flush=True)
    unit = relinearisation_us() / 1e3
    one = timed(plan, asked[:4], 3 if quick else 15)
    two = timed(plan, asked[:4], 3 if quick else 15, threads=2)
    answers = served(plan, asked)
    with torch.no_grad():
        wanted = model.double()(torch.from_numpy(asked).double()).numpy()
    model.float()
    logits = answers.pop("logits")
    same = logits.argmax(1) == wanted.argmax(1)
    cost = plan.signature.cost
    return {
        "network": name,
        "accuracy": accuracy(model, data.x_test, data.y_test),
        "tested": len(data.x_test),
        "asked": len(asked),
        "encrypted_accuracy": float((logits.argmax(1) == data.y_test[: len(asked)]).mean()),
        "original_accuracy_of_asked": float((wanted.argmax(1) == data.y_test[: len(asked)]).mean()),
        "labels_equal": int(same.sum()),
        "largest_error": float(np.abs(logits - wanted).max() / np.ptp(wanted)),
        "stated_error": plan.signature.error,
        "unit_ms": unit,
        "server_ms": one["server"],
        "load_ms": one["load"],
        "dump_ms": one["dump"],
        "client_ms": one["client"],
        "server_two_ms": two["server"],
        "server_units": one["server"] / unit,
        "server_two_units": two["server"] / unit,
        "client_units": one["client"] / unit,
        "estimated_server_ms": cost.server_ms,
        "estimated_client_ms": cost.client_ms,
        "compile_s": compiled,
        "prepare_s": one["prepare_s"],
        "client_mib": peak_mib(),
        **sizes(plan),
        **answers,
    }


HEAD = (
    f"{'network':11} {'accuracy':>8} {'same':>9} {'error':>8} {'server':>13} {'2 thr.':>6} {'client':>13} "
    f"{'est. s/c':>11} {'up MB':>6} {'kB/query':>9} {'trips':>5}"
)


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    return (
        f"{found['network']:11} {found['accuracy']:8.2%} {found['labels_equal']:4}/{found['asked']:<4} "
        f"{found['largest_error']:8.1e} {found['server_ms']:6.1f} {found['server_units']:5.0f}x "
        f"{found['server_two_units']:5.0f}x {found['client_ms']:6.1f} {found['client_units']:5.0f}x "
        f"{found['estimated_server_ms']:5.1f}/{found['estimated_client_ms']:5.1f} "
        f"{found['upload_bytes'] / 1e6:6.1f} "
        f"{(found['query_bytes'] + found['answer_bytes']) / 1e3:9.0f} {found['trips']:5}"
    )


def machine() -> dict[str, str]:
    """Where and with what this was measured."""
    names = [text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("model name")]
    command, here = ["git", "rev-parse", "--short", "HEAD"], Path(__file__).parent
    commit = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here)
    return {
        "processor": names[0].partition(": ")[2] if names else platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few samples, hardly trained images' networks")
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="all by default")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    try:
        if options.json:
            check_writable(options.json)
        torch.set_num_threads(1)
        rows = []
        for name in options.network or NETWORKS:
            rows.append(row(name, options.quick))
            print(HEAD, line(rows[-1]), sep="\n", flush=True)
    except SecureDLError as error:
        sys.exit(f"bench.models: {error}")
    print("", HEAD, *map(line, rows), sep="\n")
    print(f"x is this run's relinearisation, {1e3 * rows[-1]['unit_ms']:.0f} µs in the last row")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
