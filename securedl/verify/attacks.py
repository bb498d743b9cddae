"""What a server might run instead, on the plain graph: for tests and benchmarks. Each is seeded.

Every attack returns a new graph and leaves the given one alone. Array are a layer's stored entries;
`changes` tells which attacks altered no output, and those no check of outputs can see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from securedl.errors import InputError
from securedl.network.graph import Affine, Array, Graph, Node

Attack: TypeAlias = Callable[[Graph, int], Graph]


def weight_noise(graph: Graph, seed: int, *, fraction: float = 0.01, strength: float = 1.0) -> Graph:
    """Normal noise on a random fraction of all weights, `strength` times their layer's deviation."""
    rng = np.random.default_rng(seed)

    def noisy(data: Array, chosen: NDArray[np.bool_]) -> Array:
        return np.asarray(data + chosen * rng.normal(0.0, strength * _spread(data), data.shape))

    return _on_fraction(graph, rng, fraction, noisy)


def zeroed_weights(graph: Graph, seed: int, *, fraction: float = 0.01) -> Graph:
    """A random fraction of all weights set to zero (kept in the pattern)."""
    rng = np.random.default_rng(seed)
    return _on_fraction(graph, rng, fraction, lambda data, chosen: np.where(chosen, 0.0, data))


def swapped_rows(graph: Graph, seed: int) -> Graph:
    """Two neurons of one layer exchanged, bias included, and nothing after them."""
    rng = np.random.default_rng(seed)
    wide = [i for i, node in _affines(graph) if node.matrix.shape[0] > 1]
    if not wide:
        raise InputError("no layer has two rows to swap")
    at = int(rng.choice(wide))
    node = dict(_affines(graph))[at]
    order = np.arange(node.matrix.shape[0])
    first, second = rng.choice(len(order), 2, replace=False)
    order[[first, second]] = order[[second, first]]
    return _replaced(graph, {at: replace(node, matrix=node.matrix[order].tocsr(), bias=node.bias[order])})


def scaled_weight(graph: Graph, seed: int, *, factor: float = 2.0) -> Graph:
    """One non-zero weight, uniform over all of them, multiplied by a factor."""
    rng = np.random.default_rng(seed)
    places = [(i, k) for i, node in _affines(graph) for k in np.flatnonzero(node.matrix.data)]
    if not places:
        raise InputError("every weight is zero: there is none to scale")
    at, entry = places[int(rng.integers(len(places)))]
    node = dict(_affines(graph))[at]
    data = node.matrix.data.copy()
    data[entry] *= factor
    return _replaced(graph, {at: _with_data(node, data)})


def shifted_bias(graph: Graph, seed: int, *, strength: float = 0.1) -> Graph:
    """One bias moved by `strength` times the deviation of its layer's weights."""
    rng = np.random.default_rng(seed)
    at, node = _affines(graph)[int(rng.integers(len(_affines(graph))))]
    bias = node.bias.copy()
    bias[int(rng.integers(len(bias)))] += strength * _spread(node.matrix.data) * rng.choice([-1.0, 1.0])
    return _replaced(graph, {at: replace(node, bias=bias)})


def quantised(graph: Graph, seed: int = 0, *, bits: int = 8) -> Graph:
    """Array rounded to `bits` bits, a symmetric grid for each layer; the seed is not used."""
    steps = 2 ** (bits - 1) - 1
    changed: dict[int, Node] = {}
    for i, node in _affines(graph):
        top = float(np.max(np.abs(node.matrix.data), initial=0.0)) or 1.0
        changed[i] = _with_data(node, np.round(node.matrix.data / top * steps) * top / steps)
    return _replaced(graph, changed)


ATTACKS: dict[str, Attack] = {
    "weight noise": weight_noise,
    "zeroed weights": zeroed_weights,
    "swapped rows": swapped_rows,
    "one weight doubled": scaled_weight,
    "one bias shifted": shifted_bias,
    "8-bit weights": quantised,
}


def changes(graph: Graph, tampered: Graph, x: Any, least: float = 0.0) -> bool:
    """Whether any logit of any of these samples moves by more than `least`."""
    return bool(np.max(np.abs(graph(x) - tampered(x)), initial=0.0) > least)


def _on_fraction(
    graph: Graph,
    rng: np.random.Generator,
    fraction: float,
    change: Callable[[Array, NDArray[np.bool_]], Array],
) -> Graph:
    """`change(data, chosen)` on each layer, at least one weight chosen in all."""
    if not 0.0 < fraction <= 1.0:
        raise InputError(f"fraction of weights {fraction}; expected above 0 and at most 1")
    sizes = [node.matrix.nnz for _, node in _affines(graph)]
    total = sum(sizes)
    marks = np.zeros(total, dtype=np.bool_)
    marks[rng.choice(total, max(1, round(fraction * total)), replace=False)] = True
    parts = np.split(marks, np.cumsum(sizes)[:-1])
    changed: dict[int, Node] = {
        i: _with_data(node, change(node.matrix.data, part))
        for (i, node), part in zip(_affines(graph), parts, strict=True)
    }
    return _replaced(graph, changed)


def _affines(graph: Graph) -> list[tuple[int, Affine]]:
    found = [(i, node) for i, node in enumerate(graph.nodes) if isinstance(node, Affine)]
    if not sum(node.matrix.nnz for _, node in found):
        raise InputError("the graph has no weights to tamper with")
    return found


def _spread(data: Array) -> float:
    return float(np.sqrt(np.mean(data * data))) if data.size else 0.0


def _with_data(node: Affine, data: Array) -> Affine:
    old = node.matrix
    return replace(node, matrix=sparse.csr_matrix((data, old.indices, old.indptr), shape=old.shape))


def _replaced(graph: Graph, changed: dict[int, Node]) -> Graph:
    nodes = tuple(changed.get(i, node) for i, node in enumerate(graph.nodes))
    return Graph(graph.input_shape, nodes, graph.reads)
