"""Every answer checked: honest errors are as large as computed, and what is larger is seen, in any slot."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import securedl
from polyapprox import least_squares
from securedl.client.recompute import RecomputeCheck
from securedl.client.tolerances import Tolerance, growth, tolerances
from securedl.errors import AlarmError, FormatError, InputError
from securedl.he.backends import backend
from securedl.he.record import pack, unpack
from securedl.he.variance import SIGMAS, VarianceEvaluator
from securedl.network.polynomial import PolynomialActivation
from securedl.plan.network import within_headroom
from securedl.plan.plan import Plan
from securedl.verify.check import Finding

sys.path.insert(0, str(Path(__file__).parent))
from every_form import PLANS, Server, X, data, network, served

#: Errors that a root mean square is made of, at least.
ERRORS = 600


@pytest.fixture(scope="module", params=PLANS, ids=str)
def plan(request) -> Plan:
    return PLANS[request.param]()


@pytest.fixture(scope="module")
def server(plan) -> Server:
    return Server(securedl.Owner(plan, ahead=0))


@pytest.fixture(scope="module")
def allowed(plan) -> list[Tolerance]:
    """Over all keys."""
    return tolerances(plan)


def ratios(plan: Plan, allowed: list[Tolerance], flat: np.ndarray, seed: int) -> list[np.ndarray]:
    """Simulated errors of one batch in standard deviations, for each segment [batch, features]."""
    points = plan.signature.checkpoints
    exchanges = plan.network.exchanges(flat, points)

    def talk():
        for point, exchange in zip(points, exchanges, strict=False):
            if point.back is not None:
                yield exchange.sent
        return np.zeros((len(flat), 0))

    (run,) = plan.simulate_talks([talk()], seed)
    found = []
    for number, (values, one) in enumerate(zip(run.received, exchanges, strict=True)):
        *_, exact = plan.network.inside(number + 1, one.sent, points)
        np.testing.assert_allclose(exact.values, one.received, atol=1e-12)
        known = one.sent if points[number].back is not None else run.received[number - 1]
        *stages, exact = plan.network.inside(number + 1, known, points)
        grown = allowed[number].grown(stages)
        found.append((values - exact.values) / allowed[number].deviations / grown[:, None])
    return found


def test_honest_errors_are_as_large_as_computed(plan, monkeypatch):
    """The simulator draws what `he.variance` adds up, with normal tails; where values are smaller than the
    largest, errors are.
    """

    def variance(self, handle):
        found = handle.error.variance
        return np.broadcast_to(found[-1] if np.ndim(found) > 1 else found, handle.slots.shape)

    monkeypatch.setattr(VarianceEvaluator, "slots", variance)
    allowed = tolerances(plan)
    flat = plan.samples[-plan.batch :]
    fewest = min(one.deviations.size for one in allowed)
    runs = [ratios(plan, allowed, flat, seed) for seed in range(-(-ERRORS // fewest))]
    for found in zip(*runs, strict=True):
        assert 0.1 < np.sqrt(np.mean(np.square(found))) < 1.25
        assert np.abs(found).max() < 6.0


def test_what_is_compared_quickly_is_the_same(plan):
    """To a fiftieth of an honest error's deviation."""
    points, quick = plan.signature.checkpoints, plan.network.quick()
    for number, (one, allowed) in enumerate(
        zip(plan.network.exchanges(plan.samples[: plan.batch], points), tolerances(plan), strict=True), 1
    ):
        *_, exact = quick.inside(number, one.sent, points)
        assert (np.abs(exact.values - one.received) <= allowed.deviations / 50).all()


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), size=st.floats(0.0, 4.0), corner=st.booleans())
def test_also_of_inputs_unlike_the_data(plan, allowed, seed, size, corner):
    """Up to the corners of the box, wherever nothing overflows."""
    random = np.random.default_rng(seed)
    low, high = plan.signature.box
    box = random.uniform(-1, 1, (plan.batch, len(low)))
    flat = (low + high) / 2 + (np.sign(box) if corner else box) * (high - low) / 2 * min(1.0, size / 4)
    flat[~within_headroom(plan.network, flat, plan.program.scheme.value_limit)] = plan.neutral
    for found in ratios(plan, allowed, flat, seed):
        assert np.abs(found).max() < 6.5


