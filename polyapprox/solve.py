"""Linear least squares under linear equations, by the null-space method."""

import numpy as np

from polyapprox.activations import FloatArray
from polyapprox.constraints import Basis, Constraints
from polyapprox.errors import FitError

_ROWS = 1 << 16  # samples handled at a time: a million of them at degree 15 would take 128 MB at once
_TOLERANCE = 1e-10


def constrained_least_squares(
    basis: Basis, x: FloatArray, values: FloatArray, root_weights: FloatArray, constraints: Constraints
) -> FloatArray:
    """Coefficients c [basis functions] that minimise |root_weights (B c - values)| with rows c = values.

    c = c0 + N z: c0 meets the equations, the columns of N span what leaves them met, z is free
    (Golub and Van Loan, Matrix Computations, section 6.2).
    """
    start, free = _null_space(constraints, len(basis.orders))
    table = _compressed(basis, x, values, root_weights)
    matrix, right = table[:, :-1] @ free, table[:, -1] - table[:, :-1] @ start
    if free.shape[1] == 0:
        return start
    z, _, rank, _ = np.linalg.lstsq(matrix, right, rcond=1e-13)
    if rank < free.shape[1]:
        raise FitError(
            f"{np.unique(x[root_weights > 0]).size} distinct points of positive weight do not determine "
            f"a polynomial of degree {basis.degree}; give more or wider spread samples, or lower the degree"
        )
    return np.asarray(start + free @ z, dtype=np.float64)


def _null_space(constraints: Constraints, size: int) -> tuple[FloatArray, FloatArray]:
    rows, values = constraints.rows, constraints.values
    if not values.size:
        return np.zeros(size), np.eye(size)
    left, singular, right = np.linalg.svd(rows, full_matrices=True)
    rank = int(np.count_nonzero(singular > 1e-12 * singular[0]))
    start = right[:rank].T @ ((left[:, :rank].T @ values) / singular[:rank])
    if np.abs(rows @ start - values).max() > _TOLERANCE * max(1.0, float(np.abs(values).max())):
        raise FitError(
            f"the {values.size} constraints cannot all be met by {size} coefficients; "
            "raise the degree or remove constraints"
        )
    return np.asarray(start), np.asarray(right[rank:].T)


def _compressed(basis: Basis, x: FloatArray, values: FloatArray, root_weights: FloatArray) -> FloatArray:
    """R of the QR factorisation of [weighted basis | weighted values]: the same problem, few rows."""
    table = np.zeros((0, len(basis.orders) + 1))
    for i in range(0, x.size, _ROWS):
        part = slice(i, i + _ROWS)
        block = np.column_stack([basis.values(x[part]), values[part]]) * root_weights[part, None]
        table = np.asarray(np.linalg.qr(np.vstack([table, block]), mode="r"), dtype=np.float64)
    return table
