"""bench.links: its tables name the plan that compile takes, and a server far away is reached."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bench.links import Row, candidates, latency_ms, line, rows, verdict
from securedl.compiler.candidate import Candidate
from securedl.errors import CompileError
from securedl.network.polynomial import PolynomialActivation
from securedl.plan.plan import Plan
from securedl.plan.signature import Cost, Link


def small() -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(0)
    x = np.random.default_rng(0).uniform(-1, 1, (64, 4))
    square = PolynomialActivation(np.array([0.5, 0.0, 0.5]), (-1.0, 1.0))
    return nn.Sequential(nn.Linear(4, 4), square, nn.Linear(4, 2)).double(), x


def test_every_plan_is_asked_through_the_link_it_is_for() -> None:
    link, (model, x) = Link(150, 1000), small()
    made = [one for one in candidates(model, x, link) if one.make]
    found = list(rows(made[:1], x, link, queries=1, upload_gb=1))
    assert len(found) == 1
    assert found[0].chosen
    assert found[0].trips
    assert found[0].measured_ms
    assert found[0].measured_ms > 150 * found[0].trips


def test_plans_that_cannot_be_asked_are_rows_all_the_same() -> None:
    def refused() -> Plan:
        raise CompileError("not precise enough")

    link, (model, x) = Link(1, 1000), small()
    real = next(one for one in candidates(model, x, link) if one.make)
    told = Candidate("told", 1, Cost(1.0), 0.0)
    few = [told, replace(told, name="refused", make=refused), replace(real, name="large")]
    refusal, large = rows(few, x, link, queries=1, upload_gb=1e-6)
    assert (refusal.chosen, refusal.note) == (False, "cannot be made: not precise enough")
    assert (large.chosen, large.measured_ms) == (True, None)
    assert "not asked: an upload of" in line(large)
    assert verdict([refusal, large]) == "the chosen plan was not asked"


def test_the_verdict_names_what_was_faster() -> None:
    chosen = Row("a", 10.0, 5.0, True, 12.0, 2, 1000, 2000)
    other = Row("b", 11.0, 5.0, False, 20.0, 3, 1000, 2000)
    assert "a *" in line(chosen)
    assert verdict([chosen, other]) == "chosen is the fastest of 2 asked"
    assert verdict([chosen, replace(other, measured_ms=9.0)]) == ("b is faster than what was chosen, by 3 ms")


def test_a_far_server_is_reached_at_the_first_attempt() -> None:
    model, x = small()
    plan = next(one.make() for one in candidates(model, x, Link()) if one.make)
    assert latency_ms(plan, x, Link(400, 100), queries=1) > 400
