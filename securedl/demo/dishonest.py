"""A server's real moves on a model it cannot read, for tests and the demo: never part of the server.

Each attack is a sequence of records in place of the stored ones; it needs no key.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Protocol

import numpy as np

from securedl.errors import InputError
from securedl.he.record import Record, chain
from securedl.program.program import Program

ATTACKS = ("noise", "drop", "swap")
#: Diagonals an attack touches, as a share; one at least.
SHARE = 0.05
#: Size of the noise, relative to the values that weights may have.
NOISE = 0.05


class Records(Protocol):
    """Stored weights."""

    def __len__(self) -> int:
        """Number of weights."""

    def record(self, index: int) -> Record:
        """One weight."""


class Dishonest:
    """Weights that a dishonest server uses instead of those it was given.

    Args:
        honest: the stored weights. attack: "noise" adds an offset to some encrypted diagonals, "drop" puts
            (almost) zero in their place, "swap" exchanges pairs. seed: of the choice.
    """

    def __init__(self, honest: Records, program: Program, attack: str, seed: int) -> None:
        if attack not in ATTACKS:
            raise InputError(f"attack {attack!r} is unknown: use one of {', '.join(ATTACKS)}")
        self._honest, self._program, self._attack = honest, program, attack
        random_ = random.Random(seed)
        steps = [step for step in program.steps if step.diagonals]
        step = random_.choice(steps)
        diagonals = range(step.first_weight or 0, (step.first_weight or 0) + step.diagonals)
        count = max(1, round(SHARE * len(diagonals)))
        self._targets = random_.sample(diagonals, min(count, len(diagonals)))
        self._partner = {t: random_.choice([d for d in diagonals if d != t] or [t]) for t in self._targets}
        self._sign = {t: random_.choice((-1, 1)) for t in self._targets}

    def __len__(self) -> int:
        return len(self._honest)

    def record(self, index: int) -> Record:
        """One weight, tampered with or not."""
        record = self._honest.record(index)
        if index not in self._partner:
            return record
        if self._attack == "swap":
            other = self._honest.record(self._partner[index])
            return Record(record.shape, other.residues, other.seed, other.correction)
        if self._attack == "drop":
            shape = replace(record.shape, seeded=False)
            # Ones, not zeros: SEAL refuses ciphertexts of zeros. They decrypt to about 1e-8.
            primes = len(chain(self._program.params, shape.level))
            return Record(shape, np.ones((shape.size, primes, self._program.params.ring), dtype=np.uint64))
        return self._offset(record, self._sign[index] * NOISE)

    def _offset(self, record: Record, value: float) -> Record:
        """The record plus a constant in every slot: a constant polynomial, in every residue the same."""
        residues = record.residues.copy()
        constant = round(value * record.shape.scale)
        for row, prime in zip(residues[0], chain(self._program.params, record.shape.level), strict=True):
            row[:] = (row + np.uint64(constant % prime)) % np.uint64(prime)
        return Record(record.shape, residues, record.seed, record.correction)
