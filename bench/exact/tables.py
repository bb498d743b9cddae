"""Whole numbers beside approximate ones: BGV and CKKS on the same networks, in one process.

    python -m bench.exact [--quick] [--json FILE]

Two-hidden-layer networks of three tables, squares in place of activations. First what quantising costs:
labels of the quantised network against the polynomial one's, over several seeds of split and training;
encrypted answers are the quantised network's, which is tested. Then a query each, asked in turns on one
thread, with a refresh before every polynomial in both: server and client milliseconds, and bytes, for each
sample.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

import securedl
from bench.models.measure import Together
from securedl.demo.data import HIDDEN, load_split, train_network
from securedl.files import write_atomically
from securedl.plan.plan import Plan
from securedl.plan.quantised import Quantised
from securedl.program.footprint import footprint

SEEDS, QUERIES = 5, 40


@dataclass(frozen=True)
class Row:
    """Of one table.

    Attributes:
        polynomial, whole: accuracy in %, means over seeds. loss: the difference, in points, and worst_loss of
            one seed. t, chain, ckks_chain: bits of the plain modulus, and of all primes. server, client,
            bytes: of a sample with BGV, and in parts of CKKS's.
    """

    name: str
    polynomial: float
    whole: float
    worst_loss: float
    t: int
    chain: int
    ckks_chain: int
    samples: int
    ckks_samples: int
    server_ms: float
    server: float
    client: float
    bytes: float

    @property
    def loss(self) -> float:
        """In points."""
        return self.polynomial - self.whole

    def __str__(self) -> str:
        return (
            f"{self.name:14} accuracy {self.polynomial:.2f} % -> {self.whole:.2f} % (loss {self.loss:+.2f}, "
            f"worst {self.worst_loss:+.2f}); t {self.t} bits, {self.chain} of modulus "
            f"(CKKS {self.ckks_chain}); a sample: server {self.server_ms:.4f} ms, {self.server:.2f} x "
            f"CKKS's, client {self.client:.2f} x, bytes {self.bytes:.2f} x"
        )


def networks(data: str, seed: int) -> tuple[Plan, Plan, NDArray[Any], NDArray[Any]]:
    """Plans of BGV and of CKKS for one network, test samples and their labels."""
    split = load_split(data, seed)
    model = train_network(split, HIDDEN[data], seed)
    squares = securedl.approximate(model, split.x_train, split.y_train, degree=2, epochs=20, progress=False)
    whole = securedl.compile(squares, split.x_train, scheme="bgv", batch=128)
    refreshes, ring = len(whole.program.refreshes), whole.program.params.ring
    approximate = securedl.compile(squares, split.x_train, batch=64, refreshes=refreshes, ring=ring)
    return whole, approximate, split.x_test, split.y_test


def in_turns(plans: tuple[Plan, Plan], x: NDArray[Any], queries: int) -> list[dict[str, float]]:
    """Median milliseconds of each one's queries, by who works."""
    together = [Together(plan) for plan in plans]
    batches = [plan.batches(plan.signature.clipped(plan.signature.flat(x))) for plan in plans]
    for number in range(queries):
        for one, some in zip(together, batches, strict=True):
            one.ask(some[number % len(some)])
    return [one.stages.medians() for one in together]


def row(data: str, seeds: int, queries: int) -> Row:
    """All of one table."""
    accuracies = list[tuple[float, float]]()
    for seed in range(seeds):
        found = networks(data, seed)
        whole, _, x, y = found
        flat = whole.signature.clipped(whole.signature.flat(x))
        assert isinstance(whole.network, Quantised)
        right = [(of(flat).argmax(axis=1) == y).mean() for of in (whole.reference, whole.network)]
        accuracies.append((100 * right[0], 100 * right[1]))
        if not seed:
            first = found
    plans, x = first[:2], first[2]
    times, sizes = in_turns(plans, x, queries), [footprint(plan.program).traffic for plan in plans]
    params, counts = [plan.program.params for plan in plans], [plan.batch for plan in plans]

    def ratio(one: float, other: float) -> float:
        return one / counts[0] / (other / counts[1])

    polynomial, quantised = (statistics.mean(column) for column in zip(*accuracies, strict=True))
    return Row(
        data, polynomial, quantised, max(one - two for one, two in accuracies),
        params[0].plain_modulus.bit_length(), params[0].modulus_bits, params[1].modulus_bits,
        counts[0], counts[1],
        times[0]["server"] / counts[0], ratio(times[0]["server"], times[1]["server"]),
        ratio(times[0]["client"], times[1]["client"]), ratio(sizes[0], sizes[1]),
    )  # fmt: skip


def main() -> int:
    """The table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="wine, one seed, a few queries")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = list[Row]()
    for data in ("wine",) if chosen.quick else HIDDEN:
        print(f"{data}: training", file=sys.stderr, flush=True)
        rows.append(row(data, *((1, 6) if chosen.quick else (SEEDS, QUERIES))))
        print(rows[-1], flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps([asdict(one) for one in rows], indent=1).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
