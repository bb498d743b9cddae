"""Every answer of whole numbers checked without weights: secret random combinations modulo t of all values.

For y = Ŵ φ(u) + b̂ modulo a prime t and a secret r, uniform in Z_t^out, r·y = c·φ(u) + d with c = Ŵᵀr and
d = r·b̂. A wrong y that does not depend on r agrees with a chance of 1/t exactly (Freivalds, MFCS 1979). It
does not: r never leaves the client, and all that a server sees of it are the zeros after an alarm, which are
encrypted. r is drawn afresh for each call: one that is kept is found, after about t/2 tries, by a server that
learns the verdicts.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from securedl.errors import InputError
from securedl.he.modular import Residues
from securedl.network.graph import Array
from securedl.plan.network import Checkpoint, Network
from securedl.plan.projection import ModularProjection
from securedl.verify.check import Finding, Segment, ValueCheck
from securedl.verify.report import Blind

#: So many combinations are drawn that a wrong value passes with a chance of 2^-40 at most.
MISSED_BITS = 40


def least_combinations(t: int) -> int:
    """The smallest K with t^K ≥ 2^40: 5 for 257, 3 for 65537, 2 from 2^20 on."""
    found = 1
    while t**found < 1 << MISSED_BITS:
        found += 1
    return found


def uniform(shape: tuple[int, ...], t: int) -> Residues:
    """Residues 0 to t - 1, all alike: words of 64 random bits, those drawn again that would favour some."""
    size, top = int(np.prod(shape)), (1 << 64) // t * t
    found = np.zeros(0, np.uint64)
    while len(found) < size:
        drawn = np.frombuffer(secrets.token_bytes(8 * (size - len(found))), np.uint64)
        found = np.concatenate([found, drawn if top == 1 << 64 else drawn[drawn < np.uint64(top)]])
    return np.asarray((found % np.uint64(t)).astype(np.int64).reshape(shape))


class ModularProjections:
    """What combinations of a network are made of.

    Args:
        network: of whole numbers. t: the plain modulus, a prime. sample: one that the network takes, flat,
            [features]; zeros by default. points: of its plan, where segments depend on them.
    """

    def __init__(
        self, network: Network, t: int, sample: Array | None = None, points: Sequence[Checkpoint] = ()
    ) -> None:
        self._network, self.t, self._points = network, t, points
        self.combinations = least_combinations(t)
        sample = np.zeros(network.sizes[0]) if sample is None else sample
        self._sent = [np.zeros_like(one.sent) for one in network.exchanges(sample[None], points)]

    @cached_property
    def _biases(self) -> list[Residues]:
        """b̂ of each segment, [1, features]: what it makes of zeros."""
        last = [[*self._network.inside(k, sent, self._points)][-1] for k, sent in enumerate(self._sent, 1)]
        return [one.values.astype(np.int64) for one in last]

    def drawn(self) -> list[ModularProjection]:
        """Of each segment, afresh.

        Raises:
            InputError: a segment holds more than an affine map and a polynomial before it.
        """
        found = list[ModularProjection]()
        for point in range(1, 1 + len(self._biases)):
            one = self._drawn(point, self.combinations)
            if one is None:
                raise InputError(f"without weights nothing can be tested at checkpoint {point} of this plan")
            found.append(one)
        return found

    def fewer(self) -> list[ModularProjection | None]:
        """The same, half as many as values that are received at most, for who is not to know the weights;
        None where there is one value, or more than an affine map and a polynomial before it.
        """
        counts = [min(self.combinations, bias.shape[1] // 2) for bias in self._biases]
        return [self._drawn(point, count) if count else None for point, count in enumerate(counts, 1)]

    def _drawn(self, point: int, count: int) -> ModularProjection | None:
        bias = self._biases[point - 1]
        rows = uniform((count, bias.shape[1]), self.t)
        return self._network.projected_modulo(point, rows, bias, self.t, self._points)


class ModularCheck(ValueCheck):
    """Combinations of the values of every lane, at every checkpoint: any difference is an alarm."""

    name, later = "projected", True

    def __init__(self, drawn: Sequence[ModularProjection | None]) -> None:
        self._drawn = drawn
        found = [one for one in drawn if one is not None]
        self.points = len(found)
        count = min((len(one.factors) for one in found), default=0)
        t = found[0].t if found else 2
        sums = f"{count} secret sum{'s' * (count > 1)} modulo {t}"
        self.blind = Blind(0.0, float(t) ** -count, sums)

    def segment(self, segment: Segment) -> Finding:
        """All lanes, or none where the segment has no combinations."""
        known = self._drawn[segment.point - 1]
        if known is None:
            return Finding()
        wrong = known.errors(segment.sent, segment.received).any(axis=1)
        return self._found(np.where(wrong, np.inf, 0.0), segment)
