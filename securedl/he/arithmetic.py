"""What a server can do to ciphertexts: the whole interface, on public data only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from securedl.errors import InputError
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, unpack

#: An evaluator's own form of a ciphertext or plaintext, opaque to everyone else.
H = TypeVar("H")


class Group(NamedTuple):
    """One giant step of a baby-step giant-step product.

    Attributes:
        xs: handles of inputs. ws: as many handles of weights.
        step: the left rotation of their sum of products, in slots.
    """

    xs: Sequence[Any]
    ws: Sequence[Any]
    step: int


class Arithmetic(ABC, Generic[H]):
    """Primitives on handles, and what is built of them, which an evaluator may do in a call of its own.

    None changes its arguments; all are safe to call from many threads.

    Levels and scales: binary operations need equal levels, `add` equal scales; `multiply` and `dot`
    multiply scales; `rescale` divides by the prime it drops.
    """

    params: Parameters

    @abstractmethod
    def level(self, handle: H) -> int:
        """Rescales that remain."""

    @abstractmethod
    def scale(self, handle: H) -> float:
        """The handle's scale."""

    @abstractmethod
    def add(self, a: H, b: H) -> H:
        """a + b; b may be a plaintext."""

    @abstractmethod
    def multiply(self, a: H, b: H) -> H:
        """a · b, three polynomials; two if b is a plaintext."""

    @abstractmethod
    def square(self, a: H) -> H:
        """a · a, three polynomials."""

    @abstractmethod
    def dot(self, xs: Sequence[H], ws: Sequence[H]) -> H:
        """Σ x·w, not relinearised; the w are all ciphertexts or all plaintexts."""

    @abstractmethod
    def relinearise(self, a: H) -> H:
        """Three polynomials to two; two stay as they are."""

    @abstractmethod
    def rescale(self, a: H) -> H:
        """Drop the last prime and divide by it."""

    @abstractmethod
    def mod_switch(self, a: H, level: int) -> H:
        """Drop primes down to `level`, the scale kept."""

    @abstractmethod
    def rotate(self, a: H, steps: Sequence[int]) -> list[H]:
        """One ciphertext rotated left by each of `steps` slots (0 gives the ciphertext itself)."""

    def fold(self, a: H, step: int) -> H:
        """a + a rotated left by `step` slots."""
        (turned,) = self.rotate(a, [step])
        return self.add(a, turned)

    def giant_steps(self, groups: Sequence[Group]) -> H:
        """Σ over groups of rescale(relinearise(dot(xs, ws))) rotated left by `step` slots.

        Raises:
            InputError: no group.
        """
        if not groups:
            raise InputError("a sum of giant steps needs at least one group")
        first, *others = groups
        total = self._giant_step(*first)
        for group in others:
            total = self.add(total, self._giant_step(*group))
        return total

    def _giant_step(self, xs: Sequence[H], ws: Sequence[H], step: int) -> H:
        (turned,) = self.rotate(self.rescale(self.relinearise(self.dot(xs, ws))), [step])
        return turned

    def multiply_rescale(self, a: H, b: H) -> H:
        """rescale(relinearise(a · b)) of two ciphertexts; a squaring where a is b."""
        product = self.square(a) if a is b else self.multiply(a, b)
        return self.rescale(self.relinearise(product))


class Evaluator(Arithmetic[H]):
    """A server's evaluator: arithmetic on real ciphertexts, with keys."""

    @abstractmethod
    def set_keys(self, relinearisation: list[Record], rotations: dict[int, list[Record]]) -> None:
        """Install switch keys; `rotations` maps a left rotation, 0 < step < n slots, to its key."""

    @abstractmethod
    def load(self, record: Record) -> H:
        """A handle for checked residues; a seeded record is expanded."""

    @abstractmethod
    def dump(self, handle: H) -> Record:
        """The residues of a handle, as a record without a seed."""

    def load_weight(self, record: Record) -> H:
        """As `load`, for a weight: in the form in which `dot` reads it best."""
        return self.load(record)

    def load_packed(self, data: bytes | memoryview, shape: Shape) -> H:
        """`load_weight` of a record's bytes, which are checked first.

        Raises:
            FormatError: they are not a record of this shape.
        """
        return self.load_weight(unpack(self.params, data, shape))
