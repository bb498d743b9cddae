"""Whole numbers without a refresh, beside the same with refreshes and beside CKKS without: one query each.

    python -m bench.exact.through [--quick] [--json FILE]

The table's network with squares in place of activations. First what quantising costs, over several seeds of
split and training, then a query of each plan, asked in turns on one thread: the channels of a plan one after
another. Server and client milliseconds and bytes are of a whole query, all channels together.
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
from securedl.program.footprint import footprint_of_all

SEEDS, QUERIES = 5, 15
#: Plans by name: what `compile` is asked. In the first three values are whole.
PLANS: dict[str, dict[str, Any]] = {
    "8 bits": {"scheme": "bgv", "refreshes": 0, "batch": 128},
    "7 bits": {"scheme": "bgv", "refreshes": 0, "batch": 128, "bits": (7, 7, 7)},
    "6 bits": {"scheme": "bgv", "refreshes": 0, "batch": 128, "bits": (6, 6, 7)},
    "8 bits, refreshes": {"scheme": "bgv", "batch": 128},
    "CKKS": {"refreshes": 0, "batch": 64},
}


@dataclass(frozen=True)
class Figures:
    """Of one plan.

    Attributes:
        loss, worst_loss: of accuracy in points, mean and of one seed; 0 with CKKS, whose answers are the
            network's. t: bits of each plain modulus. chain: bits of all primes of one channel.
        server_ms, client_ms, traffic: of a query, in bytes the last. trips: round trips.
    """

    name: str
    loss: float
    worst_loss: float
    channels: int
    t: int
    ring: int
    chain: int
    samples: int
    server_ms: float
    client_ms: float
    traffic: int
    trips: int

    def __str__(self) -> str:
        return (
            f"{self.name:18} loss {self.loss:+.2f} (worst {self.worst_loss:+.2f}); {self.channels} x t of "
            f"{self.t} bits, ring {self.ring}, {self.chain} bits; {self.samples} samples: server "
            f"{self.server_ms:.1f} ms, client {self.client_ms:.1f} ms, {self.traffic / 1e6:.2f} MB, "
            f"{self.trips} round trip(s)"
        )


def losses(plan: Plan, x: NDArray[Any], y: NDArray[Any]) -> float:
    """Points of accuracy that quantising costs on test samples."""
    if not isinstance(plan.network, Quantised):
        return 0.0
    flat = plan.signature.clipped(plan.signature.flat(x))
    polynomial, whole = (of(flat).argmax(axis=1) == y for of in (plan.reference, plan.network))
    return 100 * float(polynomial.mean() - whole.mean())


def plans(data: str, seed: int) -> tuple[dict[str, Plan], NDArray[Any], NDArray[Any]]:
    """All of them for one network; test samples and their labels."""
    split = load_split(data, seed)
    model = train_network(split, HIDDEN[data], seed)
    squares = securedl.approximate(model, split.x_train, split.y_train, degree=2, epochs=20, progress=False)
    found = {name: securedl.compile(squares, split.x_train, **asked) for name, asked in PLANS.items()}
    return found, split.x_test, split.y_test


def in_turns(some: dict[str, Plan], x: NDArray[Any], queries: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each plan's queries, by who works, channels added up."""
    together = {name: [Together(one) for one in plan.channels] for name, plan in some.items()}
    flat = next(iter(some.values())).signature.flat(x)
    for _ in range(queries):
        for name, channels in together.items():
            batch, *_ = some[name].batches(some[name].signature.clipped(flat))
            for one in channels:
                one.ask(batch)
    medians = {name: [one.stages.medians() for one in channels] for name, channels in together.items()}
    return {name: {who: sum(one[who] for one in each) for who in each[0]} for name, each in medians.items()}


def figures(data: str, seeds: int, queries: int) -> list[Figures]:
    """Of all plans of one table."""
    all_of = [plans(data, seed) for seed in range(seeds)]
    lost = {name: [losses(found[name], x, y) for found, x, y in all_of] for name in PLANS}
    first, x, _ = all_of[0]
    times, rows = in_turns(first, x, queries), list[Figures]()
    for name, plan in first.items():
        programs = plan.signature.channels
        params = programs[-1].params
        rows.append(
            Figures(
                name, statistics.mean(lost[name]), max(lost[name]), len(programs),
                params.plain_modulus.bit_length(), params.ring, params.modulus_bits, plan.batch,
                times[name]["server"], times[name]["client"], footprint_of_all(programs).traffic,
                1 + len(programs[0].refreshes),
            )
        )  # fmt: skip
    return rows


def main() -> int:
    """The table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a few queries")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print("digits: training", file=sys.stderr, flush=True)
    rows = figures("digits", *((1, 3) if chosen.quick else (SEEDS, QUERIES)))
    print(*rows, sep="\n", flush=True)
    if chosen.json is not None:
        write_atomically(chosen.json, json.dumps([asdict(one) for one in rows], indent=1).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
