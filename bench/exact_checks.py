"""What checks of whole numbers notice, counted through encryption: changes of one unit, and honest answers.

    python -m bench.exact_checks [--quick] [--json FILE]

Three small networks, several keys each. A server changes one unit: of any slot of what it sends, or of a
weight, bias or coefficient of the network that it runs. The network in the clear tells whether that changes
any value: only then it counts. All values are compared in both ways, recomputed and in secret combinations
that are drawn for each query; a check is of one lane at one checkpoint. Samples are from the data and from
the plan's box, at corners too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import nn

import securedl
from bench.models.measure import Together
from polyapprox import least_squares
from securedl.client.modular import ModularCheck, ModularProjections
from securedl.files import write_atomically
from securedl.he.record import Record, Shape, unpack
from securedl.network.graph import Array
from securedl.network.polynomial import PolynomialActivation
from securedl.plan.plan import Plan
from securedl.plan.quantised import Quantised
from securedl.verify.check import Finding

FEATURES, WIDTH, BATCH, RING = 6, 8, 256, 8192
#: Activation, degree of its polynomial, and bits, of each network.
NETWORKS = {
    "squares": ("relu", 2, (8, 8, 8)),
    "cubics": ("tanh", 3, (5, 5, 5)),
    "powers": ("relu", 4, (5, 5, 5)),
}
#: Of each kind so many changes that change something, honest checks, and keys; for each network.
CHANGES, HONEST, KEYS = 100, 400_000, 20
KINDS = ("slot", "weight", "bias", "coefficient")


def compiled(name: str) -> Plan:
    """A plan of one of the networks, with random weights."""
    activation, degree, bits = NETWORKS[name]
    fit = least_squares(activation, degree, (-3.0, 3.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)]
    one, two = (PolynomialActivation.of([fit], activation) for _ in range(2))
    model = nn.Sequential(layers[0], one, layers[1], two, layers[2]).double()
    data = np.random.default_rng(0).normal(size=(200, FEATURES))
    return securedl.compile(model, data, scheme="bgv", batch=BATCH, ring=RING, bits=bits)


class Unit(NamedTuple):
    """Slots [2, N/2] that are added to a tile of what is sent at a point."""

    point: int
    tile: int
    slots: Array


class Dishonest(Together):
    """A server without any key, honest unless told otherwise.

    Attributes:
        unit: what it adds.
    """

    unit: Unit | None = None
    _tiles = 0

    def run(self, plan: Plan) -> None:
        """Another model under the same keys, from now on."""
        self.owner.plan = plan
        pairs = zip(list(self.owner.weights()), self.program.weight_shapes, strict=True)
        self.weights = [self.evaluator.load_packed(data, shape) for data, shape in pairs]
        self.owner.plan = self.plan

    def sent(self, tile: Any, shape: Shape) -> Record:
        """See `Together`."""
        unit, params, number = self.unit, self.program.params, self._tiles
        self._tiles += 1
        if unit is None or number != self._before(unit.point) + unit.tile:
            return super().sent(tile, shape)
        plain = replace(shape, size=1, correction=1)
        record = unpack(params, self.owner.keys.encrypt(unit.slots, plain), plain)  # encoded only
        return super().sent(self.evaluator.add(tile, self.evaluator.load(replace(record, seed=None))), shape)

    def _before(self, point: int) -> int:
        return sum(port.tiles for port in self.plan.signature.sent[: point - 1])

    def findings(self, x: Array, projections: ModularProjections) -> list[list[Finding]]:
        """Of one query, recomputed and in combinations, at each checkpoint."""
        self._tiles = 0
        checks = [self.owner.verification.recompute(), ModularCheck(projections.drawn())]
        self.ask(x, checks)
        return [self.batch.findings[check.name] for check in checks]


def altered(network: Quantised, kind: str, random: np.random.Generator) -> tuple[Quantised, int]:
    """With one unit more in a place, and the point at which this shows."""
    layers, one = list(network.layers), 0
    number = int(random.integers(len(layers) - (kind == "coefficient")))
    if kind == "coefficient" and layers[number].form.constants:
        form, point = layers[number].form, number + 2
        unit = np.eye(len(form.constant))[random.integers(len(form.constant))]
        layers[number] = replace(layers[number], form=replace(form, constant=form.constant + unit))
        return replace(network, layers=tuple(layers)), point
    if kind == "coefficient":
        number, one = number + 1, -1  # of the highest power
    layer, matrices = layers[number], list(layers[number].matrices)
    unit = np.zeros(matrices[one].shape)
    unit[tuple(random.integers(unit.shape))] = 1
    if kind == "bias":
        layers[number] = replace(layer, bias=layer.bias + unit.max(axis=1))
    else:
        matrices[one] = sparse.csr_matrix(matrices[one] + unit)
        layers[number] = replace(layer, matrices=tuple(matrices))
    return replace(network, layers=tuple(layers)), number + 1


def kinds(network: Quantised) -> tuple[str, ...]:
    """A square has no coefficients."""
    form = network.layers[0].form
    return KINDS if form.constants or form.registers > 1 else KINDS[:-1]


def samples(plan: Plan, random: np.random.Generator) -> Array:
    """A batch: half of it data, the rest anywhere in the box, half of that at corners."""
    low, high = plan.signature.box
    flat = random.uniform(low, high, (plan.batch, len(low)))
    flat[::4] = np.where(random.integers(0, 2, flat[::4].shape), low, high)
    flat[1::2] = plan.samples[random.choice(len(plan.samples), len(flat[1::2]))]
    return flat


@dataclass
class Counted:
    """Of one network.

    Attributes:
        t, combinations: the plain modulus, and how many sums are drawn modulo it.
        changed: changes that change something, by kind; nothing: others.
        recomputed, projected: how many of the former raised an alarm where they show first.
        honest: checks of a server that changed nothing; alarms: of those, at points before a change shows,
            and of changes of nothing, both ways.
    """

    name: str
    t: int
    combinations: int
    keys: int
    changed: Counter[str] = field(default_factory=Counter)
    nothing: int = 0
    recomputed: int = 0
    projected: int = 0
    honest: int = 0
    alarms: int = 0

    @property
    def missed(self) -> int:
        """Changes, by either way."""
        return 2 * self.changed.total() - self.recomputed - self.projected

    def honestly(self, findings: list[list[Finding]]) -> None:
        """A query in which nothing was changed."""
        self.honest += min(sum(one.compared for one in some) for some in findings)
        self._accused(findings)

    def change(self, kind: str, point: int, findings: list[list[Finding]]) -> None:
        """One that shows at a point; 0 where it changes nothing."""
        if not point:
            self.nothing += 1
            self._accused(findings)
            return
        self.changed[kind] += 1
        recomputed, projected = (bool(some[point - 1].alarms) for some in findings)
        self.recomputed, self.projected = self.recomputed + recomputed, self.projected + projected
        self._accused([some[: point - 1] for some in findings])

    def _accused(self, findings: list[list[Finding]]) -> None:
        self.alarms += sum(bool(one.alarms) for some in findings for one in some)

    def __str__(self) -> str:
        by_kind = ", ".join(f"{number} of a {kind}" for kind, number in self.changed.items())
        return (
            f"{self.name:8} t = {self.t}, {self.combinations} sums: {self.changed.total()} changes "
            f"({by_kind}), {self.recomputed} noticed by recomputing, {self.projected} by combinations; "
            f"{self.nothing} changed nothing; {self.honest} honest checks of {self.keys} keys; "
            f"{self.alarms} false alarms"
        )


def shows(plan: Plan, wrong: Quantised, point: int, flat: Array) -> int:
    """The point, or 0 where another network gives the same there."""
    points = plan.signature.checkpoints
    sent = plan.network.exchanges(flat, points)[point - 1].sent
    right, found = (list(one.inside(point, sent, points))[-1].values for one in (plan.network, wrong))
    return point * bool((right != found).any())


def counted(name: str, changes: int, honest: int, keys: int) -> Counted:
    """At least so many changes of each kind, and honest checks."""
    plan, random = compiled(name), np.random.default_rng(1)
    network, params = plan.network, plan.program.params
    assert isinstance(network, Quantised)
    projections = ModularProjections(network, params.plain_modulus)
    found = Counted(name, params.plain_modulus, projections.combinations, keys)
    for key in range(1, keys + 1):
        server = Dishonest(plan)
        while found.honest < honest * key / keys:
            found.honestly(server.findings(samples(plan, random), projections))
        for kind in kinds(network):
            while found.changed[kind] < changes * key / keys:
                flat = samples(plan, random)
                if kind == "slot":
                    server.unit, point = one_slot(plan, random)
                else:
                    wrong, point = altered(network, kind, random)
                    server.run(replace(plan, network=wrong))
                    point = shows(plan, wrong, point, flat)
                found.change(kind, point, server.findings(flat, projections))
                server.unit = None
            server.run(plan)
    return found


def one_slot(plan: Plan, random: np.random.Generator) -> tuple[Unit, int]:
    """Any, by one; and the point, or 0 where it is nobody's value."""
    points, n = plan.signature.sent, plan.program.params.slots
    point = 1 + int(random.integers(len(points)))
    slots = np.zeros((points[point - 1].tiles, 2, n))
    tile = int(random.integers(len(slots)))
    slots[tile, random.integers(2), random.integers(n)] = random.choice([-1.0, 1.0])
    return Unit(point, tile, slots[tile]), point * bool(plan.signature.values(point, slots).any())


def rows(quick: bool) -> Iterator[Counted]:
    """Of all networks."""
    for name in NETWORKS:
        print(f"{name}: counting", file=sys.stderr, flush=True)
        yield counted(name, *((1, 2000, 1) if quick else (CHANGES, HONEST, KEYS)))


def main() -> int:
    """The table; 1 where a change was missed, or an honest server accused."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one change of each kind, one key")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = list[Counted]()
    for row in rows(chosen.quick):
        found.append(row)
        print(row, flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps([vars(one) for one in found], indent=1).encode())
    return int(any(row.missed or row.alarms for row in found))


if __name__ == "__main__":
    raise SystemExit(main())
