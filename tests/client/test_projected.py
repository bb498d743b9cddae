"""Answers checked without weights: combinations of exact values agree, and what a server changes is seen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import securedl
from securedl.client import projected
from securedl.client.projected import PROJECTED_SIGMAS, SMALL, Projected, ProjectionCheck, projections
from securedl.client.tolerances import MISS, Tolerance, tolerances
from securedl.network.geometry import Axis, Geometry
from securedl.plan.plan import Plan
from securedl.plan.projection import Projection
from securedl.plan.served_chain import ServedChain
from securedl.verify.check import Segment

sys.path.insert(0, str(Path(__file__).parent))
from every_form import PLANS, Server, data
from test_mixed import near, tapped

FORMS: dict[str, Callable[[], Plan]] = {
    **PLANS,
    "coefficients, then slots": lambda: near(False),
    "slots by a client": lambda: near(True),
    "a chain with taps": tapped,
}


@pytest.fixture(scope="module", params=FORMS, ids=str)
def named(request) -> tuple[str, Plan]:
    return request.param, FORMS[request.param]()


def watched(plan: Plan) -> securedl.Owner:
    owner = securedl.Owner(plan, ahead=0)
    verification = owner.verification
    verification.projected = projections(plan, plan.network, verification.tolerances)
    return owner


def test_exact_values_agree(named):
    """Whatever is sent: what comes back is computed by the layers, combinations from `Network.projected`."""
    _, plan = named
    points, random = plan.signature.checkpoints, np.random.default_rng(0)
    for number, exchange in enumerate(plan.network.exchanges(plan.samples[: plan.batch], points)):
        sent = random.normal(size=exchange.sent.shape)
        *_, exact = plan.network.inside(number + 1, sent, points)
        rows = random.normal(size=(5, exact.values.shape[1]))
        found = plan.network.projected(number + 1, rows, points)
        if found is not None:
            np.testing.assert_allclose(found.errors(sent, exact.values), 0, atol=1e-9 * np.abs(rows).sum())
            assert np.abs(found.errors(sent, exact.values + 1)).max() > 1e-3


def left_open(plan: Plan) -> list[bool]:
    """Of each segment, whether anything follows an affine map in it. Of a network's values the odd ones are
    what polynomials read.
    """
    if plan.signature.rounds is None:
        values = [point.value for point in plan.signature.checkpoints]
        return [any(value % 2 for value in range(start + 1, end)) for start, end in pairwise(values)]
    found = list[bool]()
    for layer in plan.signature.rounds.served:
        parts = layer.parts if isinstance(layer, ServedChain) else ()
        kinds = "".join("a" * (part.sources > 0) + "p" * (part.form.degree > 1) for part in parts)
        found += [False] * len(layer.tapped) + ["a" in kinds[:-1] and not layer.tapped]
    return found


def test_a_polynomial_after_an_affine_map_is_left_open(named):
    name, plan = named
    left = left_open(plan)
    found = projections(plan, plan.network, tolerances(plan))
    assert [one is None for one in found] == left
    assert plan.network.projectable(plan.signature.checkpoints) == [not one for one in left]
    assert ("without them too" in plan.summary()) == (not any(left))
    if name in ("squares, a refresh a level", "a client's activations", "images, a client's activations"):
        assert not any(left)
    assert (not any(left) and len(plan.program.taps) > 0) == ("tap" in name)
    assert (len(plan.program.hidden) > 0) == any(left)
    if name == "squares, no refresh":
        assert all(left)


def test_an_honest_server_passes_and_a_change_is_seen(named):
    _, plan = named
    server = Server(watched(plan))
    report = server.answer(data(plan, 3), probes=0).report
    assert report.passed, report.alarms
    known = server.owner.verification.projected
    assert known is not None
    assert (report.how, report.points + report.open) == ("projected", len(known))
    assert report.checked == (3 if report.points else 0)
    assert ("other checkpoint" in report.summary()) == (report.points > 0 and report.open > 0)
    assert (report.blind is None) == (report.points == 0)
    assert report.detection.get(0.01, 0) == (0.0 if report.open else 1 - MISS)
    if known[0] is None:
        return
    assert 0 < report.worst_ratio < 0.9
    port, params = plan.signature.sent[0], plan.program.params
    change = np.zeros(params.ring if port.coefficients else params.slots)
    change[0] = 3 * known[0].blind

    def add(point, tile):
        return change if (point, tile) == (1, 0) else None

    report = server.answer(data(plan, 3), add, probes=0).report
    assert not report.passed
    assert any(
        where in report.alarms[0] for where in ("at the refresh 1 of", "at the tap 1 of", "at the answer")
    )


@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    groups=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_back_is_the_transposed_map(size, taps, stride, padding, groups, seed):
    """Σ y·convolve(x) = Σ back(y)·x."""
    random = np.random.default_rng(seed)
    if size[0] + 2 * padding < taps[0] or size[1] + 2 * padding < taps[1]:
        return
    rows, columns = (Axis(n, k, stride, padding) for n, k in zip(size, taps, strict=True))
    geometry = Geometry(2, 4, rows, columns, groups)
    kernel = random.normal(size=geometry.kernel)
    x, y = random.normal(size=(3, *geometry.image)), random.normal(size=(3, *geometry.output))
    one, two = np.sum(y * geometry.convolve(x, kernel)), np.sum(geometry.back(y, kernel) * x)
    assert one == pytest.approx(two, abs=1e-9)


def segment(received: np.ndarray) -> Segment:
    return Segment(1, np.zeros((len(received), 1)), received, "answer")


def simple(features: int, deviations: np.ndarray) -> ProjectionCheck:
    """Of a segment whose honest values are zeros."""
    rows = projected._normal(projected.COMBINATIONS, features) / deviations.max(axis=0)
    zero = Projection(rows, (np.zeros((len(rows), 1)),), np.zeros(len(rows)))
    return ProjectionCheck([Projected(zero, Tolerance(deviations, np.ones(1), None))])


def test_misses_are_as_rare_as_said(monkeypatch):
    """(0.8 / c)^K at c times what is allowed, by the normal distribution's own density at zero."""
    monkeypatch.setattr(projected, "COMBINATIONS", 2)
    features, margin = 40, 4.0
    missed, runs = 0, 4000
    for _ in range(runs):
        change = np.zeros((1, features))
        change[0, 7] = margin * PROJECTED_SIGMAS * np.sqrt(features)
        missed += not simple(features, np.ones((1, features))).segment(segment(change)).alarms
    chance = np.sqrt(2 / np.pi) / margin
    assert 0.5 * chance**2 < missed / runs < 1.15 * chance**2
    assert pytest.approx(np.sqrt(2 / np.pi)) == SMALL


def test_two_changes_do_not_cancel():
    """Signs for r would miss them half of the time, at any size."""
    for _ in range(200):
        change = np.zeros((1, 10))
        change[0, :2] = 2000.0, -2000.0
        assert simple(10, np.ones((1, 10))).segment(segment(change)).alarms


def test_each_lane_has_its_own_tolerance():
    deviations = np.array([[1.0, 1.0], [10.0, 1.0]])
    errors = np.array([[0.0, 0.0], [60.0, 0.0]])
    for _ in range(50):
        assert not simple(2, deviations).segment(segment(errors)).alarms
    assert simple(2, deviations).segment(segment(np.full((2, 2), np.nan))).worst == np.inf


def test_combinations_are_drawn_afresh():
    torch.manual_seed(0)
    np.random.seed(0)
    one = projected._normal(4, 1000)
    torch.manual_seed(0)
    np.random.seed(0)
    two = projected._normal(4, 1000)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.1
    assert abs(one.mean()) < 0.1
    assert one.std() == pytest.approx(1, abs=0.1)
