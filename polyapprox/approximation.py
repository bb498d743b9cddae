"""The result of a fit: a polynomial on a domain, with its errors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import chebyshev as cheb
from numpy.polynomial.polynomial import Polynomial

from polyapprox.activations import FloatArray
from polyapprox.errors import FitError


@dataclass(frozen=True)
class Approximation:
    """p(x) = sum_k coefficients[k] T_k(u), u = (x - mid) / half, on domain = (lo, hi).

    T_k are Chebyshev polynomials, so evaluation on the domain loses no digits at any degree
    (Trefethen, Approximation Theory and Approximation Practice, ch. 3 and 19).

    `max_error` bounds max |f - p| over the domain; it is proved when `certified`, otherwise the
    largest error that a dense search found. `rms_error` is sqrt(mean (f - p)²) over the domain,
    every x weighing the same. `data_max_error` and `data_rms_error` are the same on the samples that
    were given (the latter with their weights), None without samples. Errors are in units of f.
    """

    coefficients: tuple[float, ...]
    domain: tuple[float, float]
    max_error: float
    rms_error: float
    certified: bool = False
    data_max_error: float | None = None
    data_rms_error: float | None = None
    function: str = ""
    method: str = ""

    def __post_init__(self) -> None:
        lo, hi = self.domain
        if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
            raise FitError(f"domain is ({lo}, {hi}); expected two finite numbers, the lower first")
        if not self.coefficients or not np.all(np.isfinite(self.coefficients)):
            raise FitError(
                f"coefficients are {self.coefficients}; expected one or more finite numbers, lowest first"
            )

    @property
    def degree(self) -> int:
        """Highest power that the representation holds."""
        return len(self.coefficients) - 1

    @property
    def mid(self) -> float:
        """Centre of the domain."""
        return (self.domain[0] + self.domain[1]) / 2

    @property
    def half(self) -> float:
        """Half the width of the domain."""
        return (self.domain[1] - self.domain[0]) / 2

    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        """p(x) as float64, for x of any shape; outside the domain too, where no error bound holds."""
        u = (np.asarray(x, dtype=np.float64) - self.mid) / self.half
        return np.asarray(cheb.chebval(u, self.coefficients), dtype=np.float64)

    def derivative(self, x: npt.ArrayLike, order: int = 1) -> FloatArray:
        """The derivative of p of the given order at x, any shape."""
        u = (np.asarray(x, dtype=np.float64) - self.mid) / self.half
        slope = cheb.chebder(self.coefficients, order, scl=1 / self.half)
        return np.asarray(cheb.chebval(u, slope), dtype=np.float64)

    def scaled_power(self) -> FloatArray:
        """Coefficients [degree + 1] of 1, u, u², ... with u = (x - mid) / half in [-1, 1].

        Well conditioned: use these where the input can be scaled first.
        """
        out = np.zeros(len(self.coefficients))
        plain = cheb.cheb2poly(self.coefficients)
        out[: len(plain)] = plain
        return out

    def power(self) -> FloatArray:
        """Coefficients [degree + 1] of 1, x, x², ...; at high degree their sum cancels, see scaled_power."""
        shifted = Polynomial(self.scaled_power())(Polynomial([-self.mid / self.half, 1 / self.half]))
        out = np.zeros(len(self.coefficients))
        out[: len(shifted.coef)] = shifted.coef[: len(out)]
        return out

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of lists, floats and strings that `json` keeps exactly."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Approximation":
        """The inverse of `to_dict`; FitError names unknown or missing keys."""
        known = {field.name for field in fields(cls)}
        required = {"coefficients", "domain", "max_error", "rms_error"}
        if not required <= set(data) <= known:
            raise FitError(
                f"an approximation has the keys {sorted(known)}; missing {sorted(required - set(data))}, "
                f"unknown {sorted(set(data) - known)}"
            )
        lo, hi = data["domain"]
        coefficients = tuple(float(c) for c in data["coefficients"])
        return cls(**{**data, "domain": (float(lo), float(hi)), "coefficients": coefficients})
