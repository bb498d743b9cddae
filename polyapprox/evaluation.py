"""How to evaluate a polynomial of degree d: steps as data, and what they cost.

Only products of two values that depend on x count: under encryption they are the expensive ones, and
their longest chain is the depth. Linear combinations with the coefficients are free here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from polyapprox.activations import FloatArray
from polyapprox.domain import checked_degree
from polyapprox.errors import FitError

Method: TypeAlias = Literal["powers", "paterson-stockmeyer", "horner"]


@dataclass(frozen=True)
class Product:
    """target = left · right, both depending on x; left == right is a square."""

    target: str
    left: str
    right: str


@dataclass(frozen=True)
class Combine:
    """target = sum over `terms` of coefficient[index] · value, plus the values in `plus`.

    A term is (index, value); the value "1" stands for the constant.
    """

    target: str
    terms: tuple[tuple[int, str], ...]
    plus: tuple[str, ...] = ()


_Step: TypeAlias = Product | Combine


@dataclass(frozen=True)
class Schedule:
    """Steps from "x" to "result", in order. depth: longest chain of products; products: their number."""

    method: str
    degree: int
    steps: tuple[_Step, ...]
    depth: int
    products: int


def schedule(degree: int, method: Method = "powers") -> Schedule:
    """The steps for sum_k c_k x^k of the given degree.

    "powers": x², ..., x^d, each from its halves: d - 1 products, depth ceil(log2 d), the least possible.
    "paterson-stockmeyer": x, ..., x^k and x^2k, x^4k, ...; splits p = q x^g + r at the giant powers g;
    about sqrt(2 d) + log2 d products at that same depth, of the splits the one with fewest products.
    "horner": d - 1 products, depth d - 1, two values at a time.
    Source: Paterson and Stockmeyer, SIAM J. Comput. 2 (1973); the depth-preserving splits as in Chen,
    Chillotti and Song, EUROCRYPT 2019.

    FitError: an unusable degree or an unknown method.
    """
    whole = checked_degree(degree)
    makers: Mapping[str, Callable[[int], list[_Step]]] = {
        "powers": _powers,
        "paterson-stockmeyer": _paterson_stockmeyer,
        "horner": _horner,
    }
    if method not in makers:
        raise FitError(f"unknown evaluation method {method!r}; expected one of {', '.join(makers)}")
    steps = tuple(makers[method](whole))
    return Schedule(method, whole, steps, _depth(steps), sum(isinstance(s, Product) for s in steps))


def evaluate(plan: Schedule, coefficients: npt.ArrayLike, x: npt.ArrayLike) -> FloatArray:
    """Run `plan` in float64 on x of any shape, with ascending power coefficients [degree + 1]."""
    weights = np.asarray(coefficients, dtype=np.float64)
    if weights.shape != (plan.degree + 1,):
        raise FitError(
            f"coefficients have shape {weights.shape}; a schedule of degree {plan.degree} takes "
            f"({plan.degree + 1},), lowest power first"
        )
    points = np.asarray(x, dtype=np.float64)
    values: dict[str, FloatArray] = {"1": np.ones_like(points), "x": points}
    for step in plan.steps:
        if isinstance(step, Product):
            values[step.target] = values[step.left] * values[step.right]
        else:
            total = np.zeros_like(points)
            for index, value in step.terms:
                total = total + weights[index] * values[value]
            for value in step.plus:
                total = total + values[value]
            values[step.target] = total
    return values["result"]


def _depth(steps: tuple[_Step, ...]) -> int:
    depth = {"1": 0, "x": 0}
    for step in steps:
        if isinstance(step, Product):
            depth[step.target] = 1 + max(depth[step.left], depth[step.right])
        else:
            depth[step.target] = max(depth[value] for value in (*(v for _, v in step.terms), *step.plus))
    return depth["result"]


def _name(power: int) -> str:
    return "1" if power == 0 else "x" if power == 1 else f"x^{power}"


def _power_steps(top: int) -> list[_Step]:
    return [Product(_name(n), _name((n + 1) // 2), _name(n // 2)) for n in range(2, top + 1)]


def _powers(degree: int) -> list[_Step]:
    return [*_power_steps(degree), Combine("result", tuple((k, _name(k)) for k in range(degree + 1)))]


def _horner(degree: int) -> list[_Step]:
    if degree < 2:
        return _powers(degree)
    steps: list[_Step] = [Combine("sum 1", ((degree, "x"), (degree - 1, "1")))]
    for k in range(degree - 2, -1, -1):
        n = degree - 1 - k
        target = "result" if k == 0 else f"sum {n + 1}"
        steps += [Product(f"product {n}", f"sum {n}", "x"), Combine(target, ((k, "1"),), (f"product {n}",))]
    return steps


def _paterson_stockmeyer(degree: int) -> list[_Step]:
    candidates = [_split(degree, 2**j) for j in range(max(degree, 1).bit_length())]
    return min(candidates, key=_cost)


def _cost(steps: list[_Step]) -> tuple[int, int]:
    return _depth(tuple(steps)), sum(isinstance(step, Product) for step in steps)


def _split(degree: int, baby: int) -> list[_Step]:
    """Blocks of degree <= baby, joined at baby · 2^j, so that no join is deeper than the last power."""
    steps = _power_steps(min(baby, degree))
    giant = baby
    while 2 * giant < degree:
        steps.append(Product(_name(2 * giant), _name(giant), _name(giant)))
        giant *= 2
    _join(steps, 0, degree, baby, "result")
    return steps


def _join(steps: list[_Step], low: int, degree: int, baby: int, target: str) -> None:
    """Append the steps for c[low] + c[low+1] x + ... + c[low+degree] x^degree."""
    if degree <= baby:
        steps.append(Combine(target, tuple((low + k, _name(k)) for k in range(degree + 1))))
        return
    giant = baby
    while 2 * giant < degree:
        giant *= 2
    quotient, rest = f"{target}/{giant}", f"{target}%{giant}"
    _join(steps, low + giant, degree - giant, baby, quotient)
    _join(steps, low, giant - 1, baby, rest)
    product = f"{target} product"
    steps += [Product(product, quotient, _name(giant)), Combine(target, (), (rest, product))]
