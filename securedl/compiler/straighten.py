"""Pass 0: a graph that branches and joins becomes a row of layers, whose features are all that is still to be
read.

Between two rounds of polynomials everything is affine, whichever way it went, so each value is an affine map
of *sources*: the input and the values of polynomials. A round computes the polynomials that need no later
one, and carries the sources that later rounds still read through the polynomial x.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from securedl.compiler.grids import image_of
from securedl.errors import CompileError
from securedl.network.graph import Affine, Array, Graph, Node, Polynomial, Sum
from securedl.plan.grid import Grid
from securedl.plan.layouts import Indices


@dataclass(frozen=True, eq=False)
class _Map:
    """Σ over sources of matrix · source, plus bias. Sources are numbers of values of the graph."""

    matrices: Mapping[int, sparse.csr_matrix]
    bias: Array
    name: str
    shape: tuple[int, ...] = ()

    def then(self, node: Affine) -> _Map:
        found = {}
        for source, matrix in self.matrices.items():
            found[source] = node.after(Affine(matrix, np.zeros(matrix.shape[0]))).matrix
        return _Map(found, np.asarray(node.matrix @ self.bias + node.bias), node.name, node.shape)


def _identity(value: int, features: int, shape: tuple[int, ...]) -> _Map:
    matrix = sparse.csr_matrix(sparse.eye(features, format="csr"))
    return _Map({value: matrix}, np.zeros(features), "", shape)


def _total(maps: Sequence[_Map], name: str) -> _Map:
    found: dict[int, sparse.csr_matrix] = {}
    for one in maps:
        for source, matrix in one.matrices.items():
            found[source] = matrix if source not in found else _added(found[source], matrix)
    shapes = {one.shape for one in maps}
    return _Map(
        found, np.sum([one.bias for one in maps], axis=0), name, shapes.pop() if len(shapes) == 1 else ()
    )


def _added(a: sparse.csr_matrix, b: sparse.csr_matrix) -> sparse.csr_matrix:
    """The sum, with every entry stored that either has."""
    one, two = a.tocoo(), b.tocoo()
    rows, cols = np.concatenate([one.row, two.row]), np.concatenate([one.col, two.col])
    values = np.concatenate([one.data, two.data])
    total: sparse.csr_matrix = sparse.coo_matrix((values, (rows, cols)), shape=a.shape).tocsr()
    return total


def straighten(graph: Graph, most: int | None = None) -> Graph:
    """The same function as affine map, polynomial, ..., affine map, each reading the value before it.

    A graph that is straight already is returned as it is.

    Args:
        most: entries of all matrices together.

    Raises:
        CompileError: a kind of node that it does not know, or more entries than `most`; found before they are
            made, or nearly.
    """
    _check_size(graph.entries, most)
    if graph.straight:
        return graph
    entries = 0
    maps: list[_Map] = [_identity(0, graph.features, graph.input_shape)]
    rounds = {0: 0}  # of each source
    inputs: dict[int, _Map] = {}  # of each polynomial
    for number, (node, reads) in enumerate(zip(graph.nodes, graph.reads, strict=True), start=1):
        if isinstance(node, Affine):
            maps.append(maps[reads[0]].then(node))
        elif isinstance(node, Sum):
            maps.append(_total([maps[value] for value in reads], node.name))
        elif isinstance(node, Polynomial):
            inputs[number] = maps[reads[0]]
            entries += sum(matrix.nnz for matrix in inputs[number].matrices.values())
            _check_size(entries, most)
            rounds[number] = 1 + max(rounds[source] for source in inputs[number].matrices)
            maps.append(_identity(number, len(node.coefficients[0]), inputs[number].shape))
        else:
            raise CompileError(f"{node.name!r}: a {type(node).__name__} cannot be compiled yet")
    return _rows(graph, inputs, rounds, maps[-1])


def _check_size(entries: int, most: int | None) -> None:
    if most is not None and entries > most:
        raise CompileError(f"as a row of layers the network has {entries:,} entries, more than {most:,}")


def _rows(graph: Graph, inputs: Mapping[int, _Map], rounds: Mapping[int, int], answer: _Map) -> Graph:
    """The layers, from the answer's need backwards."""
    needed = set(answer.matrices)
    for number in sorted(inputs, reverse=True):
        if number in needed:
            needed |= set(inputs[number].matrices)
    last = max(rounds[source] for source in answer.matrices)
    sizes = {source: graph.features if source == 0 else len(inputs[source].bias) for source in needed}
    shapes = {source: graph.input_shape if source == 0 else inputs[source].shape for source in needed}

    def read_after(source: int, turn: int) -> bool:
        later = (number for number in inputs if number in needed and rounds[number] > turn)
        return source in answer.matrices or any(source in inputs[number].matrices for number in later)

    nodes: list[Node] = []
    held = {0: np.arange(graph.features)}  # where each value's features are among its own
    for turn in range(1, last + 1):
        new = [number for number in sorted(inputs) if number in needed and rounds[number] == turn]
        kept = [source for source in held if read_after(source, turn)]
        parts = [inputs[number] for number in new]
        name = " | ".join(dict.fromkeys(part.name for part in parts))
        orders = {number: np.arange(sizes[number]) for number in new}
        shape = _beside([part.shape for part in parts])
        for source in kept:
            orders[source], carried = _apart(shapes[source], sizes[source], shape)
            parts.append(_identity(source, sizes[source], carried))
        nodes += [
            _stacked(parts, held, name, orders.values()),
            _together(graph, new, [sizes[k] for k in kept]),
        ]
        held = orders
    nodes.append(_stacked([answer], held, answer.name or "answer", [np.arange(len(answer.bias))]))
    return Graph(graph.input_shape, tuple(nodes))