def test_growth_of_errors():
    """By hand: an affine map's error is as large as what it reads, a square's slope as its value."""
    two = np.array([2.0])
    assert growth([two], [1]) == 2  # weights' errors times values twice as large
    assert growth([two], [2]) == 4  # v² with v and its weights' errors twice as large
    assert growth([two, 0.5 * two], [1, 1]) == 2  # the second affine map passes on what the first one made
    assert growth([0.5 * two], [8]) == 1  # smaller values: no less is allowed
    assert growth([two, two**3], [3, 1]) == 8  # a cubic's slope, and the weights that read its result


def test_every_answer_of_an_honest_server_passes(plan, server):
    answer = server.answer(data(plan, 20))
    report = answer.report
    assert report.passed, report.alarms
    assert (report.checked, report.points) == (20, len(plan.signature.checkpoints) - 1)
    assert 0 < report.worst_ratio < 0.9
    assert "all 20 answers recomputed" in report.summary()
    assert report.detection[0.01] == pytest.approx(1.0, abs=2e-6)


@pytest.mark.parametrize("evaluator", ["vector", "seal"])
def test_key_switching_errs_where_it_is_expected(evaluator):
    """Rotations that share a decomposition err elsewhere than single ones: the tolerances hold for both."""
    plan = PLANS["many rotations"]()
    owner = securedl.Owner(plan, ahead=0)
    server, worst = Server(owner, evaluator), 0.0
    for _ in range(3):
        (batch,) = owner.ask(data(plan, 60), probes=0).batches
        server.serve(batch)
        worst = max(worst, batch.worst)
    assert 0.2 < worst < 0.8


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"ring": 32768, "refreshes": 0}, marks=pytest.mark.slow)], ids=str
)
def test_a_polynomial_of_high_degree_does_not_blind(options):
    """Tolerances are plain for the calibration samples, and for others a few times as wide; a change by
    twice what the report calls blind is seen. Once they grew with the 64th power.
    """
    x = np.random.default_rng(0).normal(size=(400, X.shape[1]))
    plan = securedl.compile(network("relu", 8), x[:200], batch=1, **options)
    owner, points = securedl.Owner(plan, ahead=0), plan.signature.checkpoints
    inside = x[within_headroom(plan.network, x, plan.program.scheme.value_limit)]
    for number, exchange in enumerate(plan.network.exchanges(inside, points)):
        *stages, _ = plan.network.inside(number + 1, exchange.sent, points)
        grown = owner.verification.tolerances[number].grown(stages)
        assert grown[: (np.isin(inside, x[:200]).all(axis=1)).sum()].max() <= 1 + 1e-9
        assert grown.max() < 50
    blind = served(owner, x[:1], probes=0).report.blind.change
    last = len(points) - 1

    def change(point, tile):
        return np.full(plan.program.params.slots, 2 * blind) if point == last else None

    assert not served(owner, x[:1], change, probes=0).report.passed


def one_bright_channel(count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    images = np.zeros((count, 16, 16, 16))
    for image, channel in zip(images, random.integers(16, size=count), strict=True):
        image[channel] = random.choice([-1.0, 1.0], size=(16, 16))
    return images


def depthwise() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        return nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(16), nn.Flatten(), nn.Linear(16, 3)).double()


def test_an_honest_server_is_not_accused_where_one_ciphertext_holds_all():
    """Each output of a depthwise convolution reads one channel, and may read the one that is not dark."""
    images = one_bright_channel(80)
    plan = securedl.compile(depthwise(), images, batch=1, activations="client")
    report = served(securedl.Owner(plan, ahead=0), images[:12], probes=12).report
    assert report.passed, report.alarms
    assert report.worst_ratio < 0.85


