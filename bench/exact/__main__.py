"""Whole numbers beside approximate ones: BGV and CKKS on the same networks, in one process.

    python -m bench.exact [--quick] [--network NAME ...] [--json FILE]

First tables, small networks whose polynomials are the server's, in batches: what quantising costs, as labels
of the quantised network against the polynomial one's, over several seeds of split and training. Then networks
of images whose activations are the client's, one image a query: labels in the clear, and encrypted answers,
which are compared with the network of whole numbers in every bit. Of all of them a query each, asked in turns
on one thread: server and client milliseconds, and bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from bench.exact.layers import ASKED, LayerRow, layer_row
from bench.exact.tables import TableRow, table_row
from securedl.demo.data import HIDDEN
from securedl.files import write_atomically

SEEDS, QUERIES, FEW = 5, 40, 6


def main() -> int:
    """All rows."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="wine and the smallest CNN, hardly trained")
    parser.add_argument("--network", action="append", choices=[*HIDDEN, *ASKED], help="all by default")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows, quick = list[TableRow | LayerRow](), chosen.quick
    for name in chosen.network or (["wine", "cryptonets"] if quick else [*HIDDEN, *ASKED]):
        print(f"{name}: training", file=sys.stderr, flush=True)
        queries = FEW if quick else QUERIES
        if name in HIDDEN:
            rows.append(table_row(name, 1 if quick else SEEDS, queries))
        else:
            rows.append(layer_row(name, quick, queries))
        print(rows[-1], flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps([asdict(one) for one in rows], indent=1).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
