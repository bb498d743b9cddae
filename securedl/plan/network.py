"""What a plan knows in secret: a network with its values normalised, and what the client does between two
segments of the server's work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from securedl.he.modular import Residues, halves, joined, sums_of_products
from securedl.network.graph import Array
from securedl.plan.layouts import Layout
from securedl.plan.projection import ModularProjection, Projection
from securedl.program.program import Program
from securedl.program.steps import Values

#: One batch as the client goes through it: yields the normalised values [batch, features] that it encrypts,
#: at the query and at each refresh, is sent those that it decrypts at the next refresh or answer, and returns
#: flat logits [batch, outputs].
Conversation: TypeAlias = Generator[Array, Array, Array]


class Exchange(NamedTuple):
    """One segment of the server's work: normalised values [samples, features] sent, or shown by a tap before
    it, and received for them.
    """

    sent: Array
    received: Array


class Inner(NamedTuple):
    """Normalised values [samples, features] on their way through a segment, and the degree of the polynomial
    that they enter there: 1 where only affine maps read them, 0 for what a polynomial gave.
    """

    values: Array
    degree: int


@dataclass(frozen=True)
class Checkpoint:
    """What crosses the link at one checkpoint, as the client must know it.

    Attributes:
        value: which value of the network this is: 2k is what layer k reads, 2k + 1 its pre-activation.
        sent: layout of what the server sends; None at the query. back: layout of what the client sends
            back; None at a tap and at the answer.
    """

    value: int
    sent: Layout | None
    back: Layout | None

    @property
    def name(self) -> str:
        """What comes next, for people."""
        layer, activation = divmod(self.value, 2)
        return f"{'activation' if activation else 'affine'} {layer + 1}"


def refreshed(points: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those between the query and the answer where the client sends something back."""
    return [point for point in points[1:-1] if point.back is not None]


class Network(ABC):
    """A network on normalised values.

    Attributes:
        alone: whether each segment is tested by itself, by any values within the headroom.
    """

    alone: ClassVar[bool]

    @abstractmethod
    def exchanges(self, flat: Array, points: Sequence[Checkpoint]) -> list[Exchange]:
        """Every segment between two of the points, exactly, for samples [samples, features] in the network's
        own units.
        """

    @abstractmethod
    def inside(self, point: int, sent: Array, points: Sequence[Checkpoint]) -> Iterator[Inner]:
        """Those sent and all that is computed from them, exactly, in the segment that ends at a point; the
        last ones are received there.
        """

    @abstractmethod
    def projected(self, point: int, rows: Array, points: Sequence[Checkpoint]) -> Projection | None:
        """These combinations of the values that are received at a point, rows [combinations, features]; None
        where they are no affine function of what a client knows.
        """

    def projected_modulo(
        self, point: int, rows: Residues, bias: Residues, t: int, points: Sequence[Checkpoint]
    ) -> ModularProjection | None:
        """The same of whole numbers modulo t, exactly, for combinations that are residues: where weights have
        17 bits at most.

        Args:
            bias: what the segment makes of zeros, [1, features].
        """
        parts = self.projected(point, np.concatenate(halves(rows)), points)
        if parts is None:
            return None
        columns = [-joined(one[: len(rows)], one[len(rows) :], t) for one in parts.columns]
        offset = sums_of_products(bias, rows, t)[0]
        return ModularProjection(np.concatenate([rows, *columns], axis=1), offset, parts.form, t)

    def projectable(self, points: Sequence[Checkpoint]) -> list[bool]:
        """Of each segment, whether a client without weights can test its values: it can of one affine map,
        and of a polynomial before it.
        """
        widths = [point.sent.shape[1] for point in points if point.sent is not None]
        rows = [np.zeros((1, width)) for width in widths]
        return [self.projected(number, row, points) is not None for number, row in enumerate(rows, 1)]

    def quick(self) -> Network:
        """The same, with weights by which `inside` is faster, to well below honest errors."""
        return self

    @abstractmethod
    def probed(self, flat: Array, points: Sequence[Checkpoint], limit: float) -> list[Exchange]:
        """What tests the segments: those of the samples, or for later ones values that test them better.

        Args:
            limit: the scheme's, of encrypted values.
        """

    @abstractmethod
    def values(self, program: Program) -> Iterator[Values]:
        """What goes into the steps of a program that have weights, in their order."""

    @abstractmethod
    def peaks(self, flat: Array) -> Array:
        """The largest magnitude that each of the samples [samples, features] gives an encrypted value."""

    @abstractmethod
    def rows(self, program: Program) -> list[str]:
        """A line on each layer: name, sizes, and what it takes."""

    def random_sent(self, random: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Random values [samples, features] such as a client sends at refreshes."""
        return random.uniform(-1.0, 1.0, shape)

    @property
    def largest(self) -> float:
        """What no honest value that is received exceeds, by a bound; 0 where none is known."""
        return 0.0

    @property
    def remarks(self) -> list[str]:
        """Lines on what is not the server's; none by default."""
        return []

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Input features and outputs."""

    @abstractmethod
    def to_parts(self) -> tuple[Any, dict[str, Any]]:
        """For a file: what JSON can hold, and arrays."""


def under(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of one thing, by the names that a file has for them."""
    return {f"{name}.{key}": array for key, array in arrays.items()}


def of(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `under`."""
    return {key[len(name) + 1 :]: arrays[key] for key in arrays if key.startswith(f"{name}.")}


def within_headroom(network: Network, flat: Array, limit: float) -> np.ndarray:
    """Which of the samples [samples, features] keep every encrypted value below `limit`, a scheme's."""
    inside: np.ndarray = network.peaks(flat) <= limit
    return inside
