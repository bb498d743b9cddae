"""SecureDL's Table 1: what polynomial activations and encryption cost in accuracy.

    python -m bench.accuracy [--quick] [--json FILE] [--plot FILE] [--markdown FILE]

Six tables, three activations, the paper's network in one dimension and a plain one; repeated stratified
cross-validation (10 x 5), and the first repetition under encryption on a server process. About an hour on
two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console

from securedl import datasets
from securedl.errors import SecureDLError
from securedl.files import check_writable, write_atomically
from securedl.he.vector import warm_up

from . import networks, report
from .cells import Cell, summary
from .folds import REPETITIONS
from .work import jobs, measure

DATA = tuple(dict.fromkeys(data for data, _ in report.PAPER))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.accuracy", description=__doc__.splitlines()[0],
        epilog="the tables come from SECUREDL_DATA, the cache, or their official sources",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="two folds, few epochs: the shape in a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, of each fold too")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the paired differences (PNG, SVG, PDF)"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    parser.add_argument(
        "--journal", type=Path, metavar="FILE",
        help="keep finished repetitions here, and go on from them; remove it when the code has changed",
    )  # fmt: skip
    parser.add_argument("--network", choices=networks.NETWORKS, action="append", help="only this network")
    parser.add_argument("--data", choices=DATA, action="append", help="only this data set")
    parser.add_argument("--activation", choices=networks.ACTIVATIONS, action="append", help="only this one")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="of the cross-validation")
    parser.add_argument("--processes", type=int, default=2, help="side by side, one thread each")
    chosen = parser.parse_args(arguments)
    if chosen.repetitions < 1 or chosen.processes < 1:
        parser.error("--repetitions and --processes must be at least 1")
    try:
        _run(chosen)
    except (SecureDLError, BrokenProcessPool) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(chosen: argparse.Namespace) -> None:
    """Measure, show, and write what was asked for."""
    check_writable(chosen.json, chosen.plot, chosen.markdown, chosen.journal)
    if chosen.plot:
        report.check_picture(chosen.plot)
    data = tuple(dict.fromkeys(chosen.data or DATA))  # an option may be repeated
    for name in data:
        datasets.load(name)  # fetched once, and one that is not to be had is told of before the work
    cells = [
        Cell(network, name, activation)
        for network in dict.fromkeys(chosen.network or networks.NETWORKS)
        for name in data
        for activation in dict.fromkeys(chosen.activation or networks.ACTIVATIONS)
    ]
    console, began = Console(), time.perf_counter()
    warm_up()  # compiled once, not by several servers at the same time
    work = jobs(cells, chosen.quick, chosen.repetitions)
    results = measure(work, chosen.processes, Console(stderr=True), chosen.journal)
    rows = [summary(cell, results[cell]) for cell in cells]
    report.show(console, rows)
    seconds = time.perf_counter() - began
    command = " ".join(["python -m bench.accuracy", *_described(chosen)])
    console.print(f"{seconds:.0f} s with {chosen.processes} processes", highlight=False)
    if chosen.json:
        figures = {
            "command": command,
            "quick": chosen.quick,
            "seconds": seconds,
            "python": platform.python_version(),
            "cells": rows,
            "mean_difference": {
                n: report.mean_difference(some) for n, some in report.by_network(rows).items()
            },
            "results": [{"cell": vars(cell), "folds": results[cell]} for cell in cells],
        }
        write_atomically(chosen.json, json.dumps(figures, indent=1).encode(), mode=0o644)
    if chosen.markdown:
        picture = os.path.relpath(chosen.plot, chosen.markdown.parent) if chosen.plot else None
        page = report.page(rows, command, picture, chosen.quick)
        write_atomically(chosen.markdown, page.encode(), mode=0o644)
    if chosen.plot:
        report.plot(rows, chosen.plot)


def _described(chosen: argparse.Namespace) -> Iterator[str]:
    """The options that decide what is measured, and where the results go."""
    if chosen.quick:
        yield "--quick"
    for option in ("network", "data", "activation"):
        for value in getattr(chosen, option) or ():
            yield f"--{option} {value}"
    if chosen.repetitions != REPETITIONS and not chosen.quick:
        yield f"--repetitions {chosen.repetitions}"
    for option in ("json", "plot", "markdown"):
        if getattr(chosen, option):
            path = getattr(chosen, option)  # an absolute one means nothing on another machine
            yield f"--{option} {shlex.quote(path.name if path.is_absolute() else str(path))}"


if __name__ == "__main__":
    sys.exit(main())
