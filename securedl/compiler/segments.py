"""What a segment costs, from fresh ciphertexts to the client's next look, with the cheapest layouts in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from securedl.compiler.cost import SlotsCost
from securedl.compiler.layout import Ends, LayerLayout, Layouts
from securedl.plan.layouts import Interleaved
from securedl.plan.normalised import Normalised
from securedl.plan.signature import Cost


@dataclass(frozen=True)
class Operation:
    """One step that spends levels: the affine map of a layer, or its polynomial."""

    layer: int
    kind: str
    levels: int

    @property
    def name(self) -> str:
        """For messages and the summary."""
        return f"{self.kind} {self.layer + 1}"


class Priced(NamedTuple):
    """What is done between two looks of the client.

    Attributes:
        cost: of a query. once: milliseconds of preparing and uploading the weights.
        layouts: of the affine maps in it.
    """

    cost: Cost
    once: float
    layouts: tuple[LayerLayout, ...]


class _Path(NamedTuple):
    cost: Cost
    once: float
    ends: tuple[tuple[Layouts, Ends], ...]
    layouts: tuple[LayerLayout, ...]


@dataclass(frozen=True, eq=False)
class SegmentCosts:
    """Segments of one network, each looked at once.

    Attributes:
        operations: all of them. layouts: those that each layer may have.
        queries: that share the price of preparing and uploading the weights. taps: whether the client is
            shown what affine maps give inside of a segment.
    """

    cost_of: SlotsCost
    network: Normalised
    operations: tuple[Operation, ...]
    layouts: tuple[Layouts, ...]
    encrypted: bool
    queries: int
    taps: bool = False

    @cached_property
    def _found(self) -> dict[tuple[int, int], Priced]:
        return {}

    def between(self, start: int, end: int) -> Priced:
        """Fresh ciphertexts in, operations start..end, ciphertexts at level 0 back to the client."""
        if (start, end) not in self._found:
            self._found[start, end] = self._cheapest(start, end)
        return self._found[start, end]

    def _cheapest(self, start: int, end: int) -> Priced:
        """Layouts are looked at first; those of the path that is the best then are made, until all are."""
        while True:
            path = self._path(start, end)
            if all(layout.exact for layout in path.layouts):
                return Priced(path.cost, path.once, path.layouts)
            for options, ends in path.ends:
                options.make(ends)

    def _path(self, start: int, end: int) -> _Path:
        """The cheapest by what is known, over the layouts of the values in between."""
        ops = self.operations[start:end]
        level = sum(op.levels for op in ops)
        polynomial = ops[0] if ops[0].kind == "activation" else None
        rest = ops[1:] if polynomial else ops
        first = self.layouts[rest[0].layer].starts if rest else self.layouts[ops[0].layer].flat[1:]
        paths: dict[Interleaved, _Path] = {}
        for source in first:
            cost = self.cost_of.transfer(source.tiles, level, fresh=True)
            if polynomial:
                cost += self._products(polynomial, source, level)
            paths[source] = _Path(cost, 0.0, (), ())
        level -= polynomial.levels if polynomial else 0
        for number, op in enumerate(rest):
            if op.kind == "activation":
                paths = {
                    where: path._replace(cost=path.cost + self._products(op, where, level))
                    for where, path in paths.items()
                }
            else:
                paths = self._affine(op, paths, level, laid=number == 0, summed=number + 1 == len(rest))
            level -= op.levels
        where, path = min(
            paths.items(), key=lambda item: self._back(*item).total_ms + item[1].once / self.queries
        )
        return path._replace(cost=self._back(where, path))

    def _affine(
        self, op: Operation, paths: dict[Interleaved, _Path], level: int, laid: bool, summed: bool
    ) -> dict[Interleaved, _Path]:
        found: dict[Interleaved, _Path] = {}
        options = self.layouts[op.layer]
        for source, path in paths.items():
            for target in options.targets(source):
                ends, layout = options.look(Ends(source, target, laid, summed))
                cost = path.cost + Cost(self.cost_of.affine_ms(layout, level, self.encrypted))
                if self.taps and not summed:
                    cost += self.cost_of.transfer(target.tiles, 0, fresh=False)
                once = path.once + self.cost_of.weights_ms(layout, level, self.encrypted)
                one = _Path(cost, once, (*path.ends, (options, ends)), (*path.layouts, layout))
                if target not in found or self._ms(one) < self._ms(found[target]):
                    found[target] = one
        return found

    def _ms(self, path: _Path) -> float:
        """All that a query pays."""
        return path.cost.total_ms + path.once / self.queries

    def _products(self, op: Operation, where: Interleaved, level: int) -> Cost:
        products = self.network.layers[op.layer].form.products
        return Cost(self.cost_of.products_ms(products, where.tiles, level))

    def _back(self, where: Interleaved, path: _Path) -> Cost:
        back = self.cost_of.transfer(where.tiles, 0, fresh=False)
        return path.cost + back + Cost(link_ms=self.cost_of.link.rtt_ms)
