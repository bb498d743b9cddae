"""A client that has keys and a signature, and neither weights nor graph, encrypts, refreshes and decrypts."""

from __future__ import annotations

import numpy as np
import pytest

import securedl
from securedl.client.batch import Batch
from securedl.client.keys import Keys
from securedl.compiler.compile import compile_graph
from securedl.errors import ProtocolError
from securedl.he.record import Shape, pack, unpack
from securedl.he.seal import SealEvaluator
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.plan.plan import Plan
from securedl.program.drive import drive
from securedl.program.execute import Shown, execute
from securedl.verify.check import Check, Finding, Segment

pytestmark = pytest.mark.he

X = np.random.default_rng(0).normal(size=(80, 5))


def plan() -> Plan:
    """5-4-3 with squarings: every level ends in a refresh at N = 4096."""
    random = np.random.default_rng(1)

    def layer(outputs: int, inputs: int) -> Affine:
        from scipy import sparse

        return Affine(sparse.csr_matrix(random.normal(size=(outputs, inputs))), random.normal(size=outputs))

    square = Polynomial(np.tile([[0.1], [0.3], [0.2]], 4))
    graph = Graph((5,), (layer(4, 5), square, layer(3, 4)))
    return compile_graph(graph, X, 16, True, securedl.Link(), 4096, None)


class Recorder(Check):
    """Keeps what it sees; asks for one more in the first lane."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[Segment] = []

    def segment(self, segment: Segment) -> Finding:
        self.seen.append(segment)
        return Finding(compared=len(segment.received))

    def refill(self, point: int, values: np.ndarray) -> None:
        values[0] = 0.25


def test_keys_and_signature_are_enough():
    made = plan()
    signature, program, params = made.signature, made.program, made.program.params
    owner = securedl.Owner(made)
    evaluator = SealEvaluator(params)
    from securedl.he.record import unpack_key

    evaluator.set_keys(
        unpack_key(params, owner.key(None)), {s: unpack_key(params, owner.key(s)) for s in program.rotations}
    )
    shapes = program.weight_shapes
    weights = [evaluator.load(unpack(params, w, s)) for w, s in zip(owner.weights(), shapes, strict=True)]
    keys, want, expected = owner.keys, made.graph(X[:16]), made.expected(X[:16])
    del made, owner
    check = Recorder()
    batch = Batch(keys, signature, X[:16], 0, (check,))

    def load(tiles: list[bytes], shape: Shape):
        return [evaluator.load(unpack(params, tile, shape)) for tile in tiles]

    def dump(tiles) -> list[bytes]:
        return [pack(params, evaluator.dump(tile)) for tile in tiles]

    shapes = [Shape(port.level, 2, port.scale, True) for port in signature.back]

    def refresh(request: Shown):
        return load(batch.refresh(request.index, dump(request.tiles)), shapes[request.index + 1])

    answer = drive(execute(program, evaluator, weights, load(batch.query(), shapes[0])), refresh)
    batch.finish(dump(answer))
    assert batch.answer is not None
    size = np.ptp(want)
    np.testing.assert_allclose(batch.answer[1:], want[1:], atol=2**-10 * size)
    assert np.abs(batch.answer[0] - want[0]).max() > 0.01 * size, "the check replaced the first lane"
    # A check sees every lane at both ends of every segment.
    assert [segment.point for segment in check.seen] == list(range(1, len(signature.checkpoints)))
    for segment in check.seen:
        np.testing.assert_allclose(segment.sent[1:], expected[segment.point - 1][1:], atol=1e-3)
        np.testing.assert_allclose(segment.received[1:], expected[segment.point][1:], atol=1e-3)
    assert batch.compared("recorder") == (16 * (len(check.seen) - 1), 16)
    with pytest.raises(ProtocolError, match="out of order"):
        batch.finish(dump(answer))


def test_keys_are_not_copied_or_shown():
    import copy
    import pickle

    keys = Keys(plan().program.params)
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="secret key"):
            attempt(keys)
    assert repr(keys) == f"Keys(parameters {keys.params.id.hex()})"
