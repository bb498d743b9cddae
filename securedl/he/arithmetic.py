"""What a server can do to ciphertexts: the whole interface, on public data only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import zip_longest
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

    @abstractmethod
    def moved(self, a: H, power: int, divisor: int = 1) -> H:
        """a · X^power, times the inverse of `divisor` modulo every prime; X^N is -1."""

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

    def products(self, sums: Sequence[tuple[Sequence[H], Sequence[H]]]) -> list[H]:
        """relinearise(dot(xs, ws)) of each (xs, ws)."""
        return [self.relinearise(self.dot(xs, ws)) for xs, ws in sums]

    def merged_products(self, sums: Sequence[tuple[Sequence[H], Sequence[H]]], of: int) -> list[H]:
        """`products`, and each `of` of them merged."""
        answers = self.products(sums)
        groups = [answers[k : k + of] for k in range(0, len(answers), of)]
        return [self.merge(group, of) for group in groups] if of > 1 else answers

    def scaled(self, handles: Sequence[H], divisor: int) -> list[H]:
        """Each times the inverse of `divisor` modulo every prime: small errors stay small, unlike a division.

        Only what is multiplied by `divisor` afterwards means anything.
        """
        return [self.moved(handle, 0, divisor) for handle in handles]

    def merge(self, handles: Sequence[H], of: int) -> H:
        """The coefficients at multiples of `of` of several ciphertexts, in one, and multiplied by `of`.

        Those of number k are moved up by k with its log2(of) bits reversed. At each step, S = of, of/2, ...,
        2, pairs (a, b) become u + v + σ(u - v) with u = a, v = X^(S/2) · b, σ: X -> X^(1 + 2N/S): σ changes
        the sign of the odd multiples of S/2 and of no multiple of S (Chen, Dai, Kim and Song, "Efficient
        Homomorphic Conversion", 2021). One without a partner is doubled; what the others would fill is not to
        be read.

        Args:
            handles: as many as `of` at most, of two polynomials. of: a power of two, at most N / 4.

        Raises:
            InputError: none or more than `of`, or no such power.
        """
        check_merge(self.params.ring, len(handles), of)
        left, step, ring = list(handles), of, self.params.ring
        while step > 1:
            found = []
            for a, b in zip_longest(left[::2], left[1::2]):
                if b is None:
                    found.append(self.add(a, a))
                    continue
                total = self.add(a, self.moved(b, step // 2))
                difference = self.add(a, self.moved(b, step // 2 + ring))
                (turned,) = self.rotate(difference, [merge_step(ring, step)])
                found.append(self.add(total, turned))
            left, step = found, step // 2
        (merged,) = left
        return merged


def check_merge(ring: int, count: int, of: int) -> None:
    """Whether `merge` can take so many ciphertexts.

    Raises:
        InputError: none or more than `of`, or that is no power of two up to N / 4.
    """
    if of < 1 or of & (of - 1) or of > ring // 4 or not 1 <= count <= of:
        raise InputError(
            f"1 to `of` ciphertexts are merged, a power of two up to {ring // 4}, got {count} and {of}"
        )


@cache
def merge_step(ring: int, span: int) -> int:
    """The left rotation, in slots, that is X -> X^(1 + 2N/span); span is at most N / 4."""
    wanted, power, step = 1 + 2 * ring // span, 1, 0
    while power != wanted:
        power, step = power * 3 % (2 * ring), step + 1
    return step


class Evaluator(Arithmetic[H]):
    """A server's evaluator: arithmetic on real ciphertexts, with keys."""

    @abstractmethod
    def set_keys(self, relinearisation: list[Record], rotations: Mapping[int, list[Record]]) -> None:
        """Install switch keys; `rotations` maps a left rotation, 0 < step < n slots, to its key."""

    @abstractmethod
    def load(self, record: Record) -> H:
        """A handle for checked residues; a seeded record is expanded."""

    @abstractmethod
    def dump(self, handle: H) -> Record:
        """The residues of a handle, as a record without a seed."""

    @abstractmethod
    def sent(self, handle: H, shape: Shape) -> Record:
        """`dump`, cut (see `record`) where the shape says so."""

    def load_weight(self, record: Record) -> H:
        """As `load`, for a weight: in the form in which `dot` reads it best."""
        return self.load(record)

    def load_packed(self, data: bytes | memoryview, shape: Shape) -> H:
        """`load_weight` of a record's bytes, which are checked first.

        Raises:
            FormatError: they are not a record of this shape.
        """
        return self.load_weight(unpack(self.params, data, shape))
