"""Is the plan that compile takes the fastest one? All of them, each asked across the link it was made for.

    python -m bench.links [--network paper] [--link MS MBIT_S ...] [--queries 5] [--upload-gb 1] [--json FILE]

The server is a process, and so is the proxy that delays what goes between it and the client (`bench.delay`);
the model is uploaded past the proxy. One sample a query, activations by the server, squares. What is
measured is the median of queries one after the other, on a machine that client, server and proxy share. Plans
that were not asked for, of another batch or with the activations by the client, are not among them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

import protocol
from bench.models.__main__ import CALIBRATION, machine
from bench.models.measure import sizes
from bench.models.networks import NETWORKS
from bench.models.training import polynomial, task
from securedl.client.calibrate import measured_prices
from securedl.client.owner import Owner
from securedl.compiler.candidate import Candidate
from securedl.compiler.compile import Asked, Sources
from securedl.compiler.cost import COEFFICIENT_PRICES, CoefficientPrices
from securedl.demo.processes import running, serve_command
from securedl.errors import CompileError, SecureDLError, UnsupportedLayerError
from securedl.files import check_writable, write_atomically
from securedl.network.graph import samples_of
from securedl.plan.plan import Plan
from securedl.plan.signature import Link

#: Round trip in ms and Mbit/s: machines side by side, a good connection, and a bad one.
LINKS = ((1.0, 10_000.0), (20.0, 100.0), (200.0, 10.0))
QUERIES = 5
#: Models whose keys and weights take more are not uploaded.
UPLOAD_GB = 2.0


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        estimate_ms: of a query. once_ms: of the preparation and the upload, by the same estimate.
        chosen: by compile. measured_ms: median of a query, if it was asked. note: why not.
        trips, bytes: of a query, both ways; upload_bytes: of keys and weights.
    """

    name: str
    estimate_ms: float
    once_ms: float
    chosen: bool = False
    measured_ms: float | None = None
    trips: int | None = None
    bytes: int | None = None
    upload_bytes: int | None = None
    note: str = ""


def candidates(
    model: nn.Module, x: NDArray[Any], link: Link, prices: CoefficientPrices = COEFFICIENT_PRICES
) -> list[Candidate]:
    """Those among which compile takes the cheapest for one sample, the cheapest first.

    Args:
        x: calibration samples [samples, ...].
    """
    found, asked = list[Candidate](), Asked(samples_of(x, what="x"), 1, True, link, prices=prices)
    for source in Sources(model, asked).all():
        with suppress(CompileError, UnsupportedLayerError):
            found += source()
    return sorted(found, key=lambda one: one.ms)


def rows(
    found: Sequence[Candidate], x: NDArray[Any], link: Link, queries: int, upload_gb: float
) -> Iterator[Row]:
    """Of the plans that can be made, the cheapest by the estimate first: the first of them is the chosen one.

    Args:
        found: sorted. x: samples to ask [samples, ...].
    """
    chosen = True
    for one in found:
        if one.make is None:
            continue
        start = (one.name, one.cost.total_ms, one.once)
        try:
            plan = one.make()
        except CompileError as reason:
            yield Row(*start, note=f"cannot be made: {reason}")
            continue
        size = sizes(plan)
        upload = size["upload_bytes"]
        figures = (size["trips"], size["query_bytes"] + size["answer_bytes"], upload)
        if upload > upload_gb * 1e9:
            yield Row(*start, chosen, None, *figures, f"not asked: an upload of {upload / 1e9:.1f} GB")
        else:
            yield Row(*start, chosen, latency_ms(plan, x, link, queries), *figures)
        chosen = False


def latency_ms(plan: Plan, x: NDArray[Any], link: Link, queries: int) -> float:
    """Median of so many queries of a sample each across the link, after a first one."""
    owner = Owner(plan)
    with served(link) as (near, far):
        with protocol.Client(near, owner) as client:
            client.upload()
        with protocol.Client(far, owner) as client:
            asked = [x[number % len(x)][None] for number in range(queries + 1)]
            took = [client.predict(one, probes=0).timings["total"] for one in asked]
    return statistics.median(took[1:])


