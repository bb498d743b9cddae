"""The activation functions, one row each: formula, usual interval, and what certification may assume."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, inf, pi, sqrt
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr

from polyapprox.errors import FitError

FloatArray: TypeAlias = npt.NDArray[np.float64]
Function: TypeAlias = Callable[[FloatArray], npt.ArrayLike]


@dataclass(frozen=True)
class Activation:
    """A scalar function and the constants that let `polyapprox.certify` bound it between samples.

    `function` maps a float64 array of any shape to values of the same shape and is continuous.
    `interval` is the usual domain of a fit. `torch_class` names the torch module as text, "" if none.
    Between neighbouring `kinks` the function is once differentiable with Lipschitz constant
    `lipschitz`, and its second derivative stays within `second_derivative` = (lowest, highest);
    None where no such constant is known. A wrong constant makes a wrong certificate.
    """

    name: str
    function: Function
    interval: tuple[float, float]
    torch_class: str = ""
    kinks: tuple[float, ...] = ()
    lipschitz: float | None = None
    second_derivative: tuple[float, float] | None = None

    @property
    def certifiable(self) -> bool:
        """Whether a bound can be proved from the constants given."""
        return self.lipschitz is not None or self.second_derivative is not None

    def __call__(self, x: npt.ArrayLike) -> FloatArray:
        """Values at `x`, any shape, as float64; FitError where they are not finite or misshapen."""
        points = np.asarray(x, dtype=np.float64)
        values = np.asarray(self.function(points), dtype=np.float64)
        if values.shape != points.shape:
            raise FitError(
                f"{self.name} returned shape {values.shape} for input of shape {points.shape}; "
                "expected one value per point, so make the function work on whole arrays"
            )
        if not np.all(np.isfinite(values)):
            where = float(points[~np.isfinite(values)].flat[0])
            raise FitError(
                f"{self.name} is not finite at {where:g}; choose a domain or a function that is finite there"
            )
        return values


def _gaussian(x: float) -> float:
    return exp(-x * x / 2) / sqrt(2 * pi)


def _row(
    name: str,
    function: Function,
    interval: tuple[float, float],
    torch_class: str,
    lipschitz: float | None,
    second_derivative: tuple[float, float],
    kinks: tuple[float, ...] = (),
) -> Activation:
    # A few units in the last place outward, so that rounding a constant cannot break a certificate.
    low, high = second_derivative
    slack = 1e-12
    return Activation(
        name,
        function,
        interval,
        torch_class,
        kinks,
        None if lipschitz is None else lipschitz * (1 + slack),
        (low - slack * abs(low), high + slack * abs(high)),
    )


_SIGMOID_CURVATURE = 1 / (6 * sqrt(3))  # s'' = s(1-s)(1-2s), extreme at s = (3 ± sqrt 3)/6
_TANH_CURVATURE = 4 / (3 * sqrt(3))  # tanh(x) = 2 sigmoid(2x) - 1
_GELU_SLOPE = float(ndtr(sqrt(2))) + sqrt(2) * _gaussian(sqrt(2))  # extreme where gelu'' = 0
_GELU_CURVATURE = (-2 * _gaussian(2), 2 * _gaussian(0))  # gelu'' = phi(x) (2 - x²), extreme at 2 and 0
# silu has no closed form: slope 1.0998393, curvature -0.0369144 to 1/2; rounded outward, checked by test.
_SILU_SLOPE = 1.09984
_SILU_CURVATURE = (-0.036915, 0.5)

_ROWS = (
    _row(
        "sigmoid",
        expit,
        (-8.0, 8.0),
        "torch.nn.Sigmoid",
        0.25,
        (-_SIGMOID_CURVATURE, _SIGMOID_CURVATURE),
    ),
    _row("tanh", np.tanh, (-4.0, 4.0), "torch.nn.Tanh", 1.0, (-_TANH_CURVATURE, _TANH_CURVATURE)),
    _row("relu", lambda x: np.maximum(x, 0.0), (-4.0, 4.0), "torch.nn.ReLU", 1.0, (0.0, 0.0), (0.0,)),
    _row("silu", lambda x: x * expit(x), (-8.0, 8.0), "torch.nn.SiLU", _SILU_SLOPE, _SILU_CURVATURE),
    _row("gelu", lambda x: x * ndtr(x), (-4.0, 4.0), "torch.nn.GELU", _GELU_SLOPE, _GELU_CURVATURE),
    _row("softplus", lambda x: np.logaddexp(0.0, x), (-8.0, 8.0), "torch.nn.Softplus", 1.0, (0.0, 0.25)),
    _row("square", lambda x: x * x, (-4.0, 4.0), "", None, (2.0, 2.0)),
    _row("identity", lambda x: x, (-4.0, 4.0), "torch.nn.Identity", 1.0, (0.0, 0.0)),
)

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({row.name: row for row in _ROWS})


def activation(name: str) -> Activation:
    """The table's row called `name`; FitError lists the known names when there is none."""
    try:
        return ACTIVATIONS[name]
    except KeyError:
        known = ", ".join(ACTIVATIONS)
        raise FitError(f"unknown activation {name!r}; expected one of {known}") from None


def as_activation(function: "str | Activation | Function") -> Activation:
    """A name, an Activation or a bare callable, as an Activation (a callable: nothing is assumed)."""
    if isinstance(function, Activation):
        return function
    if isinstance(function, str):
        return activation(function)
    if not callable(function):
        raise FitError(
            f"expected an activation's name, an Activation or a callable on arrays, got {function!r}"
        )
    return Activation(getattr(function, "__name__", "function"), function, (-inf, inf))
