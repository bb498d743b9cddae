"""Noise of BGV, carried along a program: how large it is, and whether every value decrypts.

Of each ciphertext V is the variance of the noise's coefficients, as far as they are independent, and S bounds
a structured part beside them. SEAL's correction, when a prime is dropped, lies in [0, t): its mean t/2 leaves
(t/2) · s · Σ X^i, one polynomial for all coefficients, whose square is much larger than that of a random one.
Four fifths of it are one wave over the N coefficients, so its mean square is half of the square of its peak,
which is that of the key: of one key in 300 five times the mean of all. It is a heuristic, not a proof:
coefficients of encoded values count as random, or are small (in the coefficient form, of 12 bits). A wave
times a weight is a wave too, and counts as independent coefficients here: programs with a product behind a
matrix, which only plans without refreshes have, have a model of their own (`he.deep_noise`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from securedl.errors import CompileError
from securedl.he.arithmetic import Arithmetic
from securedl.he.params import Parameters

#: Variance of SEAL's error distribution: 3.2², and a little for what is cut off.
ERROR = 10.5
#: A coefficient is so many deviations off with a chance of 2^-63: of 2^23 of them none with one of 2^-40.
COEFFICIENTS = 9.5
#: The same of what is drawn once for each key.
KEY = 7.6


class NoiseError(CompileError):
    """Noise that reaches half of a modulus.

    Attributes:
        level: of the value.
    """

    def __init__(self, message: str, level: int) -> None:
        super().__init__(message)
        self.level = level


@dataclass(frozen=True)
class Noise:
    """Of a ciphertext, or of a plaintext (`size` 1), whose coefficients count as noise would."""

    variance: float
    structured: float
    level: int
    size: int = 2

    @property
    def total(self) -> float:
        """Mean square of the coefficients."""
        return self.variance + self.wave

    @property
    def wave(self) -> float:
        """Mean square of the structured part."""
        return self.structured**2 / 2

    @property
    def bound(self) -> float:
        """Of all coefficients' magnitudes."""
        return COEFFICIENTS * math.sqrt(self.variance) + self.structured

    @property
    def bits(self) -> float:
        """log2 of the bound."""
        return math.log2(self.bound)


class Sizes(NamedTuple):
    """What the model knows of parameters: primes may be any numbers."""

    ring: int
    plain_modulus: int
    primes: Sequence[float]
    special: float


class NoiseEvaluator(Arithmetic[Noise]):
    """The noise of everything that a program computes, the worst of all keys.

    Args:
        params: those of BGV, or their sizes.

    Raises:
        NoiseError: a value's noise reaches half of its modulus: it could not be decrypted.
    """

    def __init__(self, params: Parameters | Sizes) -> None:
        known: Any = params
        self.params, self._t = known, float(params.plain_modulus)
        self._ones = 2 * params.ring / 3
        self._lost = self._t / 2 * math.sqrt(self._ones)  # deviation over keys
        self._rounding = self._t**2 * (1 + self._ones) / 12
        self._room = [
            sum(math.log2(q) for q in params.primes[: level + 1]) - 1 for level in range(len(params.primes))
        ]
        #: The least bits that were left anywhere.
        self.left = math.inf

    def fresh(self, level: int, encrypted: bool = True) -> Noise:
        """Of an encryption, or of a plaintext: a coefficient is a residue, whatever the message."""
        variance = self._t**2 / 12 + self._t**2 * ERROR * encrypted
        return self._checked(Noise(variance, 0.0, level, 1 + encrypted))

    def _checked(self, noise: Noise) -> Noise:
        left = self._room[noise.level] - noise.bits
        self.left = min(self.left, left)
        if left <= 0:
            raise NoiseError(
                f"the noise of a value takes {noise.bits:.1f} of {self._room[noise.level]:.1f} bits at level "
                f"{noise.level}: it could not be decrypted",
                noise.level,
            )
        return noise

    def level(self, handle: Noise) -> int:
        """Primes that can still be dropped."""
        return handle.level

    def scale(self, handle: Noise) -> float:
        """None: 1."""
        return 1.0

    def add(self, a: Noise, b: Noise) -> Noise:
        """Both add up."""
        variance = (a.variance + b.variance) * (2 if a is b else 1)
        noise = Noise(variance, a.structured + b.structured, a.level, max(a.size, b.size))
        return self._checked(noise)

    def multiply(self, a: Noise, b: Noise) -> Noise:
        """Each part of one times each of the other, N terms a coefficient; twice the variance, as of a
        square, for two that may be kin.
        """
        ring, size = self.params.ring, a.size + b.size - 1
        if 1 in (a.size, b.size):
            return self._checked(Noise(ring * a.total * b.total, 0.0, a.level, size))
        variance = 2 * ring * (a.variance * b.total + a.wave * b.variance)
        return self._checked(Noise(variance, ring * a.structured * b.structured / 2, a.level, size))

    def square(self, a: Noise) -> Noise:
        """See `multiply`."""
        return self.multiply(a, a)

    def dot(self, xs: Sequence[Noise], ws: Sequence[Noise]) -> Noise:
        """Weights are fresh, so that all terms are independent."""
        ring = self.params.ring
        variance = ring * sum(x.total * w.total for x, w in zip(xs, ws, strict=True))
        return self._checked(Noise(variance, 0.0, xs[0].level, xs[0].size + ws[0].size - 1))

    def relinearise(self, a: Noise) -> Noise:
        """A key switch."""
        return a if a.size == 2 else self._switched(a)

    def _switched(self, a: Noise) -> Noise:
        variance, wave = self._switching(a.level)
        return self._checked(Noise(a.variance + variance, a.structured + KEY * wave, a.level))

    def _switching(self, level: int) -> tuple[float, float]:
        """What a key switch adds: a variance, and a wave's deviation over keys."""
        key = self._key(level)
        return key**2 / 12 + self._rounding, key / 2 + self._lost

    def _key(self, level: int) -> float:
        """t·sqrt(E·N·part): of a switch key's errors times digits, which are a part of the special prime."""
        part = sum((q / self.params.special) ** 2 for q in self.params.primes[: level + 1])
        return self._t * math.sqrt(ERROR * self.params.ring * part)

    def rescale(self, a: Noise) -> Noise:
        """Divided by a prime."""
        q = float(self.params.primes[a.level])
        structured = a.structured / q + KEY * self._lost
        return self._checked(Noise(a.variance / q**2 + self._rounding, structured, a.level - 1, a.size))

    def mod_switch(self, a: Noise, level: int) -> Noise:
        """The same for each prime."""
        if a.size == 1:
            return replace(a, level=level)
        while a.level > level:
            a = self.rescale(a)
        return a

    def rotate(self, a: Noise, steps: Sequence[int]) -> list[Noise]:
        """A key switch each."""
        return [self._switched(a) if step else a for step in steps]

    def moved(self, a: Noise, power: int, divisor: int = 1) -> Noise:
        """Divided: what is large modulo a prime has been multiplied again when it is read."""
        return self._checked(replace(a, variance=a.variance / divisor**2, structured=a.structured / divisor))
