"""A server's real moves on a model it cannot read, for tests and the demo: never part of the server.

Each move is a set of records in place of the stored ones; it needs no key.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from securedl.errors import InputError
from securedl.he.arithmetic import Evaluator, H
from securedl.he.backends import Backend
from securedl.he.params import Parameters
from securedl.he.record import Record, chain
from securedl.he.weights import HeldWeights, ModelWeights, Records, handle_bytes
from securedl.program.program import Program

MOVES = ("noise", "drop", "swap")
#: Diagonals a move touches, as a share; one at least.
SHARE = 0.05
#: Size of the noise, relative to the values that weights may have.
NOISE = 0.05


def targets(program: Program) -> list[range]:
    """Indices of the weights that are diagonals, for each layer that has some."""
    firsts = [(step.first_weight or 0, step.diagonals) for step in program.steps]
    return [range(first, first + count) for first, count in firsts if count]


def check_move(move: str) -> None:
    """Refuse a move that is none.

    Raises:
        InputError: so it is.
    """
    if move not in MOVES:
        raise InputError(f"attack {move!r} is unknown: use one of {', '.join(MOVES)}")


class DishonestBackend(Backend[H]):
    """A back end that uses other weights than those it was given; in all else, its name too, an honest one.

    It keeps them in memory: nothing of them reaches the store.

    Args:
        honest: does the work.
        move: "noise" adds an offset to some encrypted diagonals of one layer, "drop" puts (almost) zero in
            their place, "swap" another one.
        seed: of the choice.

    Raises:
        InputError: an unknown move.
    """

    def __init__(self, honest: Backend[H], move: str, seed: int) -> None:
        check_move(move)
        self.name = honest.name
        self._honest, self._move, self._seed = honest, move, seed

    def prepare(self) -> None:
        """As the honest one."""
        self._honest.prepare()

    def open(self, params: Parameters, threads: int = 1) -> Evaluator[H]:
        """The honest one's evaluator."""
        return self._honest.open(params, threads)

    def weights(self, evaluator: Evaluator[H], records: Records, folder: Path, room: int) -> ModelWeights[H]:
        """Handles of the weights, some of them tampered with; the layer is found in the public program."""
        program = Program.from_json((folder / "program.json").read_bytes())
        tampered = Tampered(records, targets(program), self._move, self._seed)
        costs = handle_bytes(records.params, records.shapes)
        return HeldWeights(lambda index: evaluator.load_weight(tampered.record(index)), costs, room)


class Tampered:
    """Records in place of stored ones.

    Args:
        honest: the stored weights.
        layers: which of them are diagonals, by layer.
    """

    def __init__(self, honest: Records, layers: Sequence[range], move: str, seed: int) -> None:
        self._honest, self._move = honest, move
        random_ = random.Random(seed)
        fit = layers
        if move == "swap":
            fit = [some for some in layers if all(self._partners(t, some, layers) for t in some)]
        if not fit:
            raise InputError(f"a model without two diagonals has none for the attack {move!r}")
        diagonals = random_.choice(fit)
        count = max(1, round(SHARE * len(diagonals)))
        chosen = random_.sample(diagonals, min(count, len(diagonals)))
        others = {t: self._partners(t, diagonals, layers) if move == "swap" else [t] for t in chosen}
        self._partner = {t: random_.choice(some) for t, some in others.items()}
        self._sign = {t: random_.choice((-1, 1)) for t in chosen}

    def _partners(self, target: int, diagonals: range, layers: Sequence[range]) -> list[int]:
        """Diagonals that can stand in place of one: of its layer, or else of any that has its primes."""
        shapes = self._honest.shapes
        own = [d for d in diagonals if d != target]
        return own or [
            d for some in layers for d in some if d != target and shapes[d].level >= shapes[target].level
        ]

    def record(self, index: int) -> Record:
        """One weight, tampered with or not."""
        record = self._honest.record(index)
        if index not in self._partner:
            return record
        if self._move == "swap":
            other = self._honest.record(self._partner[index])
            return Record(record.shape, other.residues[:, : record.residues.shape[1]], other.seed)
        if self._move == "drop":
            shape = replace(record.shape, seeded=False)
            # Ones, not zeros: SEAL refuses ciphertexts of zeros. They decrypt to about 1e-8.
            primes = len(chain(self._honest.params, shape.level))
            return Record(shape, np.ones((shape.size, primes, self._honest.params.ring), dtype=np.uint64))
        return self._offset(record, self._sign[index] * NOISE)

    def _offset(self, record: Record, value: float) -> Record:
        """The record plus a constant in every slot: a constant polynomial, in every residue the same."""
        residues = record.residues.copy()
        constant = round(value * record.shape.scale) or int(math.copysign(1, value))  # at least one unit
        for row, prime in zip(residues[0], chain(self._honest.params, record.shape.level), strict=True):
            row[:] = (row + np.uint64(constant % prime)) % np.uint64(prime)
        return Record(record.shape, residues, record.seed)
