"""Networks of three tables with two hidden layers, squares in place of activations: what quantising costs,
and what a query takes beside CKKS's with a refresh before every polynomial in both.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

import securedl
from bench.exact.turns import in_turns
from securedl.demo.data import HIDDEN, load_split, train_network
from securedl.plan.plan import Plan
from securedl.plan.quantised import Quantised
from securedl.program.footprint import footprint


@dataclass(frozen=True)
class TableRow:
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


def table_row(data: str, seeds: int, queries: int) -> TableRow:
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
    return TableRow(
        data, polynomial, quantised, max(one - two for one, two in accuracies),
        params[0].plain_modulus.bit_length(), params[0].modulus_bits, params[1].modulus_bits,
        counts[0], counts[1],
        times[0]["server"] / counts[0], ratio(times[0]["server"], times[1]["server"]),
        ratio(times[0]["client"], times[1]["client"]), ratio(sizes[0], sizes[1]),
    )  # fmt: skip
