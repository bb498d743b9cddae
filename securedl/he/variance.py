"""Variances of errors, carried along with values: how far an honest answer may lie from the exact one.

The errors are those that `clear.ClearEvaluator` draws. Those of different slots, and of different
ciphertexts, count as independent; a value and its powers are *kin*, and their errors add up as if they were
one. An error depends on the values that it is multiplied by. In slots they count as the largest of their
ciphertext, and in coefficients as many as in the fullest ciphertext of a step, so that the variance holds
for all values of this size, wherever they stand.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.he.clear import ClearEvaluator, ClearHandle
from securedl.he.params import Parameters
from securedl.he.record import Shape

_KIN = itertools.count()


@dataclass(frozen=True, eq=False)
class Uncertain(ClearHandle):
    """Exact slots, and the variance of the error in each: [n], or one number for all. Of complex slots it is
    that of the real part, and of the imaginary part.

    Attributes:
        kin: the same for a value and its powers, and how far they are rotated.
    """

    variance: Any = 0.0
    kin: tuple[int, int] = field(default_factory=lambda: (next(_KIN), 0))


def _squares(slots: NDArray[Any]) -> NDArray[np.float64]:
    """|slots|²."""
    return np.asarray(slots.real**2 + slots.imag**2 if np.iscomplexobj(slots) else slots * slots)


class VarianceEvaluator(ClearEvaluator):
    """CKKS on slots, exactly, with the variance of what an honest server's errors would be. What decrypting
    gives here is that variance; of coefficients it is the mean.

    Example: (a + e)·w with w exact, a = 3, w = 2 and V(e) = 1e-12 has the variance 4e-12.
    """

    def __init__(self, params: Parameters) -> None:
        super().__init__(params)
        self._fullest = 0.0

    def _size(self, a: ClearHandle) -> float:
        """The square of a value, as large as any in the ciphertext; of coefficients, which all add up, the
        mean.
        """
        squares = _squares(a.slots)
        if np.iscomplexobj(a.slots):
            return max(self._fullest, float(squares.mean()))
        return float(squares.max())

    def _erring(self, a: ClearHandle, of: ClearHandle, variance: Any, scale: float) -> Uncertain:
        """`a` with the error of `of`, and one of coefficients of this variance beside it."""
        given = of if isinstance(of, Uncertain) else Uncertain(of.slots, of.level, of.scale)
        own = given.variance + self.params.ring / 2 * variance / scale**2
        return Uncertain(a.slots, a.level, a.scale, a.size, own, given.kin)

    def fresh(self, slots: NDArray[np.float64], shape: Shape) -> Uncertain:
        """See `Simulator`."""
        found = super().fresh(slots, shape)
        return self._erring(found, found, self._encrypting(shape), shape.scale)

    def slots(self, handle: ClearHandle) -> NDArray[np.float64]:
        """The variance in each slot, [n]."""
        return np.broadcast_to(cast(Uncertain, handle).variance, handle.slots.shape)

    def coefficients(self, handle: ClearHandle) -> NDArray[np.float64]:
        """The variance of each coefficient, [N], all alike: slots are sums of N of them."""
        ring = self.params.ring
        return np.full(ring, 2 / ring * self.slots(handle).mean())

    def moved(self, a: ClearHandle, power: int, divisor: int = 1) -> ClearHandle:
        """See `ClearEvaluator`."""
        moved = super().moved(a, power, divisor)
        return replace(cast(Uncertain, moved), variance=cast(Uncertain, a).variance / divisor**2)

    def add(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`."""
        total, one, two = super().add(a, b), cast(Uncertain, a), cast(Uncertain, b)
        variance = one.variance + two.variance
        if one.kin == two.kin:
            variance = variance + 2 * np.sqrt(one.variance * two.variance)
        return Uncertain(total.slots, total.level, total.scale, total.size, variance, one.kin)

    def multiply(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`: (a + e)(b + f) is off by a·f + b·e + e·f."""
        product, one, two = super().multiply(a, b), cast(Uncertain, a), cast(Uncertain, b)
        first, second = self._size(a) * two.variance, self._size(b) * one.variance
        variance = first + second + one.variance * two.variance
        if one.kin == two.kin:
            variance = variance + 2 * np.sqrt(first * second) + 2 * one.variance * two.variance
        return Uncertain(product.slots, product.level, product.scale, product.size, variance, one.kin)

    def dot(self, xs: Sequence[ClearHandle], ws: Sequence[ClearHandle]) -> ClearHandle:
        """See `ClearEvaluator`. A weight is what it is, slot by slot."""
        total, variance = super().dot(xs, ws), cast(Any, 0.0)
        kin: dict[tuple[int, int], Any] = {}
        for x, w in zip(cast(Sequence[Uncertain], xs), cast(Sequence[Uncertain], ws), strict=True):
            variance = variance + (self._size(x) + x.variance) * w.variance
            # Beside a weight a real value's own error keeps its place; of kin, deviations add up.
            kin[x.kin] = kin.get(x.kin, 0.0) + np.sqrt(_squares(w.slots) * x.variance)
        for deviation in kin.values():
            variance = variance + deviation**2
        return Uncertain(total.slots, total.level, total.scale, total.size, variance)

    def merged_products(
        self, sums: Sequence[tuple[Sequence[ClearHandle], Sequence[ClearHandle]]], of: int
    ) -> list[ClearHandle]:
        """See `Arithmetic`. Every answer errs as if it read the fullest of all ciphertexts."""
        squares = {id(x): float(_squares(x.slots).mean()) for xs, _ in sums for x in xs}
        self._fullest = max(squares.values(), default=0.0)
        found = super().merged_products(sums, of)
        self._fullest = 0.0
        return found

    def _switched(self, a: ClearHandle) -> ClearHandle:
        return self._erring(super()._switched(a), a, self._switching(a.level), a.scale)

    def rescale(self, a: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`."""
        found = super().rescale(a)
        return self._erring(found, a, self._rounding, found.scale)

    def rotate(self, a: ClearHandle, steps: Sequence[int]) -> list[ClearHandle]:
        """See `ClearEvaluator`. Which rotations share a decomposition is for each evaluator to choose: an
        error counts as large wherever it would be with one of them.
        """
        if a.size != 2:
            raise CompileError("relinearise before rotating")
        power = self._switching(a.level)
        found = list[ClearHandle]()
        for step in steps:
            rolled = self._rolled(a, step)
            both = np.maximum(power, np.roll(power, -step))
            found.append(self._erring(rolled, rolled, both, a.scale) if step else a)
        return found

    def _rolled(self, a: ClearHandle, step: int) -> ClearHandle:
        rolled, given = super()._rolled(a, step), cast(Uncertain, a)
        variance = np.roll(given.variance, -step) if np.ndim(given.variance) else given.variance
        number, turned = given.kin
        return replace(cast(Uncertain, rolled), variance=variance, kin=(number, turned + step))
