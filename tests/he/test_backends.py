"""Back ends: found by name, and their weights are kept, made again or refused as they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from securedl.errors import FormatError, InputError
from securedl.he import backends
from securedl.he.ckks import ckks_parameters
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, chain, pack
from securedl.he.weights import HeldWeights, Records, handle_bytes

pytestmark = pytest.mark.he

CKKS = ckks_parameters(4096, 1)
BGV = Parameters("bgv", CKKS.ring, CKKS.primes, CKKS.special, 65537)


class Given(Records):
    """Random records; `read` notes which were asked for."""

    def __init__(self, params: Parameters, shapes: list[Shape]) -> None:
        self.model_id, self.params, self.shapes = bytes(16), params, shapes
        self.read: list[int] = []
        rng = np.random.default_rng(0)
        primes = np.array(params.primes, dtype=np.uint64)[None, :, None]
        size = (2, len(params.primes), params.ring)
        residues = [rng.integers(0, primes, size, dtype=np.uint64) for _ in shapes]
        self.records = [
            Record(shape, rows[:, : shape.level + 1]) for shape, rows in zip(shapes, residues, strict=True)
        ]

    def packed(self, index: int) -> bytes:
        self.read.append(index)
        return pack(self.params, self.records[index])


@pytest.mark.parametrize("name", ["seal", "vector"])
def test_a_back_end_by_its_name(name: str, tmp_path) -> None:
    """Every residue of every weight arrives, whatever the level."""
    backend = backends.backend(name)
    assert backend.name == name
    backend.prepare()
    evaluator = backend.open(CKKS, 1)
    given = Given(CKKS, [Shape(level, 2, 2.0**30) for level in (1, 0, 1)])
    weights = backend.weights(evaluator, given, tmp_path, 1 << 30)
    for index, record in enumerate(given.records):
        found = evaluator.dump(weights[index])
        assert found.shape == record.shape
        np.testing.assert_array_equal(found.residues, record.residues)
    assert evaluator.level(weights[1]) == 0
    weights.warm(lambda: True)
    assert given.read == [0, 1, 2]


@pytest.mark.parametrize("name", ["seal", "vector"])
@pytest.mark.parametrize("factor", [0, 2, 65537, 65540, 2**64 - 1])
def test_a_bgv_weight_of_another_correction_factor_is_refused(name: str, factor: int, tmp_path) -> None:
    backend = backends.backend(name)
    evaluator = backend.open(BGV, 1)
    given = Given(BGV, [Shape(1, 2, 1.0, correction=3)] * 2)
    record = given.records[1]
    given.records[1] = replace(record, shape=replace(record.shape, correction=factor))
    weights = backend.weights(evaluator, given, tmp_path, 1 << 30)
    found = evaluator.dump(weights[0])
    assert found.shape.correction == 3
    np.testing.assert_array_equal(found.residues, given.records[0].residues)
    with pytest.raises(FormatError, match=f"BGV record has correction factor 3, got {factor}"):
        weights[1]


def test_an_unknown_back_end() -> None:
    with pytest.raises(InputError, match=r"evaluator 'abacus' is unknown: use one of \['seal', 'vector'\]"):
        backends.backend("abacus")


def test_a_back_end_without_its_library(monkeypatch) -> None:
    monkeypatch.setitem(backends._HOMES, "gpu", ("securedl.he.no_such_module", "Backend"))
    with pytest.raises(InputError, match="evaluator 'gpu' cannot be loaded: No module named"):
        backends.backend("gpu")


def noting(made: list[int]) -> Callable[[int], int]:
    """Makes of each index itself, and notes it in `made`."""

    def make(index: int) -> int:
        made.append(index)
        return index

    return make


def test_weights_are_held_as_far_as_there_is_room() -> None:
    """The first that fit stay; what does not fit is made again, and does not push them out."""
    made: list[int] = []
    weights = HeldWeights(noting(made), [4, 4, 4, 1], 9)
    for _ in range(2):
        assert [weights[k] for k in range(4)] == [0, 1, 2, 3]
    assert made == [0, 1, 2, 3, 2]
    assert weights.room == 9


def test_warming_stops_when_the_server_does_and_leaves_what_others_load() -> None:
    made: list[int] = []
    weights = HeldWeights(noting(made), [1] * 9, 9, lambda index: index == 1)
    weights.warm(lambda: len(made) < 3)
    assert made == [0, 2, 3]


def test_the_memory_of_handles() -> None:
    shapes = [Shape(1, 2, 1.0, True), Shape(0, 1, 1.0)]
    assert len(chain(CKKS, 1)) == 2
    assert handle_bytes(CKKS, shapes) == [2 * 2 * 8 * 4096, 8 * 4096]
