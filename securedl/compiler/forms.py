"""Pass 2: how each polynomial is computed, with every encrypted value kept in [-1, 1].

square   a2 x² + a1 x + a0 = a2 (x + s)² + c, s = a1 / 2 a2: one squaring of (x + s) / B.
cubic    depressed: a3 (y³ + κ y) + q with y = x + a2 / 3 a3: v (v² + κ/B²), v = y / B, two products.
powers   v, v², ..., v^d of v = (x - mid) / half, all given to the next matrix.

The shift and 1/B fold into the affine before, a2·B² (and its like) into the matrix after. Where shifts or κ
are far outside the ranges (a nearly linear fit), a2·B² is large beside what the data move, the completed form
loses too much precision and `powers` is taken: the next matrix then combines x and x² itself.

Ranges. Errors of what a layer reads are independent, so an error of its sum is as large as the row of its
matrix is long. A range below that would make nothing more precise, and would overflow sooner: no row of a
normalised matrix is longer than `LONGEST_ROW`, also where the calibration data leave a feature constant. The
features of an input have no such rows; there the columns tell what each can do to the first layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from securedl.network.graph import Affine, Array, Graph, Polynomial
from securedl.plan.forms import Cubic, Form, Powers, Square, Straight
from securedl.plan.normalised import Layer, Normalised

#: An error of the size of one grows to this many times what the data move the next layer by, and no more. Two
#: squares with shifts of 8, 16, 23 and 100 times the range reach 5, 10, 14 and 58, and errors of 5e-5, 1e-4,
#: 1.5e-4 and 6e-4 of the range; `powers` has 5e-6.
MAX_GAIN = 8.0
LONGEST_ROW = 4.0  # a layer's own rounding is then a quarter of what its inputs bring, or less
#: What an input feature without data does to the first layer, in parts of what others do on average: 3 %
#: more noise. One half gives 12 %, and with 280 such features of 300 no box was left without overflow.
INPUT_SHARE = 0.25
#: A feature is moved to zero where its middle is so many times half its range away: else the bits that tell
#: its values apart would be the last ones. Nearer ones stay, so that zeros stay zeros.
FAR = 8.0
DUST = 1e-3  # of the most that a feature moves the first layer; what does less counts as without data


@dataclass(frozen=True, eq=False)
class Choice:
    """v = (x + shift) / reach; the polynomial is Σ gains[k] · source_k + offset."""

    form: Form
    shift: Array
    reach: Array
    gains: list[Array]
    offset: Array


def normalise(graph: Graph, x: Array) -> Normalised:
    """Choose forms from the ranges that the calibration samples `x` reach; `graph` is fused."""
    return normalised_with(graph, x)[0]


def normalised_with(graph: Graph, x: Array) -> tuple[Normalised, tuple[Choice, ...]]:
    """The same, and what was chosen for each layer."""
    values = graph.values(x)
    first = graph.nodes[0]
    assert isinstance(first, Affine)
    offset = input_offset = _input_offset(values[0])
    input_scale = _input_scale(first.matrix, values[0] - offset, values[1])
    gains: list[Array] = [input_scale]
    layers, choices = list[Layer](), list[Choice]()
    for index, affine in enumerate(graph.nodes):
        if not isinstance(affine, Affine):
            continue
        pre, least = values[index + 1], _lengths(affine.matrix, gains) / LONGEST_ROW
        if not isinstance(node := next(iter(graph.nodes[index + 1 :]), None), Polynomial):
            chosen = _linear(pre, least)
        else:
            following = graph.nodes[index + 2]
            assert isinstance(following, Affine)
            effects = _effects(following.matrix, _filled(_spread(values[index + 3])))
            chosen = _choose(node, pre, least, effects)
        matrices = tuple(_scaled(affine.matrix, 1 / chosen.reach, gain) for gain in gains)
        bias = (affine.matrix @ offset + affine.bias + chosen.shift) / chosen.reach
        layers.append(Layer(affine.name, matrices, np.asarray(bias), chosen.form, affine.shape))
        gains, offset = chosen.gains, chosen.offset
        choices.append(chosen)
    ends = gains[0], offset
    whole = Normalised(input_scale, input_offset, tuple(layers), *ends, input_shape=graph.input_shape)
    return whole, tuple(choices)


def _filled(sizes: Array) -> Array:
    """Zeros replaced by the largest, or by 1 when there is nothing else."""
    top = float(sizes.max())
    return np.where(sizes > 1e-100 * top, sizes, top) if top > 0 else np.ones_like(sizes)


def _spread(values: Array) -> Array:
    """Half the range of each feature."""
    return np.asarray(np.ptp(values, axis=0) / 2)


def _lengths(matrix: sparse.csr_matrix, gains: list[Array]) -> Array:
    """How long each row of the matrix is, its columns in units of the gains."""
    squares = matrix.copy()
    squares.data = squares.data**2
    return np.asarray(np.sqrt(sum(squares @ gain**2 for gain in gains)))


def _effects(matrix: sparse.csr_matrix, spread: Array) -> Array:
    """The most that one unit of each column moves any row, in units of that row's spread."""
    scaled = _scaled(abs(matrix), 1 / spread, np.ones(matrix.shape[1]))
    return np.asarray(scaled.max(axis=0).toarray()).reshape(-1)


