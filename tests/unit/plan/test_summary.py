"""Summaries: what they say is what protocol sends and stores, in both forms."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from protocol.blobs import KEYS_FILE, WEIGHTS_FILE, BlobTable
from protocol.expect import Expectations
from securedl.he.ckks import ckks_parameters
from securedl.he.params import Parameters
from securedl.he.vector.kernels.packed import WIDTHS
from securedl.he.weights import MAPPABLE, mappable
from securedl.plan import summary as module
from securedl.plan.plan import Plan
from securedl.program.footprint import footprint, works
from securedl.program.program import Program
from securedl.program.steps import Block, Matvec, Port


def mlp(degree: int = 2, ring: int = 8192, **options: Any) -> Plan:
    """8 -> 12 -> 6 -> 3 with polynomials, in slots."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = np.random.default_rng(0).uniform(-1, 1, (200, 8))
    return securedl.compile(securedl.approximate(net, x, degree=degree), x, ring=ring, **options)


def cnn(**options: Any) -> Plan:
    """A convolution, max pooling, two dense layers: the client's activations."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(150, 20), nn.ReLU(),
        nn.Linear(20, 4),
    ).double()  # fmt: skip
    x = np.random.default_rng(0).uniform(-1, 1, (40, 1, 12, 12))
    return securedl.compile(net, x, activations="client", **options)


def both() -> Plan:
    """Convolutions in coefficients with a polynomial in slots between them, by the server."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 3)
    ).double()
    x = np.random.default_rng(0).uniform(-1, 1, (24, 8, 16, 16))
    plan = securedl.compile(securedl.approximate(net, x, degree=2), x, batch=16, link=securedl.Link(1, 1000))
    assert {port.coefficients for port in plan.program.ports().values()} == {True, False}
    return plan


MADE = {
    "mlp": lambda: mlp(refreshes=1),
    "mlp, no refresh": lambda: mlp(refreshes=0, ring=16384),
    "mlp, cubic": lambda: mlp(degree=3, refreshes=1, batch=16),
    "mlp, taps": lambda: mlp(refreshes=0, ring=16384, checked_by="client"),
    "mlp, a tap and a refresh": lambda: mlp(refreshes=1, checked_by="client"),
    "mlp, plain weights": lambda: mlp(refreshes=1, weights="plain"),
    "cnn": cnn,
    "cnn, 5 samples": lambda: cnn(batch=5),
    "cnn, plain weights": lambda: cnn(weights="plain"),
    "both": both,
}


@pytest.fixture(scope="module", params=MADE)
def plan(request: pytest.FixtureRequest) -> Plan:
    return MADE[request.param]()


class TestFootprint:
    def test_bytes_are_those_of_the_protocol(self, plan: Plan) -> None:
        taken, table = footprint(plan.program), BlobTable(plan.program)
        assert {KEYS_FILE: taken.key_bytes, WEIGHTS_FILE: taken.weight_bytes} == table.sizes()
        assert taken.keys + taken.weights == len(table)
        assert taken.upload == table.total_bytes + len(plan.program.to_json())
        traffic = Expectations.of(plan.program).traffic(1)
        found = {"query": taken.query, "refresh": taken.down, "fresh": taken.up, "answer": taken.answer}
        found["tap"] = taken.taps
        assert found == traffic
        assert taken.traffic == sum(traffic.values()) == plan.signature.cost.bytes

    def test_memory_is_what_the_server_counts_with(self, plan: Plan) -> None:
        """A map has five or six bytes for a residue, where memory has eight."""
        taken, (keys, weights) = footprint(plan.program), BlobTable(plan.program).expanded()
        assert taken.loaded == keys
        assert 0.6 * weights <= taken.mapped <= 0.75 * weights
        assert taken.disk > taken.upload + taken.mapped

    def test_steps_add_up_to_the_program(self, plan: Plan) -> None:
        done, counts = works(plan.program), plan.program.counts
        for name in ("hoisted", "turns", "terms", "groups", "products", "merges"):
            assert sum(getattr(work.counts, name) for work in done) == getattr(counts, name), name
        assert sum(work.weights for work in done) == len(plan.program.weight_shapes)
        assert sum(work.up > 0 for work in done) == len(plan.program.refreshes)
        assert sum(work.down > 0 for work in done) == len(plan.program.shown)


def test_weights_that_cannot_be_mapped_are_in_memory() -> None:
    """Primes of two bytes."""
    usual, scale = ckks_parameters(4096, 1), 2.0**30
    params = Parameters("ckks", 4096, (usual.primes[0], 40961), usual.special)
    step = Matvec(1, (0,), (Block(0, 0, 0, (0, 1)),), 1, 2, (), 1, scale, (40961.0,), 0)
    taken = footprint(Program(params, 128, 16, True, Port(1, 1, scale), (step,), 1))
    assert not mappable(params)
    assert taken.mapped == 0
    keys, row = 2, 8 * 4096
    assert (
        taken.loaded == keys * 2 * 2 * 3 * row + (2 * 4 + 2) * row
    )  # two diagonals, and a bias a level lower
    assert taken.disk == taken.upload + 24 * (keys + 3)


