"""BGV: exact integers modulo a prime t, in two rows of N/2 slots. Every assumption of the scheme stands here.

What has correction factor f, a ciphertext or a plaintext, holds f times its message modulo t
(`Shape.correction`). A program keeps these factors where it has scales for CKKS: all follow from its steps.
Dropping a prime q multiplies a factor by 1/q modulo t, in a rescaling and in a switch to a lower level alike,
for both divide the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from securedl.errors import CompileError
from securedl.he.modular import MODULUS_BITS
from securedl.he.params import MAX_MODULUS_BITS, SPECIAL_BITS, Parameters, is_prime, ntt_primes
from securedl.he.scheme import CoefficientForm, Encoder, Scheme, Simulator


def plain_prime(ring: int, least: int) -> int:
    """The smallest prime t ≥ `least` with t ≡ 1 (mod 2N), so that there are slots.

    Raises:
        CompileError: none has at most 33 bits.

    Example: plain_prime(8192, 2) is 65537.
    """
    step = 2 * ring
    t = max(0, -(-(least - 1) // step)) * step + 1
    while t < 1 << MODULUS_BITS:
        if is_prime(t):
            return t
        t += step
    raise CompileError(f"no plain modulus of at most {MODULUS_BITS} bits is at least {least}")


def plain_primes(ring: int, least: int, number: int) -> tuple[int, ...]:
    """So many different plain moduli of about one size, ascending, whose product is at least `least`.

    Raises:
        CompileError: they would have more than 33 bits.

    Example: plain_primes(8192, 1 << 50, 3) is (114689, 147457, 163841).
    """
    root, found = math.floor(2.0 ** (math.log2(least) / number)), list[int]()
    while math.prod(found) < least or len(found) < number:
        found = found[1 - number :] if number > 1 else []
        found.append(plain_prime(ring, found[-1] + 1 if found else root))
    return tuple(found)


def bgv_parameters(ring: int, t: int, bits: Sequence[int]) -> Parameters:
    """A chain with primes of these sizes, the first one the last to remain, and a special prime two bits
    above the largest.

    Raises:
        CompileError: it gives less than 128 bits of security, or a prime of it is not above t.
    """
    special_bits = max(bits) + SPECIAL_BITS
    free = MAX_MODULUS_BITS.get(ring, 0)
    if sum(bits) + special_bits > free:
        raise CompileError(
            f"primes of {list(bits)} bits and a special one of {special_bits} do not fit ring {ring}: "
            f"{free} bits give 128 bits of security"
        )
    special = next(ntt_primes(ring, special_bits))
    sources = {size: ntt_primes(ring, size) for size in sorted(set(bits))}
    found = [next((q for q in sources[size] if 4 * q <= special), 0) for size in bits]
    primes = tuple(q for q in found if q)
    if len(primes) < len(found) or min(primes) <= t:
        raise CompileError(f"the plain modulus {t} is not below every prime of {list(bits)} bits")
    return Parameters("bgv", ring, primes, special, t)


class Bgv(Scheme):
    """See `Scheme`; a scale is a correction factor, 1 to t - 1."""

    name = "bgv"
    #: In parts of what is clipped: inputs alone can leave their range (`plan.quantised`).
    value_limit = 1.0
    #: A product's noise needs two primes; what comes back has one.
    coefficient_form = CoefficientForm(1, 1.0, 1.0)

    def parameters(self, ring: int, levels: int) -> Parameters:
        """Chains follow from t and from the noise of a program (`compiler.noise`).

        Raises:
            CompileError: always.
        """
        raise CompileError("a chain of BGV follows from its plain modulus and its program")

    def slots(self, ring: int) -> tuple[int, int]:
        """Two rows of N/2."""
        return 2, ring // 2

    def scale(self, params: Parameters) -> float:
        """1."""
        return 1.0

    def product(self, params: Parameters, level: int, left: float, right: float) -> float:
        """left · right over the prime that is dropped, modulo t."""
        return self.lowered(params, self.whole(params, left, right), level, level - 1)

    def whole(self, params: Parameters, left: float, right: float) -> float:
        """left · right modulo t."""
        return float(int(left) * int(right) % params.plain_modulus)

    def lowered(self, params: Parameters, scale: float, level: int, to: int) -> float:
        """Over each prime that is dropped, modulo t."""
        t, found = params.plain_modulus, int(scale)
        for q in params.primes[to + 1 : level + 1]:
            found = found * pow(q, -1, t) % t
        return float(found)

    def same(self, one: float, other: float) -> bool:
        """Exactly."""
        return one == other

    def factor(self, params: Parameters, level: int, given: float, wanted: float) -> float:
        """wanted over given, times the prime that is dropped, modulo t."""
        t = params.plain_modulus
        return float(int(wanted) * params.primes[level] * pow(int(given), -1, t) % t)

    def rounding(self, params: Parameters, scale: float) -> float:
        """None."""
        return 0.0

    def simulator(self, params: Parameters, noise: np.random.Generator | None) -> Simulator[Any]:
        """Residues in the clear; there is no noise in them."""
        from securedl.he.exact import ExactEvaluator

        return ExactEvaluator(params)

    def variances(self, params: Parameters, secret: Any = None) -> Simulator[Any]:
        """There are none: values are exact.

        Raises:
            CompileError: always.
        """
        raise CompileError("BGV's values are exact: no error has a variance")

    def encoder(self, context: Any) -> Encoder:
        """None: `client.batching` needs no context.

        Raises:
            CompileError: always.
        """
        raise CompileError("whole numbers are put into slots by securedl.client.batching")