def _apart(shape: tuple[int, ...], size: int, beside: tuple[int, ...]) -> tuple[Indices, tuple[int, ...]]:
    """The order of a carried image's features, and its shape then: with as many pixels as what it stands
    beside, and the phases of what it has more for channels. As it is where it is no multiple of that.
    """
    fine, coarse = image_of(shape), image_of(beside)
    if fine is None or coarse is None or len(shape) != len(beside):
        return np.arange(size), shape
    (channels, *pixels), (_, *fewer) = fine, coarse
    if any(many % few for many, few in zip(pixels, fewer, strict=True)):
        return np.arange(size), shape
    down, across = (many // few for many, few in zip(pixels, fewer, strict=True))
    plane = fewer[0] * fewer[1]
    order = Grid(fine, fewer[1], plane, (down, across)).positions(plane)
    return order.astype(np.int64), (channels * down * across, *beside[1:])


def _stacked(
    parts: Sequence[_Map], held: Mapping[int, Indices], name: str, orders: Iterable[Indices]
) -> Affine:
    """All maps in one matrix over the sources that are held, each map's results in their order."""
    width, columns = 0, {}
    for source, order in held.items():
        columns[source] = order + width
        width += len(order)
    rows, cols, values, above, biases = [], [], [], 0, []
    for part, order in zip(parts, orders, strict=True):
        for source, matrix in part.matrices.items():
            entries = matrix.tocoo()
            rows.append(order[entries.row] + above)
            cols.append(columns[source][entries.col])
            values.append(entries.data)
        biases.append(np.empty(len(order)))
        biases[-1][order] = part.bias
        above += len(order)
    places = (np.concatenate(rows), np.concatenate(cols))
    matrix = sparse.coo_matrix((np.concatenate(values), places), shape=(above, width)).tocsr()
    matrix.sort_indices()
    return Affine(matrix, np.concatenate(biases), name, _beside([part.shape for part in parts]))


def _beside(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Of values one after the other: channels add up where all else agrees."""
    if len({shape[1:] for shape in shapes}) > 1 or not all(len(shape) > 1 for shape in shapes):
        return ()
    return sum(shape[0] for shape in shapes), *shapes[0][1:]


def _together(graph: Graph, new: Sequence[int], kept: Sequence[int]) -> Polynomial:
    """The polynomials of a round beside each other, and x for what is carried."""
    made = [graph.nodes[number - 1] for number in new]
    tables = [node.coefficients for node in made if isinstance(node, Polynomial)]
    degree = max(len(table) for table in tables) - 1
    columns = [np.pad(table, ((0, degree + 1 - len(table)), (0, 0))) for table in tables]
    for size in kept:
        carried = np.zeros((degree + 1, size))
        carried[1] = 1.0
        columns.append(carried)
    return Polynomial(np.concatenate(columns, axis=1), " | ".join(dict.fromkeys(node.name for node in made)))
