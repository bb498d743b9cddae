"""Slots and diagonals: a product of diagonals on slot vectors is the product of the sparse matrix."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from securedl.compiler.compile import compile_graph
from securedl.compiler.layout import lay_out
from securedl.errors import InputError
from securedl.he.ckks import ckks_parameters
from securedl.he.clear import ClearEvaluator
from securedl.he.record import Shape
from securedl.network.graph import Affine, Graph, Node, Polynomial
from securedl.plan.diagonals import LayerValues, block_diagonals, diagonals
from securedl.plan.forms import Straight
from securedl.plan.layouts import (
    NOTHING,
    Interleaved,
    SlotLayout,
    Sums,
    described,
    descriptor,
    diagonal_count,
    folds,
    longer,
)
from securedl.plan.normalised import Layer, Normalised
from securedl.plan.signature import Link
from securedl.program.program import Program
from securedl.program.steps import Block, Matvec, Port

PARAMS = ckks_parameters(4096, 1)
SLOTS = PARAMS.slots
SCALE = 2.0**30
EVALUATOR = ClearEvaluator(PARAMS)

seeds = st.integers(0, 100_000)
#: Exponents of the width: 1 feature a ciphertext up to all slots for one sample.
widths = st.sampled_from([0, 1, 2, 3, 4, 6, 11])


def random_matrix(random, outputs: int, inputs: int, density: float) -> sparse.csr_matrix:
    """A pattern with some stored zeros; rows and whole blocks may be empty."""
    stored = random.random((outputs, inputs)) < density
    matrix = sparse.csr_matrix(stored.astype(float))
    matrix.data = random.normal(size=matrix.nnz)
    matrix.data[: matrix.nnz // 4] = 0.0
    return matrix


@given(st.integers(1, 70), widths, seeds)
def test_what_is_read_of_copies(features, exponent, seed):
    """Slot by slot: where `unpack` reads the value that stands there."""
    width = 1 << exponent
    layout = Interleaved(features, width, SLOTS // width)
    numbers = np.arange(layout.tiles * SLOTS, dtype=float).reshape(layout.tiles, SLOTS)
    values = layout.pack(layout.unpack(numbers))  # of each slot, the number of the slot that is read
    stands = layout.pack(np.ones(layout.shape)) > 0
    own = np.tile(np.arange(SLOTS), (layout.tiles, 1))
    np.testing.assert_array_equal(layout.read, np.where(stands, values % SLOTS, own))


@given(st.integers(1, 70), widths, seeds)
def test_packing_round_trip(features, exponent, seed):
    width = 1 << exponent
    packing = Interleaved(features, width, SLOTS // width)
    values = np.random.default_rng(seed).normal(size=(packing.batch, features))
    slots = packing.pack(values)
    assert slots.shape == (packing.tiles, SLOTS)
    np.testing.assert_array_equal(packing.unpack(slots), values)
    # slot f · batch + s of tile t holds feature (t · width + f mod period) of sample s.
    tile, f, s = packing.tiles - 1, width - 1, packing.batch - 1
    feature = tile * width + f % packing.period
    want = values[s, feature] if feature < features else 0.0
    assert slots[tile, f * packing.batch + s] == want


@pytest.mark.parametrize(
    ("features", "width", "tiles", "period"),
    [(1, 8, 1, 1), (3, 8, 1, 4), (8, 8, 1, 8), (9, 8, 2, 8), (5, 1, 5, 1), (1, 1, 1, 1), (17, 16, 2, 16)],
)
def test_tiles_and_periods_by_hand(features, width, tiles, period):
    packing = Interleaved(features, width, 4)
    assert (packing.tiles, packing.period) == (tiles, period)


def test_a_short_value_repeats():
    slots = Interleaved(3, 8, 2).pack(np.array([[1.0, 2, 3], [4, 5, 6]]))
    np.testing.assert_array_equal(slots, [[1, 4, 2, 5, 3, 6, 0, 0] * 2])


@pytest.mark.parametrize(
    ("inputs", "outputs", "count", "steps"),
    [(16, 16, 16, ()), (16, 3, 4, (4, 8)), (3, 16, 4, ()), (16, 1, 1, (1, 2, 4, 8)), (40, 3, 4, (4, 8))],
)
def test_short_sides_by_hand(inputs, outputs, count, steps):
    source, target = Interleaved(inputs, 16, 2), Interleaved(outputs, 16, 2)
    assert diagonal_count(source, target) == count
    assert folds(source, target) == steps


def product(
    matrices, bias, xs, width: int, encrypted: bool, giant: int | None = None, ends=(False, False)
):  # fmt: skip
    """Σ matrix · x + bias, as the server computes it. xs: for each matrix [batch, inputs]. ends: whether the
    client lays x, and whether it sums what it gets.
    """
    batch = SLOTS // width
    layer = Layer("", tuple(matrices), bias, Straight(1))
    inputs = matrices[0].shape[1]
    network = Normalised(np.ones(inputs), np.zeros(inputs), (layer,), *np.ones((2, len(bias))))
    layout = lay_out(network, width, batch, encrypted)[0].at(*ends)
    count = len(matrices)
    weight_scale = float(PARAMS.primes[1])
    step = Matvec(
        1, (0,) * count, layout.blocks, layout.target.tiles, giant or layout.giant, layout.folds,
        1, SCALE, (weight_scale,) * count, 0,
    )  # fmt: skip
    program = Program(PARAMS, batch, width, encrypted, Port(layout.source.tiles, 1, SCALE), (step,), 1)
    size = 2 if encrypted else 1
    weights = [
        EVALUATOR.fresh(slots, Shape(1, size, weight_scale))
        for slots in diagonals(step, matrices, layout.source, layout.target)
    ]
    assert len(weights) == step.diagonals
    tiles = layout.target.pack(np.broadcast_to(bias, (batch, len(bias))))
    weights += [EVALUATOR.fresh(slots, Shape(0, size, SCALE)) for slots in tiles]
    sources = [[EVALUATOR.fresh(slots, Shape(1, 2, SCALE)) for slots in layout.source.pack(x)] for x in xs]
    out = step.run(EVALUATOR, program.batch, sources, weights)
    assert {(h.level, h.size) for h in out} == {(0, 2)}
    slots = np.array([h.slots for h in out])
    return layout.target, slots


def check_product(
    random, matrices, width: int, encrypted: bool = True, giant: int | None = None, ends=(False, False)
) -> None:
    outputs, inputs = matrices[0].shape
    bias = random.normal(size=outputs)
    xs = [random.normal(size=(SLOTS // width, inputs)) for _ in matrices]
    target, slots = product(matrices, bias, xs, width, encrypted, giant, ends)
    want = sum((m @ x.T).T for m, x in zip(matrices, xs, strict=True)) + bias
    np.testing.assert_allclose(target.unpack(slots), want, atol=1e-9)
    if ends[1]:
        return
    # The whole tile is as a packed value is: the next layer relies on the repetition.
    np.testing.assert_allclose(slots, target.pack(want), atol=1e-9)


@settings(max_examples=400)
@given(
    st.integers(1, 40), st.integers(1, 40), widths, st.integers(1, 2),
    st.sampled_from([0.0, 0.05, 0.3, 1.0]), st.booleans(), st.tuples(st.booleans(), st.booleans()), seeds,
)  # fmt: skip
def test_products(inputs, outputs, exponent, sources, density, encrypted, ends, seed):
    random = np.random.default_rng(seed)
    matrices = [random_matrix(random, outputs, inputs, density) for _ in range(sources)]
    check_product(random, matrices, 1 << exponent, encrypted, ends=ends)


@settings(max_examples=200)
@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 6, 8]), st.integers(0, 5), st.booleans(),
    st.booleans(), seeds,
)  # fmt: skip
def test_any_number_of_copies_is_right(inputs, outputs, exponent, copies, laid, summed, seed):
    """Not only those that cost least: on diagonals themselves."""
    random = np.random.default_rng(seed)
    width = 1 << exponent
    source, target = (Interleaved(n, width, 2) for n in (inputs, outputs))
    diagonals, long = diagonal_count(source, target), longer(source, target)
    alone = source.tiles == target.tiles == 1
    count = min(1 << copies, diagonals, width // long) if alone and (laid or summed) else 1
    shift = diagonals // count if count > 1 else 0
    if laid:
        source = dataclasses.replace(source, copy=long, count=count, shift=shift)
    if summed:
        target = Sums(outputs, width, 2, long, count, 0 if laid else shift)
    matrix = random_matrix(random, outputs, inputs, 0.6)
    x = random.normal(size=(2, inputs))
    tiles = source.pack(x).reshape(source.tiles, width, 2)
    found = np.zeros((target.tiles, width, 2))
    for (output, tile), ks in block_diagonals(matrix, source, target).items():
        assert len(ks) <= diagonals // count
        block = Block(output, 0, tile, tuple(map(int, ks)))
        step = Matvec(1, (0,), (block,), target.tiles, width, (), 1, 1.0, (1.0,), 0)
        slots = LayerValues([matrix], np.zeros(outputs), source, target).diagonals(step)
        for k, diagonal in zip(ks, slots, strict=True):
            found[output] += diagonal.reshape(width, 2) * np.roll(tiles[tile], -k, axis=0)
    for step in folds(source, target):
        found += np.roll(found, -step, axis=1)
    np.testing.assert_allclose(target.unpack(found.reshape(target.tiles, -1)), (matrix @ x.T).T, atol=1e-9)


def test_spare_places_carry_diagonals():
    """13 features to 64 take two weights where the client lays them, and 64 to 3 one where it sums."""
    random = np.random.default_rng(0)
    for inputs, outputs, ends, taken in [(13, 64, (True, False), (2, 3)), (64, 3, (False, True), (1, 0))]:
        layer = Layer("", (random_matrix(random, outputs, inputs, 1.0),), np.zeros(outputs), Straight(1))
        network = Normalised(np.ones(inputs), np.zeros(inputs), (layer,), *np.ones((2, outputs)))
        layout = lay_out(network, SLOTS, 1, True)[0].at(*ends)
        assert (layout.counts.terms, len(layout.folds)) == taken


def test_parts_by_hand():
    """Two copies, the second one place lower; what they hold of a feature is added up."""
    sums = Sums(3, 16, 1, 4, 2, 1)
    np.testing.assert_array_equal(sums.content, [[0, 1, 2, -1, -1, 0, 1, 2, *[-1] * 8]])
    np.testing.assert_array_equal(sums.unpack(np.arange(16.0)[None]), [[5.0, 7.0, 9.0]])
    np.testing.assert_array_equal(sums.pack(np.array([[1.0, 2, 3]])), [[1, 2, 3, *[0] * 13]])
    laid = Interleaved(3, 16, 1, 8, 2, 1)
    np.testing.assert_array_equal(laid.content, [[0, 1, 2, -1, 0, 1, 2, -1, 1, 2, -1, 0, 1, 2, -1, 0]])


@pytest.mark.parametrize(
    "parts",
    [
        (False, 0, 0, 1, 0), (False, 5, 12, 1, 0), (False, 5, 16, 2, 1), (True, 5, 8, 2, 8), (1, 5, 8, 1, 0),
        (False, 5, 8, 1, -1), (False, 5, 8.0, 1, 0), (False, 1 << 40, 0, 1, 0), (False, 5, 8, 0, 0),
    ],
)  # fmt: skip
def test_what_is_no_layout(parts):
    program = Program(PARAMS, SLOTS // 16, 16, True, Port(1, 1, SCALE), (), 0)
    good = Interleaved(5, 16, SLOTS // 16, 8, 2, 3)
    assert described(descriptor(good), program) == good
    with pytest.raises(InputError, match="no layout of 16 places"):
        described(parts, program)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([2, 3, 4]), st.data(), seeds)
def test_any_giant_step_is_right(inputs, outputs, exponent, data, seed):
    random = np.random.default_rng(seed)
    giant = data.draw(st.integers(1, 1 << exponent))
    check_product(random, [random_matrix(random, outputs, inputs, 0.5)], 1 << exponent, giant=giant)


@pytest.mark.parametrize(
    ("inputs", "outputs", "exponent"),
    [(64, 10, 11), (10, 64, 11), (100, 1, 11), (1, 100, 6), (70, 70, 5), (33, 3, 5), (3, 33, 5), (7, 9, 0)],
)
def test_corners(inputs, outputs, exponent):
    random = np.random.default_rng(inputs * outputs)
    check_product(random, [random_matrix(random, outputs, inputs, 1.0)], 1 << exponent)


def test_samples_do_not_mix():
    random = np.random.default_rng(3)
    matrix = random_matrix(random, 5, 6, 1.0)
    x = np.zeros((SLOTS // 8, 6))
    x[17] = random.normal(size=6)
    target, slots = product([matrix], np.zeros(5), [x], 8, True)
    found = target.unpack(slots)
    assert np.abs(found[17]).max() > 0.1
    np.testing.assert_array_equal(np.delete(found, 17, axis=0), 0.0)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), widths, seeds)
def test_diagonals_by_definition(inputs, outputs, exponent, seed):
    """Entry (r, c) needs diagonal (c - r) mod the shorter period, of its block; stored zeros count."""
    random = np.random.default_rng(seed)
    matrix = random_matrix(random, outputs, inputs, 0.2)
    source, target = (Interleaved(n, 1 << exponent, SLOTS >> exponent) for n in (inputs, outputs))
    want: dict[tuple[int, int], set[int]] = {}
    for r in range(outputs):
        for c in matrix.indices[matrix.indptr[r] : matrix.indptr[r + 1]]:
            block = (r // target.width, int(c) // source.width)
            k = (int(c) % source.width - r % target.width) % min(source.period, target.period)
            want.setdefault(block, set()).add(k)
    found = block_diagonals(matrix, source, target)
    assert {block: list(ks) for block, ks in found.items()} == {b: sorted(ks) for b, ks in want.items()}


@pytest.mark.parametrize("batch", [1, 64, "throughput"])
def test_a_pruned_network_gives_the_same_program(batch):
    """Nine weights in ten become explicit zeros; the server sees nothing of it."""
    random = np.random.default_rng(5)
    shapes = [(16, 16), (16, 16), (3, 16)]
    patterns = [random.random(shape) < 0.6 for shape in shapes]

    def network(kept: float) -> Graph:
        nodes: list[Node] = []
        for pattern in patterns:
            if nodes:
                nodes.append(Polynomial(np.tile([[0.1], [0.0], [0.2]], 16)))
            matrix = sparse.csr_matrix(pattern.astype(float))
            matrix.data = random.normal(size=matrix.nnz) * (random.random(matrix.nnz) < kept)
            nodes.append(Affine(matrix, random.normal(size=matrix.shape[0])))
        return Graph((16,), tuple(nodes))

    x = random.uniform(-1, 1, (200, 16))
    plans = [compile_graph(network(kept), x, batch, True, Link(), 16384, None) for kept in (1.0, 0.1)]
    assert plans[0].program.id == plans[1].program.id
    assert plans[0].program.to_json() == plans[1].program.to_json()
    other = dataclasses.replace(plans[0].program, encrypted=False)
    assert other.id != plans[0].program.id


@dataclasses.dataclass(frozen=True)
class Scattered(SlotLayout):
    """Features at random places of several tiles, some of them twice, the rest empty."""

    features: int
    width: int
    batch: int
    seed: int

    @cached_property
    def content(self):
        random = np.random.default_rng(self.seed)
        tiles = -(-2 * self.features // self.width)
        content = np.full(tiles * self.width, NOTHING)
        spots = random.permutation(tiles * self.width)
        content[spots[: self.features]] = random.permutation(self.features)
        content[spots[self.features : 2 * self.features : 3]] = 0
        return content.reshape(tiles, self.width)


@given(st.integers(1, 40), st.integers(0, 6), seeds)
def test_any_array_is_a_layout(features, exponent, seed):
    layout = Scattered(features, 1 << exponent, 8, seed)
    values = np.random.default_rng(seed).normal(size=(8, features))
    slots = layout.pack(values)
    assert slots.shape == (layout.tiles, layout.width * 8)
    np.testing.assert_array_equal(layout.unpack(slots), values)
    for feature, (tile, place) in enumerate(layout.place):
        assert layout.content[tile, place] == feature
        np.testing.assert_array_equal(slots[tile, place * 8 : place * 8 + 8], values[:, feature])
    assert (slots.reshape(-1, 8)[layout.content.ravel() == NOTHING] == 0).all()
