"""The negacyclic number-theoretic transform, in SEAL's order: bit-reversed, psi the minimal 2N-th root.

A transform of N = 2^n values is three passes over the data, each several levels deep so that the values
stay in registers:

    ring     forward: leading pass, middle pass, closing pass      levels
    4096     radix 8,  radix 16, blocks of 32                      3 + 4 + 5
    8192     radix 16, radix 16, blocks of 32                      4 + 4 + 5
    16384    radix 16, radix 16, blocks of 64                      4 + 4 + 6
    32768    radix 16, radix 16, blocks of 128                     4 + 4 + 7

The closing pass does its last three levels within vectors of eight. The inverse runs the passes backwards.

With IFMA, primes of at most 49 bits are transformed on 52-bit integers (`ntt_words_forward`), others on
doubles (`ntt_doubles`); `method` says which, and how values are kept small. Results are the same residues.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from securedl.he.vector.kernels.cache import caller, entry, kernel
from securedl.he.vector.kernels.llvm import IFMA
from securedl.he.vector.kernels.ntt_doubles import NARROW_BITS, forward_doubles, inverse_doubles
from securedl.he.vector.kernels.ntt_words import LARGEST_BITS
from securedl.he.vector.kernels.ntt_words_forward import START_SIGNATURE, forward_words, start_words
from securedl.he.vector.kernels.ntt_words_inverse import inverse_words


def method(prime: int) -> int:
    """How to transform modulo `prime`: on words (negative), or on doubles reduced so often between passes."""
    bits = prime.bit_length()
    if IFMA:
        for number, largest in LARGEST_BITS.items():
            if bits <= largest:
                return number
    return max(0, bits - NARROW_BITS)


_FORWARD = "void(int64,int64,int64,int64,int64,float64,float64,int64,int64,int64)"
_INVERSE = "void(int64,int64,int64,int64,float64,float64,int64,float64,float64,int64)"

#: Places in `transform_entries`.
FORWARD, INVERSE, START = range(3)
#: The transforms, and the first two passes of one on words, for other kernels: their entry comes first.
call_forward, call_inverse, call_start = caller(_FORWARD), caller(_INVERSE), caller(START_SIGNATURE)


@kernel(_FORWARD)
def forward(source, target, gap, table, n, q, q_inverse, how, first, second):  # type: ignore[no-untyped-def]
    """target = NTT(source), centred; any integers up to 2^49. Addresses of N doubles: source is a padded row,
    and the blocks of target are `gap` octets apart (see `padding`); they may be equal if that is padded too.

    `how` is the prime's `method`, and the table is of its kind. `first` and `second`, unless `first` is 0,
    are addresses of rows that will be needed soon: on doubles each of the 3 N / 128 steps asks for 12 cache
    lines of them, so that all 2 N / 8 have been asked for at the end.
    """
    if how < 0:
        forward_words(source, target, gap, table, n, q, q_inverse, how)
    else:
        forward_doubles(source, target, gap, table, n, q, q_inverse, how, first, second)


@kernel(_INVERSE)
def inverse(source, target, table, n, n_inverse, top, signs, q, q_inverse, how):  # type: ignore[no-untyped-def]
    """target = inverse NTT of centred values: canonical if top = q, exactly centred if top = 0.

    source is a plain row, target a padded one. signs: the address of an automorphism's, or 0; coefficients
    that it negates are then canonical after it: x - q in place of x.
    """
    if how < 0:
        inverse_words(source, target, table, n, top, signs, q, q_inverse, how)
    else:
        inverse_doubles(source, target, table, n, n_inverse, top, signs, q, q_inverse)


@lru_cache(maxsize=1)
def transform_entries() -> NDArray[np.int64]:
    """Addresses of the transforms' code."""
    return np.array([entry(forward), entry(inverse), entry(start_words)])
