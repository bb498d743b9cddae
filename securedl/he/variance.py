"""Variances of errors, carried along with values: how far an honest answer may lie from the exact one.

The errors are those that `clear.ClearEvaluator` draws. Those of different slots, and of different
ciphertexts, count as independent; a value and its powers are *kin*, and their errors add up as if they were
one. An error depends on the values that it is multiplied by. In slots they count as the largest of their
ciphertext, and in coefficients as many as in the fullest ciphertext of a step, so that the variance holds
for all values of this size, wherever they stand.

Rounding multiplies an error by the secret key, and key switching one by the switch key's own. Both stay as
they are, so a slot in which such a polynomial is large errs more for as long as the key lives. The owner
knows the one: variances are those of its key. Of the other only the distribution is known: its square in a
slot is exponential, so over all keys this part of an error has the tail of Laplace's distribution, not of the
normal one. The largest such part is carried beside the variance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.he.clear import ClearEvaluator, ClearHandle
from securedl.he.params import Parameters
from securedl.he.record import Shape

_KIN = itertools.count()
#: How far tails are bounded: an error is so many deviations off with a chance of exp(-32).
SIGMAS = 8.0


class Error(NamedTuple):
    """Variances of errors, each [n] or one number for all slots.

    Attributes:
        variance: of the whole. lump: of the largest part that one switch key's polynomial makes.

    Behind a tap (`known`) there are two rows, [2, n]: the error, and the one against what was read there.
    """

    variance: Any = 0.0
    lump: Any = 0.0

    def times(self, square: Any) -> Error:
        """Of an error times a value of this square."""
        return Error(*(part * square for part in self))

    def rolled(self, step: int) -> Error:
        """Of a value that is rotated."""
        return Error(*(np.roll(part, -step, -1) if np.ndim(part) else part for part in self))

    def beside(self, other: Error) -> Error:
        """Of a sum, where errors are independent."""
        return Error(self.variance + other.variance, np.maximum(self.lump, other.lump))

    def with_kin(self, other: Error) -> Error:
        """Of a sum where errors add up."""
        return Error(*((np.sqrt(one) + np.sqrt(two)) ** 2 for one, two in zip(self, other, strict=True)))

    @property
    def normal(self) -> Any:
        """The variance of a normal error that is `SIGMAS` deviations off as rarely as this one.

        A normal part and products of two normal ones, K the largest variance of these, are sub-gamma: above
        sqrt(2 V x) + sqrt(K / 2) x with a chance of exp(-x) (Boucheron, Lugosi and Massart, Concentration
        Inequalities, 2013, section 2.4).
        """
        return (np.sqrt(self.variance) + SIGMAS / 2 * np.sqrt(self.lump / 2)) ** 2


@dataclass(frozen=True, eq=False)
class Uncertain(ClearHandle):
    """Exact slots, and how they err; of complex slots so does the real part, and the imaginary one.

    Attributes:
        kin: the same for a value and its powers, and how far they are rotated.
    """

    error: Error = field(default_factory=Error)
    kin: tuple[int, int] = field(default_factory=lambda: (next(_KIN), 0))


def _squares(slots: NDArray[Any]) -> NDArray[np.float64]:
    """|slots|²."""
    return np.asarray(slots.real**2 + slots.imag**2 if np.iscomplexobj(slots) else slots * slots)


class VarianceEvaluator(ClearEvaluator):
    """CKKS on slots, exactly, with the variance of what an honest server's errors would be. What decrypting
    gives here is that variance; of coefficients it is the mean.

    Args:
        secret: |s|² of a secret key s in each slot, [n]; else the mean of all keys.

    Example: (a + e)·w with w exact, a = 3, w = 2 and V(e) = 1e-12 has the variance 4e-12.
    """

    def __init__(self, params: Parameters, secret: Any = None) -> None:
        super().__init__(params)
        self._fullest = 0.0
        if secret is not None:
            self._rounding = (1 + secret) / 12

    def _size(self, a: ClearHandle) -> float:
        """The square of a value, as large as any in the ciphertext; of coefficients, which all add up, the
        mean.
        """
        squares = _squares(a.slots)
        if np.iscomplexobj(a.slots):
            return max(self._fullest, float(squares.mean()))
        return float(squares.max())

    def _erring(self, a: ClearHandle, of: ClearHandle, more: Error, scale: float) -> Uncertain:
        """`a` with the error of `of`, and beside it one whose coefficients have these variances."""
        given = of if isinstance(of, Uncertain) else Uncertain(of.slots, of.level, of.scale)
        own = given.error.beside(more.times(self.params.ring / 2 / scale**2))
        return Uncertain(a.slots, a.level, a.scale, a.size, own, given.kin)

    def fresh(self, slots: NDArray[np.float64], shape: Shape) -> Uncertain:
        """See `Simulator`."""
        found = super().fresh(slots, shape)
        return self._erring(found, found, Error(self._encrypting(shape)), shape.scale)

    def slots(self, handle: ClearHandle) -> NDArray[np.float64]:
        """The variance in each slot, [n], of a normal error with as long a tail."""
        found = cast(Uncertain, handle).error.normal
        return np.broadcast_to(found[-1] if np.ndim(found) > 1 else found, handle.slots.shape)

    def coefficients(self, handle: ClearHandle) -> NDArray[np.float64]:
        """The variance of each coefficient, [N], all alike: slots are sums of N of them, and no slot counts
        for much.
        """
        variance, ring = cast(Uncertain, handle).error.variance, self.params.ring
        return np.full(ring, 2 / ring * np.broadcast_to(variance, handle.slots.shape).mean())

    def moved(self, a: ClearHandle, power: int, divisor: int = 1) -> ClearHandle:
        """See `ClearEvaluator`."""
        moved = super().moved(a, power, divisor)
        return replace(cast(Uncertain, moved), error=cast(Uncertain, a).error.times(divisor**-2))

    def add(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`."""
        total, one, two = super().add(a, b), cast(Uncertain, a), cast(Uncertain, b)
        both = Error.with_kin if one.kin == two.kin else Error.beside
        return Uncertain(
            total.slots, total.level, total.scale, total.size, both(one.error, two.error), one.kin
        )

    def multiply(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`: (a + e)(b + f) is off by a·f + b·e + e·f."""
        product, one, two = super().multiply(a, b), cast(Uncertain, a), cast(Uncertain, b)
        kin = one.kin == two.kin
        both = Error.with_kin if kin else Error.beside
        error = both(two.error.times(self._size(a)), one.error.times(self._size(b)))
        more = Error((3 if kin else 1) * one.error.variance * two.error.variance)
        return Uncertain(
            product.slots, product.level, product.scale, product.size, error.beside(more), one.kin
        )

    def dot(self, xs: Sequence[ClearHandle], ws: Sequence[ClearHandle]) -> ClearHandle:
        """See `ClearEvaluator`. A weight is what it is, slot by slot."""
        total, error = super().dot(xs, ws), Error()
        kin: dict[tuple[int, int], Error] = {}
        for x, w in zip(cast(Sequence[Uncertain], xs), cast(Sequence[Uncertain], ws), strict=True):
            error = error.beside(Error((self._size(x) + x.error.variance) * w.error.variance))
            # Beside a weight a real value's own error keeps its place; of kin, deviations add up.
            part = x.error.times(_squares(w.slots))
            kin[x.kin] = kin[x.kin].with_kin(part) if x.kin in kin else part
        for one in kin.values():
            error = error.beside(one)
        return Uncertain(total.slots, total.level, total.scale, total.size, error)

    def merged_products(
        self, sums: Sequence[tuple[Sequence[ClearHandle], Sequence[ClearHandle]]], of: int
    ) -> list[ClearHandle]:
        """See `Arithmetic`. Every answer errs as if it read the fullest of all ciphertexts."""
        squares = {id(x): float(_squares(x.slots).mean()) for xs, _ in sums for x in xs}
        self._fullest = max(squares.values(), default=0.0)
        found = super().merged_products(sums, of)
        self._fullest = 0.0
        return found

    def known(self, handle: ClearHandle, read: NDArray[np.int64]) -> ClearHandle:
        """See `Simulator`. Errors count from here on against what was read, error and all: none where it was,
        and in other copies of a value the difference of two.
        """
        given = cast(Uncertain, handle)
        whole = Error(*(np.broadcast_to(part, (2, len(read)))[0] for part in given.error))
        other = whole.beside(Error(*(part[read] for part in whole)))
        copied = read != np.arange(len(read))
        pairs = zip(whole, other, strict=True)
        return replace(given, error=Error(*(np.stack([one, two * copied]) for one, two in pairs)))

    def _switched(self, a: ClearHandle) -> ClearHandle:
        return self._erring(super()._switched(a), a, self._switch(a.level, 0), a.scale)

    def _switch(self, level: int, step: int) -> Error:
        """Of coefficients: a rotation's key switch. The digits' spread makes a lump; their mean, which is the
        same in all of them, makes none.
        """
        spread, mean = self._digits(level)
        mean = np.maximum(mean, np.roll(mean, -step))
        return Error(spread + mean + self._rounding, spread)

    def rescale(self, a: ClearHandle) -> ClearHandle:
        """See `ClearEvaluator`."""
        found = super().rescale(a)
        return self._erring(found, a, Error(self._rounding), found.scale)

    def rotate(self, a: ClearHandle, steps: Sequence[int]) -> list[ClearHandle]:
        """See `ClearEvaluator`. Which rotations share a decomposition is for each evaluator to choose: an
        error counts as large wherever it would be with one of them.
        """
        if a.size != 2:
            raise CompileError("relinearise before rotating")
        found = list[ClearHandle]()
        for step in steps:
            rolled = self._rolled(a, step)
            more = self._switch(a.level, step)
            found.append(self._erring(rolled, rolled, more, a.scale) if step else a)
        return found

    def _rolled(self, a: ClearHandle, step: int) -> ClearHandle:
        rolled, given = super()._rolled(a, step), cast(Uncertain, a)
        number, turned = given.kin
        return replace(cast(Uncertain, rolled), error=given.error.rolled(step), kin=(number, turned + step))
