"""Plans with layers in coefficients and chains in slots: where trips are dear, and answers as stated."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.compiler.fuse import fuse
from securedl.compiler.fused import Fused
from securedl.compiler.layered import Apart
from securedl.compiler.mixed import Mixed, Stretch
from securedl.compiler.rounds import Wanted, compile_rounds
from securedl.network.from_torch import import_torch
from securedl.network.outputs import Output, task_of
from securedl.network.script import ChainLayer, LinearLayer
from securedl.plan.plan import Plan, plan_from_bytes

sys.path.insert(0, str(Path(__file__).parent))
from test_layered import cube, square  # found by path, not by package
from test_layerwise import Server, original

pytestmark = pytest.mark.he

NEAR = securedl.Link(0.01, 10000)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2), square(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 9), cube(),
        nn.Linear(9, 4),
    )  # fmt: skip


def built() -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(5)
    return network().double().eval(), np.random.default_rng(5).uniform(-1, 1, (64, 1, 10, 10))


class Begun(Mixed):
    """Plans whose first layer is in coefficients: with plain weights, all of it in slots is cheaper."""

    def _in_slots(self, start: int, *rest: Any) -> Stretch | None:
        return super()._in_slots(start, *rest) if start else None


class Whole(Begun):
    """Plans whose first layer is in coefficients, and all the rest one chain."""

    def _in_slots(self, start: int, end: int, *rest: Any) -> Stretch | None:
        return super()._in_slots(start, end, *rest) if end == len(self.operations) else None

    def _in_coefficients(self, start: int, *rest: Any) -> Stretch | None:
        return None if start else super()._in_coefficients(start, *rest)


def mixed(
    link: securedl.Link, encrypted: bool = True, search: type[Mixed] = Mixed, taps: bool = False
) -> Plan | None:
    """The cheapest plan with both forms on a link, if the cheapest has both."""
    model, x = built()
    apart, flat = Apart.of(model, x), x.reshape(64, -1)
    shape, head = apart.found.output_shape, apart.found.head
    output = Output(shape, task_of(shape, head), head)
    wanted = Wanted(1, encrypted, link, None, (), output, 8.0, taps=taps)
    fused = Fused(fuse(import_torch(model, x.shape[1:]).graph, flat), flat)
    looking = search(apart.found, fused, x, wanted, np.inf)
    if (best := looking.best()) is None:
        return None
    found, where = looking.arranged(*best)
    assert "activation 1 to affine " in looking.name(best[2])
    return compile_rounds(found.script, found.kernels, x, wanted, where)


def near(encrypted: bool = True) -> Plan:
    plan = mixed(NEAR, encrypted, Mixed if encrypted else Begun)
    assert plan is not None
    assert plan.signature.rounds is not None
    kinds = [type(layer) for layer in plan.signature.rounds.script.layers]
    assert kinds == [LinearLayer, ChainLayer, ChainLayer]
    return plan


def tapped() -> Plan:
    """A chain of three matrices, shown on the way."""
    plan = mixed(NEAR, search=Whole, taps=True)
    assert plan is not None
    assert plan.signature.rounds is not None
    (_, chain) = plan.signature.rounds.served
    assert (chain.affine, len(chain.tapped)) == (2, 1)
    return plan


def test_dear_trips_are_fewer() -> None:
    far = securedl.Link(200, 10)
    assert mixed(far) is None  # the cheapest is all in slots
    plan = securedl.compile(*built(), batch=1, link=far)
    assert len(plan.signature.checkpoints) < len(near().signature.checkpoints)


@pytest.mark.parametrize("encrypted", [True, False])
def test_answers_are_as_stated_and_verified(encrypted: bool) -> None:
    plan = near(encrypted)
    asked = np.random.default_rng(6).uniform(-1, 1, (6, 1, 10, 10))
    wanted = original(built()[0], asked)
    allowed = plan.signature.error * np.maximum(np.ptp(wanted, axis=0), plan.signature.output_scale)
    assert (np.abs(plan.simulate(asked) - wanted) <= allowed).all()
    again = plan_from_bytes(plan.to_bytes())
    assert np.array_equal(again.simulate(asked), plan.simulate(asked))
    found = Server(plan).ask(asked, probes=16)
    assert (np.abs(found.logits - wanted) <= allowed).all()
    assert found.report.passed
    assert found.report.checkpoints > 0


def test_a_changed_weight_of_a_chain_is_noticed() -> None:
    server = Server(near())
    first, second = (step.first_weight for step in server.program.steps if step.diagonals)
    assert first is not None
    assert second is not None
    server.weights[first], server.weights[second] = server.weights[second], server.weights[first]
    asked = np.random.default_rng(6).uniform(-1, 1, (2, 1, 10, 10))
    assert not server.ask(asked, probes=4).report.passed
