"""One recorded request, both evaluators: every byte that goes back is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.he.record import pack, unpack, unpack_key
from securedl.he.seal import SealEvaluator
from securedl.he.vector import VectorEvaluator
from securedl.program.drive import drive
from securedl.program.execute import Shown, execute

pytestmark = pytest.mark.he


class Recording:
    """Keys, weights and query of one request as bytes, and the fresh tiles of each refresh."""

    def __init__(self, owner: Any, x: Any, probes: int = 4) -> None:
        self.owner, self.program = owner, owner.program
        self.keys = {step: owner.key(step) for step in self.program.rotations}
        self.relinearisation = owner.key(None) if self.program.relinearises else None
        self.weights = list(owner.weights())
        (self.batch,) = owner.ask(x, probes).batches
        self.query = self.batch.query()
        self.fresh: list[list[bytes]] = []

    def run(self, evaluator: Any) -> list[list[bytes]]:
        """What the server sends at each refresh, then its answer. The first run records the refreshes."""
        program, params = self.program, self.program.params

        def load(data: list[bytes], port: Any) -> list[Any]:
            return [evaluator.load(unpack(params, tile, port.fresh)) for tile in data]

        def dump(tiles: list[Any], port: Any) -> list[bytes]:
            return [pack(params, evaluator.sent(tile, port.sent)) for tile in tiles]

        relinearisation = unpack_key(params, self.relinearisation) if self.relinearisation else []
        rotations = {step: unpack_key(params, key) for step, key in self.keys.items()}
        evaluator.set_keys(relinearisation, rotations)
        pairs = zip(self.weights, program.weight_shapes, strict=True)
        weights = [evaluator.load(unpack(params, data, shape)) for data, shape in pairs]
        sent: list[list[bytes]] = []

        def refresh(request: Shown) -> list[Any]:
            sent.append(dump(request.tiles, program.shown[request.index][0]))
            if len(self.fresh) == request.index:
                self.fresh.append(self.batch.refresh(request.index, sent[-1]))
            return load(self.fresh[request.index], program.refreshes[request.index][1])

        answer = drive(execute(program, evaluator, weights, load(self.query, program.query)), refresh)
        return [*sent, dump(answer, program.answer)]


@pytest.mark.parametrize(
    ("activation", "degree", "options"),
    [
        ("relu", 2, {"ring": 8192, "refreshes": 1}),
        ("relu", 2, {"ring": 16384, "refreshes": 0}),
        ("tanh", 3, {"ring": 8192, "refreshes": 1}),
        ("relu", 2, {"ring": 8192, "weights": "plain"}),
        ("relu", 2, {"scheme": "bgv"}),
        ("tanh", 3, {"scheme": "bgv", "bits": (6, 6, 7)}),
        ("tanh", 3, {"scheme": "bgv", "bits": (6, 6, 7), "weights": "plain"}),
        ("relu", 4, {"scheme": "bgv", "bits": (5, 5, 5), "weights": "plain"}),
    ],
)
def test_equal_bytes(network, activation: str, degree: int, options: dict[str, Any]) -> None:
    net = network((6, 8, 3) if degree > 2 else (6, 8, 8, 3), activation, degree)
    recording = Recording(net.owner(**options), net.x[:20])
    params = recording.program.params
    seal = recording.run(SealEvaluator(params))
    vector = recording.run(VectorEvaluator(params, exact=True))
    assert len(seal) == len(recording.program.refreshes) + 1
    assert vector == seal
    recording.batch.finish(vector[-1])
    assert not recording.batch.alarms


@pytest.mark.parametrize("scheme", ["ckks", "bgv"])
def test_equal_bytes_of_coefficients(scheme: str) -> None:
    """Convolutions, merged."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 5)).eval()
    x = np.random.default_rng(0).normal(size=(40, 4, 16, 16))
    plan = securedl.compile(model, x, scheme=scheme, activations="client")
    assert plan.program.rotations
    recording = Recording(securedl.Owner(plan, ahead=0), x[:1], probes=0)
    params = recording.program.params
    seal = recording.run(SealEvaluator(params))
    assert recording.run(VectorEvaluator(params, exact=True)) == seal
    assert len(seal) == 2
