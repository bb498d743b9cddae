"""What a server sends, cut to four bytes a coefficient: round(c · 2^32 / q), as far as CKKS needs it.

A coefficient is then wrong by q / 2^33 at most, and the phase c0 + c1 · s by about that times the square root
of 2N/3, for a ternary secret: 2^-21 of the scale where the coefficient form has a scale of 2^41 and q has 48
bits. The formulas are in doubles, one for all evaluators, so that equal residues give equal octets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securedl.he.params import Parameters
from securedl.he.record import CUT_BITS, Record, Shape

_WHOLE = 2.0**CUT_BITS


def cut(params: Parameters, coefficients: NDArray[np.float64], scale: float) -> Record:
    """A record of polynomials [polynomials, N] of level 0, in order, centred or from 0 to q."""
    q = float(params.primes[0])
    short = np.rint((coefficients + q * (coefficients < 0)) * (_WHOLE / q)).astype(np.uint64)
    return Record(Shape(0, len(short), scale, cut=True), (short & np.uint64(_WHOLE - 1))[:, None])


def lifted(params: Parameters, record: Record) -> NDArray[np.float64]:
    """The inverse of `cut`, as near as can be: float64 [polynomials, N], from 0 to q."""
    q = float(params.primes[0])
    coefficients: NDArray[np.float64] = np.rint(record.residues[:, 0] * (q / _WHOLE))
    return coefficients
