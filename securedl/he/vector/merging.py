"""Merging: several ciphertexts of which some coefficients count, into one (`Arithmetic.merge`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from securedl.errors import InputError
from securedl.he.arithmetic import check_merge, merge_step
from securedl.he.params import Parameters
from securedl.he.roots import monomial
from securedl.he.vector.engine import Engine
from securedl.he.vector.handles import Handle, SwitchKey
from securedl.he.vector.kernels import rows
from securedl.he.vector.kernels.buffers import Piece
from securedl.he.vector.kernels.twiddles import centred
from securedl.he.vector.products import SCALE_TOLERANCE, Products
from securedl.he.vector.stages import Stage

#: Polynomials that one stage switches, and of which all that follows is done before the next: with fewer the
#: threads meet more often, with more they leave the second-level cache.
TOGETHER = 16


class Merging(Products):
    """The part of an evaluator that keeps rotation keys, and merges."""

    def __init__(self, params: Parameters, engine: Engine) -> None:
        super().__init__(params, engine)
        self._rotations: dict[int, SwitchKey] = {}
        self._monomials: dict[tuple[int, int], Handle] = {}

    def scaled(self, handles: Sequence[Handle], divisor: int) -> list[Handle]:
        """Each times the inverse of `divisor` modulo every prime."""
        outs = []
        for a in map(self.unpack, handles):
            primes = self.params.primes[: a.level + 1]
            factors = np.array([centred(pow(divisor, -1, q), q) for q in primes])
            out = self._engine.handle(a.size, a.level, a.scale, a.correction)
            count = a.size * len(primes)
            rows.scale(a.at, out.at, count, self.params.ring, factors, *self._engine.moduli(a.level))
            outs.append(out)
        return outs

    def merge(self, handles: Sequence[Handle], of: int) -> Handle:
        """See `Arithmetic.merge`; handed to other threads once.

        Raises:
            InputError: none or more than `of`, unequal levels or scales, three polynomials, or no key for a
                step.
        """
        stages: list[Stage] = []
        merged = self._merged([self.unpack(a) for a in handles], of, stages)
        self._engine.do(*stages)
        return merged

    def _merged(
        self, left: Sequence[Handle], of: int, stages: list[Stage], room: Piece | None = None
    ) -> Handle:
        """The stages of a merging. With `room` (`Engine.switch_room`) the handles are overwritten."""
        self._mergeable(left, of)
        engine, span, a = self._engine, of, left[0]
        own = room or engine.switch_room(min(len(left) // 2, TOGETHER), a.level)
        while span > 1:
            factor, found = self._monomial(left[0].level, span // 2), list[Handle]()
            pairs = list(zip_longest(left[::2], left[1::2]))
            for k in range(0, len(pairs), TOGETHER):
                some = pairs[k : k + TOGETHER]
                sums, apart = [a for a, _ in some], [b for _, b in some if b]
                if room is None:
                    fresh = engine.handles(len(sums) + len(apart), 2, a.level, a.scale, a.correction)
                    sums, apart = fresh[: len(sums)], fresh[len(sums) :]
                alone = [total for total, (_, b) in zip(sums, some, strict=True) if not b]
                stages.append(engine.butterflies(some, factor, sums, apart + alone))
                if apart:
                    key = self._rotation_key(merge_step(self.params.ring, span))
                    keys, outs = [key] * len(apart), sums[: len(apart)]
                    stages.append(engine.switching(keys, apart, outs, key.signs_at, adding=True, room=room))
                found += sums
            left, span, room = found, span // 2, own
        return left[0]

    def _mergeable(self, handles: Sequence[Handle], of: int) -> None:
        check_merge(self.params.ring, len(handles), of)
        self._same_level(*handles)
        first = handles[0]
        for a in handles:
            self._two_polynomials(a)
            if not math.isclose(a.scale, first.scale, rel_tol=SCALE_TOLERANCE):
                raise InputError(f"cannot add scales {first.scale} and {a.scale}")
            if a.correction != first.correction:
                raise InputError(f"cannot merge correction factors {first.correction} and {a.correction}")

    def _monomial(self, level: int, power: int) -> Handle:
        if (level, power) not in self._monomials:
            self._monomials[level, power] = self.load(monomial(self.params, level, power))
        return self._monomials[level, power]

    def _rotation_key(self, step: int) -> SwitchKey:
        try:
            return self._rotations[step]
        except KeyError:
            raise InputError(
                f"no key for a rotation by {step} slots was installed, only for {sorted(self._rotations)}"
            ) from None

    @staticmethod
    def _two_polynomials(a: Handle) -> None:
        if a.size != 2:
            raise InputError(f"only two polynomials can be rotated, got {a.size}: relinearise first")
