"""An evaluator that stops when nobody waits for its results any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from securedl.he.arithmetic import Arithmetic, Group, H
from securedl.program.effort import switch_seconds, term_seconds

#: Calls that take longer than this, about, are taken apart.
CALL_S = 0.5


class Watched(Arithmetic[H]):
    """Another evaluator, with a look at its client before each operation.

    What takes long in one call is done by the operations that it consists of, as `Arithmetic` has them. They
    share less and take longer than one call does; no network measured so far has calls that long.

    Args:
        check: called before each operation; what it raises ends the evaluation.
    """

    def __init__(self, evaluator: Arithmetic[H], check: Callable[[], None]) -> None:
        self._e, self._check, self.params = evaluator, check, evaluator.params

    def _long(self, handle: H, switches: int, terms: int) -> bool:
        """Look, and tell whether a call with so many key switches and terms takes long."""
        self._check()
        primes = self._e.level(handle) + 1
        seconds = switches * switch_seconds(self.params, primes) + terms * term_seconds(self.params, primes)
        return switches > 1 and seconds > CALL_S

    def level(self, handle: H) -> int:
        return self._e.level(handle)

    def scale(self, handle: H) -> float:
        return self._e.scale(handle)

    def add(self, a: H, b: H) -> H:
        self._check()
        return self._e.add(a, b)

    def multiply(self, a: H, b: H) -> H:
        self._check()
        return self._e.multiply(a, b)

    def square(self, a: H) -> H:
        self._check()
        return self._e.square(a)

    def dot(self, xs: Sequence[H], ws: Sequence[H]) -> H:
        self._check()
        return self._e.dot(xs, ws)

    def relinearise(self, a: H) -> H:
        self._check()
        return self._e.relinearise(a)

    def rescale(self, a: H) -> H:
        self._check()
        return self._e.rescale(a)

    def mod_switch(self, a: H, level: int) -> H:
        self._check()
        return self._e.mod_switch(a, level)

    def moved(self, a: H, power: int, divisor: int = 1) -> H:
        self._check()
        return self._e.moved(a, power, divisor)

    def rotate(self, a: H, steps: Sequence[int]) -> list[H]:
        if self._long(a, len(steps), 0):
            half = len(steps) // 2
            return self.rotate(a, steps[:half]) + self.rotate(a, steps[half:])
        return self._e.rotate(a, steps)

    def fold(self, a: H, step: int) -> H:
        self._check()
        return self._e.fold(a, step)

    def giant_steps(self, groups: Sequence[Group]) -> H:
        if self._long(groups[0].xs[0], 2 * len(groups), sum(len(group.xs) for group in groups)):
            return super().giant_steps(groups)
        return self._e.giant_steps(groups)

    def multiply_rescale(self, a: H, b: H) -> H:
        self._check()
        return self._e.multiply_rescale(a, b)

    def products(self, sums: Sequence[tuple[Sequence[H], Sequence[H]]]) -> list[H]:
        if self._long(sums[0][0][0], len(sums), sum(len(xs) for xs, _ in sums)):
            half = len(sums) // 2
            return self.products(sums[:half]) + self.products(sums[half:])
        return self._e.products(sums)

    def merged_products(self, sums: Sequence[tuple[Sequence[H], Sequence[H]]], of: int) -> list[H]:
        if self._long(sums[0][0][0], 2 * len(sums), sum(len(xs) for xs, _ in sums)):
            return super().merged_products(sums, of)
        return self._e.merged_products(sums, of)

    def scaled(self, handles: Sequence[H], divisor: int) -> list[H]:
        self._check()
        return self._e.scaled(handles, divisor)

    def merge(self, handles: Sequence[H], of: int) -> H:
        if self._long(handles[0], len(handles), 0):
            return super().merge(handles, of)
        return self._e.merge(handles, of)
