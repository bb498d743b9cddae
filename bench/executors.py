"""What Ray costs and gains: the same batches evaluated in the server's process, by one actor, and by two.

    python -m bench.executors [--network NAME ...] [--rounds 12] [--batches 8] [--quick] [--json FILE]

Every executor has a server process of its own with the same model, and all take turns, round by round, so
that whatever else the machine does meets all of them. A round asks some batches in one call, then as many in
each of two calls at once. Times are the client's, with encryption and verification; "evaluate" is what the
server's log says of the same queries: computing, and for Ray what it takes to get records there and back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import protocol
import securedl
from bench.models.__main__ import machine
from bench.models.networks import resnet20
from securedl.client.owner import Owner
from securedl.demo.processes import ServerProcess, running, serve_command
from securedl.errors import SecureDLError
from securedl.files import check_writable, write_atomically

EXECUTORS: dict[str, tuple[str, ...]] = {
    "here": (),
    "ray, 1 actor": ("--executor", "ray", "--actors", "1"),
    "ray, 2 actors": ("--executor", "ray", "--actors", "2"),
}
#: Samples of a query of the dense networks.
BATCH = 64


def dense(sizes: Sequence[int], batches: int) -> tuple[Owner, NDArray[np.float32]]:
    """Layers with squares between them."""
    layers = [module for a, b in pairwise(sizes) for module in (nn.Linear(a, b), nn.ReLU())]
    x = np.random.default_rng(0).uniform(-1, 1, (batches * BATCH, sizes[0])).astype(np.float32)
    poly = securedl.approximate(nn.Sequential(*layers[:-1]), x[:BATCH], degree=2)
    return Owner(securedl.compile(poly, x[:BATCH], batch=BATCH)), x


def residual(batches: int) -> tuple[Owner, NDArray[np.float32]]:
    """ResNet-20, an image a query, with its ReLUs at the client."""
    x = np.random.default_rng(0).uniform(-1, 1, (batches, 3, 32, 32)).astype(np.float32)
    return Owner(securedl.compile(resnet20().eval(), x, activations="client", batch=1)), x


#: By their names, of so many queries: owner and samples. Weights are random, which changes no time.
NETWORKS: dict[str, Callable[[int], tuple[Owner, NDArray[np.float32]]]] = {
    "64-32-32-10": partial(dense, (64, 32, 32, 10)),
    "128-128-128-10": partial(dense, (128, 128, 128, 10)),
    "resnet20": residual,
}


@dataclass(frozen=True)
class Row:
    """One executor and network.

    Attributes:
        batch_ms: of one stream, a batch, median of the rounds; spread: their quartiles.
        evaluate_ms: of it, the server's evaluation. ratio: of batch_ms to that of the first executor.
        per_s: batches a second of two streams, median. gain: as ratio.
    """

    network: str
    executor: str
    batch_ms: float
    spread: tuple[float, float]
    evaluate_ms: float
    ratio: float
    per_s: float
    gain: float


def timed(clients: list[protocol.Client], x: NDArray[np.float32]) -> float:
    """Seconds that so many calls at once take.

    Raises:
        SecureDLError: an answer is not the network's.
    """
    began = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda client: client.predict(x, probes=0), clients))
    took = time.perf_counter() - began
    if not all(answer.report.passed for answer in answers):
        raise SecureDLError("an answer was not the network's")
    return took


def evaluated(server: ServerProcess, queries: int) -> float:
    """Milliseconds that evaluating so many queries took, by the server's log, once it tells of them."""
    while True:
        lines = [json.loads(line) for line in server.logged().splitlines(True) if line.endswith("\n")]
        done = [line for line in lines if line["event"] == "predict"]
        if sum(line["items"] for line in done) >= queries:
            return float(sum(line["evaluate_ms"] for line in done))
        time.sleep(0.01)


def measured(name: str, rounds: int, batches: int) -> list[Row]:
    """All executors on one network."""
    torch.manual_seed(0)
    owner, x = NETWORKS[name](batches)
    singles: dict[str, list[float]] = {executor: [] for executor in EXECUTORS}
    doubles: dict[str, list[float]] = {executor: [] for executor in EXECUTORS}
    evaluations: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers, clients = {}, {}
        for number, (executor, options) in enumerate(EXECUTORS.items()):
            at = Path(folder) / str(number)
            at.mkdir()
            command = serve_command(
                at / "store", f"unix:{at}/s", "--threads", "1", "--log-format", "json", *options
            )
            servers[executor] = stack.enter_context(running(command, at / "log"))
            pair = [protocol.Client(f"unix:{at}/s", owner) for _ in range(2)]
            clients[executor] = [stack.enter_context(client) for client in pair]
            clients[executor][0].upload()
            timed(clients[executor], x)
        queries = 2 * batches
        for _ in range(rounds):
            for executor, (one, other) in clients.items():
                before = evaluated(servers[executor], queries)
                singles[executor].append(timed([one], x) / batches)
                took = evaluated(servers[executor], queries + batches) - before
                evaluations[executor] = evaluations.get(executor, 0.0) + took / batches / rounds
                doubles[executor].append(2 * batches / timed([one, other], x))
            queries += 3 * batches
    first = next(iter(EXECUTORS))
    rows = []
    for executor in EXECUTORS:
        quartiles = statistics.quantiles(singles[executor], n=4)
        middle, per_s = statistics.median(singles[executor]), statistics.median(doubles[executor])
        ratio, gain = middle / statistics.median(singles[first]), per_s / statistics.median(doubles[first])
        spread = 1e3 * quartiles[0], 1e3 * quartiles[2]
        rows.append(Row(name, executor, 1e3 * middle, spread, evaluations[executor], ratio, per_s, gain))
    return rows


HEAD = (
    f"{'network':16} {'executor':14} {'ms a batch':>11} {'quartiles':>15} {'evaluate':>9} {'ratio':>6} "
    f"{'2 streams/s':>12} {'gain':>5}"
)


def line(row: Row) -> str:
    """Of the table."""
    low, high = row.spread
    return (
        f"{row.network:16} {row.executor:14} {row.batch_ms:11.1f} {low:7.1f} {high:7.1f} "
        f"{row.evaluate_ms:9.1f} {row.ratio:6.2f} {row.per_s:12.1f} {row.gain:5.2f}"
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.executors", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="all by default")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batches", type=int, default=8, help="of a call")
    parser.add_argument("--quick", action="store_true", help="three rounds, and the first network alone")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    rounds = 3 if options.quick else options.rounds
    if rounds < 2 or options.batches < 1:
        parser.error("there must be two rounds at least, and a batch in each")
    torch.set_num_threads(1)
    found: list[Row] = []
    try:
        check_writable(options.json)
        print(HEAD, flush=True)
        for name in options.network or list(NETWORKS)[: 1 if options.quick else None]:
            found += measured(name, rounds, options.batches)
            print(*map(line, found[-len(EXECUTORS) :]), sep="\n", flush=True)
    except SecureDLError as error:
        sys.exit(f"bench.executors: {error}")
    if options.json:
        figures = {"machine": machine(), "rows": [asdict(row) for row in found]}
        write_atomically(options.json, json.dumps(figures, indent=1).encode())


if __name__ == "__main__":
    main()
