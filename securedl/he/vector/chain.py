"""Everything about a modulus chain that the kernels read: primes, transform tables, inverses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from securedl.errors import CompileError
from securedl.he.params import MAX_PRIME_BITS, Parameters
from securedl.he.record import residue_bytes
from securedl.he.roots import bit_reversal
from securedl.he.vector.kernels.arith import LANE_ORDERS
from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.dot import group_length, key_group_length, start_value
from securedl.he.vector.kernels.keysum import DOUBLE_BYTES, word_group_length
from securedl.he.vector.kernels.lanes import LANES
from securedl.he.vector.kernels.ntt import method
from securedl.he.vector.kernels.padding import padded
from securedl.he.vector.kernels.twiddles import Integers, aligned, centred, tables

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Division:
    """Constants to divide `rows` remaining primes by the one that is dropped, index `dropped`."""

    dropped: int
    rows: int
    inverse: Floats  # of the dropped prime, modulo each remaining one
    residue: Floats  # of the dropped prime
    plain_factor: float  # -1/dropped modulo t
    correction: int  # 1/dropped modulo t, by which BGV's correction factor is multiplied


@dataclass(frozen=True)
class Chain:
    """Constants of every prime of `params`, the special prime last; arrays are indexed by prime."""

    params: Parameters

    def __post_init__(self) -> None:
        t = self.params.plain_modulus
        if t and (t % 2 == 0 or t.bit_length() > MAX_PRIME_BITS or t >= min(self.params.primes)):
            raise CompileError(f"plain modulus {t} must be odd and below every prime of {self.params.primes}")

    @cached_property
    def primes(self) -> tuple[int, ...]:
        return (*self.params.primes, self.params.special)

    @property
    def special(self) -> int:
        """Index of the special prime."""
        return len(self.params.primes)

    @cached_property
    def q(self) -> Floats:
        return np.array(self.primes, dtype=np.float64)

    @cached_property
    def q_inverse(self) -> Floats:
        return 1.0 / self.q

    @cached_property
    def methods(self) -> Integers:
        """How to transform, see `ntt.method`."""
        return np.array([method(q) for q in self.primes])

    @cached_property
    def starts(self) -> Floats:
        return np.array([start_value(q.bit_length()) for q in self.primes])

    @cached_property
    def lengths(self) -> Integers:
        return np.array([group_length(q.bit_length()) for q in self.primes])

    @cached_property
    def key_lengths(self) -> Integers:
        """Terms of a key switch that are summed before a reduction."""
        bits = [q.bit_length() for q in self.primes]
        return np.array(
            [
                word_group_length(b) if how < 0 else key_group_length(b)
                for b, how in zip(bits, self.methods, strict=True)
            ]
        )

    @cached_property
    def key_widths(self) -> Integers:
        """Bytes that a residue of a switch key takes."""
        return np.where(self.methods < 0, np.maximum(self.widths, 3), DOUBLE_BYTES)

    @cached_property
    def widths(self) -> Integers:
        """Bytes that a packed residue takes."""
        return np.array([residue_bytes(q) for q in self.primes])

    @cached_property
    def _tables(self) -> list[tuple[Floats, Floats, float]]:
        return [tables(q, self.params.ring, method(q) < 0) for q in self.primes]

    @cached_property
    def ahead(self) -> Integers:
        """Addresses of the forward tables."""
        return np.array([address(table[0]) for table in self._tables])

    @cached_property
    def back(self) -> Integers:
        """Addresses of the inverse tables."""
        return np.array([address(table[1]) for table in self._tables])

    @cached_property
    def shrink(self) -> Floats:
        """1/N modulo each prime."""
        return np.array([table[2] for table in self._tables])

    @lru_cache(maxsize=64)  # noqa: B019  # chains live as long as their evaluator
    def division(self, dropped: int, rows: int) -> Division:
        """Constants to drop prime `dropped` from a polynomial that also holds primes[:rows]."""
        p, t = self.primes[dropped], self.params.plain_modulus
        inverse = np.array([centred(pow(p, -1, q), q) for q in self.primes[:rows]])
        residue = np.array([centred(p, q) for q in self.primes[:rows]])
        correction = pow(p, -1, t) if t else 1
        return Division(dropped, rows, inverse, residue, centred(-correction, t) if t else 0.0, correction)


@lru_cache(maxsize=32)
def chain_of(params: Parameters) -> Chain:
    """The chain of `params`, built once."""
    return Chain(params)


@dataclass(frozen=True, eq=False)
class Automorphism:
    """X -> X^element.

    Blocks of eight NTT values stay together, so that a permutation is moving blocks and reordering within.

    Attributes:
        moves: [N/8, 2] octet offsets of a block in the source and in the result, pattern after pattern.
        counts: how many blocks have each of the 32 patterns of `arith.LANE_ORDERS`.
        scatter: the 32 orders, and for each block of the source its octet offset in the result plus the
            number of its pattern: for one block at a time, 64 bytes aligned.
        signs: of the coefficients of a padded row, a bit for each value, set where it is negated.
    """

    moves: Integers
    counts: Integers
    scatter: Integers
    signs: NDArray[np.uint8]

    @cached_property
    def moves_at(self) -> int:
        """Address of `moves`."""
        return address(self.moves)

    @cached_property
    def scatter_at(self) -> int:
        """Address of `scatter`."""
        return address(self.scatter)

    @cached_property
    def signs_at(self) -> int:
        """Address of `signs`."""
        return address(self.signs)


def ntt_permutation(ring: int, element: int) -> Integers:
    """Where each NTT value comes from; index i belongs to the root psi^(2·bitrev(i) + 1)."""
    reverse = bit_reversal(ring.bit_length() - 1)
    return reverse[(2 * reverse + 1) * element % (2 * ring) // 2]


def automorphism(ring: int, element: int, backwards: bool = False) -> Automorphism:
    """X -> X^element on a polynomial, or its inverse."""
    if backwards:
        element = pow(element, -1, 2 * ring)
    blocks = ntt_permutation(ring, element).reshape(-1, LANES)
    orders = np.array(LANE_ORDERS)
    inside = blocks % LANES
    patterns = np.argmax((inside[:, None, :] == orders[None, :, :]).all(axis=2), axis=1)
    order = np.argsort(patterns, kind="stable")
    octets = 8 * LANES
    moves = np.stack([blocks[order, 0] // LANES * octets, order * octets], axis=1)
    places = np.empty(len(blocks), dtype=np.int64)
    places[blocks[:, 0] // LANES] = np.arange(len(blocks)) * octets + patterns
    scatter = aligned([orders.astype(np.int64), places])
    signs = np.packbits(padded(np.arange(ring) * element % (2 * ring) >= ring), bitorder="little")
    counts = np.bincount(patterns, minlength=len(orders))
    return Automorphism(np.ascontiguousarray(moves), counts, scatter, signs)