@contextmanager
def served(link: Link) -> Iterator[tuple[str, str]]:
    """Addresses of a server: its own, and that of its proxy."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        command = serve_command(at / "store", "127.0.0.1:0", "--threads", "1", "--quiet")
        with running(command, at / "log") as server:
            options = ("--rtt-ms", str(link.rtt_ms), "--mbit-s", str(link.mbit_s))
            proxy = [sys.executable, "-m", "bench.delay", "--to", server.address, *options]
            with running(proxy, at / "proxy-log") as delayed:
                yield server.address, delayed.address


HEAD = (
    f"{'plan':40} {'estimate':>10} {'measured':>10} {'trips':>5} {'kB':>8} {'upload, MB':>10} {'once, s':>8}"
)


def line(row: Row) -> str:
    """Of the table; the chosen plan has a star."""
    start = f"{row.name + (' *' if row.chosen else ''):40} {row.estimate_ms:7.0f} ms "
    if row.trips is None or row.bytes is None or row.upload_bytes is None:
        return start + row.note
    measured = "-" if row.measured_ms is None else f"{row.measured_ms:.0f} ms"
    figures = f"{row.trips:5} {row.bytes / 1e3:8.0f} {row.upload_bytes / 1e6:10.1f} {row.once_ms / 1e3:8.1f}"
    return f"{start}{measured:>10} {figures}" + (f"  {row.note}" if row.note else "")


def verdict(found: Sequence[Row]) -> str:
    """Whether the chosen plan was the fastest of those asked."""
    asked = {row: row.measured_ms for row in found if row.measured_ms is not None}
    chosen = next((row for row in asked if row.chosen), None)
    if chosen is None:
        return "the chosen plan was not asked"
    best = min(asked, key=lambda row: asked[row])
    if best is chosen:
        return f"chosen is the fastest of {len(asked)} asked"
    return f"{best.name} is faster than what was chosen, by {asked[chosen] - asked[best]:.0f} ms"


def measured(
    model: nn.Module, train: NDArray[Any], asked: NDArray[Any], link: Link, prices: CoefficientPrices,
    queries: int, upload_gb: float,
) -> list[Row]:  # fmt: skip
    """A link's table, printed as it is made."""
    print(f"\n{link.rtt_ms:g} ms, {link.mbit_s:,.0f} Mbit/s\n{HEAD}", flush=True)
    found = []
    for row in rows(candidates(model, train, link, prices), asked, link, queries, upload_gb):
        found.append(row)
        print(line(row), flush=True)
    print(verdict(found), flush=True)
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.links", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [name for name, network in NETWORKS.items() if network.squares]
    parser.add_argument("--network", choices=names, default="paper")
    parser.add_argument("--link", nargs=2, type=float, action="append", metavar=("MS", "MBIT_S"))
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--upload-gb", type=float, default=UPLOAD_GB, help="no larger model (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if options.queries < 1:
        parser.error("--queries must be positive")
    torch.set_num_threads(1)
    try:
        check_writable(options.json)
        links = [Link(*one) for one in options.link or LINKS]
        data = task(NETWORKS[options.network])
        model, prices = polynomial(options.network, data), measured_prices()
        found = []
        for link in links:
            table = measured(
                model, data.x_train[:CALIBRATION], data.x_test, link, prices, options.queries,
                options.upload_gb,
            )  # fmt: skip
            found.append({"link": asdict(link), "rows": [asdict(row) for row in table]})
            if options.json:
                figures = {"machine": machine(), "network": options.network, "links": found}
                write_atomically(options.json, json.dumps(figures, indent=1).encode())
    except SecureDLError as error:
        sys.exit(f"bench.links: {error}")


if __name__ == "__main__":
    main()
