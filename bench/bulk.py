"""How many samples a second, asked in bulk: client and server at work at the same time, as users run them.

    python -m bench.bulk [--network NAME ...] [--activations WHO ...] [--batch NUMBER ...] [--threads 1]
        [--streams 1] [--samples 65536] [--quick] [--json FILE]

One call of predict for all samples, with verification, on a server process over a Unix socket. A row says
what share of the time each stage of the client took, "waiting" being that for the server, how busy either
process kept a core, and how many relinearisations (N = 8192, four primes) one thread of this machine could
have done in a sample's time: by that figures of different machines can be compared. With --streams several
calls share the samples and run at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import protocol
import securedl
from bench.models.__main__ import CALIBRATION, WHO, machine
from bench.models.measure import peak_mib, relinearisation_us, sizes
from bench.models.networks import NETWORKS
from bench.models.training import polynomial, task, trained
from protocol.asking import STAGES
from securedl.client.calibrate import measured_prices
from securedl.client.inference import Answer
from securedl.client.owner import Owner
from securedl.demo.processes import running, serve_command
from securedl.errors import SecureDLError
from securedl.files import check_writable, write_atomically
from securedl.plan.plan import Plan

DEFAULT = ("wine", "digits")
SAMPLES, QUICK_SAMPLES = 1 << 16, 1 << 10
#: As many samples as there are slots; and with activations by the client, which use none.
THROUGHPUT, CLIENT_BATCH = "throughput", 64
#: Client and server on one machine.
LINK = securedl.Link(1.0, 10_000.0)
SHARES = tuple("waiting" if stage == "server" else stage for stage in STAGES)


@dataclass(frozen=True)
class Row:
    """One plan.

    Attributes:
        per_s: samples a second. relinearisations: that one thread could do in a sample's time.
        shares: of the client's time, by stage. client_busy, server_busy: cores that the processes kept busy.
        same: samples whose label is that of the network in the clear.
        upload_s: with the encryption of the weights.
    """

    network: str
    activations: str
    batch: int
    ring: int
    samples: int
    per_s: float
    relinearisations: float
    shares: dict[str, float]
    client_busy: float
    server_busy: float
    same: int
    trips: int
    upload_bytes: int
    upload_s: float
    server_mib: float
    threads: int
    streams: int


def measured(
    name: str, activations: str, batch: int | str, samples: int, threads: int = 1, streams: int = 1
) -> Row:
    """Compile, upload, and ask.

    Args:
        threads: of the server's evaluator. streams: calls at once.
    """
    network = NETWORKS[name]
    data = task(network)
    model = polynomial(name, data) if activations == "server" else trained(name, data)
    plan = securedl.compile(
        model, data.x_train[:CALIBRATION], batch=batch, activations=activations, link=LINK,
        prices=measured_prices(),
    )  # fmt: skip
    x = data.x_test[np.random.default_rng(0).integers(0, len(data.x_test), samples)]
    return asked(name, activations, plan, model, x, threads, streams)


def asked(
    name: str, activations: str, plan: Plan, model: nn.Module, x: NDArray[np.float32], threads: int,
    streams: int,
) -> Row:  # fmt: skip
    """All samples on a server of their own."""
    owner, size, unit_us = Owner(plan), sizes(plan), relinearisation_us()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        at, address = Path(folder), f"unix:{folder}/server"
        command = serve_command(at / "store", address, "--threads", str(threads), "--quiet")
        server = stack.enter_context(running(command, at / "log"))
        clients = [stack.enter_context(protocol.Client(address, owner)) for _ in range(streams)]
        upload = clients[0].upload()
        owner.verification.prepare()
        clients[0].predict(x[: plan.program.batch // 2 + 1])
        before, began = (time.process_time(), processor_s(server.pid)), time.perf_counter()
        with ThreadPoolExecutor(streams) as pool:
            answers = list(pool.map(lambda one: one[0].predict(one[1]), _shared(clients, x)))
        took = time.perf_counter() - began
        busy = time.process_time() - before[0], processor_s(server.pid) - before[1]
        memory = peak_mib(server.pid)
    found = np.concatenate([answer.logits for answer in answers]).argmax(1)
    with torch.no_grad():
        wanted = model.float()(torch.from_numpy(x)).numpy().argmax(1)
    return Row(
        network=name,
        activations=activations,
        batch=plan.program.batch,
        ring=plan.program.params.ring,
        samples=len(x),
        per_s=len(x) / took,
        relinearisations=1e6 * took / len(x) / unit_us,
        shares=shares(answers),
        client_busy=busy[0] / took,
        server_busy=busy[1] / took,
        same=int((found == wanted).sum()),
        trips=size["trips"],
        upload_bytes=size["upload_bytes"],
        upload_s=upload.seconds,
        server_mib=memory,
        threads=threads,
        streams=streams,
    )


def _shared(
    clients: list[protocol.Client], x: NDArray[np.float32]
) -> list[tuple[protocol.Client, NDArray[np.float32]]]:
    return list(zip(clients, np.array_split(x, len(clients)), strict=True))


def shares(answers: list[Answer]) -> dict[str, float]:
    """Of the time of all calls, by stage."""
    total = sum(answer.timings["total"] for answer in answers)
    pairs = zip(SHARES, STAGES, strict=True)
    return {share: sum(one.timings[stage] for one in answers) / total for share, stage in pairs}


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


HEAD = (
    f"{'network':10} {'by':6} {'batch':>5} {'samples':>7} {'a second':>9} {'relin.':>7} "
    + " ".join(f"{stage:>7}" for stage in SHARES)
    + f" {'client':>6} {'server':>6} {'same':>7} {'trips':>5} {'up MB':>7} {'up s':>6} {'MiB':>6}"
)


def line(row: Row) -> str:
    """Of the table."""
    return (
        f"{row.network:10} {row.activations:6} {row.batch:5} {row.samples:7} {row.per_s:9,.0f} "
        f"{row.relinearisations:7.3f} "
        + " ".join(f"{row.shares[stage]:7.0%}" for stage in SHARES)
        + f" {row.client_busy:6.2f} {row.server_busy:6.2f} {row.same / row.samples:7.2%} {row.trips:5} "
        f"{row.upload_bytes / 1e6:7.1f} {row.upload_s:6.1f} {row.server_mib:6.0f}"
    )


def best(found: list[Row]) -> list[Row]:
    """The fastest of each network and way."""
    rows: dict[tuple[str, str], Row] = {}
    for row in found:
        key = row.network, row.activations
        rows[key] = max(rows.get(key, row), row, key=lambda one: one.per_s)
    return list(rows.values())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.bulk", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help=f"{DEFAULT} by default")
    parser.add_argument("--activations", action="append", choices=WHO, help="by the server by default")
    parser.add_argument(
        "--batch",
        action="append",
        type=_batch,
        help=f"as many as there are slots, or {CLIENT_BATCH}, by default",
    )
    parser.add_argument("--threads", type=int, default=1, help="of the server's evaluator")
    parser.add_argument("--streams", type=int, default=1, help="calls at once")
    parser.add_argument("--samples", type=int, help=f"{SAMPLES} by default")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SAMPLES} samples")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    if min(options.threads, options.streams, samples // max(1, options.streams)) < 1:
        parser.error("threads, streams and samples must be positive")
    if "client" in (options.activations or ()) and THROUGHPUT in (options.batch or ()):
        parser.error(
            f"--batch {THROUGHPUT} fills slots, which --activations client does not use: give a number"
        )
    torch.set_num_threads(1)
    found: list[Row] = []
    try:
        check_writable(options.json)
        print(HEAD, flush=True)
        for name in options.network or DEFAULT:
            for who in options.activations or ["server"]:
                for batch in options.batch or [THROUGHPUT if who == "server" else CLIENT_BATCH]:
                    found.append(measured(name, who, batch, samples, options.threads, options.streams))
                    print(line(found[-1]), flush=True)
                    if options.json:
                        figures = {"machine": machine(), "rows": [asdict(row) for row in found]}
                        write_atomically(options.json, json.dumps(figures, indent=1).encode())
    except SecureDLError as error:
        sys.exit(f"bench.bulk: {error}")
    print("", "the fastest:", HEAD, *map(line, best(found)), sep="\n")


def _batch(text: str) -> int | str:
    return text if text == THROUGHPUT else int(text)


if __name__ == "__main__":
    main()
