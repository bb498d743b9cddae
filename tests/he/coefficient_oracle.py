"""What tests of the coefficient form share: an owner's keys, and products of polynomials in whole numbers."""

from __future__ import annotations

import math
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.client.keys import Keys
from securedl.he.arithmetic import Evaluator, merge_step
from securedl.he.ckks import VALUE_SCALE, WEIGHT_SCALE, coefficient_parameters
from securedl.he.record import Record, Shape, pack, unpack, unpack_key

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

VALUE = Shape(0, 2, VALUE_SCALE, seeded=True)
WEIGHT = Shape(0, 2, WEIGHT_SCALE, seeded=True)
ANSWER = Shape(0, 2, VALUE_SCALE * WEIGHT_SCALE)
CUT = Shape(0, 2, VALUE_SCALE * WEIGHT_SCALE, cut=True)
#: Values and weights of tests are multiples of these, so that products are whole numbers.
VALUE_UNIT, WEIGHT_UNIT = 2.0**-8, 2.0**-12
UNIT = VALUE_UNIT * WEIGHT_UNIT


def convolved(a: Whole, b: Whole) -> Whole:
    """The product of two polynomials modulo X^N + 1, in whole numbers."""
    full, n = np.convolve(a, b), len(a)
    return full[:n] - np.append(full[n:], 0)


def merged(answers: list[Whole], of: int) -> Whole:
    """Coefficients at multiples of `of` of answer k, moved up by k with its bits reversed, and zeros."""
    found, bits = np.zeros_like(answers[0]), of.bit_length() - 1
    for k, answer in enumerate(answers):
        lane = int(f"{k:0{bits}b}"[::-1], 2) if bits else 0
        found[lane::of] = answer[::of]
    return found


def real(whole: Whole, unit: float) -> Floats:
    """So many units."""
    return np.asarray(whole.astype(np.float64) * unit)


def close(ring: int, terms: int = 1) -> float:
    """Six standard deviations of the error of a sum of products of `values` by `weights`.

    Errors of encryption are 3.2 of the scale: N of the weights' meet values of size 1, and those of the
    values forty weights of size 1/8.
    """
    return (
        6
        * 3.3
        * math.sqrt(terms)
        * math.hypot(math.sqrt(ring) / WEIGHT_SCALE, math.sqrt(40) / 8 / VALUE_SCALE)
    )


class Owner:
    """One secret key with switch keys for merging up to 64 answers."""

    def __init__(self, ring: int = 4096) -> None:
        self.params = coefficient_parameters(ring)
        self.keys = Keys(self.params)

    @cached_property
    def switch_keys(self) -> tuple[list[Record], dict[int, list[Record]]]:
        steps = [merge_step(self.params.ring, 2**k) for k in range(1, 7)]
        keys = {step: unpack_key(self.params, self.keys.switch_key(step)) for step in steps}
        return unpack_key(self.params, self.keys.switch_key(None)), keys

    def ready(self, evaluator: Evaluator[Any]) -> Evaluator[Any]:
        """With all keys."""
        evaluator.set_keys(*self.switch_keys)
        return evaluator

    def record(self, values: Floats, shape: Shape) -> Record:
        return unpack(self.params, self.keys.encrypt(values, shape), shape)

    def open(self, evaluator: Evaluator[Any], handle: Any, shape: Shape = ANSWER) -> Floats:
        """Coefficients of a handle, sent in that shape."""
        data = pack(self.params, evaluator.sent(handle, shape))
        return self.keys.decrypt(data, shape, coefficients=True)


@cache
def owner(ring: int = 4096) -> Owner:
    """One for each ring in a test run."""
    return Owner(ring)


def values(rng: np.random.Generator, ring: int) -> Whole:
    """A dense tile, in VALUE_UNITs: values of standard deviation 1."""
    return np.rint(rng.normal(size=ring) / VALUE_UNIT).astype(np.int64)


def weights(rng: np.random.Generator, ring: int) -> Whole:
    """Some forty taps in WEIGHT_UNITs, of standard deviation 1/8, anywhere."""
    found = np.rint(rng.normal(size=ring) / 8 / WEIGHT_UNIT).astype(np.int64)
    return np.where(rng.random(ring) < 40 / ring, found, 0)