def _input_offset(x: Array) -> Array:
    """The middle of features that are far from zero beside what they move, as years are; 0 of others."""
    middle = (x.min(axis=0) + x.max(axis=0)) / 2
    return np.where(np.abs(middle) > FAR * _spread(x), middle, 0.0)


def _input_scale(matrix: sparse.csr_matrix, x: Array, pre: Array) -> Array:
    """Each feature's own reach, or the size at which it moves the first layer a quarter as far as others do.

    The latter is for features that are always zero in the calibration data, or nearly: a query that has a
    value there neither overflows nor costs precision, whatever the units of the other features are.
    """
    reach = np.abs(x).max(axis=0)
    spread = _filled(np.maximum(_spread(pre), _lengths(matrix, [reach]) / LONGEST_ROW))
    # On all neurons together: by the largest, one that hardly varies made scales 3 times smaller.
    effects = _lengths(matrix.T.tocsr(), [1 / spread])
    moved = reach * effects
    alive = moved[moved > DUST * moved.max()]
    typical = float(np.sqrt(np.mean(alive**2))) if len(alive) else 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        harmless = np.nan_to_num(INPUT_SHARE * typical / effects, nan=0.0)
    return _filled(np.maximum(reach, np.minimum(harmless, reach.max())))


def _scaled(matrix: sparse.csr_matrix, rows: Array, cols: Array) -> sparse.csr_matrix:
    """diag(rows) · matrix · diag(cols), stored zeros kept."""
    counts = np.diff(matrix.indptr)
    data = matrix.data * np.repeat(rows, counts) * cols[matrix.indices]
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _linear(pre: Array, least: Array) -> Choice:
    """Each output in units of half its range, from the middle of its range."""
    middle, half = (pre.min(axis=0) + pre.max(axis=0)) / 2, _filled(np.maximum(_spread(pre), least))
    return Choice(Straight(1), -middle, half, [half], middle)


def _choose(node: Polynomial, pre: Array, least: Array, effects: Array) -> Choice:
    """The cheapest form that is precise enough for the layer that reads it.

    Args:
        least: [features], no range is smaller. effects: [features], of the polynomial's values on that layer.
    """
    lowest, highest = node(pre - least), node(pre + least)
    moved = _spread(np.concatenate([lowest, highest])) * effects
    reach = _filled(np.maximum(np.abs(pre).max(axis=0), least))
    if node.degree in (2, 3):
        found = completed(node.coefficients, reach)
        if found and np.linalg.norm(found.gains[0] * effects) <= MAX_GAIN * np.linalg.norm(moved):
            return found
    return _powers(node.coefficients, pre, least)


def completed(coefficients: Array, reach: Array) -> Choice | None:
    """A square or a depressed cubic; None where a feature has no leading term.

    Args:
        coefficients: [degree + 1, features], ascending, of degree 2 or 3. reach: [features], of the argument.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = (_square if len(coefficients) == 3 else _cubic)(coefficients, reach)
    finite = all(np.isfinite(part).all() for part in (found.shift, found.reach, found.offset, *found.gains))
    return found if finite else None


def _square(coefficients: Array, reach: Array) -> Choice:
    """The square completed."""
    a0, a1, a2 = coefficients
    shift = a1 / (2 * a2)
    bound = reach + np.abs(shift)
    return Choice(Square(2), shift, bound, [a2 * bound**2], a0 - a2 * shift**2)


def _cubic(coefficients: Array, reach: Array) -> Choice:
    """Cardano's depressed cubic; B grows with κ so that v² + κ/B² stays in [-1, 1]."""
    a0, a1, a2, a3 = coefficients
    shift = a2 / (3 * a3)
    kappa = (a1 - a2 * shift) / a3
    far = np.abs(shift) + reach
    bound = far * np.sqrt(1 + np.abs(kappa) / far**2)
    offset = a0 - a1 * shift + a2 * shift**2 - a3 * shift**3
    return Choice(Cubic(3, kappa / bound**2), shift, bound, [a3 * bound**3], offset)


def _powers(coefficients: Array, pre: Array, least: Array) -> Choice:
    """Coefficients in v = (x - mid) / half by Horner's rule on polynomials in v."""
    mid, half = (pre.min(axis=0) + pre.max(axis=0)) / 2, _filled(np.maximum(_spread(pre), least))
    table = np.zeros_like(coefficients)
    for row in coefficients[::-1]:
        moved = table * mid
        moved[1:] += table[:-1] * half
        table = moved
        table[0] += row
    degree = len(coefficients) - 1
    return Choice(Powers(degree), -mid, half, list(table[1:]), table[0])
