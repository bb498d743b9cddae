"""The steps of a program. Each owns its rules: what it reads, its weights, what comes out, how it runs.

Nobody else tests what kind a step is. Whoever needs to know something of a program asks each step in turn:
for registers (`reads`), weights (`shapes`, `slots`), levels and scales (`port`), or to be run (`run`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from securedl.errors import FormatError
from securedl.he.arithmetic import Arithmetic, Group, H
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.he.scheme import Scheme

MAX_TILES = 1 << 12
MAX_SOURCES = 1 << 6
W = TypeVar("W", covariant=True)


def require(condition: bool, message: str) -> None:
    """Raise FormatError unless the condition holds."""
    if not condition:
        raise FormatError(f"bad program: {message}")


@dataclass(frozen=True)
class Port:
    """Tiles of a register at a point: what crosses the link there.

    Attributes:
        scale: where it is exact, the correction factor.
        coefficients: whether values stand in the coefficients of the polynomials, or else in their slots.
        exact: whether they are integers (`Parameters.exact`).
    """

    tiles: int
    level: int
    scale: float
    coefficients: bool = False
    exact: bool = False

    @property
    def fresh(self) -> Shape:
        """Of a tile that the client sends."""
        return record_shape(self.level, 2, self.scale, self.exact, seeded=True)

    @property
    def sent(self) -> Shape:
        """Of a tile that the server sends, at level 0."""
        return record_shape(0, 2, self.scale, self.exact, cut=self.coefficients and not self.exact)


def record_shape(
    level: int, size: int, scale: float, exact: bool, seeded: bool = False, cut: bool = False
) -> Shape:
    """Of a record; where values are exact it has no scale, and this one is its correction factor."""
    kept, correction = (1.0, int(scale)) if exact else (scale, 1)
    return Shape(level, size, kept, seeded, correction, cut)


class Setting(Protocol):
    """What all steps of a program share."""

    @property
    def params(self) -> Parameters:
        """The modulus chain."""

    @property
    def scheme(self) -> Scheme:
        """That of the parameters."""

    @property
    def batch(self) -> int:
        """Samples in a ciphertext."""

    @property
    def width(self) -> int:
        """Features in a ciphertext of slots; 0 where all values stand in coefficients."""

    @property
    def encrypted(self) -> bool:
        """Whether weights are ciphertexts."""


def weight_of(setting: Setting, level: int, scale: float) -> Shape:
    """Of a weight: a ciphertext with a seed, or a plaintext."""
    size = 2 if setting.encrypted else 1
    return record_shape(level, size, scale, setting.params.exact, seeded=setting.encrypted)


class Weights(Protocol[W]):
    """Weights by index, in the evaluator's own form."""

    def __getitem__(self, index: int) -> W:
        """The handle of one weight."""


class Values(Protocol):
    """What the owner puts into the weights of one step, as vectors of slots or coefficients."""

    def diagonals(self, step: Matvec) -> Iterator[NDArray[np.float64]]:
        """Slots [n] of every diagonal, in the order of `Matvec.groups`."""

    def vector(self) -> Iterator[NDArray[np.float64]]:
        """Slots [n] of each tile of what is added."""

    def polynomials(self) -> Iterator[NDArray[np.float64]]:
        """Coefficients [N] of every weight of a `Convolve`, in its order."""


class Step(ABC):
    """One assignment: register `out` is written once, from the registers that `reads` names."""

    out: int
    level: int
    #: Whether the client is sent what `run` gives, at level 0; and whether what it sends back is the result.
    shows: ClassVar[bool] = False
    refreshes: ClassVar[bool] = False
    #: Whether its weights stand in coefficients.
    in_coefficients: ClassVar[bool] = False

    @abstractmethod
    def reads(self) -> tuple[int, ...]:
        """Registers it reads, in the order in which `port` and `run` are given them."""

    @abstractmethod
    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        """Tiles, level and scale of what it writes; scales match to 1 part in 10^9.

        Args:
            inputs: ports of the registers it reads. where: the step's name in messages.

        Raises:
            FormatError: naming the first invariant that fails.
        """

    @abstractmethod
    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        """The tiles it writes."""

    def shapes(self, setting: Setting, inputs: Sequence[Port]) -> Iterator[Shape]:
        """Shapes of its weights, in their order."""
        return iter(())

    def slots(self, values: Values) -> Iterator[NDArray[np.float64]]:
        """Its weights as slots [n] or coefficients [N], in the same order."""
        return iter(())

    def weights(self, port: Port) -> int:
        """How many weights it has. port: what `port` gave."""
        return 0

    def least_switches(self, encrypted: bool) -> int:
        """Key switches of each tile of its result, at least: known before it is counted.

        Args:
            encrypted: whether weights are.
        """
        return 0

    @property
    def diagonals(self) -> int:
        """Number of encrypted (or plain) diagonals."""
        return 0

    @property
    def first_weight(self) -> int | None:
        """Index of its first weight as the step names it; None where it has no weights."""
        return None


