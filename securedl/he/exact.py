"""The simulator of BGV: residues modulo t in two rows, with every level and correction factor checked.

Polynomials are kept by their slots, also where values stand in coefficients: products of polynomials are
products slot by slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.he.embedded import slots_of_polynomials
from securedl.he.modular import Residues, centred_residues, reduced, times
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.he.scheme import Simulator


@dataclass(frozen=True, eq=False)
class ExactHandle:
    """Residues int64 [2, N/2] of a message, with what a ciphertext would carry."""

    residues: Residues
    level: int
    factor: int
    size: int = 2


class ExactEvaluator(Simulator[ExactHandle]):
    """Residues modulo t, slot by slot."""

    def __init__(self, params: Parameters) -> None:
        self.params, self._t = params, params.plain_modulus
        self._polynomials = slots_of_polynomials(params.ring, self._t)
        self._monomials: dict[tuple[int, int], Residues] = {}

    def fresh(self, slots: NDArray[np.float64], shape: Shape) -> ExactHandle:
        """See `Simulator`; whole numbers."""
        if slots.shape == (self.params.ring,):
            rows = self._polynomials.values(reduced(slots, self._t))
        elif slots.shape == (2, self.params.slots):
            rows = reduced(slots, self._t)
        else:
            raise CompileError(f"two rows of {self.params.slots} slots expected, got {slots.shape}")
        return ExactHandle(rows, shape.level, shape.correction, shape.size)

    def slots(self, handle: ExactHandle) -> NDArray[np.float64]:
        """Whole numbers [2, N/2], at most (t - 1)/2 in magnitude."""
        return centred_residues(handle.residues, self._t).astype(np.float64)

    def coefficients(self, handle: ExactHandle) -> NDArray[np.float64]:
        """Whole numbers [N], at most (t - 1)/2 in magnitude."""
        found = self._polynomials.coefficients(handle.residues)
        return centred_residues(found, self._t).astype(np.float64)

    def level(self, handle: ExactHandle) -> int:
        """Primes that can still be dropped."""
        return handle.level

    def scale(self, handle: ExactHandle) -> float:
        """The correction factor."""
        return float(handle.factor)

    def _same_level(self, a: ExactHandle, b: ExactHandle) -> None:
        if a.level != b.level:
            raise CompileError(f"operands at levels {a.level} and {b.level}")

    def add(self, a: ExactHandle, b: ExactHandle) -> ExactHandle:
        """a + b; a plaintext is brought under a's factor, ciphertexts must agree, for else noise grows."""
        self._same_level(a, b)
        if b.size > 1 and a.factor != b.factor:
            raise CompileError(f"adding correction factors {a.factor} and {b.factor}")
        return replace(a, residues=(a.residues + b.residues) % self._t, size=max(a.size, b.size))

    def multiply(self, a: ExactHandle, b: ExactHandle) -> ExactHandle:
        """a · b."""
        self._same_level(a, b)
        if a.size > 2 or b.size > 2:
            raise CompileError("relinearise before multiplying")
        factor = a.factor * b.factor % self._t
        return ExactHandle(times(a.residues, b.residues, self._t), a.level, factor, a.size + b.size - 1)

    def square(self, a: ExactHandle) -> ExactHandle:
        """a · a."""
        return self.multiply(a, a)

    def dot(self, xs: Sequence[ExactHandle], ws: Sequence[ExactHandle]) -> ExactHandle:
        """Σ x·w."""
        total = self.multiply(xs[0], ws[0])
        for x, w in zip(xs[1:], ws[1:], strict=True):
            total = self.add(total, self.multiply(x, w))
        return total

    def relinearise(self, a: ExactHandle) -> ExactHandle:
        """Back to two polynomials."""
        return replace(a, size=2)

    def rescale(self, a: ExactHandle) -> ExactHandle:
        """Drop the last prime: the message stays, its factor is divided."""
        if a.level == 0:
            raise CompileError("no level is left to rescale")
        if a.size != 2:
            raise CompileError("relinearise before rescaling")
        factor = a.factor * pow(self.params.primes[a.level], -1, self._t) % self._t
        return replace(a, level=a.level - 1, factor=factor)

    def mod_switch(self, a: ExactHandle, level: int) -> ExactHandle:
        """Drop primes down to `level`; a plaintext only loses residues."""
        if level > a.level:
            raise CompileError(f"cannot raise level {a.level} to {level}")
        if a.size == 1:
            return replace(a, level=level)
        while a.level > level:
            a = self.rescale(a)
        return a

    def rotate(self, a: ExactHandle, steps: Sequence[int]) -> list[ExactHandle]:
        """Left rotations of both rows."""
        if a.size != 2:
            raise CompileError("relinearise before rotating")
        return [replace(a, residues=np.roll(a.residues, -step, axis=1)) for step in steps]

    def moved(self, a: ExactHandle, power: int, divisor: int = 1) -> ExactHandle:
        """Times the slots of a monomial."""
        return replace(a, residues=times(a.residues, self._monomial(power, divisor), self._t))

    def _monomial(self, power: int, divisor: int) -> Residues:
        if (power, divisor) not in self._monomials:
            ring, t = self.params.ring, self._t
            coefficients = np.zeros(ring, np.int64)
            turns, place = divmod(power % (2 * ring), ring)
            coefficients[place] = (-1 if turns else 1) * pow(divisor, -1, t) % t
            self._monomials[power, divisor] = self._polynomials.values(coefficients)
        return self._monomials[power, divisor]
