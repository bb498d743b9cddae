"""How far an honest server's answers may lie from the network's own: by the parameters, slot by slot.

A client knows what it sent at the checkpoint before. So what comes back is the network's own value and an
error, whose variance follows from the program, the weights and how large the values are
(`securedl.he.variance`). An owner
computes it by itself: a server has no say in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from securedl.errors import FormatError
from securedl.network.graph import Array
from securedl.plan.network import Conversation, Exchange
from securedl.plan.plan import Plan

#: Standard deviations of an honest error that are allowed: of 10^12 normal ones the largest is 7.1.
SIGMAS = 8.0
#: A change by so many standard deviations more than are allowed is missed once in a million times.
MISSED_SIGMAS, MISS = 4.75, 1e-6
#: Ciphertext batches of calibration samples whose errors are computed.
BATCHES = 4


@dataclass(frozen=True, eq=False, repr=False)
class Tolerance:
    """What honest errors in one segment may be.

    Attributes:
        deviations: standard deviations of values [batch, features] that are received, where the values that
            they come from are no larger than `sizes`.
        sizes: of what is sent, and of each value on the way. An error grows with these.
        power: with which power of them. together: all lanes share polynomials, and a size is the root of the
            sum of all squares; else it is the largest magnitude in a lane.
    """

    deviations: Array
    sizes: Array
    power: int
    together: bool

    def grown(self, values: Sequence[Array]) -> Array:
        """How much larger errors may be in each lane [batch] for these values [batch, features]: those sent,
        and on the way.
        """
        grown = np.ones(len(values[0]))
        for value, usual in zip(values, self.sizes.tolist(), strict=False):
            np.maximum(grown, sizes(value, self.together) / usual, out=grown)
        return grown if self.power == 1 else np.asarray(grown**self.power)

    def ratios(self, errors: Array, grown: Array) -> Array:
        """The largest of errors [batch, features] over its tolerance, of each lane; infinite if one is no
        number.
        """
        with np.errstate(all="ignore"):
            worst = (np.abs(errors) * self._inverse).max(axis=1) / grown
        worst[np.isnan(worst)] = np.inf
        return np.asarray(worst)

    @cached_property
    def _inverse(self) -> Array:
        return 1.0 / (SIGMAS * self.deviations)

    @property
    def blind(self) -> tuple[float, int, int]:
        """The change of a normalised value that is missed with a chance of `MISS`, where it is largest: lane
        and feature.
        """
        lane, feature = np.unravel_index(np.argmax(self.deviations), self.deviations.shape)
        return (SIGMAS + MISSED_SIGMAS) * float(self.deviations[lane, feature]), int(lane), int(feature)

    def to_arrays(self) -> dict[str, Any]:
        """For the owner's file."""
        rule = np.array([self.power, self.together], dtype=np.int64)
        return {"deviations": self.deviations, "sizes": self.sizes, "rule": rule}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Tolerance:
        """The inverse of `to_arrays`.

        Raises:
            FormatError: not such arrays.
        """
        try:
            power, together = arrays["rule"].tolist()
            return cls(arrays["deviations"], arrays["sizes"], power, bool(together))
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(f"not a tolerance: {error}") from error


def sizes(values: Array, together: bool) -> Array:
    """Of each lane [batch] of values [batch, features]; see `Tolerance`."""
    if together:
        return np.full(len(values), math.sqrt(np.vdot(values, values)))
    return np.asarray(np.abs(values).max(axis=1))


def tolerances(plan: Plan) -> list[Tolerance]:
    """Of each segment, without any server: for values as large as some calibration samples have them."""
    signature, network = plan.signature, plan.network
    points = signature.checkpoints
    batches = [network.exchanges(part, points) for part in plan.batches(plan.samples[: BATCHES * plan.batch])]
    variances = plan.variances(_as_they_are(batch) for batch in batches)
    found = []
    for number, (port, power) in enumerate(zip(signature.sent, _powers(plan), strict=True)):
        largest = []
        for batch in batches:
            sent = batch[number].sent
            values = [sent, *list(network.inside(number + 1, sent, points))[:-1]]
            largest.append([sizes(value, port.coefficients).max() for value in values])
        variance = np.max([batch[number] for batch in variances], axis=0)
        tiny = np.finfo(np.float64).tiny
        deviations = np.sqrt(np.maximum(variance, tiny))
        found.append(
            Tolerance(deviations, np.maximum(np.max(largest, axis=0), tiny), power, port.coefficients)
        )
    return found


def _as_they_are(exchanges: list[Exchange]) -> Conversation:
    """Every segment with exact values, whatever came back from the one before."""
    for exchange in exchanges:
        yield exchange.sent
    return np.zeros((len(exchanges[0].sent), 0))


def _powers(plan: Plan) -> Iterator[int]:
    """Of each segment: products of values there, and one, for those of weights and values."""
    power = 1
    for step in plan.program.steps:
        if step.refreshes:
            yield power
            power = 1
        power += step.multiplies
    yield power
