"""How a polynomial is computed from its normalised argument v: each form is one circuit, and whoever needs to
know something of it interprets that circuit.

    straight   v itself: nothing follows the last layer
    square     v²: one product
    cubic      v (v² + κ/B²): two products
    powers     v, v², ..., v^d, all given to the next matrix: d - 1 products

On arrays a circuit gives values, or residues, on the compiler's emitter steps, on `_Depth` the levels that it
spends, on `_Count` its products.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np

from securedl.he.modular import Residues, remainders, times
from securedl.network.graph import Array, V


class Circuit(Protocol[V]):
    """What a form is written in."""

    def multiply(self, a: V, b: V) -> V:
        """The product; a level is spent."""

    def add_constant(self, a: V, constant: Array) -> V:
        """a plus a constant for each feature."""


class _Values:
    """On arrays [samples, features]."""

    def multiply(self, a: Array, b: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):  # who asks looks for infinities
            return np.asarray(a * b)

    def add_constant(self, a: Array, constant: Array) -> Array:
        return a + constant


class _Residues:
    """On whole numbers modulo t, 0 to t - 1 [samples, features]."""

    def __init__(self, t: int) -> None:
        self._t = t

    def multiply(self, a: Residues, b: Residues) -> Residues:
        return times(a, b, self._t)

    def add_constant(self, a: Residues, constant: Array) -> Residues:
        return np.asarray((a + remainders(constant, self._t)) % self._t)


class _Depth:
    """On the number of levels spent so far."""

    def multiply(self, a: int, b: int) -> int:
        return max(a, b) + 1

    def add_constant(self, a: int, constant: Array) -> int:
        return a


class _Count:
    """Counts products; its values are nothing."""

    products = 0

    def multiply(self, a: None, b: None) -> None:
        self.products += 1

    def add_constant(self, a: None, constant: Array) -> None:
        pass


@dataclass(frozen=True, eq=False, repr=False)
class Form(ABC):
    """One way to compute a polynomial.

    Attributes:
        degree: of the polynomial. constant: of a cubic, κ/B² [features]; else empty. It is secret.
    """

    name: ClassVar[str]
    degree: int
    constant: Array = field(default_factory=lambda: np.zeros(0))

    @abstractmethod
    def outputs(self, on: Circuit[V], v: V) -> list[V]:
        """The circuit: what the next layer reads, from v."""

    def target(self, delta: float, primes: Sequence[int], level: int) -> float:
        """Scale of v at `level`, so that a single output lands on the scale delta."""
        return delta

    def values(self, v: Array) -> list[Array]:
        """Outputs [samples, features] for v [samples, features]."""
        return self.outputs(_Values(), v)

    def residues(self, v: Residues, t: int) -> list[Residues]:
        """The same of whole numbers modulo t, all of them 0 to t - 1."""
        return self.outputs(_Residues(t), v)

    @property
    def levels(self) -> int:
        """Levels that it spends."""
        return max(self.outputs(_Depth(), 0))

    @property
    def products(self) -> int:
        """Products of ciphertexts, for each tile."""
        count = _Count()
        self.outputs(count, None)
        return count.products

    def whole(self, reach: float) -> tuple[Form, tuple[float, ...]]:
        """The form of whole numbers `reach` times as large as its own argument, and how many times as large
        each of its outputs then is.
        """
        return self, (reach**self.degree,)

    @property
    def registers(self) -> int:
        """How many values the next layer reads."""
        return len(self.outputs(_Depth(), 0))

    @property
    def public(self) -> Form:
        """The same without its constant."""
        return replace(self, constant=np.zeros(0))

    @property
    def constants(self) -> tuple[Array, ...]:
        """Constants that the owner encrypts, in the order in which the circuit adds them."""
        return (self.constant,) if len(self.constant) else ()

    def __str__(self) -> str:
        return f"{self.name} (degree {self.degree})"


class Straight(Form):
    """v itself."""

    name = "none"

    def outputs(self, on: Circuit[V], v: V) -> list[V]:
        """[v]."""
        return [v]

    def __str__(self) -> str:
        return ""


class Square(Form):
    """v²."""

    name = "square"

    def outputs(self, on: Circuit[V], v: V) -> list[V]:
        """[v²]."""
        return [on.multiply(v, v)]

    def target(self, delta: float, primes: Sequence[int], level: int) -> float:
        """√(delta · q): s² / q = delta."""
        return float((delta * primes[level]) ** 0.5)


class Cubic(Form):
    """v (v² + constant)."""

    name = "cubic"

    def outputs(self, on: Circuit[V], v: V) -> list[V]:
        """[v³ + constant · v]."""
        return [on.multiply(on.add_constant(on.multiply(v, v), self.constant), v)]

    def whole(self, reach: float) -> tuple[Form, tuple[float, ...]]:
        """See `Form`: the constant is rounded."""
        return replace(self, constant=np.rint(self.constant * reach**2)), (reach**3,)

    def target(self, delta: float, primes: Sequence[int], level: int) -> float:
        """The cube root of delta · q · q': s³ / (q q') = delta."""
        return float((delta * primes[level] * primes[level - 1]) ** (1 / 3))


class Powers(Form):
    """v, v², ..., v^degree."""

    name = "powers"

    def whole(self, reach: float) -> tuple[Form, tuple[float, ...]]:
        """See `Form`."""
        return self, tuple(reach**k for k in range(1, self.degree + 1))

    def outputs(self, on: Circuit[V], v: V) -> list[V]:
        """All powers, each from two of about half its exponent, so that the depth is log2(degree)."""
        powers = {1: v}
        for k in range(2, self.degree + 1):
            powers[k] = on.multiply(powers[(k + 1) // 2], powers[k // 2])
        return [powers[k] for k in range(1, self.degree + 1)]


#: Forms by the names that they have in a plan's file.
FORMS: dict[str, type[Form]] = {kind.name: kind for kind in (Straight, Square, Cubic, Powers)}
#: Where nothing follows.
NONE: Form = Straight(1)
#: The form of a polynomial of that degree that has one result; its constant is not in it.
COMPLETED: dict[int, Form] = {2: Square(2), 3: Cubic(3)}
