"""Every answer of whole numbers checked without weights: secret random combinations modulo t of all values.

For y = Ŵ φ(u) + b̂ modulo a prime t and a secret r, uniform in Z_t^out, r·y = c·φ(u) + d with c = Ŵᵀr and
d = r·b̂. A wrong y that does not depend on r agrees with a chance of 1/t exactly (Freivalds, MFCS 1979). It
does not: r never leaves the client, and all that a server sees of it are the zeros after an alarm, which are
encrypted. r is drawn afresh for each call: one that is kept is found, after about t/2 tries, by a server that
learns the verdicts.
"""

from __future__ import annotations

import secrets
from functools import cached_property

import numpy as np
from scipy import sparse

from securedl.errors import InputError
from securedl.he.modular import Residues, sums_of_products
from securedl.plan.forms import NONE
from securedl.plan.projection import ModularProjection
from securedl.plan.quantised import Quantised
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
        network: of whole numbers. t: the plain modulus, a prime.

    Raises:
        InputError: a layer has too many features for its sums to be exact.
    """

    def __init__(self, network: Quantised, t: int) -> None:
        self._layers, self.t = network.layers, t
        self.combinations = least_combinations(t)
        for layer in network.layers:
            largest = max(float(abs(matrix).max()) for matrix in layer.matrices)
            if largest * t * layer.features >= 2.0**63:
                raise InputError(f"layer {layer.name!r} has too many features for sums modulo {t}")

    @cached_property
    def _transposed(self) -> list[list[sparse.csr_matrix]]:
        """Ŵᵀ of each source of each layer, int64."""
        return [[matrix.T.tocsr().astype(np.int64) for matrix in layer.matrices] for layer in self._layers]

    def drawn(self) -> list[ModularProjection]:
        """Of each segment, afresh."""
        found, form, t = list[ModularProjection](), NONE, self.t
        for layer, matrices in zip(self._layers, self._transposed, strict=True):
            rows = uniform((self.combinations, layer.features), t)
            columns = [-(np.asarray(matrix @ rows.T) % t).T for matrix in matrices]
            offset = sums_of_products(layer.bias.astype(np.int64)[None], rows, t)[0]
            found.append(ModularProjection(np.concatenate([rows, *columns], axis=1), offset, form, t))
            form = layer.form
        return found


class ModularCheck(ValueCheck):
    """Combinations of the values of every lane, at every checkpoint: any difference is an alarm."""

    name, later = "projected", True

    def __init__(self, drawn: list[ModularProjection]) -> None:
        self._drawn, self.points = drawn, len(drawn)
        (combinations, _), t = drawn[0].factors.shape, drawn[0].t
        self.blind = Blind(0.0, float(t) ** -combinations, f"{combinations} secret sums modulo {t}")

    def segment(self, segment: Segment) -> Finding:
        """All lanes."""
        wrong = self._drawn[segment.point - 1].errors(segment.sent, segment.received).any(axis=1)
        return self._found(np.where(wrong, np.inf, 0.0), segment)
