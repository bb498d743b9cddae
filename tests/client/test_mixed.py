"""Plans with layers in coefficients and chains in slots: where trips are dear, and answers as stated."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.compiler.layered import Apart
from securedl.compiler.mixed import Mixed
from securedl.compiler.rounds import Wanted, compile_rounds
from securedl.network.from_torch import import_torch
from securedl.network.outputs import Output, task_of
from securedl.plan.plan import Plan, plan_from_bytes

sys.path.insert(0, str(Path(__file__).parent))
from test_layered import cube, square  # found by path, not by package
from test_layerwise import Server, original

from securedl.compiler.fuse import fuse

pytestmark = pytest.mark.he


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), square(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 9), cube(),
        nn.Linear(9, 4),
    )  # fmt: skip


def mixed(link: securedl.Link) -> tuple[nn.Module, Plan, str]:
    """The cheapest plan with both forms on a link."""
    torch.manual_seed(5)
    model = network().double().eval()
    x = np.random.default_rng(5).uniform(-1, 1, (64, 1, 10, 10))
    apart, flat = Apart.of(model, x), x.reshape(64, -1)
    shape, head = apart.found.output_shape, apart.found.head
    wanted = Wanted(1, True, link, None, (), Output(shape, task_of(shape, head), head), 8.0)
    search = Mixed(apart.found, fuse(import_torch(model, x.shape[1:]).graph, flat), x, wanted, np.inf)
    best = search.best()
    assert best is not None
    found, where = search.arranged(*best)
    return model, compile_rounds(found.script, found.kernels, x, wanted, where), search.name(best[2])


def test_dear_trips_are_fewer() -> None:
    _, near, _ = mixed(securedl.Link(0.01, 10000))
    _, far, name = mixed(securedl.Link(200, 10))
    assert len(far.signature.checkpoints) < len(near.signature.checkpoints)
    assert "in slots without a refresh" in name


def test_answers_are_as_stated() -> None:
    model, plan, _ = mixed(securedl.Link(20, 100))
    asked = np.random.default_rng(6).uniform(-1, 1, (6, 1, 10, 10))
    wanted = original(model, asked)
    allowed = plan.signature.error * np.maximum(np.ptp(wanted, axis=0), plan.signature.output_scale)
    assert (np.abs(plan.simulate(asked) - wanted) <= allowed).all()
    again = plan_from_bytes(plan.to_bytes())
    assert np.array_equal(again.simulate(asked), plan.simulate(asked))
    server = Server(plan)
    found = server.ask(asked).logits
    assert (np.abs(found - wanted) <= allowed).all()
