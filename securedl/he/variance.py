"""Variances of errors, carried along with values: how far an honest answer may lie from the exact one.

The errors are those that `clear.ClearEvaluator` draws. Those of different slots, and of different operands,
count as independent; a value and its own square are not, so where both go into a sum its deviation may be
larger by the square root of how many such terms there are. An error depends on the values that it is
multiplied by; in slots they count as the largest among them, so that the variance holds for all values of
this size, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.he.clear import ClearEvaluator, ClearHandle
from securedl.he.record import Shape


@dataclass(frozen=True, eq=False)
class Uncertain(ClearHandle):
    """Exact slots, and the variance of the error in each: [n], or one number for all. Of complex slots it is
    that of the real part, and of the imaginary part.
    """

    variance: Any = 0.0


def _power(slots: NDArray[Any]) -> Any:
    """|slots|². What is computed is taken to be as large in every slot as it is in any."""
    if np.iscomplexobj(slots):
        return slots.real**2 + slots.imag**2
    return np.abs(slots).max() ** 2


def _of_product(a: ClearHandle, b: ClearHandle) -> Any:
    """(a + e)(b + f) is off by a·f + b·e + e·f, and (a + e)² by 2a·e + e²."""
    x, y = cast(Uncertain, a), cast(Uncertain, b)
    if a is b:
        return 4 * _power(a.slots) * x.variance + 3 * x.variance**2
    return _power(a.slots) * y.variance + (_power(b.slots) + y.variance) * x.variance


def _of_term(x: ClearHandle, w: ClearHandle) -> Any:
    """The same of a value and a weight, which is what it is."""
    one, two = cast(Uncertain, x), cast(Uncertain, w)
    weight = _power(w.slots) if np.iscomplexobj(w.slots) else w.slots * w.slots
    return _power(x.slots) * two.variance + (weight + two.variance) * one.variance


class VarianceEvaluator(ClearEvaluator):
    """CKKS on slots, exactly, with the variance of what an honest server's errors would be. What decrypting
    gives here is that variance; of coefficients it is the mean.

    Example: (a + e)·w with w exact, a = 3, w = 2 and V(e) = 1e-12 has the variance 4e-12.
    """

    def __init__(self, params: Any) -> None:
        super().__init__(params)

    def _erring(self, a: ClearHandle, of: ClearHandle, variance: Any, scale: float) -> Uncertain:
        """`a` with the error of `of`, and one of coefficients of this variance beside it."""
        own = getattr(of, "variance", 0.0) + self.params.ring / 2 * variance / scale**2
        return Uncertain(a.slots, a.level, a.scale, a.size, own)

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
        total, one, two = cast(Uncertain, super().add(a, b)), cast(Uncertain, a), cast(Uncertain, b)
        return replace(total, variance=4 * one.variance if a is b else one.variance + two.variance)

    def multiply(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`."""
        product = super().multiply(a, b)
        return Uncertain(product.slots, product.level, product.scale, product.size, _of_product(a, b))

    def dot(self, xs: Sequence[ClearHandle], ws: Sequence[ClearHandle]) -> ClearHandle:
        """See `ClearEvaluator`."""
        total = super().dot(xs, ws)
        variance = sum(_of_term(x, w) for x, w in zip(xs, ws, strict=True))
        return replace(cast(Uncertain, total), variance=variance)

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
        rolled, variance = super()._rolled(a, step), cast(Uncertain, a).variance
        return replace(
            cast(Uncertain, rolled), variance=np.roll(variance, -step) if np.ndim(variance) else variance
        )