def test_kernels_read_what_is_mapped() -> None:
    assert MAPPABLE == WIDTHS


def line(plan: Plan, beginning: str) -> str:
    (found,) = [row for row in plan.summary().splitlines() if row.startswith(beginning)]
    return found.removeprefix(beginning)


def octets(text: str) -> list[str]:
    """Sizes in a text."""
    return re.findall(r"[\d.]+ (?:bytes|[kMGT]B)", text)


class TestSummary:
    def test_sizes_are_the_footprints(self, plan: Plan) -> None:
        taken, size = footprint(plan.program), module._size
        refreshes = [taken.down, taken.up] if taken.down else []
        taps = [taken.taps] if taken.taps else []
        assert octets(line(plan, "a query: ")) == [
            size(n) for n in (taken.query, *refreshes, *taps, taken.answer, taken.traffic)
        ]
        assert octets(line(plan, "server: ")) == [size(taken.disk), size(taken.memory)]
        assert octets(line(plan, "once: ")) == [size(taken.upload)]
        assert octets(line(plan, "keys: ")) == [size(taken.key_bytes)]

    def test_layers_add_up(self, plan: Plan) -> None:
        rows = [row for row in plan.summary().splitlines() if re.match(r"  \d+\. ", row)]
        names = [row.partition(";")[0].strip() for row in plan.network.rows(plan.program)]
        assert [row.partition(";")[0].strip() for row in rows] == names
        counts, text = plan.program.counts, "\n".join(rows)

        def total(what: str) -> int:
            return sum(int(number.replace(",", "")) for number in re.findall(rf"([\d,]+) {what}", text))

        assert total("weight") == len(plan.program.weight_shapes)
        assert total("rotation") == counts.hoisted + counts.turns + counts.merges
        assert text.count(", refresh ") == len(plan.program.refreshes)
        assert text.count(", tap ") == len(plan.program.taps)
        for row in rows:
            assert re.search(r"; (slots|coefficients), [\d,]+ (weights?|products?), ", row)
            assert re.search(r", level \d+", row)

    def test_trips_and_shares(self, plan: Plan) -> None:
        trips = len(plan.program.refreshes) + 1
        assert line(plan, "a query: ").endswith(f"; {trips} round trip{'s' * (trips > 1)}")
        many = plan.batch > 1
        assert line(plan, "batch ").startswith(f"{plan.batch} sample")
        assert ("share the price of a query" in line(plan, "batch ")) == many
        assert line(plan, "estimate for one batch: ").endswith("a sample" if many else "in all")

    def test_it_is_short(self, plan: Plan) -> None:
        lines = plan.summary().splitlines()
        assert len(lines) <= 25
        assert max(map(len, lines)) <= 140

    def test_runners_up_have_the_last_lines(self, plan: Plan) -> None:
        told = module.summary(plan.signature, plan.network, ["one: 3 ms", "another: 4 ms"]).splitlines()
        assert told[-2:] == ["instead: one: 3 ms", "instead: another: 4 ms"]
        assert told[:-2] == module.summary(plan.signature, plan.network).splitlines()


def test_where_a_refresh_is() -> None:
    """In the layer whose values it refreshes."""
    rows = line(mlp(refreshes=1), "refreshes: ")
    text = mlp(refreshes=1).summary().splitlines()
    (at,) = [row for row in text if ", refresh " in row]
    layer = int(re.findall(r"before \w+ (\d)", rows)[0])
    assert at.startswith(f"  {layer if 'activation' in rows else layer - 1}. ")


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (9_949, "9.9 kB"), (9_950, "10 kB"),
        (999_499, "999 kB"), (999_500, "1.0 MB"), (76_313_904, "76 MB"), (1_240_000_000, "1.2 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)  # fmt: skip
def test_sizes_for_people(octets: int, text: str) -> None:
    assert module._size(octets) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(3, "3 ms"), (949, "949 ms"), (951, "1.0 s"), (9_900, "9.9 s"), (9_960, "10 s"), (125_000, "2 minutes")],
)
def test_times_for_people(ms: float, text: str) -> None:
    assert module._seconds(ms) == text


def test_preparation_grows_with_weights_keys_and_ring() -> None:
    plan = mlp(refreshes=0, ring=16384)
    done = works(plan.program)
    each = sum(work.weights * work.primes for work in done) * module.SLOT_WEIGHT_MS
    keys, digits = footprint(plan.program).keys, len(plan.program.params.primes)
    keyed = keys * digits * (digits + 1) * module.KEY_DIGIT_MS
    assert module.prepare_ms(plan.program, done) == pytest.approx(2 * (each + keyed))
