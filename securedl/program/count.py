"""A program on a counter: which keys it needs and what it costs, without any ciphertext.

The counter is an evaluator like the others, so nobody describes a step a second time to know its rotations,
its relinearisations or its price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from securedl.he.arithmetic import Arithmetic, Group, merge_step


class Counted(NamedTuple):
    """All that is left of a ciphertext: its level, and its number of polynomials (1 for a plaintext)."""

    level: int
    size: int = 2


@dataclass
class Counts:
    """How often what was done.

    Attributes:
        hoisted: rotations of inputs, several of one ciphertext at a time. turns: rotations of results.
        terms: products in sums of products. groups: such sums, each relinearised (where weights are
            ciphertexts) and, in slots, rescaled. products: of two values, relinearised and rescaled.
            merges: of two answers into one.
        rotations: all left rotations, in slots. relinearised: whether anything was.
    """

    hoisted: int = 0
    turns: int = 0
    terms: int = 0
    groups: int = 0
    products: int = 0
    merges: int = 0
    rotations: set[int] = field(default_factory=set)
    relinearised: bool = False

    @property
    def switches(self) -> int:
        """Key switches, at most: where weights are plaintexts, groups have none."""
        return self.hoisted + self.turns + self.groups + self.products + self.merges


class Counter(Arithmetic[Counted]):
    """See `Counts`.

    Args:
        ring: N, which keys for merging depend on.
    """

    def __init__(self, ring: int = 0) -> None:
        self._ring = ring
        self.counts = Counts()

    def level(self, handle: Counted) -> int:
        """Rescales that remain."""
        return handle.level

    def scale(self, handle: Counted) -> float:
        """No scales are kept: 1."""
        return 1.0

    def add(self, a: Counted, b: Counted) -> Counted:
        """Free."""
        return a

    def multiply(self, a: Counted, b: Counted) -> Counted:
        """A term; rescaling and relinearising are counted by themselves."""
        self.counts.terms += 1
        return Counted(a.level, a.size + b.size - 1)

    def square(self, a: Counted) -> Counted:
        """As `multiply`."""
        return self.multiply(a, a)

    def dot(self, xs: Sequence[Counted], ws: Sequence[Counted]) -> Counted:
        """A group with as many terms as weights."""
        self.counts.groups += 1
        self.counts.terms += len(ws)
        return Counted(xs[0].level, xs[0].size + ws[0].size - 1)

    def relinearise(self, a: Counted) -> Counted:
        """Noted where it does anything."""
        self.counts.relinearised |= a.size > 2
        return Counted(a.level)

    def rescale(self, a: Counted) -> Counted:
        """A level less."""
        return Counted(a.level - 1, a.size)

    def mod_switch(self, a: Counted, level: int) -> Counted:
        """Free."""
        return Counted(level, a.size)

    def rotate(self, a: Counted, steps: Sequence[int]) -> list[Counted]:
        """Hoisted rotations."""
        moving = set(steps) - {0}
        self.counts.hoisted += len(moving)
        self.counts.rotations |= moving
        return [a] * len(steps)

    def moved(self, a: Counted, power: int, divisor: int = 1) -> Counted:
        """Free."""
        return a

    def fold(self, a: Counted, step: int) -> Counted:
        """The rotation of a result."""
        self._turn(step)
        return a

    def giant_steps(self, groups: Sequence[Group]) -> Counted:
        """The groups, and a turn of each that moves."""
        for xs, ws, step in groups:
            total = self.rescale(self.relinearise(self.dot(xs, ws)))
            self._turn(step)
        return total

    def multiply_rescale(self, a: Counted, b: Counted) -> Counted:
        """One product."""
        self.counts.products += 1
        self.counts.relinearised = True
        return Counted(a.level - 1)

    def scaled(self, handles: Sequence[Counted], divisor: int) -> list[Counted]:
        """Free."""
        return list(handles)

    def products(self, sums: Sequence[tuple[Sequence[Counted], Sequence[Counted]]]) -> list[Counted]:
        """Groups."""
        self.counts.groups += len(sums)
        self.counts.terms += sum(len(ws) for _, ws in sums)
        self.counts.relinearised |= any(xs[0].size + ws[0].size > 3 for xs, ws in sums)
        return [Counted(xs[0].level) for xs, _ in sums]

    def merged_products(
        self, sums: Sequence[tuple[Sequence[Counted], Sequence[Counted]]], of: int
    ) -> list[Counted]:
        """Both."""
        answers = self.products(sums)
        return [self.merge(answers[k : k + of], of) for k in range(0, len(answers), of)]

    def merge(self, handles: Sequence[Counted], of: int) -> Counted:
        """All but one of the answers are merged into another, with a key for each step."""
        left, span = len(handles), of
        while left > 1:
            self.counts.merges += left // 2
            self.counts.rotations.add(merge_step(self._ring, span))
            left, span = -(-left // 2), span // 2
        return handles[0]

    def _turn(self, step: int) -> None:
        if step:
            self.counts.turns += 1
            self.counts.rotations.add(step)


class SameWeight:
    """As many weights as are asked for, all alike."""

    def __init__(self, encrypted: bool) -> None:
        self._weight = Counted(0, 2 if encrypted else 1)

    def __getitem__(self, index: int) -> Counted:
        """The handle of one weight."""
        return self._weight
