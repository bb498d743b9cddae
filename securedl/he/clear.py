"""The simulator: slot vectors in the clear, with every level, scale and shape checked, and modelled noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.he.scheme import Simulator

SIGMA = 3.2  # standard deviation of SEAL's error distribution


@dataclass(frozen=True, eq=False)
class ClearHandle:
    """Slots [n] float64 with what a ciphertext would carry."""

    slots: NDArray[np.float64]
    level: int
    scale: float
    size: int = 2


@dataclass(frozen=True, eq=False)
class Embedding:
    """Real polynomials by their values at the roots ζ^(3^j), j < N/2, of X^N + 1: complex slots.

    A product of polynomials is one of slots, so what is true of real slots is true of coefficients.

    Attributes:
        exponents: int64 [N/2], 3^j modulo 2N. turn: complex [N], ζ^k.
    """

    exponents: NDArray[np.int64]
    turn: NDArray[np.complex128]

    def values(self, coefficients: NDArray[np.float64]) -> NDArray[Any]:
        """Slots complex [N/2] of coefficients [N]."""
        ring = len(self.turn)
        found: NDArray[Any] = np.fft.ifft(coefficients * self.turn)[self.exponents // 2] * ring
        return found

    def coefficients(self, slots: NDArray[Any]) -> NDArray[np.float64]:
        """The inverse of `values`."""
        ring = len(self.turn)
        whole = np.empty(ring, dtype=np.complex128)
        whole[self.exponents // 2] = slots
        whole[(2 * ring - self.exponents) // 2] = np.conj(slots)
        return np.asarray((np.fft.fft(whole) / self.turn).real / ring)

    def powers(self, power: int) -> NDArray[Any]:
        """X^power as slots."""
        ring = len(self.turn)
        found: NDArray[Any] = np.exp(1j * math.pi / ring * (self.exponents * power % (2 * ring)))
        return found


@lru_cache(maxsize=8)
def embedding(ring: int) -> Embedding:
    """That of a ring."""
    exponents = np.array([pow(3, j, 2 * ring) for j in range(ring // 2)])
    return Embedding(exponents, np.exp(1j * math.pi * np.arange(ring) / ring))


class ClearEvaluator(Simulator[ClearHandle]):
    """CKKS on slots. With `noise`, errors of the sizes below are added, each normal in every slot.

    A polynomial whose N coefficients have variance v has slots of standard deviation sqrt(N v / 2);
    the secret is ternary with 2N/3 non-zero coefficients. Variances of coefficients: encoding 1/12,
    encryption 3.2², rescaling (1 + 2N/3) / 12. Key switching multiplies errors by digits in [0, q): their
    mean q/2 is the polynomial q/2 · Σ X^i, which is q / (1 - ζ) in the slot of the root ζ, so the slots
    whose roots lie near 1 (slot 0 first) carry up to 100 times the error of the others.

    Args:
        noise: a seeded generator, or None for exact arithmetic.
    """

    def __init__(self, params: Parameters, noise: np.random.Generator | None = None) -> None:
        self.params = params
        self._noise = noise
        # |digit / q|² in each slot: N/12 from its spread, 1/|1 - ζ|² from its mean; ζ = exp(iπ 3^j / N).
        ring, self._embedding = params.ring, embedding(params.ring)
        angles = self._embedding.exponents * math.pi / ring
        self._digit_power = ring / 12, 1 / (4 * np.sin(angles / 2) ** 2)
        self._rounding: Any = (1 + 2 * ring / 3) / 12

    def _noisy(self, slots: NDArray[np.float64], variance: Any, scale: float) -> NDArray[np.float64]:
        """Slots with the noise of coefficients of this variance, one number or one for each slot."""
        if self._noise is None:
            return slots
        deviation = np.sqrt(self.params.ring * variance / 2) / scale
        noise = self._noise.normal(0.0, deviation, len(slots))
        if np.iscomplexobj(slots):
            return slots + noise + 1j * self._noise.normal(0.0, deviation, len(slots))
        return slots + noise

    def fresh(self, slots: NDArray[np.float64], shape: Shape) -> ClearHandle:
        """What encoding (and, for a ciphertext, encrypting) slots [n] or coefficients [N] gives."""
        if slots.shape == (self.params.ring,):
            slots = self._embedding.values(slots)
        if slots.shape != (self.params.slots,):
            raise CompileError(f"{self.params.slots} slots expected, got {slots.shape}")
        noisy = self._noisy(slots, self._encrypting(shape), shape.scale)
        return ClearHandle(noisy, shape.level, shape.scale, shape.size)

    @staticmethod
    def _encrypting(shape: Shape) -> float:
        """The variance of coefficients that encoding brings, and encryption."""
        return 1 / 12 + SIGMA**2 * (shape.size > 1)

    def _switching(self, level: int) -> Any:
        """The same of a key switch, for each slot."""
        return sum(self._digits(level)) + self._rounding

    def _digits(self, level: int) -> tuple[Any, Any]:
        """The part of that which its digits make, by their spread and by their mean."""
        digits = sum(float(q) ** 2 for q in self.params.primes[: level + 1])
        factor = digits / float(self.params.special) ** 2 * SIGMA**2
        spread, mean = self._digit_power
        return factor * spread, factor * mean

    def slots(self, handle: ClearHandle) -> NDArray[np.float64]:
        """The values."""
        return handle.slots

    def coefficients(self, handle: ClearHandle) -> NDArray[np.float64]:
        """Of values that were given as such."""
        return self._embedding.coefficients(handle.slots)

    def moved(self, a: ClearHandle, power: int, divisor: int = 1) -> ClearHandle:
        """Every slot times a power of its root."""
        return replace(a, slots=a.slots * (self._embedding.powers(power) / divisor))

    def level(self, handle: ClearHandle) -> int:
        """Rescales that remain."""
        return handle.level

    def scale(self, handle: ClearHandle) -> float:
        """The handle's scale."""
        return handle.scale

    def _same_level(self, a: ClearHandle, b: ClearHandle) -> None:
        if a.level != b.level:
            raise CompileError(f"operands at levels {a.level} and {b.level}")

    def add(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """a + b."""
        self._same_level(a, b)
        if not math.isclose(a.scale, b.scale, rel_tol=1e-9):
            raise CompileError(f"adding scales {a.scale} and {b.scale}")
        return replace(a, slots=a.slots + b.slots, size=max(a.size, b.size))

    def multiply(self, a: ClearHandle, b: ClearHandle) -> ClearHandle:
        """a · b."""
        self._same_level(a, b)
        if a.size > 2 or b.size > 2:
            raise CompileError("relinearise before multiplying")
        bits = math.log2(a.scale * b.scale)
        if bits >= sum(math.log2(q) for q in self.params.primes[: a.level + 1]):
            raise CompileError(f"a product of {bits:.0f} scale bits does not fit level {a.level}")
        return ClearHandle(a.slots * b.slots, a.level, a.scale * b.scale, a.size + b.size - 1)

    def square(self, a: ClearHandle) -> ClearHandle:
        """a · a."""
        return self.multiply(a, a)

    def dot(self, xs: Sequence[ClearHandle], ws: Sequence[ClearHandle]) -> ClearHandle:
        """Σ x·w."""
        total = self.multiply(xs[0], ws[0])
        slots = total.slots
        for x, w in zip(xs[1:], ws[1:], strict=True):
            self._same_level(x, w)
            if not math.isclose(x.scale * w.scale, total.scale, rel_tol=1e-9):
                raise CompileError("terms of a dot product have different scales")
            slots = slots + x.slots * w.slots
        return replace(total, slots=slots)

    def _switched(self, a: ClearHandle) -> ClearHandle:
        return replace(a, slots=self._noisy(a.slots, self._switching(a.level), a.scale), size=2)

    def relinearise(self, a: ClearHandle) -> ClearHandle:
        """Back to two polynomials."""
        return a if a.size == 2 else self._switched(a)

    def rescale(self, a: ClearHandle) -> ClearHandle:
        """Divide by the last prime."""
        if a.level == 0:
            raise CompileError("no level is left to rescale")
        if a.size != 2:  # rounding the third polynomial would cost a hundred times the error below
            raise CompileError("relinearise before rescaling")
        scale = a.scale / self.params.primes[a.level]
        slots = self._noisy(a.slots, self._rounding, scale)
        return replace(a, slots=slots, level=a.level - 1, scale=scale)

    def mod_switch(self, a: ClearHandle, level: int) -> ClearHandle:
        """Drop primes."""
        if level > a.level:
            raise CompileError(f"cannot raise level {a.level} to {level}")
        return replace(a, level=level)

    def rotate(self, a: ClearHandle, steps: Sequence[int]) -> list[ClearHandle]:
        """Left rotations. Several share one decomposition, and what is large of their errors turns with
        them.
        """
        if a.size != 2:
            raise CompileError("relinearise before rotating")
        return [a if s == 0 else self._switched(self._rolled(a, s)) for s in steps]

    def _rolled(self, a: ClearHandle, step: int) -> ClearHandle:
        return replace(a, slots=np.roll(a.slots, -step))
