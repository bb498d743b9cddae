"""SecureDL beside what a user could pick instead: one sample a query, one core, the same run.

    python -m bench.peers [--quick] [--network NAME ...] [--helayers PYTHON] [--core N] [--json FILE]

With activations="client" (c) SecureDL runs the network with its own activations; with activations="server"
(s) polynomials, as the peers, which have nothing else: the same layers with squares and means. Times are the
processor's, medians; SecureDL's server also loads what comes and packs what goes, while a peer's is its
computation alone. Weights are random unless trained, or tuned
with squares: no time depends on them. Each answer is compared with PyTorch's in double precision.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from bench.models.__main__ import machine
from bench.models.measure import relinearisation_us
from bench.peers import helayers, own, tenseal_ways
from bench.peers.networks import SHAPES, squared
from bench.peers.rows import HEAD, Row, line
from securedl.errors import SecureDLError
from securedl.files import check_writable

#: What --quick runs, and the seconds that a server's part is repeated for.
QUICK = ("wine", "digits")
SECONDS, QUICK_SECONDS = 10.0, 1.0


def rows(name: str, quick: bool, python: str | None) -> Iterator[Row]:
    """Of one network, SecureDL's first."""
    seconds = QUICK_SECONDS if quick else SECONDS
    yield from own.rows(name)
    yield from tenseal_ways.rows(name, seconds, quick)
    yield helayers.measured(squared(name), python, seconds)


def table(found: list[Row]) -> str:
    """Rows under their head."""
    return "\n".join([HEAD, *(line(row, ours(found, row.network)) for row in found)])


def ours(found: list[Row], network: str) -> list[Row]:
    """SecureDL's rows of a network."""
    return [row for row in found if row.network == network and row.system == "SecureDL"]


def arguments() -> argparse.Namespace:
    """From the command line, checked."""
    parser = argparse.ArgumentParser(
        prog="bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{', '.join(QUICK)}, fewer repetitions and ways"
    )
    parser.add_argument("--network", action="append", choices=list(SHAPES), help="all by default")
    parser.add_argument("--helayers", metavar="PYTHON", help="an interpreter that has pyhelayers")
    parser.add_argument("--core", type=int, help="to run on; the last one by default")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if options.core is not None and options.core not in cores:
        parser.error(f"--core {options.core}: expected one of {', '.join(map(str, sorted(cores)))}")
    if options.helayers and not shutil.which(options.helayers):
        parser.error(f"--helayers {options.helayers}: no such program")
    return options


def main() -> None:
    """See the module."""
    options = arguments()
    core = max(os.sched_getaffinity(0)) if options.core is None else options.core
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    python = helayers.interpreter(options.helayers)
    found: list[Row] = []
    try:
        if options.json:
            check_writable(options.json)
        before = relinearisation_us()
        for name in options.network or (QUICK if options.quick else SHAPES):
            for row in rows(name, options.quick, python):
                found.append(row)
                print(HEAD, line(row, ours(found, name)), sep="\n", flush=True)
                _write(options.json, found, core, before)
    except SecureDLError as error:
        sys.exit(f"bench.peers: {error}")
    after = relinearisation_us()
    print("", table(found), sep="\n")
    print(f"one core; a relinearisation of SecureDL's took {before:.0f} µs before and {after:.0f} µs after")
    _write(options.json, found, core, before, after)


def _write(path: Path | None, found: list[Row], core: int, *relinearisation_us: float) -> None:
    """After every row: a peer may take an hour, or all memory."""
    if path:
        units = {"relinearisation_us": relinearisation_us, "core": core}
        figures = {"machine": machine(), **units, "rows": [asdict(row) for row in found]}
        path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
