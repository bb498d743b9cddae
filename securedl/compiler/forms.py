"""Pass 2: how each polynomial is computed, with every encrypted value kept in [-1, 1].

square   a2 x² + a1 x + a0 = a2 (x + s)² + c, s = a1 / 2 a2: one squaring of (x + s) / B.
cubic    depressed: a3 (y³ + κ y) + q with y = x + a2 / 3 a3: v (v² + κ/B²), v = y / B, two products.
powers   v, v², ..., v^d of v = (x - mid) / half, all given to the next matrix.

The shift and 1/B fold into the affine before, a2·B² (and its like) into the matrix after. Where a
shift or κ is far outside the range (a nearly linear fit), the completed form loses too much precision
and `powers` is taken: the next matrix then combines x and x² itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from securedl.network.graph import Affine, Array, Graph, Polynomial
from securedl.plan.forms import Cubic, Form, Powers, Square, Straight
from securedl.plan.normalised import Layer, Normalised

MAX_SHIFT = 16.0  # times the range: error 4e-6 at a shift of 23, 6e-5 at 633, garbage beyond
MAX_CUBIC_SHIFT = 4.0
MAX_CUBIC_LINEAR = 4.0


@dataclass(frozen=True, eq=False)
class _Choice:
    """v = (x + shift) / reach; the polynomial is Σ gains[k] · source_k + offset."""

    form: Form
    shift: Array
    reach: Array
    gains: list[Array]
    offset: Array


def normalise(graph: Graph, x: Array) -> Normalised:
    """Choose forms from the ranges that the calibration samples `x` reach; `graph` is fused."""
    values = graph.values(x)
    input_scale = _reach(values[0])
    gains: list[Array] = [input_scale]
    offset = np.zeros(graph.features)
    layers = []
    for index in range(0, len(graph.nodes), 2):
        affine = graph.nodes[index]
        assert isinstance(affine, Affine)
        pre = values[index + 1]
        last = index + 1 == len(graph.nodes)
        chosen = _linear(pre) if last else _choose(graph.nodes[index + 1], pre)  # type: ignore[arg-type]
        matrices = tuple(_scaled(affine.matrix, 1 / chosen.reach, gain) for gain in gains)
        bias = (affine.matrix @ offset + affine.bias + chosen.shift) / chosen.reach
        layers.append(Layer(affine.name, matrices, np.asarray(bias), chosen.form))
        gains, offset = chosen.gains, chosen.offset
    return Normalised(input_scale, tuple(layers), gains[0])


def _reach(values: Array) -> Array:
    """Largest magnitude of each feature; dead features count as the largest of all."""
    reach = np.abs(values).max(axis=0)
    top = reach.max() if reach.max() > 0 else 1.0
    return np.where(reach > 1e-3 * top, reach, top)


def _scaled(matrix: sparse.csr_matrix, rows: Array, cols: Array) -> sparse.csr_matrix:
    """diag(rows) · matrix · diag(cols), stored zeros kept."""
    counts = np.diff(matrix.indptr)
    data = matrix.data * np.repeat(rows, counts) * cols[matrix.indices]
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _linear(pre: Array) -> _Choice:
    top = np.full(pre.shape[1], max(float(np.abs(pre).max()), 1e-300))
    zero = np.zeros(pre.shape[1])
    return _Choice(Straight(1), zero, top, [top], zero)


def _choose(node: Polynomial, pre: Array) -> _Choice:
    reach = _reach(pre)
    if node.degree == 2:
        a0, a1, a2 = node.coefficients
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = a1 / (2 * a2)
        if np.all(np.abs(shift) <= MAX_SHIFT * reach):
            bound = reach + np.abs(shift)
            return _Choice(Square(2), shift, bound, [a2 * bound**2], a0 - a2 * shift**2)
    if node.degree == 3:
        cubic = _cubic(node.coefficients, reach)
        if cubic is not None:
            return cubic
    return _powers(node.coefficients, pre)


def _cubic(coefficients: Array, reach: Array) -> _Choice | None:
    """Cardano's depressed cubic; B grows with κ so that v² + κ/B² stays in [-1, 1]."""
    a0, a1, a2, a3 = coefficients
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = a2 / (3 * a3)
        kappa = (a1 - a2 * shift) / a3
    far = np.abs(shift) + reach
    usable = (np.abs(shift) <= MAX_CUBIC_SHIFT * reach) & (np.abs(kappa) <= MAX_CUBIC_LINEAR * far**2)
    if not np.all(usable):
        return None
    bound = far * np.sqrt(1 + np.abs(kappa) / far**2)
    offset = a0 - a1 * shift + a2 * shift**2 - a3 * shift**3
    return _Choice(Cubic(3, kappa / bound**2), shift, bound, [a3 * bound**3], offset)


def _powers(coefficients: Array, pre: Array) -> _Choice:
    """Coefficients in v = (x - mid) / half by Horner's rule on polynomials in v."""
    lo, hi = pre.min(axis=0), pre.max(axis=0)
    mid, half = (lo + hi) / 2, np.maximum((hi - lo) / 2, 1e-3 * max(float(np.abs(pre).max()), 1e-300))
    table = np.zeros_like(coefficients)
    for row in coefficients[::-1]:
        moved = table * mid
        moved[1:] += table[:-1] * half
        table = moved
        table[0] += row
    degree = len(coefficients) - 1
    return _Choice(Powers(degree), -mid, half, list(table[1:]), table[0])
