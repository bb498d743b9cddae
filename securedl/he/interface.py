"""What a server can do to ciphertexts: the whole interface, on public data only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from securedl.he.params import Parameters
from securedl.he.record import Record

#: An evaluator's own form of a ciphertext or plaintext, opaque to everyone else.
Handle = Any


#: Inputs and weights of one giant step, and its rotation in slots.
Group = tuple[Sequence[Handle], Sequence[Handle], int]


class Arithmetic(ABC):
    """Primitives on handles, and what is built of them, which an evaluator may do in a call of its own.

    None changes its arguments; all are safe to call from many threads.

    Levels and scales: binary operations need equal levels, `add` equal scales; `multiply` and `dot`
    multiply scales; `rescale` divides by the prime it drops.
    """

    params: Parameters

    @abstractmethod
    def level(self, handle: Handle) -> int:
        """Rescales that remain."""

    @abstractmethod
    def scale(self, handle: Handle) -> float:
        """The handle's scale."""

    @abstractmethod
    def add(self, a: Handle, b: Handle) -> Handle:
        """a + b; b may be a plaintext."""

    @abstractmethod
    def multiply(self, a: Handle, b: Handle) -> Handle:
        """a · b, three polynomials; two if b is a plaintext."""

    @abstractmethod
    def square(self, a: Handle) -> Handle:
        """a · a, three polynomials."""

    @abstractmethod
    def dot(self, xs: Sequence[Handle], ws: Sequence[Handle]) -> Handle:
        """Σ x·w, not relinearised; the w are all ciphertexts or all plaintexts."""

    @abstractmethod
    def relinearise(self, a: Handle) -> Handle:
        """Three polynomials to two; two stay as they are."""

    @abstractmethod
    def rescale(self, a: Handle) -> Handle:
        """Drop the last prime and divide by it."""

    @abstractmethod
    def mod_switch(self, a: Handle, level: int) -> Handle:
        """Drop primes down to `level`, the scale kept."""

    @abstractmethod
    def rotate(self, a: Handle, steps: Sequence[int]) -> list[Handle]:
        """One ciphertext rotated left by each of `steps` slots (0 gives the ciphertext itself)."""

    def giant_steps(self, groups: Sequence[Group]) -> Handle:
        """Σ over groups (xs, ws, step) of rescale(relinearise(Σ x·w)) rotated left by `step` slots."""
        total: Handle = None
        for xs, ws, step in groups:
            (turned,) = self.rotate(self.rescale(self.relinearise(self.dot(xs, ws))), [step])
            total = turned if total is None else self.add(total, turned)
        return total

    def multiply_rescale(self, a: Handle, b: Handle) -> Handle:
        """rescale(relinearise(a · b)); a squaring where a is b."""
        product = self.square(a) if a is b else self.multiply(a, b)
        return self.rescale(self.relinearise(product))


class Evaluator(Arithmetic):
    """A server's evaluator: arithmetic on real ciphertexts, with keys."""

    @abstractmethod
    def set_keys(self, relinearisation: list[Record], rotations: dict[int, list[Record]]) -> None:
        """Install switch keys; `rotations` maps a left rotation, 0 < step < n slots, to its key."""

    @abstractmethod
    def load(self, record: Record) -> Handle:
        """A handle for checked residues; a seeded record is expanded."""

    @abstractmethod
    def dump(self, handle: Handle) -> Record:
        """The residues of a handle, as a record without a seed."""
