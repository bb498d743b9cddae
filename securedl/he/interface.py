"""What a server can do to ciphertexts: the whole interface, on public data only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from securedl.he.params import Parameters
from securedl.he.record import Record

#: An evaluator's own form of a ciphertext or plaintext, opaque to everyone else.
Handle = Any


class Arithmetic(Protocol):
    """Primitives on handles. None changes its arguments; all are safe to call from many threads.

    Levels and scales: binary operations need equal levels, `add` equal scales; `multiply` and `dot`
    multiply scales; `rescale` divides by the prime it drops.
    """

    params: Parameters

    def level(self, handle: Handle) -> int:
        """Rescales that remain."""

    def scale(self, handle: Handle) -> float:
        """The handle's scale."""

    def add(self, a: Handle, b: Handle) -> Handle:
        """a + b; b may be a plaintext."""

    def multiply(self, a: Handle, b: Handle) -> Handle:
        """a · b, three polynomials; two if b is a plaintext."""

    def square(self, a: Handle) -> Handle:
        """a · a, three polynomials."""

    def dot(self, xs: Sequence[Handle], ws: Sequence[Handle]) -> Handle:
        """Σ x·w, not relinearised; the w are all ciphertexts or all plaintexts."""

    def relinearise(self, a: Handle) -> Handle:
        """Three polynomials to two; two stay as they are."""

    def rescale(self, a: Handle) -> Handle:
        """Drop the last prime and divide by it."""

    def mod_switch(self, a: Handle, level: int) -> Handle:
        """Drop primes down to `level`, the scale kept."""

    def rotate(self, a: Handle, steps: Sequence[int]) -> list[Handle]:
        """One ciphertext rotated left by each of `steps` slots (0 gives the ciphertext itself)."""


class Evaluator(Arithmetic, Protocol):
    """A server's evaluator: arithmetic on real ciphertexts, with keys."""

    def set_keys(self, relinearisation: list[Record], rotations: dict[int, list[Record]]) -> None:
        """Install switch keys; `rotations` maps a left rotation, 0 < step < n slots, to its key."""

    def load(self, record: Record) -> Handle:
        """A handle for checked residues; a seeded record is expanded."""

    def dump(self, handle: Handle) -> Record:
        """The residues of a handle, as a record without a seed."""
