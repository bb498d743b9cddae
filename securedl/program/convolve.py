"""The step of the coefficient form: convolutions as products of polynomials (`securedl.plan.bands`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from securedl.he.arithmetic import Arithmetic, H
from securedl.he.record import Shape
from securedl.program.steps import MAX_TILES, Port, Setting, Step, Values, Weights, require, weight_of

#: Products of a step: a weight has one for each block.
MAX_STEP_PRODUCTS = 1 << 20


@dataclass(frozen=True)
class Span:
    """Groups of channels that a group of maps reads: from `start` to the one before `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Convolve(Step):
    """For each block of units and each group of maps: the sum of input tile times weight over the groups of
    channels in its span; then `merge` of these answers at a time become one tile. Spends no level.

    Attributes:
        source: a register of blocks · inputs tiles, those of a block together.
        spans: of each group of maps. merge: a power of two, at most N / 4.
        level: of inputs and results; nothing is rescaled. scale: of the results. weight_scale: of weights.
        first: index of its first weight; they are in the order of spans.
    """

    out: int
    source: int
    blocks: int
    inputs: int
    spans: tuple[Span, ...]
    merge: int
    level: int
    scale: float
    weight_scale: float
    first: int

    in_coefficients: ClassVar[bool] = True

    def reads(self) -> tuple[int, ...]:
        return (self.source,)

    @property
    def first_weight(self) -> int:
        return self.first

    def weights(self, port: Port) -> int:
        return sum(span.stop - span.start for span in self.spans)

    def shapes(self, setting: Setting, inputs: Sequence[Port]) -> Iterator[Shape]:
        return iter([weight_of(setting, self.level, self.weight_scale)] * self.weights(inputs[0]))

    def slots(self, values: Values) -> Iterator[NDArray[np.float64]]:
        yield from values.polynomials()

    def port(self, setting: Setting, inputs: Sequence[Port], where: str) -> Port:
        (source,) = inputs
        require(source.coefficients, f"{where} needs values in coefficients")
        require(source.level == self.level, f"{where} is at another level than its input")
        require(min(self.blocks, self.inputs, len(self.spans)) >= 1, f"{where} is empty")
        require(source.tiles == self.blocks * self.inputs, f"{where} needs other tiles than it is given")
        require(len(self.spans) * self.blocks <= MAX_TILES, f"{where} has too many answers")
        power = self.merge >= 1 and self.merge & (self.merge - 1) == 0
        require(power and self.merge <= setting.params.ring // 4, f"{where} merges {self.merge} answers")
        for span in self.spans:
            require(span.start < span.stop <= self.inputs, f"{where} has a span out of range")
        product = setting.scheme.whole(setting.params, source.scale, self.weight_scale)
        require(setting.scheme.same(product, self.scale), f"{where}: scales")
        room = sum(math.log2(q) for q in setting.params.primes[: self.level + 1])
        require(math.log2(product) < room, f"{where}: its scale does not fit level {self.level}")
        products = self.weights(source) * self.blocks
        require(products <= MAX_STEP_PRODUCTS, f"{where} has more than {MAX_STEP_PRODUCTS} products")
        tiles = -(-len(self.spans) * self.blocks // self.merge)
        return Port(tiles, self.level, self.scale, coefficients=True, exact=setting.params.exact)

    def run(self, e: Arithmetic[H], batch: int, inputs: Sequence[list[H]], weights: Weights[H]) -> list[H]:
        """Products, each relinearised, and their merging; inputs are divided beforehand by what merging
        multiplies by.
        """
        tiles = e.scaled(inputs[0], self.merge) if self.merge > 1 else inputs[0]
        index, rows = self.first, list[list[H]]()
        for span in self.spans:
            rows.append([weights[index + k] for k in range(span.stop - span.start)])
            index += span.stop - span.start
        sums = []
        for block in range(self.blocks):
            mine = tiles[block * self.inputs : (block + 1) * self.inputs]
            for span, row in zip(self.spans, rows, strict=True):
                sums.append((mine[span.start : span.stop], row))
        return e.merged_products(sums, self.merge)
