"""(Weighted) least squares, with constraints, and the degree search to an error bound."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from polyapprox import quadrature
from polyapprox.activations import Activation, FloatArray, as_activation
from polyapprox.approximation import Approximation
from polyapprox.certify import measure
from polyapprox.constraints import Basis, Constraints, Parity, Point, read
from polyapprox.domain import Target, checked_degree, checked_domain, checked_samples
from polyapprox.errors import FitError
from polyapprox.solve import constrained_least_squares

Norm: TypeAlias = Literal["max", "rms"]


def least_squares(
    function: Target,
    degree: int,
    domain: Sequence[float] | None = None,
    *,
    samples: npt.ArrayLike | None = None,
    weight: quadrature.Weight = "uniform",
    sample_weights: npt.ArrayLike | None = None,
    value_at: Sequence[Point] = (),
    slope_at: Sequence[tuple[float, float]] = (),
    parity: Parity | None = None,
    leading_bound: float | None = None,
) -> Approximation:
    """The polynomial p of at most `degree` that minimises a weighted square error to `function`.

    Without `samples`: the integral of weight(x) (f(x) - p(x))² over `domain` = (lo, hi), by quadrature;
    `weight` is "uniform", "chebyshev", "gaussian" (see `quadrature.nodes`) or a callable, and the domain
    defaults to the activation's usual interval. With `samples` (any shape): the sum of
    sample_weights (f - p)² over them, and the domain defaults to their smallest and largest.

    value_at: points x where p(x) = f(x), or pairs (x, value). slope_at: pairs (x, slope).
    parity: "odd" or "even" in x, so that the highest power is of that parity too. leading_bound: the
    largest |coefficient of the highest power of x| allowed; a fit that exceeds it is made again with that
    coefficient fixed at the bound.

    FitError: an unusable degree, domain, weight or sample; too few distinct samples for the degree;
    constraints that contradict each other or leave nothing to choose from.
    """
    target = as_activation(function)
    points = None if samples is None else checked_samples(samples)
    interval = checked_domain(target, domain, points)
    basis = Basis.make(checked_degree(degree), interval, parity)
    constraints = read(basis, target, value_at, slope_at)
    x, w = _rows(target, interval, points, weight, sample_weights)
    values = target(x)
    root = np.sqrt(w)

    def solve(rules: Constraints) -> FloatArray:
        return constrained_least_squares(basis, x, values, root, rules)

    coefficients = solve(constraints)
    if leading_bound is not None:
        if not (np.isfinite(leading_bound) and leading_bound >= 0):
            raise FitError(f"leading_bound is {leading_bound}; expected a finite number of at least 0")
        row = basis.leading_row()
        leading = float(row @ coefficients)
        if abs(leading) > leading_bound:
            # One violated inequality of a convex problem is an equality at the optimum.
            coefficients = solve(constraints.and_also(row, float(np.copysign(leading_bound, leading))))
    # Samples' own weights, not w: without samples the errors are taken over the domain.
    weights = None if points is None else w
    method = _method(weight, points is not None)
    return measure(target, basis.to_series(coefficients), interval, method, points, weights)


def lowest_degree(
    function: Target,
    bound: float,
    domain: Sequence[float] | None = None,
    *,
    max_degree: int = 15,
    min_degree: int = 0,
    norm: Norm = "max",
    **options: Any,
) -> Approximation:
    """SecureDL's Algorithm 1: the least-squares fit of the lowest degree whose error is within `bound`.

    Degrees are tried from `min_degree` (or the lowest that the constraints allow) upward. norm="max"
    compares `max_error` on the domain, a proved bound unless `certified` is False; norm="rms" compares
    `rms_error`. `options` go to `least_squares`.
    Source: Xu et al., Secure and Verifiable Inference in Deep Neural Networks, ACSAC 2020, section 4.1.

    FitError: no degree up to `max_degree` reaches the bound (the message says the best error reached).
    """
    if norm not in ("max", "rms"):
        raise FitError(f'norm is {norm!r}; expected "max" or "rms"')
    if not bound > 0:
        raise FitError(f"bound is {bound}; expected an error greater than 0")
    count = len(options.get("value_at", ())) + len(options.get("slope_at", ()))
    parity = options.get("parity")
    first = max(checked_degree(min_degree), 2 * count - 1 if parity else count - 1, int(parity == "odd"))
    best: tuple[float, int] | None = None
    for degree in range(first, checked_degree(max_degree) + 1):
        fit = least_squares(function, degree, domain, **options)
        error = fit.max_error if norm == "max" else fit.rms_error
        if error <= bound:
            return fit
        best = min(best or (error, degree), (error, degree))
    if best is None:
        raise FitError(f"max_degree is {max_degree}, but the constraints need degree {first}; raise it")
    raise FitError(
        f"no degree up to {max_degree} brings the {norm} error of {as_activation(function).name} within "
        f"{bound:g}; the best is {best[0]:.3g} at degree {best[1]}: raise the bound or max_degree, "
        "or narrow the domain"
    )


def _rows(
    target: Activation,
    domain: tuple[float, float],
    samples: FloatArray | None,
    weight: quadrature.Weight,
    sample_weights: npt.ArrayLike | None,
) -> tuple[FloatArray, FloatArray]:
    if samples is None:
        if sample_weights is not None:
            raise FitError("sample_weights were given without samples; give both, or use weight")
        return quadrature.nodes(domain, target.kinks, weight)
    if weight != "uniform":
        raise FitError("weight is for fits over the domain; with samples use sample_weights")
    if sample_weights is None:
        return samples, np.ones(samples.size)
    return samples, quadrature.checked_weights(sample_weights, samples.size, "sample_weights")


def _method(weight: quadrature.Weight, on_samples: bool) -> str:
    if on_samples:
        return "least squares on samples"
    if weight == "uniform":
        return "least squares"
    return f"least squares, {weight if isinstance(weight, str) else 'custom'} weight"
