"""An encrypted 64x64 layer with squaring, 64 samples at once, on both evaluators."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from securedl.client.owner import Owner
from securedl.compiler.compile import compile_graph
from securedl.he.record import Shape, unpack, unpack_key
from securedl.he.seal import SealEvaluator
from securedl.he.vector import VectorEvaluator
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.plan.signature import Link
from securedl.program.drive import drive
from securedl.program.execute import execute


@pytest.fixture(scope="module")
def uploaded():
    """A plan of one layer, its keys, weights and a query as records."""
    random = np.random.default_rng(0)
    layers = [Affine(sparse.csr_matrix(random.normal(0, 0.1, (64, 64))), np.zeros(64), "layer")]
    layers += [Polynomial(np.tile([[0.0], [0.5], [0.25]], 64), "square")]
    x = random.uniform(-1, 1, (64, 64))
    plan = compile_graph(Graph((64,), tuple(layers)), x, 64, True, Link(), 8192, 0)
    owner, params = Owner(plan), plan.program.params
    keys = {step: unpack_key(params, owner.key(step)) for step in plan.program.rotations}
    weights = [
        unpack(params, data, shape)
        for data, shape in zip(owner.weights(), plan.program.weight_shapes, strict=True)
    ]
    port = plan.program.query
    slots = plan.signature.checkpoints[0].back.pack(plan.signature.query(x))
    shape = Shape(port.level, 2, port.scale, seeded=True)
    query = [unpack(params, owner.keys.encrypt(row, shape), shape) for row in slots]
    return plan.program, unpack_key(params, owner.key(None)), keys, weights, query


@pytest.mark.parametrize("name", ["seal", "vector"])
def test_layer(benchmark, uploaded, name):
    program, relin, keys, weights, query = uploaded
    evaluator = SealEvaluator(program.params) if name == "seal" else VectorEvaluator(program.params)
    evaluator.set_keys(relin, keys)
    loaded = [evaluator.load(record) for record in weights]

    def run():
        drive(execute(program, evaluator, loaded, [evaluator.load(record) for record in query]), unasked)

    def unasked(request):
        raise AssertionError("this layer needs no refresh")

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