@dataclass(frozen=True)
class Block:
    """The non-zero generalised diagonals of one width x width block of a matrix.

    Attributes:
        output: output tile. source: which of the step's sources. tile: tile of that source.
        diagonals: k, ascending; diagonal k multiplies the input rotated by k features.
    """

    output: int
    source: int
    tile: int
    diagonals: tuple[int, ...]


@dataclass(frozen=True)
class Matvec(Step):
    """out = Σ_source matrix_source · source + bias. Spends one level.

    Attributes:
        giant: g of baby-step giant-step, k = g·i + j.
        folds: rotate-and-sum steps in features, after the products.
        level: of the inputs, which are mod-switched to it; the result is at level - 1.
        scale: of the result. weight_scales: of the diagonals of each source.
        first: index of its first weight; diagonals in the order of `groups`, then a bias for each tile.
    """

    out: int
    sources: tuple[int, ...]
    blocks: tuple[Block, ...]
    tiles: int
    giant: int
    folds: tuple[int, ...]
    level: int
    scale: float
    weight_scales: tuple[float, ...]
    first: int

    def groups(self) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
        """(output tile, giant step i, terms (source, tile, baby step j)) in the order of the weights."""
        table: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        for block in self.blocks:
            for k in block.diagonals:
                i, j = divmod(k, self.giant)
                table.setdefault((block.output, i), []).append((block.source, block.tile, j))
        for (output, i), terms in sorted(table.items()):
            yield output, i, sorted(terms)

    def least_switches(self, encrypted: bool) -> int:
        return len(self.folds) + encrypted

    @property
    def diagonals(self) -> int:
        """Number of encrypted (or plain) diagonals."""
        return sum(len(block.diagonals) for block in self.blocks)

    def reads(self) -> tuple[int, ...]:
        return self.sources

    @property
    def first_weight(self) -> int:
        return self.first

    def shapes(self, setting: Setting, inputs: Sequence[Port]) -> Iterator[Shape]:
        for _, _, terms in self.groups():
            for source, _, _ in terms:
                yield weight_of(setting, self.level, self.weight_scales[source])
        for _ in range(self.tiles):
            yield weight_of(setting, self.level - 1, self.scale)

    def weights(self, port: Port) -> int:
        return self.diagonals + port.tiles

    def slots(self, values: Values) -> Iterator[NDArray[np.float64]]:
        yield from values.diagonals(self)
        yield from values.vector()

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        require(self.level >= 1, f"{where} has no level to spend")
        require(1 <= self.tiles <= MAX_TILES, f"{where} has {self.tiles} tiles")
        require(1 <= self.giant <= setting.width, f"{where} has a giant step out of range")
        require(
            len(self.sources) == len(self.weight_scales) >= 1, f"{where} needs a weight scale for each source"
        )
        require(len(self.sources) <= MAX_SOURCES, f"{where} reads {len(self.sources)} registers")
        scheme = setting.scheme
        for port, weight_scale in zip(inputs, self.weight_scales, strict=True):
            given = _reaches(setting, port, self.level, where)
            product = scheme.product(setting.params, self.level, given, weight_scale)
            require(scheme.same(product, self.scale), f"{where}: scales")
        require(len(self.folds) <= setting.width.bit_length(), f"{where} folds {len(self.folds)} times")
        for fold in self.folds:
            require(0 < fold < setting.width, f"{where} folds by {fold}")
        self._check_blocks(setting, inputs, where)
        return Port(self.tiles, self.level - 1, self.scale, exact=setting.params.exact)

    def _check_blocks(self, setting: Setting, inputs: Sequence[Port], where: str) -> None:
        seen = set()
        for block in self.blocks:
            require(block.output < self.tiles and block.source < len(inputs), f"{where}: block out of range")
            require(block.tile < inputs[block.source].tiles, f"{where}: block out of range")
            key = (block.output, block.source, block.tile)
            require(key not in seen, f"{where} has a block twice")
            seen.add(key)
            ascending = all(a < b for a, b in zip(block.diagonals, block.diagonals[1:], strict=False))
            inside = bool(block.diagonals) and block.diagonals[0] >= 0 and block.diagonals[-1] < setting.width
            require(ascending and inside, f"{where}: diagonals")
        require(
            {b.output for b in self.blocks} == set(range(self.tiles)), f"{where} leaves an output tile empty"
        )

    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        """Baby-step giant-step product, one relinearisation and rescale for each giant step."""
        babies = self._baby_steps(e, batch, inputs)
        index = self.first
        groups: dict[int, list[Group]] = {}
        for output, i, terms in self.groups():
            xs = [babies[s, tile, j] for s, tile, j in terms]
            ws = [weights[index + k] for k in range(len(terms))]
            index += len(terms)
            groups.setdefault(output, []).append(Group(xs, ws, i * self.giant * batch))
        results = []
        for output in range(self.tiles):
            total = e.giant_steps(groups[output])
            for fold in self.folds:
                total = e.fold(total, fold * batch)
            results.append(e.add(total, weights[index + output]))
        return results

    def _baby_steps(
        self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]]
    ) -> dict[tuple[int, int, int], H]:
        """Each input tile, rotated by every baby step that some diagonal needs."""
        needed: dict[tuple[int, int], set[int]] = {}
        for block in self.blocks:
            needed.setdefault((block.source, block.tile), set()).update(
                k % self.giant for k in block.diagonals
            )
        babies = {}
        for (source, tile), steps in needed.items():
            low = e.mod_switch(inputs[source][tile], self.level)
            ordered = sorted(steps)
            turned = e.rotate(low, [j * batch for j in ordered])
            babies.update({(source, tile, j): handle for j, handle in zip(ordered, turned, strict=True)})
        return babies


