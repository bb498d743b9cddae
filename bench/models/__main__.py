"""Networks from end to end, encrypted weights, one sample a query, with activations by the client and, those
that have been tuned with squares, by the server.

    python -m bench.models [--quick] [--network NAME ...] [--activations WHO] [--json FILE] [--plot FILE]
        [--markdown FILE] [--link MS MBIT_S]

Rows of networks that are not asked for are kept in the JSON file, so that it can be made in parts. Server and
client times are medians of one process with a thread for each, in ms and as multiples of this run's
relinearisation at N = 8192 with four primes; answers come from a server process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import securedl
from bench.models.measure import REPEATS, forget_peak, peak_mib, relinearisation_us, served, sizes, timed
from bench.models.networks import NETWORKS
from bench.models.report import HEAD, line, markdown, plot
from bench.models.training import accuracy, polynomial, task, trained
from securedl.client.calibrate import measured_prices
from securedl.errors import InputError, SecureDLError
from securedl.files import check_writable, write_atomically

#: Calibration samples.
CALIBRATION = 512
WHO = ("client", "server")
#: Round trip in ms, and Mbit/s.
LINK = (1.0, 10_000.0)
#: Epochs of training with --quick.
QUICK_EPOCHS = 1


def row(name: str, activations: str, quick: bool, link: securedl.Link) -> dict[str, Any]:
    """All figures of one network, its plan made for a link."""
    network = NETWORKS[name]
    data = task(network)
    few = QUICK_EPOCHS if quick and network.images else None
    if activations == "server":
        model = polynomial(name, data, QUICK_EPOCHS if quick else None, before=few)
    else:
        model = trained(name, data, few)
    print(f"{name}: compiling for activations by the {activations}", flush=True)
    forget_peak()
    began = time.perf_counter()
    prices = measured_prices()
    plan = securedl.compile(
        model, data.x_train[:CALIBRATION], batch=1, activations=activations, prices=prices, link=link
    )
    compiled = time.perf_counter() - began
    asked = data.x_test[: network.asked[quick]]
    print(f"{name}: timing, then {len(asked)} samples encrypted", flush=True)
    unit = relinearisation_us() / 1e3
    one = timed(plan, asked[:4], 3 if quick else REPEATS)
    two = timed(plan, asked[:4], 3 if quick else REPEATS, threads=2, ahead=1)
    answers = served(plan, asked)
    client_mib = peak_mib()
    model.double()
    with torch.no_grad():
        parts = torch.from_numpy(asked).double().split(50)
        exact = torch.cat([model(part) for part in parts]).numpy()
    model.float()
    logits = answers.pop("logits")
    same = logits.argmax(1) == exact.argmax(1)
    cost = plan.signature.cost
    return {
        "network": name,
        "activations": activations,
        "link": asdict(link),
        "accuracy": accuracy(model, data.x_test, data.y_test),
        "tested": len(data.x_test),
        "asked": len(asked),
        "encrypted_accuracy": float((logits.argmax(1) == data.y_test[: len(asked)]).mean()),
        "original_accuracy_of_asked": float((exact.argmax(1) == data.y_test[: len(asked)]).mean()),
        "labels_equal": int(same.sum()),
        "largest_error": float(np.abs(logits - exact).max() / np.ptp(exact)),
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
        "client_ready_ms": two["client"],
        "estimated_server_ms": cost.server_ms,
        "estimated_client_ms": cost.client_ms,
        "estimated_client_ready_ms": cost.client_ms - cost.ahead_ms,
        "compile_s": compiled,
        "prepare_s": one["prepare_s"],
        "client_mib": client_mib,
        **sizes(plan),
        **answers,
    }


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
    parser.add_argument("--activations", choices=WHO, help="by whom; both by default")
    parser.add_argument("--json", type=Path, help="write the figures there; those of other networks stay")
    parser.add_argument("--plot", type=Path, help="draw them (png, svg, pdf)")
    parser.add_argument("--markdown", type=Path, help="write them as a page")
    parser.add_argument(
        "--link", nargs=2, type=float, default=LINK, metavar=("MS", "MBIT_S"),
        help="plans are for this link; by default for machines side by side: %(default)s",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        for path in (options.json, options.plot, options.markdown):
            if path:
                check_writable(path)
        link = securedl.Link(*options.link)
        torch.set_num_threads(1)
        rows = kept(options.json)
        for key in wanted(options.network or list(NETWORKS), options.activations):
            rows[key] = row(*key, options.quick, link)
            print(HEAD, line(rows[key]), sep="\n", flush=True)
            if options.json:
                found = {"machine": machine(), "rows": list(rows.values())}
                write_atomically(options.json, json.dumps(found, indent=1).encode())
    except SecureDLError as error:
        sys.exit(f"bench.models: {error}")
    every = [rows[key] for key in wanted(list(NETWORKS), None) if key in rows]
    print("", HEAD, *map(line, every), sep="\n")
    print(f"x is this run's relinearisation, {1e3 * every[-1]['unit_ms']:.0f} µs in the last row")
    if options.markdown:
        options.markdown.write_text(markdown(every, machine(), REPEATS))
    if options.plot:
        plot(every, options.plot)


def wanted(names: list[str], activations: str | None) -> list[tuple[str, str]]:
    """Network and who applies its activations, of each row: the client's before the server's."""
    found = [(name, who) for who in ([activations] if activations else WHO) for name in names]
    return [(name, who) for name, who in found if who == "client" or NETWORKS[name].squares]


def kept(path: Path | None) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows by network and activations, of an earlier run.

    Raises:
        InputError: another file.
    """
    if path is None or not path.exists():
        return {}
    try:
        return {(row["network"], row["activations"]): row for row in json.loads(path.read_text())["rows"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no file of bench.models: {error}; name another one") from error


if __name__ == "__main__":
    main()