def test_nor_where_a_value_and_its_powers_err_together():
    """Inputs that hardly vary, so that powers of them all have the same sign in every sum."""
    fit = least_squares("relu", 8, (1.0, 3.0))
    x = 3 + 0.1 * np.random.default_rng(0).normal(size=(200, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = list[nn.Module]()
        for _ in range(2):
            linear = nn.Linear(1, 1)
            with torch.no_grad():
                linear.weight[:], values = 1.0, nn.Sequential(*layers, linear).double()(torch.tensor(x))
                linear.bias += 2.0 - values.mean()
            layers += [linear, PolynomialActivation.of([fit], "relu")]
        model = nn.Sequential(*layers, nn.Linear(1, 1)).double()
    plan = securedl.compile(model, x, task="regression", batch=512, ring=32768, refreshes=0)
    report = served(securedl.Owner(plan, ahead=0), x, probes=0).report
    assert report.passed, report.alarms
    assert report.worst_ratio < 0.85


def test_an_alarm_counts_although_the_call_never_ends():
    plan = PLANS["squares, a refresh a level"]()
    owner = securedl.Owner(plan, ahead=0)
    (batch,) = owner.ask(data(plan, 1), probes=0).batches
    batch.query()
    port, shape = plan.signature.sent[0], plan.signature.sent[0].fresh
    shape = replace(shape, level=0)
    wild = [owner.keys.encrypt(np.full(plan.program.params.slots, 0.7), shape)]
    params = plan.program.params
    evaluator: Any = backend("vector").open(params)
    tiles = [evaluator.load(unpack(params, tile, shape)) for tile in wild * port.tiles]
    batch.refresh(0, [pack(params, evaluator.sent(tile, port.sent)) for tile in tiles])
    batch.settle()
    with pytest.raises(AlarmError, match="1 earlier call"):
        owner.ask(data(plan, 1))


def test_what_is_interrupted_is_looked_at_again(monkeypatch):
    """Ctrl-C while values are compared: the alarm that follows is not lost."""
    plan = PLANS["squares, a refresh a level"]()
    owner = securedl.Owner(plan, ahead=0)
    looks = []

    def segment(self, segment):
        looks.append(segment.point)
        if len(looks) == 1:
            raise KeyboardInterrupt
        return Finding(alarms=("differs",))

    monkeypatch.setattr(RecomputeCheck, "segment", segment)
    inference = owner.ask(data(plan, 1), probes=0)
    (batch,) = inference.batches
    with pytest.raises(KeyboardInterrupt):
        Server(owner).serve(batch)
    batch.settle()
    assert looks[:2] == [looks[0]] * 2
    assert owner.verification.ledger.alarms == 1
    assert inference.broken_off() == "differs"


def test_after_an_alarm_all_is_compared_as_long(monkeypatch):
    """A server that answers at once sees how long it takes."""
    looks = []
    real = RecomputeCheck.segment

    def segment(self, segment):
        looks.append(segment.point)
        return real(self, segment)

    monkeypatch.setattr(RecomputeCheck, "segment", segment)
    plan = PLANS["squares, a refresh a level"]()
    length = plan.program.params.slots
    for added in (None, np.full(length, 0.1)):
        looks.clear()

        def change(point, tile, added=added):
            return added if point == 1 else None

        assert served(securedl.Owner(plan, ahead=0), data(plan, 3), change).report.passed == (added is None)
        assert looks == list(range(1, len(plan.signature.checkpoints)))


def test_after_an_alarm_nothing_is_counted():
    """The client sends zeros then, and what comes back is compared to no end."""
    plan = PLANS["squares, a refresh a level"]()
    length = plan.program.params.slots

    def change(point, tile):
        return np.full(length, 0.1) if point == 1 else None

    report = served(securedl.Owner(plan, ahead=0), data(plan, 3), change, probes=4).report
    assert not report.passed
    assert all("refresh 1 of batch" in alarm for alarm in report.alarms)
    assert report.checked == 0


def test_a_push_in_any_one_slot_is_seen(plan, server):
    """By twice what is allowed there; by a hundredth of it nothing is."""
    owner, random, n = server.owner, np.random.default_rng(0), plan.program.params.ring // 2
    for point, (layout, allowed) in enumerate(
        zip([c.sent for c in plan.signature.checkpoints[1:]], owner.verification.tolerances, strict=True), 1
    ):
        port = plan.signature.sent[point - 1]
        length = plan.program.params.ring if port.coefficients else n
        for _ in range(4):
            lane = random.integers(plan.batch)
            feature = random.integers(allowed.deviations.shape[1])
            tiles = _where(layout, port.tiles, length, lane, feature)
            for times, seen in ((2.5, True), (0.01, False)):
                grown = allowed.deviations[lane, feature] * SIGMAS * times

                def change(at, tile, point=point, tiles=tiles, grown=grown):
                    return tiles[tile] * grown if at == point else None

                (batch, *_) = owner.ask(data(plan, 1), probes=0, after_alarm="continue").batches
                server.serve(batch, change)
                assert bool(batch.alarms) == seen, (point, lane, feature, times, batch.alarms)


def _where(layout, tiles: int, length: int, lane: int, feature: int) -> np.ndarray:
    """One in a place [tiles, length] from which the layout reads this value, found by trying."""
    for tile in range(tiles):
        marks = np.zeros((tiles, length))
        marks[tile] = np.arange(1, length + 1)
        read = layout.unpack(marks).reshape(-1, layout.unpack(marks).shape[-1])[lane, feature]
        if read:
            found = np.zeros((tiles, length))
            # Parts of a sum are read together: the first of them.
            low, high = 0, length
            while high - low > 1:
                middle = (low + high) // 2
                half = np.zeros((tiles, length))
                half[tile, low:middle] = 1
                inside = layout.unpack(half).reshape(-1, layout.unpack(half).shape[-1])[lane, feature]
                low, high = (low, middle) if inside else (middle, high)
            found[tile, low] = 1.0
            return found
    raise AssertionError("no tile has this value")


def test_what_is_compared_is_the_callers_choice(plan, server):
    last = len(plan.signature.checkpoints) - 1
    length = plan.program.params.ring // (1 if plan.signature.sent[-1].coefficients else 2)

    def change(point, tile):  # of one sample's lane by far too much
        if point != last or tile:
            return None
        return np.full(length, 0.05)

    assert not server.answer(data(plan, 3), change, probes=0).report.passed
    assert not server.answer(data(plan, 3), change, probes=4, verify="probes").report.passed
    silent = server.answer(data(plan, 3), change, probes=4, verify="none").report
    assert silent.passed
    assert (silent.probes, silent.checked) == (0, 0)
    assert "nothing was checked" in silent.summary()
    with pytest.raises(InputError, match="verify must be one of 'every', 'probes', 'none', got 'all'"):
        server.owner.ask(data(plan, 1), verify="all")


def test_tolerances_are_kept_with_the_owner(tmp_path):
    owner = securedl.Owner(PLANS["cubics"](), ahead=0)
    owner.verification.prepare()
    owner.save(tmp_path / "owner", passphrase="p")
    found = securedl.Owner.load(tmp_path / "owner", passphrase="p", ahead=0).verification
    assert found.seed == owner.verification.seed
    for one, two in zip(owner.verification.tolerances, found._allowed, strict=True):
        np.testing.assert_array_equal(one.deviations, two.deviations)
        np.testing.assert_array_equal(one.sizes, two.sizes)
    with pytest.raises(FormatError, match="not a tolerance"):
        Tolerance.from_arrays({"sizes": np.ones(1)}, None)


def test_two_owners_of_a_plan_have_other_probes():
    plan = PLANS["squares, a refresh a level"]()
    one, two = (securedl.Owner(plan, ahead=0).verification for _ in range(2))
    assert not np.array_equal(one.probes.fingerprint.samples, two.probes.fingerprint.samples)
