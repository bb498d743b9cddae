"""Pass 1: multiply neighbouring affine maps together, so that affine and polynomial take turns."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from securedl.errors import CompileError
from securedl.network.graph import Affine, ArrayDomain, Graph, Node, Polynomial

#: A leading term below this fraction of the polynomial's range on the data is dropped.
NEGLIGIBLE = 2.0**-30


def identity(features: int, name: str = "identity", shape: tuple[int, ...] = ()) -> Affine:
    """The affine map that changes nothing of a value of this shape."""
    return Affine(sparse.csr_matrix(sparse.eye(features, format="csr")), np.zeros(features), name, shape)


def fuse(graph: Graph, x: np.ndarray, wide: bool = True) -> Graph:
    """Affine, polynomial, affine, ..., affine: as few of them as possible.

    Polynomials lose leading terms that never matter on `x` [samples, ...] (a quadratic fitted to a
    sigmoid on a symmetric interval has a2 of 1e-17); those left with degree 1 become affine.

    Args:
        wide: whether two affine maps become one even if that has more entries than both together, as those of
            a bottleneck have; else they stay two, a level apart.

    Raises:
        CompileError: a network without any layer, with branches or other nodes than affine maps and
            polynomials, or one that overflows on `x`.
    """
    return _joined(graph, _simplified(graph, x), wide)


def both_ways(graph: Graph, x: np.ndarray) -> list[Graph]:
    """Both ways of `fuse`, or one if they are the same."""
    simple = _simplified(graph, x)
    ways = (_joined(graph, simple, wide) for wide in (True, False))
    return list({len(one.nodes): one for one in ways}.values())


def _simplified(graph: Graph, x: np.ndarray) -> list[tuple[Affine | Polynomial, tuple[int, ...]]]:
    """Its nodes, polynomials without what never matters, and the shape of what each gives."""
    if not graph.straight:
        raise CompileError("networks with branches cannot be compiled yet: write the layers in a row")
    found: list[tuple[Affine | Polynomial, tuple[int, ...]]] = []
    shape = graph.input_shape  # of the value before
    value = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    for node in graph.nodes:
        if not isinstance(node, Affine | Polynomial):
            raise CompileError(f"{node.name!r}: a {type(node).__name__} cannot be compiled yet")
        with np.errstate(over="ignore", invalid="ignore"):
            after = node.apply(ArrayDomain(), [value])
        if not np.all(np.isfinite(after)):
            raise CompileError("the network overflows on its calibration data: standardise the inputs")
        shape = node.shape if isinstance(node, Affine) else shape
        found.append((_simplify(node, value, shape) if isinstance(node, Polynomial) else node, shape))
        value = after
    return found


def _joined(graph: Graph, simple: list[tuple[Affine | Polynomial, tuple[int, ...]]], wide: bool) -> Graph:
    """Affine maps and polynomials in turn."""
    nodes: list[Node] = []
    shape = graph.input_shape
    for node, shape in simple:
        before = nodes[-1] if nodes else None
        if isinstance(node, Affine) and isinstance(before, Affine):
            both = node.after(before)
            if wide or both.matrix.nnz <= node.matrix.nnz + before.matrix.nnz:
                nodes[-1] = both
            else:
                nodes.append(node)
        elif isinstance(node, Polynomial) and (not nodes or isinstance(nodes[-1], Polynomial)):
            nodes += [identity(node.coefficients.shape[1], f"before {node.name}", shape), node]
        else:
            nodes.append(node)
    if not nodes:
        raise CompileError("the network has no layer to run: it only reshapes its input")
    if isinstance(nodes[-1], Polynomial):
        nodes.append(identity(nodes[-1].coefficients.shape[1], f"after {nodes[-1].name}", shape))
    return Graph(graph.input_shape, tuple(nodes))


def _simplify(node: Polynomial, value: np.ndarray, shape: tuple[int, ...]) -> Affine | Polynomial:
    coefficients = node.coefficients
    reach = np.abs(value).max(axis=0)
    size = max(float(np.ptp(node(value))), 1e-300)
    while len(coefficients) > 2:
        leading = float((np.abs(coefficients[-1]) * reach ** (len(coefficients) - 1)).max())
        if leading > NEGLIGIBLE * size:
            break
        coefficients = coefficients[:-1]
    if len(coefficients) > 2:
        return Polynomial(coefficients, node.name)
    # Built by hand: explicit zeros are kept, since the pattern follows the shape.
    count = np.arange(len(reach) + 1)
    slope = sparse.csr_matrix((coefficients[1].copy(), count[:-1], count), shape=(len(reach),) * 2)
    return Affine(slope, coefficients[0].copy(), node.name, shape)