@dataclass(frozen=True)
class Multiply(Step):
    """out = left · right, tile by tile, then rescaled to `level` - 1. left == right is a squaring."""

    out: int
    left: int
    right: int
    level: int
    scale: float

    def reads(self) -> tuple[int, ...]:
        return (self.left, self.right)

    def least_switches(self, encrypted: bool) -> int:
        return 1

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        require(self.level >= 1, f"{where} has no level to spend")
        left, right = inputs
        given = [_reaches(setting, port, self.level, where) for port in inputs]
        require(left.tiles == right.tiles, f"{where} multiplies {left.tiles} by {right.tiles} tiles")
        product = setting.scheme.product(setting.params, self.level, *given)
        require(setting.scheme.same(product, self.scale), f"{where}: scales")
        return Port(left.tiles, self.level - 1, self.scale, exact=setting.params.exact)

    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        out = []
        for a, b in zip(*inputs, strict=True):
            low = e.mod_switch(a, self.level)
            out.append(e.multiply_rescale(low, low if a is b else e.mod_switch(b, self.level)))
        return out


@dataclass(frozen=True)
class AddWeight(Step):
    """out = source + a weight for each tile (the inner constant of a cubic)."""

    out: int
    source: int
    level: int
    scale: float
    first: int

    def reads(self) -> tuple[int, ...]:
        return (self.source,)

    @property
    def first_weight(self) -> int:
        return self.first

    def shapes(self, setting: Setting, inputs: Sequence[Port]) -> Iterator[Shape]:
        return iter([weight_of(setting, self.level, self.scale)] * inputs[0].tiles)

    def weights(self, port: Port) -> int:
        return port.tiles

    def slots(self, values: Values) -> Iterator[NDArray[np.float64]]:
        yield from values.vector()

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        (source,) = inputs
        require(not source.coefficients, f"{where} needs values in slots")
        require(source.level == self.level, f"{where} is at another level than its input")
        require(setting.scheme.same(source.scale, self.scale), f"{where}: scales")
        return Port(source.tiles, self.level, self.scale, exact=setting.params.exact)

    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        return [e.add(tile, weights[self.first + i]) for i, tile in enumerate(inputs[0])]


@dataclass(frozen=True)
class Refresh(Step):
    """The client decrypts `source` and sends what it makes of it, fresh, at `level` and `scale`.

    Attributes:
        tiles: that it sends. coefficients: their form (see `Port`).
    """

    out: int
    source: int
    tiles: int
    level: int
    scale: float
    coefficients: bool = False

    shows: ClassVar[bool] = True
    refreshes: ClassVar[bool] = True

    def reads(self) -> tuple[int, ...]:
        return (self.source,)

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        require(1 <= self.tiles <= MAX_TILES, f"{where} brings {self.tiles} tiles")
        return Port(self.tiles, self.level, self.scale, self.coefficients, setting.params.exact)

    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        """What the client is sent."""
        return list(inputs[0])


@dataclass(frozen=True)
class Tap(Step):
    """The client is shown `source`, and the server goes on with it: out = source."""

    out: int
    source: int
    level: int

    shows: ClassVar[bool] = True

    def reads(self) -> tuple[int, ...]:
        return (self.source,)

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        (source,) = inputs
        require(not source.coefficients, f"{where} needs values in slots")
        require(source.level == self.level, f"{where} is at another level than its input")
        return source

    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        return list(inputs[0])


def _reaches(setting: Setting, port: Port, level: int, where: str) -> float:
    """The scale of an input, switched to a level that it must have."""
    require(not port.coefficients, f"{where} needs values in slots")
    require(port.level >= level, f"{where} needs a level that its input no longer has")
    return setting.scheme.lowered(setting.params, port.scale, port.level, level)
