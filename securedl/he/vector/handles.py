"""What the evaluator gives out and keeps: ciphertexts, plaintexts and switch keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from securedl.he.vector.chain import Automorphism
from securedl.he.vector.kernels.buffers import Piece
from securedl.he.vector.kernels.twiddles import Integers

_NO_COUNTS = np.zeros(1, dtype=np.int64)


@dataclass(eq=False, slots=True)
class Handle:
    """A ciphertext, or a plaintext if `size` is 1. Nothing changes one; freezing it would cost a microsecond.

    Attributes:
        block: float64 [size, level + 1, N], centred residues in NTT form.
        at: its address.
        size: number of polynomials.
        correction: BGV's correction factor.
        packed: the block holds packed residues instead (see `packed`): a weight.
    """

    block: Piece
    at: int
    size: int
    level: int
    scale: float
    correction: int = 1
    packed: bool = False

    @property
    def is_plain(self) -> bool:
        return self.size == 1


@dataclass(frozen=True, eq=False)
class SwitchKey:
    """A switch key; for a rotation, permuted backwards.

    Attributes:
        block: the residues, see `keysum`.
        digits: number of digits.
        turn: the automorphism of a rotation, None for relinearisation.
    """

    block: Piece
    digits: int
    turn: Automorphism | None = None

    @property
    def signs_at(self) -> int:
        """Address of the automorphism's signs, or 0."""
        return 0 if self.turn is None else self.turn.signs_at

    @cached_property
    def places(self) -> tuple[int, int]:
        """Addresses of the automorphism's moves and of its scatter, or 0."""
        return (0, 0) if self.turn is None else (self.turn.moves_at, self.turn.scatter_at)

    @property
    def counts(self) -> Integers:
        """Of the automorphism's patterns."""
        return _NO_COUNTS if self.turn is None else self.turn.counts
