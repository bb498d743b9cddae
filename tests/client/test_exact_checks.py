"""bench.exact_checks: what it counts, and that it would tell if something were missed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import exact_checks
from bench.exact_checks import NETWORKS, altered, compiled, counted, kinds, samples, shows
from securedl.client.modular import ModularCheck
from securedl.client.recompute import RecomputeCheck
from securedl.plan.quantised import Quantised
from securedl.verify.check import Finding, Segment

pytestmark = pytest.mark.he


@pytest.mark.parametrize("name", NETWORKS)
def test_all_changes_are_noticed_and_no_honest_answer_is_accused(name: str) -> None:
    found = counted(name, changes=2, honest=2000, keys=1)
    assert found.changed == dict.fromkeys(("slot", "weight", "bias"), 2) | (
        {} if name == "squares" else {"coefficient": 2}
    )
    assert (found.recomputed, found.projected) == (found.changed.total(),) * 2
    assert (found.missed, found.alarms) == (0, 0)
    assert 2000 <= found.honest < 3000
    assert "0 false alarms" in str(found)


@pytest.mark.parametrize("blind", [RecomputeCheck, ModularCheck])
def test_what_one_way_misses_is_counted(blind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blind, "segment", lambda check, segment: Finding(len(segment.sent)))
    found = counted("squares", changes=1, honest=1, keys=1)
    assert sorted((found.recomputed, found.projected)) == [0, 3]
    assert found.missed == 3


def test_false_alarms_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the command says so; its file has the counts."""

    def always(check: ModularCheck, segment: Segment) -> Finding:
        return Finding(len(segment.sent), np.inf, ("wrong",))

    monkeypatch.setattr(ModularCheck, "segment", always)
    assert counted("squares", changes=1, honest=1, keys=1).alarms >= 2
    monkeypatch.setattr(exact_checks, "counted", lambda name, *options: counted("squares", 1, 1, 1))
    monkeypatch.setattr("sys.argv", ["exact_checks", "--quick", "--json", str(tmp_path / "rows")])
    assert exact_checks.main() == 1
    row, *_ = json.loads((tmp_path / "rows").read_bytes())
    assert row["changed"] == {"slot": 1, "weight": 1, "bias": 1}
    assert row["alarms"] >= 2


@pytest.mark.parametrize("name", NETWORKS)
def test_a_change_in_the_network_is_one_unit_and_shows_where_it_is_said_to(name: str) -> None:
    plan, random = compiled(name), np.random.default_rng(0)
    network, points = plan.network, plan.signature.checkpoints
    assert isinstance(network, Quantised)
    for kind in kinds(network):
        wrong, point = altered(network, kind, random)
        units = list[float]()
        for one, two in zip(network.layers, wrong.layers, strict=True):
            units += [abs(a - b).sum() for a, b in zip(one.matrices, two.matrices, strict=True)]
            units += [abs(one.bias - two.bias).sum(), abs(one.form.constant - two.form.constant).sum()]
        assert sorted(units)[-2:] == [0, 1]
        flat = samples(plan, random)
        pairs = zip(*(some.exchanges(flat, points) for some in (network, wrong)), strict=True)
        differ = [number for number, (a, b) in enumerate(pairs, 1) if (a.received != b.received).any()]
        assert differ[0] == point == shows(plan, wrong, point, flat)
        assert shows(plan, network, point, flat) == 0
