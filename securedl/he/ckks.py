"""CKKS: approximate real numbers in N/2 slots. Every assumption of the scheme stands here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from securedl.errors import CompileError
from securedl.he.clear import ClearEvaluator
from securedl.he.params import MAX_MODULUS_BITS, SPECIAL_BITS, Parameters, ntt_primes
from securedl.he.scheme import CoefficientForm, Encoder, Scheme
from securedl.he.variance import VarianceEvaluator

#: Bits between the scale and the first prime: encrypted values may reach 2^(HEADROOM_BITS - 1).
HEADROOM_BITS = 7
#: With a smaller scale results are too coarse.
LEAST_SCALE_BITS = 30


def scale_bits_for(ring: int, levels: int) -> int:
    """Largest CKKS scale in bits, at most 40, with which `levels` levels fit the security table."""
    free = MAX_MODULUS_BITS[ring] - 2 * HEADROOM_BITS - SPECIAL_BITS
    return min(40, free // (levels + 2))


def ckks_parameters(
    ring: int, levels: int, scale_bits: int | None = None, first_bits: int | None = None
) -> Parameters:
    """A CKKS chain [first, scale x levels] with a special prime two bits above the first; this has 7 bits
    more than the scale unless its size is given.

    Raises:
        CompileError: when fewer than 30 scale bits would remain; below that results are too coarse.
    """
    bits = scale_bits_for(ring, levels) if scale_bits is None else scale_bits
    if bits < LEAST_SCALE_BITS:
        raise CompileError(
            f"ring {ring} cannot hold {levels} levels at 128 bits of security: only {bits} bits of scale "
            f"remain and {LEAST_SCALE_BITS} are needed; use a larger ring or allow refreshes"
        )
    first_bits = bits + HEADROOM_BITS if first_bits is None else first_bits
    special = next(ntt_primes(ring, first_bits + SPECIAL_BITS))
    first = next(q for q in ntt_primes(ring, first_bits) if 4 * q <= special)
    source = ntt_primes(ring, bits)
    primes = (first, *(next(source) for _ in range(levels)))
    return Parameters("ckks", ring, primes, special)


#: Scales of the coefficient form, of values and weights: their product is 7 bits below the prime, as above.
VALUE_SCALE, WEIGHT_SCALE = 2.0**20, 2.0**21
COEFFICIENT_BITS = 48


def coefficient_parameters(ring: int = 4096, levels: int = 0) -> Parameters:
    """A chain whose first prime is that of the coefficient form (`securedl.plan.bands`); with `levels` there
    are slots beside it, whose scale has as many bits as fit, at most 7 less than that prime.

    Raises:
        CompileError: a ring that is none, or cannot hold the levels.
    """
    free = MAX_MODULUS_BITS.get(ring, 0) - 2 * COEFFICIENT_BITS - SPECIAL_BITS
    bits = COEFFICIENT_BITS - HEADROOM_BITS
    bits = min(bits, free // levels) if levels else bits
    if free < 0 or bits < LEAST_SCALE_BITS:
        raise CompileError(
            f"ring {ring} cannot hold {levels} levels beside coefficients at 128 bits of security"
        )
    return ckks_parameters(ring, levels, bits, COEFFICIENT_BITS)


class Ckks(Scheme):
    """See `Scheme`."""

    name = "ckks"
    #: Decryption wraps around at 2^(HEADROOM_BITS - 1).
    value_limit = 2.0 ** (HEADROOM_BITS - 2)
    coefficient_form = CoefficientForm(0, VALUE_SCALE, WEIGHT_SCALE)

    def parameters(self, ring: int, levels: int) -> Parameters:
        """As `ckks_parameters`."""
        return ckks_parameters(ring, levels)

    def slots(self, ring: int) -> tuple[int, int]:
        """One row of N/2."""
        return 1, ring // 2

    def scale(self, params: Parameters) -> float:
        """The power of two nearest to the last prime, so that a square of it rescales to nearly itself."""
        return float(2.0 ** (params.primes[-1] - 1).bit_length())

    def product(self, params: Parameters, level: int, left: float, right: float) -> float:
        """left · right over the prime that is dropped."""
        return left * right / params.primes[level]

    def whole(self, params: Parameters, left: float, right: float) -> float:
        """left · right."""
        return left * right

    def lowered(self, params: Parameters, scale: float, level: int, to: int) -> float:
        """As it was."""
        return scale

    def same(self, one: float, other: float) -> bool:
        """To 1 part in 10^9: doubles that were computed along different ways."""
        return math.isclose(one, other, rel_tol=1e-9)

    def factor(self, params: Parameters, level: int, given: float, wanted: float) -> float:
        """wanted over given, times the prime that is dropped."""
        return params.primes[level] * wanted / given

    def rounding(self, params: Parameters, scale: float) -> float:
        """N coefficients of variance (1 + 2N/3) / 12, for a ternary secret with 2N/3 non-zero ones."""
        return math.sqrt(params.ring / 2 * (1 + 2 * params.ring / 3) / 12) / scale

    def simulator(self, params: Parameters, noise: np.random.Generator | None) -> ClearEvaluator:
        """Slot vectors in the clear."""
        return ClearEvaluator(params, noise)

    def variances(self, params: Parameters, secret: Any = None) -> VarianceEvaluator:
        """See `Scheme`."""
        return VarianceEvaluator(params, secret)

    def encoder(self, context: Any) -> Encoder:
        """SEAL's CKKSEncoder."""
        from securedl.he.seal import CkksEncoder  # a server has no SEAL

        return CkksEncoder(context)
