"""Answers of whole numbers checked without weights: the chance of a miss is as said, and changes are seen."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import chisquare

import securedl
from securedl.client import modular
from securedl.client.modular import (
    ModularCheck,
    ModularProjections,
    least_combinations,
    uniform,
)
from securedl.he.modular import halves, joined
from securedl.plan.forms import NONE, Cubic, Form, Powers, Square
from securedl.plan.layouts import in_rows
from securedl.plan.normalised import Layer
from securedl.plan.plan import Plan
from securedl.plan.quantised import Quantised, Requantised
from securedl.verify.check import Segment

sys.path.insert(0, str(Path(__file__).parent))
from counting import within
from every_form import Server, data, served
from exact_plans import EXACT

SMALL, MIDDLE = 257, 65537
#: Checks at a time.
DRAWS = 5000


def small(form: Form, t: int) -> Quantised:
    """6-5-4; weights that are anything modulo t."""
    random = np.random.default_rng(0)

    def layer(out, size, sources, form, name):
        entries = [random.integers(-(t // 2), t // 2, (out, size), endpoint=True) for _ in range(sources)]
        bias = random.integers(-(t // 2), t // 2, out, endpoint=True).astype(float)
        return Layer(name, tuple(sparse.csr_matrix(one.astype(float)) for one in entries), bias, form)

    layers = layer(5, 6, 1, form, "first"), layer(4, 5, form.registers, NONE, "last")
    client = Requantised(1.0, 9, (np.ones(5),), 9)
    return Quantised(np.ones(6), np.zeros(6), client, layers, np.ones(4), np.zeros(4))


FORMS = [Square(2), Cubic(3, np.arange(-2.0, 3.0)), Powers(4)]


def answers(layer: Layer, reads: list[np.ndarray], t: int) -> np.ndarray:
    """In Python's integers, of least magnitude modulo t [samples, out]."""
    total = layer.bias.astype(np.int64).astype(object)
    for matrix, read in zip(layer.matrices, reads, strict=True):
        total = (
            total + read.astype(np.int64).astype(object) @ matrix.toarray().astype(np.int64).astype(object).T
        )
    total = total % t
    return np.array(total - t * (total > t // 2), np.float64)


@pytest.fixture
def seeded(monkeypatch, request) -> None:
    """Misses are counted, so they are the same everywhere. Each test has others: a wrong row is missed where
    its numbers are zeros, whatever is wrong with it.
    """
    random = np.random.default_rng(list(request.node.name.encode()))
    monkeypatch.setattr(modular, "secrets", SimpleNamespace(token_bytes=random.bytes))


def errors(network: Quantised, t: int, sent: np.ndarray, received: np.ndarray, draws: int) -> np.ndarray:
    """Of the second segment, each for so many combinations of their own [samples, draws]."""
    projections = ModularProjections(network, t)
    projections.combinations = draws
    return projections.drawn()[1].errors(sent, received)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("t", [SMALL, MIDDLE, 1032193, 8589852673])
def test_honest_values_always_agree(form, t):
    """Python's integers are the oracle. Weights of 33 bits are more than any network has."""
    network, random = small(form, min(t, MIDDLE)), np.random.default_rng(2)
    first, last = network.layers
    drawn = ModularProjections(network, t).drawn()
    assert len(drawn) == 2
    x, u = random.integers(-9, 9, (200, 6)).astype(float), random.integers(-9, 9, (200, 5)).astype(float)
    assert not drawn[0].errors(x, answers(first, [x], t)).any()
    assert not drawn[1].errors(u, answers(last, first.form.values(u), t)).any()


#: What is one more than it should be, and what the second segment starts with there.
KINDS: dict[str, Form] = {
    "weight": Square(2),
    "bias": Square(2),
    "output": Square(2),
    "constant of a cubic": FORMS[1],
    "coefficient of the highest power": FORMS[2],
}


def misses(kind: str, t: int, combinations: int, checks: int) -> int:
    """How many of so many checks pass though one weight, bias, value or coefficient is one too large."""
    network, random = small(KINDS[kind], t), np.random.default_rng(3)
    first, last = network.layers
    missed = 0
    for _ in range(checks // DRAWS):
        u = random.choice([-3, -2, -1, 1, 2, 3], (1, 5)).astype(float)
        row, column = random.integers(4), random.integers(5)
        change = np.zeros((4, 5))
        change[row, column] = 1
        wrong, form = last, first.form
        if kind in ("weight", "coefficient of the highest power"):
            *others, highest = last.matrices
            wrong = replace(last, matrices=(*others, sparse.csr_matrix(highest + change)))
        elif kind == "bias":
            wrong = replace(last, bias=last.bias + change[:, column])
        elif kind == "constant of a cubic":
            form = replace(form, constant=form.constant + change[row])
        received = answers(wrong, form.values(u), t)
        if kind == "output":
            received[:, row] += 1
        found = errors(network, t, u, received, DRAWS * combinations)
        missed += int((found.reshape(DRAWS, combinations) == 0).all(axis=1).sum())
    return missed


MISSED = [
    (kind, t, combinations) for kind in KINDS for t, combinations in ((SMALL, 1), (SMALL, 2), (MIDDLE, 1))
]


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("kind", "t", "combinations"), MISSED)
def test_misses_are_as_rare_as_said(kind, t, combinations):
    """1/t^K of 100,000, each with combinations of its own."""
    assert within(misses(kind, t, combinations, 100_000), 100_000 / t**combinations)


@pytest.mark.slow
@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("kind", "t", "combinations"), MISSED)
def test_misses_of_a_million(kind, t, combinations):
    assert within(misses(kind, t, combinations, 1_000_000), 1_000_000 / t**combinations)


def missed_by_primes(tampered: int, checks: int) -> tuple[int, int, int]:
    """How many of so many checks pass, with one combination modulo each of two primes, where values are known
    by their residues and a weight is wrong modulo one of the primes only: those of this prime, those of the
    other, and both.
    """
    (other,) = {SMALL, MIDDLE} - {tampered}
    network, random = small(Square(2), SMALL * MIDDLE), np.random.default_rng(6)
    first, last = network.layers
    missed = np.zeros(3, int)
    for _ in range(checks // DRAWS):
        u = random.choice([-3, -2, -1, 1, 2, 3], (1, 5)).astype(float)
        change = np.zeros((4, 5))
        change[random.integers(4), random.integers(5)] = other * random.integers(1, tampered)
        wrong = replace(last, matrices=(sparse.csr_matrix(last.matrices[0] + change),))
        received = answers(wrong, first.form.values(u), SMALL * MIDDLE)
        one, two = (errors(network, t, u, received, DRAWS)[0] == 0 for t in (tampered, other))
        missed += [one.sum(), two.sum(), (one & two).sum()]
    return tuple(missed.tolist())


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("checks", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tampered", [SMALL, MIDDLE])
def test_tampering_modulo_one_prime_has_the_chance_of_that_prime(tampered, checks):
    """Not one over the product of both: the other's combinations never see it."""
    own, other, both = missed_by_primes(tampered, checks)
    assert within(own, checks / tampered)
    assert other == checks
    assert both == own


def test_how_many_combinations():
    assert [least_combinations(t) for t in (SMALL, MIDDLE, 1032193, 1048577, 1 << 33)] == [5, 3, 3, 2, 2]
    for t in (2, 3, SMALL, MIDDLE, 34308097):
        assert t ** (least_combinations(t) - 1) < 1 << 40 <= t ** least_combinations(t)


class TestUniform:
    def test_all_residues_are_alike(self):
        found = uniform((1000, 257), SMALL)
        assert found.dtype == np.int64
        assert chisquare(np.bincount(found.ravel(), minlength=SMALL)).pvalue > 1e-9
        large = uniform((4, 1000), (1 << 33) - 9)
        assert large.min() >= 0
        assert (1 << 33) - 9 > large.max() > 0.99 * (1 << 33)

    def test_what_would_favour_some_is_drawn_again(self, monkeypatch):
        """2^64 - 1 is a multiple of 3, and the last word one too many."""
        words = [np.array([2**64 - 1, 5, 2**64 - 1], np.uint64), np.array([2**64 - 1, 2**64 - 2], np.uint64)]
        words.append(np.array([9], np.uint64))
        given = iter(words)
        monkeypatch.setattr(
            modular, "secrets", SimpleNamespace(token_bytes=lambda size: next(given).tobytes())
        )
        assert uniform((3,), 3).tolist() == [5 % 3, (2**64 - 2) % 3, 0]

    def test_no_seed_repeats_them(self):
        np.random.seed(0)
        one = uniform((50,), MIDDLE)
        np.random.seed(0)
        assert (uniform((50,), MIDDLE) != one).sum() > 40

    def test_powers_of_two_need_no_second_draw(self):
        assert set(np.unique(uniform((500,), 2))) == {0, 1}


def test_a_check_counts_lanes():
    network = small(Square(2), MIDDLE)
    first, _ = network.layers
    check = ModularCheck(ModularProjections(network, MIDDLE).drawn())
    x = np.ones((7, 6))
    received = answers(first, [x], MIDDLE)
    found = check.segment(Segment(1, x, received, "refresh 1"))
    assert (found.compared, found.worst, found.alarms) == (7, 0.0, ())
    received[[2, 5], [0, 4]] += 1
    found = check.segment(Segment(1, x, received, "refresh 1"))
    assert (found.compared, found.worst) == (7, np.inf)
    assert found.alarms == ("2 lane(s) differ from the network's at the refresh 1",)
    assert (check.points, check.blind.change, check.blind.chance) == (2, 0.0, MIDDLE**-3)


def test_sums_of_the_largest_weights_are_exact():
    """Residues of 33 bits times weights of 12, in Python's integers."""
    network, t, random = small(Square(2), 1 << 12), 8589852673, np.random.default_rng(6)
    first, _ = network.layers
    x = random.integers(-(1 << 11), 1 << 11, (50, 6)).astype(float)
    assert not ModularProjections(network, t).drawn()[0].errors(x, answers(first, [x], t)).any()
    rows = uniform((4, 1000), t)
    weights = random.integers(-(1 << 11), 1 << 11, (1000, 7))
    high, low = (part @ weights.astype(float) for part in halves(rows))
    wanted = (rows.astype(object) @ weights.astype(object)) % t
    np.testing.assert_array_equal(joined(high, low, t), wanted.astype(np.int64))


@pytest.fixture(scope="module", params=EXACT, ids=str)
def plan(request) -> Plan:
    return EXACT[request.param]()


def watched(plan: Plan) -> securedl.Owner:
    owner = securedl.Owner(plan, ahead=0)
    assert isinstance(plan.network, Quantised)
    owner.verification.combined = ModularProjections(plan.network, plan.program.params.plain_modulus)
    return owner


@pytest.mark.he
def test_an_honest_server_passes(plan):
    x = data(plan, 20)
    answer = served(watched(plan), x, probes=0)
    report, t = answer.report, plan.program.params.plain_modulus
    np.testing.assert_allclose(answer.logits, plan.network(x.reshape(20, -1)), rtol=1e-12)
    assert report.passed
    assert report.worst_ratio == 0
    assert (report.how, report.checked, report.open) == ("projected", 20, 0)
    assert report.points == len(plan.signature.checkpoints) - 1
    combinations = least_combinations(t)
    assert report.blind.chance == pytest.approx(float(t) ** -combinations)
    assert report.detection[0.01] == 1 - report.blind.chance
    assert f"a wrong value passes with a chance of {float(t) ** -combinations:.1e}" in report.summary()
    assert f"({combinations} secret sums modulo {t})" in report.summary()
    assert "smaller changes" not in report.summary()


@pytest.mark.he
def test_every_change_of_a_value_is_noticed(plan):
    """One slot of what is sent, by one; where it is nobody's value nothing is said."""
    owner, random, seen = watched(plan), np.random.default_rng(4), Counter[tuple[bool, bool]]()
    server, params, x = Server(owner), plan.program.params, data(plan, 3)
    points = plan.signature.sent
    for run in range(24):
        where, tile = 1 + run % len(points), int(random.integers(points[run % len(points)].tiles))
        slots = np.zeros((points[where - 1].tiles, 2, params.slots))
        layout = plan.signature.checkpoints[where].sent
        used = in_rows(layout.pack(np.ones(layout.shape)), 2, plan.batch)[tile]
        places = np.argwhere(used if run % 2 else used == 0)
        row, column = random.choice(places)
        slots[tile, row, column] = random.choice([-1, 1])

        def change(point, k, where=where, slots=slots):
            return slots[k] if point == where else None

        inference = owner.ask(x, probes=0, after_alarm="continue")
        (batch,) = inference.batches
        server.serve(batch, change)
        changed = bool(plan.signature.values(where, slots).any())
        seen[changed, bool(batch.alarms)] += 1
        assert inference.answer({}, {}).report.passed != changed
    assert set(seen) <= {(True, True), (False, False)}
    assert seen[True, True] > 4


@pytest.mark.he
def test_a_value_that_is_off_by_t_is_that_value(plan):
    """The client adds up parts of a value, so a server that moves two of them by halves of t can make one
    wrap: combinations modulo t would see nothing, so values are residues.
    """
    owner, t = watched(plan), plan.program.params.plain_modulus
    server, point = Server(owner), len(plan.signature.sent)
    layout = plan.signature.checkpoints[point].sent
    parts, lanes = np.argwhere(layout.content[0] == 0).ravel(), np.arange(plan.batch)
    flat = np.zeros((layout.tiles, layout.width, plan.batch))
    flat[0, parts[lanes % len(parts)], lanes] = t // 2  # where both are of one sign, one of them wraps
    flat[0, parts[(lanes + 1) % len(parts)], lanes] = -(t // 2)
    slots = in_rows(flat.reshape(layout.tiles, -1), 2, plan.batch)
    x = data(plan, plan.batch)
    inference = owner.ask(x, probes=0)
    (batch,) = inference.batches
    server.serve(batch, lambda at, k: slots[k] if at == point else None)
    answer = inference.answer({}, {})
    assert answer.report.passed
    np.testing.assert_array_equal(answer.logits, plan.network(x.reshape(len(x), -1)))


@pytest.mark.he
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_every_change_of_a_weight_is_noticed(plan, kind):
    """One more in one entry of each layer."""
    owner, x, random = watched(plan), data(plan, 3), np.random.default_rng(5)
    for number, layer in enumerate(plan.network.layers):
        first, *others = layer.matrices
        rows, columns = first.nonzero()
        entry = random.integers(len(rows))
        one = np.zeros(first.shape)
        one[rows[entry], columns[entry]] = 1
        if kind == "weight":
            wrong = replace(layer, matrices=(sparse.csr_matrix(first + one), *others))
        else:
            wrong = replace(layer, bias=layer.bias + one.max(axis=1))
        layers = (*plan.network.layers[:number], wrong, *plan.network.layers[number + 1 :])
        owner.plan = replace(plan, network=replace(plan.network, layers=layers))
        server = Server(owner)
        owner.plan = plan
        inference = owner.ask(x, probes=0, after_alarm="continue")
        (batch,) = inference.batches
        server.serve(batch)
        where = "answer" if number + 1 == len(layers) else f"refresh {number + 1}"
        assert where in batch.alarms[0]
        assert not inference.answer({}, {}).report.passed, (number, kind)


@pytest.mark.he
def test_combinations_are_drawn_for_each_call(plan, monkeypatch):
    drawn = []
    make = ModularProjections.drawn

    def kept(self):
        drawn.append(make(self))
        return drawn[-1]

    monkeypatch.setattr(ModularProjections, "drawn", kept)
    owner = watched(plan)
    count = plan.batch + 1  # in two batches
    for _ in range(2):
        assert len(owner.ask(np.resize(data(plan, 3), (count, 6)), probes=0).batches) == 2
    one, two = drawn
    assert not (one[0].factors == two[0].factors).all()
    owner.ask(data(plan, 1), probes=0, verify="none")
    assert len(drawn) == 2
