"""Affine maps, polynomials, and what counts as samples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from securedl.compiler.fuse import fuse
from securedl.errors import CompileError, InputError
from securedl.network.graph import NODES, Affine, ArrayDomain, Graph, Polynomial, Sum, samples_of


def affine(random, outputs: int, inputs: int, density: float = 0.5) -> Affine:
    """Small integers, so that products cancel often, with stored zeros."""
    stored = random.random((outputs, inputs)) < density
    matrix = sparse.csr_matrix(stored.astype(float))
    matrix.data = random.integers(-1, 2, matrix.nnz).astype(float)
    return Affine(matrix, random.normal(size=outputs), "layer")


def stored(matrix) -> np.ndarray:
    """The pattern, as a dense table of booleans."""
    found = np.zeros(matrix.shape, dtype=bool)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    found[rows, matrix.indices] = True
    return found


sizes = st.integers(1, 9)
seeds = st.integers(0, 10_000)


@given(sizes, sizes, sizes, seeds)
def test_after_is_composition_and_keeps_the_pattern(a, b, c, seed):
    random = np.random.default_rng(seed)
    first, second = affine(random, b, a), affine(random, c, b)
    both = second.after(first)
    x = random.normal(size=(5, a))
    np.testing.assert_allclose(both(x), second(first(x)), atol=1e-12)
    reachable = stored(second.matrix).astype(int) @ stored(first.matrix).astype(int) > 0
    np.testing.assert_array_equal(stored(both.matrix), reachable)
    assert both.name == "layer + layer"


def test_values_that_cancel_stay_stored():
    first = Affine(sparse.csr_matrix([[1.0], [1.0]]), np.zeros(2))
    second = Affine(sparse.csr_matrix([[1.0, -1.0]]), np.zeros(1))
    both = second.after(first)
    assert both.matrix.nnz == 1
    assert both.matrix.toarray() == [[0.0]]


@settings(max_examples=40)
@given(st.lists(sizes, min_size=2, max_size=5), seeds)
def test_fusing_a_row_of_affines_gives_one(widths, seed):
    random = np.random.default_rng(seed)
    layers = [affine(random, b, a) for a, b in itertools.pairwise(widths)]
    graph = Graph((widths[0],), tuple(layers))
    x = random.normal(size=(4, widths[0]))
    fused = fuse(graph, x)
    assert len(fused.nodes) == 1
    np.testing.assert_allclose(fused(x), graph(x), atol=1e-10)
    pattern = np.eye(widths[0], dtype=int)
    for layer in layers:
        pattern = (stored(layer.matrix).astype(int) @ pattern > 0).astype(int)
    np.testing.assert_array_equal(stored(fused.nodes[0].matrix), pattern > 0)


@settings(max_examples=60)
@given(st.lists(st.sampled_from("aaps"), min_size=1, max_size=7), seeds)
def test_fused_networks_take_turns_and_compute_the_same(kinds, seed):
    random = np.random.default_rng(seed)
    nodes = []
    for kind in kinds:
        if kind == "a":
            nodes.append(affine(random, 4, 4))
        else:
            table = random.normal(size=(3, 4)) * 0.3
            if kind == "s":  # nearly a straight line
                table[2] = 1e-17
            nodes.append(Polynomial(table, "p"))
    graph = Graph((4,), tuple(nodes))
    x = random.uniform(-1, 1, (20, 4))
    fused = fuse(graph, x)
    assert len(fused.nodes) % 2 == 1
    for index, node in enumerate(fused.nodes):
        assert isinstance(node, Polynomial if index % 2 else Affine)
        if index % 2:
            assert np.abs(node.coefficients[2]).max() > 1e-9
    want = graph(x)
    np.testing.assert_allclose(fused(x), want, rtol=1e-7, atol=1e-7 * max(1, np.abs(want).max()))


def test_a_straight_activation_keeps_explicit_zeros():
    """An activation that becomes affine has a full diagonal, whatever its slopes are."""
    node = Polynomial(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 0.0]]))
    fused = fuse(Graph((2,), (node,)), np.array([[1.0, -1.0], [0.5, 1.0]]))
    assert fused.nodes[0].matrix.nnz == 2


def test_a_network_without_layers_is_refused():
    with pytest.raises(CompileError, match="no layer"):
        fuse(Graph((3,), ()), np.ones((2, 3)))


@given(st.integers(1, 6), st.integers(1, 4), seeds)
def test_polynomials_by_numpy(degree, features, seed):
    random = np.random.default_rng(seed)
    node = Polynomial(random.normal(size=(degree + 1, features)))
    x = random.normal(size=(3, features))
    want = np.array([np.polynomial.polynomial.polyval(x[:, i], c) for i, c in enumerate(node.coefficients.T)])
    np.testing.assert_allclose(node(x), want.T, atol=1e-9)
    assert node.degree == degree


def test_values_are_those_between_nodes():
    random = np.random.default_rng(1)
    graph = Graph((2, 2), (affine(random, 3, 4), Polynomial(random.normal(size=(3, 3)))))
    x = random.normal(size=(5, 2, 2))
    values = graph.values(x)
    assert [v.shape for v in values] == [(5, 4), (5, 3), (5, 3)]
    np.testing.assert_array_equal(values[0], x.reshape(5, 4))
    np.testing.assert_array_equal(values[2], graph(x))
    assert graph.features == 4


def test_bias_and_matrix_must_agree():
    with pytest.raises(InputError, match="'fc'"):
        Affine(sparse.csr_matrix(np.eye(3)), np.zeros(2), "fc")


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (np.zeros((0, 3)), None, "at least one sample"),
        (np.zeros(3), None, "samples"),
        (np.float64(3), None, "samples"),
        (np.zeros((2, 3)), (4,), r"\[samples, 4\], got \[2, 3\]"),
        (np.zeros((2, 3)), (3, 1), r"\[samples, 3, 1\]"),
        (np.zeros(3), (3,), r"\[samples, 3\], got \[3\]"),
        ([["a", "b"]], None, "numbers"),
        ([[1, 2], [3]], None, "numbers"),
        (None, None, "samples"),
        ([[0.0, 0.0], [1.0, np.nan]], None, "sample 1"),
        ([[np.inf, 0.0]], (2,), "sample 0"),
        (torch.full((2, 2), torch.nan), None, "sample 0"),
    ],
)
def test_what_is_not_samples_is_refused(x, shape, message):
    with pytest.raises(InputError, match=message):
        samples_of(x, shape, "here")


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 3, requires_grad=True),
        torch.ones(2, 3, dtype=torch.bfloat16).float(),
        np.ones((2, 3), dtype=np.int8),
        np.ones((2, 3), dtype=bool),
        [[1, 1, 1], [1, 1, 1]],
    ],
)
def test_many_kinds_of_samples(x):
    found = samples_of(x, (3,))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.ones((2, 3)))


def residual(random) -> Graph:
    """x -> a = Ax + b -> a² -> Ba² + c, joined with a, and joined with x."""
    first, second = affine(random, 3, 3), affine(random, 3, 3)
    square = Polynomial(np.tile([[0.0], [0.0], [1.0]], 3))
    return Graph((3,), (first, square, second, Sum()), ((0,), (1,), (2,), (3, 1, 0)))


def test_branches_join():
    random = np.random.default_rng(3)
    graph = residual(random)
    x = random.normal(size=(4, 3))
    a = x @ graph.nodes[0].matrix.toarray().T + graph.nodes[0].bias
    want = a**2 @ graph.nodes[2].matrix.toarray().T + graph.nodes[2].bias + a + x
    np.testing.assert_allclose(graph(x), want, rtol=1e-13)
    assert len(graph.values(x)) == 5
    assert not graph.straight
    with pytest.raises(CompileError, match="branches"):
        fuse(graph, x)


@pytest.mark.parametrize("reads", [((1,),), ((),), ((-1,),), ((0,), (0,))])
def test_a_node_reads_what_is_there(reads):
    with pytest.raises(InputError, match=r"reads values|as many"):
        Graph((3,), (affine(np.random.default_rng(0), 3, 3),), reads)


@pytest.mark.parametrize(
    "node",
    [
        Affine(
            sparse.csr_matrix(np.array([[1.5, 0.0, -2.0], [0.0, 3.0, 0.5]])), np.array([0.25, -1.0]), "fc"
        ),
        Polynomial(np.array([[0.5, 1.0], [0.0, -2.0], [0.125, 0.0]]), "act"),
        Sum("join"),
    ],
)
def test_a_node_comes_back_from_its_arrays(node):
    kind = NODES[type(node).__name__]
    again = kind.from_arrays(node.to_arrays(), node.name)
    values = [np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -3.0]])[:, : 2 if isinstance(node, Polynomial) else 3]]
    values *= 2 if isinstance(node, Sum) else 1
    assert type(again) is type(node)
    assert again.name == node.name
    np.testing.assert_array_equal(again.apply(ArrayDomain(), values), node.apply(ArrayDomain(), values))


def test_stored_zeros_come_back():
    matrix = sparse.csr_matrix((np.array([1.0, 0.0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    node = Affine(matrix, np.zeros(1))
    assert Affine.from_arrays(node.to_arrays(), "").matrix.nnz == 2


def test_fuse_says_what_it_does_not_know():
    @dataclass(frozen=True)
    class Double(Sum):
        name: str = "twice"

        def apply(self, on, xs):
            return on.add([xs[0], xs[0]])

    with pytest.raises(CompileError, match="'twice': a Double cannot be compiled yet"):
        fuse(Graph((2,), (Double(),)), np.ones((3, 2)))
