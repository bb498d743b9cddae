"""The space a fit chooses from (degree, parity) and the linear equations it must meet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.polynomial import chebyshev as cheb

from polyapprox.activations import Activation, FloatArray
from polyapprox.errors import FitError

Parity: TypeAlias = Literal["odd", "even"]
Point: TypeAlias = float | tuple[float, float]


@dataclass(frozen=True)
class Basis:
    """T_k((x - mid) / half) for the `orders` k in use: all of them, or the odd or even ones in x."""

    degree: int
    domain: tuple[float, float]
    mid: float
    half: float
    orders: tuple[int, ...]

    @classmethod
    def make(cls, degree: int, domain: tuple[float, float], parity: Parity | None) -> "Basis":
        """Parity is in x, so its basis is centred on 0, the domain being inside [-half, half]."""
        lo, hi = domain
        if parity is None:
            return cls(degree, domain, (lo + hi) / 2, (hi - lo) / 2, tuple(range(degree + 1)))
        if parity not in ("odd", "even"):
            raise FitError(f'parity is {parity!r}; expected None, "odd" or "even"')
        orders = tuple(range(int(parity == "odd"), degree + 1, 2))
        if not orders:
            raise FitError(f"there is no odd polynomial of degree {degree}; raise the degree to 1 or more")
        return cls(degree, domain, 0.0, max(abs(lo), abs(hi)), orders)

    def values(self, x: FloatArray) -> FloatArray:
        """[points, basis functions] at x [points]."""
        table = cheb.chebvander((x - self.mid) / self.half, self.orders[-1])
        return np.asarray(table[:, list(self.orders)], dtype=np.float64)

    def slopes(self, x: float) -> FloatArray:
        """[basis functions]: their derivatives at x."""
        u = (x - self.mid) / self.half
        rows = [cheb.chebder([0.0] * k + [1.0], scl=1 / self.half) for k in self.orders]
        return np.array([float(cheb.chebval(u, row)) for row in rows])

    def leading_row(self) -> FloatArray:
        """[basis functions]: their coefficient of x^(highest order); T_k leads with 2^(k-1) u^k."""
        row = np.zeros(len(self.orders))
        top = self.orders[-1]
        row[-1] = 2.0 ** max(top - 1, 0) / self.half**top
        return row

    def to_series(self, coefficients: FloatArray) -> FloatArray:
        """Chebyshev coefficients on the domain itself, [highest order + 1]."""
        full = np.zeros(self.orders[-1] + 1)
        full[list(self.orders)] = coefficients
        lo, hi = self.domain
        mid, half = (lo + hi) / 2, (hi - lo) / 2
        if (mid, half) == (self.mid, self.half):
            return full
        u = cheb.chebpts1(full.size)
        samples = cheb.chebval((mid + half * u - self.mid) / self.half, full)
        # Interpolation in Chebyshev points is exact for a polynomial and well conditioned.
        scale = np.where(np.arange(full.size) == 0, 1.0, 2.0) / full.size
        return np.asarray(scale * (cheb.chebvander(u, full.size - 1).T @ samples), dtype=np.float64)


@dataclass(frozen=True)
class Constraints:
    """rows [count, basis functions] @ coefficients = values [count]; each row scaled to length 1."""

    rows: FloatArray
    values: FloatArray

    def and_also(self, row: FloatArray, value: float) -> "Constraints":
        """These and one more."""
        size = float(np.linalg.norm(row))
        if size == 0.0:
            raise FitError(f"a constraint asks for {value:g} where the polynomial is always 0; remove it")
        return Constraints(np.vstack([self.rows, row / size]), np.append(self.values, value / size))


def read(
    basis: Basis,
    target: Activation,
    value_at: Sequence[Point],
    slope_at: Sequence[tuple[float, float]],
) -> Constraints:
    """The equations for value_at (x, or (x, value)) and slope_at ((x, slope))."""
    out = Constraints(np.zeros((0, len(basis.orders))), np.zeros(0))
    for point in value_at:
        if np.ndim(point) == 0:
            x = _number(point, "value_at")
            value = float(target(x))
        else:
            x, value = _pair(point, "value_at")
        out = _add(out, basis.values(np.array([x]))[0], value, f"value {value:g} at {x:g}")
    for pair in slope_at:
        x, slope = _pair(pair, "slope_at")
        out = _add(out, basis.slopes(x), slope, f"slope {slope:g} at {x:g}")
    return out


def _add(constraints: Constraints, row: FloatArray, value: float, what: str) -> Constraints:
    if np.any(row):
        return constraints.and_also(row, value)
    if value == 0.0:
        return constraints  # an odd polynomial is 0 at 0 whatever is chosen
    raise FitError(f"no polynomial of this degree and parity has {what}; change the constraint or parity")


def _pair(point: object, what: str) -> tuple[float, float]:
    values = np.asarray(point, dtype=np.float64)
    if values.shape != (2,) or not np.all(np.isfinite(values)):
        kinds = "numbers or pairs (x, value)" if what == "value_at" else "pairs (x, slope)"
        raise FitError(f"{what} holds {point!r}; expected finite {kinds}")
    return float(values[0]), float(values[1])


def _number(point: object, what: str) -> float:
    x = float(np.asarray(point, dtype=np.float64))
    if not np.isfinite(x):
        raise FitError(f"{what} holds {x}; expected finite numbers")
    return x
