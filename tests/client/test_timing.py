"""What a server sees of the time that a client takes does not depend on probes or verdicts."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import nn

import securedl
from securedl.client.batch import Batch
from securedl.client.probes import ProbeCheck
from securedl.he.record import pack, unpack
from securedl.he.vector import VectorEvaluator

pytestmark = pytest.mark.slow

X = np.random.default_rng(0).normal(size=(200, 6))
#: Of each kind. The area under the curve has a standard deviation of 0.0105 then.
CALLS = 1500


def area(one: list[float], two: list[float]) -> float:
    """Under the curve of the best threshold between two kinds of times: 0.5 where they are alike."""
    ranks = rankdata([*one, *two])[: len(one)]
    return float((ranks.sum() - len(one) * (len(one) + 1) / 2) / (len(one) * len(two)))


@pytest.fixture(scope="module")
def owner():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    owner = securedl.Owner(securedl.compile(model, X, batch=1, activations="client"), ahead=0)
    owner.verification.prepare()
    return owner


def responses(owner: securedl.Owner, kinds: dict[str, bool]) -> dict[str, list[float]]:
    """Seconds of the response at the second refresh, after an honest or a wild first answer, by whose sample
    it is.
    """
    params, program = owner.program.params, owner.program
    evaluator = VectorEvaluator(params)
    ports = [down for down, _ in program.refreshes]
    found = {f"{kind}, {whose}": list[float]() for kind in kinds for whose in ("data", "probe")}
    while any(len(times) < CALLS for times in found.values()):
        for kind, honest in kinds.items():
            inference = owner.ask(X[:1], probes=1, after_alarm="continue")
            for batch in inference.batches:
                (probed,) = [check for check in batch.checks if isinstance(check, ProbeCheck)]
                whose = "data" if probed.lanes[0] < 0 else "probe"
                batch.query()
                for point, port in enumerate(ports):
                    sent = batch._sent
                    assert sent is not None
                    *_, exact = owner.plan.network.inside(point + 1, sent, owner.plan.signature.checkpoints)
                    values = exact.values + (0.0 if honest else 10.0)
                    began = _response(owner, batch, evaluator, port, point, values)
                found[f"{kind}, {whose}"].append(began)
    return found


def _response(owner, batch: Batch, evaluator, port, point: int, values: np.ndarray) -> float:
    layout = owner.plan.signature.checkpoints[point + 1].sent
    rows = np.zeros((port.tiles, owner.program.params.ring))
    rows.reshape(-1)[layout.at.reshape(-1)] = values.reshape(-1)
    params, shape = owner.program.params, replace(port.fresh, level=0, seeded=True)
    tiles = [evaluator.load(unpack(params, owner.keys.encrypt(row, shape), shape)) for row in rows]
    packed = [pack(params, evaluator.sent(tile, port.sent)) for tile in tiles]
    began = time.perf_counter()
    batch.refresh(point, packed)
    return time.perf_counter() - began


def test_honest_and_cheated_sessions_take_the_same_time(owner):
    times = responses(owner, {"honest": True, "cheated": False})
    names = sorted(times)
    for one in names:
        for two in names[names.index(one) + 1 :]:
            assert 0.45 <= area(times[one], times[two]) <= 0.55, (one, two)
