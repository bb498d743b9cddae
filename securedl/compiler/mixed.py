"""Layers in coefficients and chains in slots in one plan: which is which, by dynamic programming.

A refresh costs a round trip and bytes. Where trips are dear, a polynomial and the layer after it are better
left in slots together, at the price of more work and weights for the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from securedl.compiler.bands import Conditions, LayerCounts, choose
from securedl.compiler.cost import SlotsCost
from securedl.compiler.forms import Choice
from securedl.compiler.fused import Fused
from securedl.compiler.layout import LayerLayout, Layouts
from securedl.compiler.levels import operations
from securedl.compiler.rounds import Arrangement, ChainPlace, LayerPlace, Wanted, check_size
from securedl.compiler.segments import SegmentCosts
from securedl.errors import CompileError
from securedl.he.ckks import coefficient_parameters
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.network.chain import Cut, Section, cuts, linear_between, with_chains
from securedl.network.graph import Array, Graph, Polynomial
from securedl.network.partition import Partitioned
from securedl.plan.bands import Bands
from securedl.plan.forms import NONE
from securedl.plan.normalised import Layer, LayerPlaces
from securedl.plan.served_chain import ChainPart
from securedl.plan.signature import Cost

#: Rings that are tried.
MIXED_RINGS = (8192, 16384)


@dataclass(frozen=True, eq=False)
class Stop:
    """Where the client may be asked.

    Attributes:
        cut: of the script. scale, offset: of the value there, which is normalised · scale + offset.
    """

    cut: Cut
    scale: Array
    offset: Array


@dataclass(frozen=True, eq=False)
class Stretch:
    """Operations start..end between two points.

    Attributes:
        cost: of a query; once: milliseconds of its weights. bands: of its layers, in coefficients; else it
            is in slots, layouts those of its affine maps.
    """

    start: int
    end: int
    cost: Cost
    once: float
    bands: tuple[Bands, ...] = ()
    layouts: tuple[LayerLayout, ...] = ()


class Mixed:
    """The search, for one network.

    Args:
        found: its layers apart. fused: the same in one row. x: calibration samples [samples, *shape].
        below: milliseconds of a query, its share of what is paid once among them, that a plan must beat.
    """

    def __init__(self, found: Partitioned, fused: Fused, x: Array, wanted: Wanted, below: float) -> None:
        self.found, self.fused, self.wanted, self.below = found, fused, wanted, below
        self.graph, (self.network, self.choices) = fused.graph, fused.normalised
        self.operations = operations(self.network)
        self.points = self._points(x)
        self._found = dict[tuple[int, int, int], Stretch | None]()

    def _points(self, x: Array) -> list[Stop | None]:
        """At each operation, and at the end; None where the client cannot be asked."""
        nodes, network = self.graph.nodes, self.network
        polynomials = [k for k, node in enumerate(nodes) if isinstance(node, Polynomial)]
        known = cuts(self.found, self.graph, polynomials, x)
        if known is None or len(nodes) != len(self.operations):
            return []
        around, points = iter(known.around), list[Stop | None]()
        points.append(Stop(known.start, network.input_scale, network.input_offset))
        for number, one in enumerate(self.operations):
            choice: Choice = self.choices[one.layer]
            if one.kind == "activation":
                before, after = next(around)
                points[number] = Stop(before, choice.reach, -choice.shift)
                single = len(choice.gains) == 1
                points.append(Stop(after, choice.gains[0], choice.offset) if single else None)
            else:
                points.append(None)
        points[-1] = Stop(known.end, network.output_scale, network.output_offset)
        return points

    def best(self) -> tuple[Parameters, tuple[Layouts, ...], list[Stretch]] | None:
        """Parameters, layouts and stretches of the cheapest plan; None where none is cheaper than `below`, or
        the cheapest is all in slots, of which `levels.place_refreshes` has better ones.
        """
        best, found = self.below, None
        for ring in MIXED_RINGS if self.points else ():
            places = ring // 2 // self.wanted.samples
            if not places:
                continue
            layouts = self.fused.layouts(places, self.wanted.samples, self.wanted.encrypted)
            most = sum(one.levels for one in self.operations)
            for levels in range(1, most + 1):
                try:
                    params = coefficient_parameters(ring, levels)
                except CompileError:
                    break
                price = SlotsCost(params, self.wanted.link, self.wanted.prices)
                args = self.network, self.operations, layouts, self.wanted.encrypted, self.wanted.queries
                stretches = self._cheapest(SegmentCosts(price, *args, self.wanted.taps))
                if stretches is not None and (ms := self._total(stretches)) < best:
                    best, found = ms, (params, layouts, stretches)
        both = found is not None and any(one.bands for one in found[2])
        return found if both else None

    def _total(self, stretches: Sequence[Stretch]) -> float:
        return sum(one.cost.total_ms + one.once / self.wanted.queries for one in stretches)

    def _cheapest(self, segments: SegmentCosts) -> list[Stretch] | None:
        table: dict[int, list[Stretch]] = {len(self.operations): []}
        for start in range(len(self.operations) - 1, -1, -1):
            if self.points[start] is None:
                continue
            options = [[one, *table[one.end]] for one in self._from(start, segments) if one.end in table]
            if options:
                table[start] = min(options, key=self._total)
        return table.get(0)

    def _from(self, start: int, segments: SegmentCosts) -> Iterator[Stretch]:
        """All stretches from one point."""
        params = segments.cost_of.params
        levels, linear = 0, True
        for end in range(start + 1, len(self.operations) + 1):
            levels += self.operations[end - 1].levels
            linear = linear and self.operations[end - 1].kind == "affine"
            if self.points[end] is None:
                continue
            if linear and (one := self._in_coefficients(start, end, params)) is not None:
                yield one
            if levels <= params.levels and (one := self._in_slots(start, end, levels, segments)):
                yield one

    def _in_coefficients(self, start: int, end: int, params: Parameters) -> Stretch | None:
        """Of any levels, for it has none: found once for each ring."""
        key = start, end, params.ring
        if key not in self._found:
            self._found[key] = self._coefficients(start, end, params)
        return self._found[key]

    def _coefficients(self, start: int, end: int, params: Parameters) -> Stretch | None:
        begin, stop = self.points[start], self.points[end]
        assert begin is not None
        assert stop is not None
        layers, wanted = linear_between(self.found.script, begin.cut, stop.cut), self.wanted
        conditions = Conditions(params, wanted.encrypted, wanted.link, wanted.queries, wanted.prices)
        if not layers:
            return None
        try:
            bands = [
                choose(one.geometry, wanted.samples * one.repeat, conditions, one.name) for one in layers
            ]
        except CompileError:  # none fits
            return None
        counts = [LayerCounts.of(one) for one in bands]
        cost = sum((conditions.cost(one) for one in counts), Cost(link_ms=wanted.link.rtt_ms * len(counts)))
        return Stretch(start, end, cost, sum(map(conditions.once, counts)), tuple(bands))

    def _in_slots(self, start: int, end: int, levels: int, segments: SegmentCosts) -> Stretch | None:
        wanted, price = self.wanted, segments.cost_of
        weight = price.weight_ms(Shape(1, 2 if wanted.encrypted else 1, 1.0, seeded=wanted.encrypted))
        maps = [segments.layouts[one.layer] for one in self.operations[start:end] if one.kind == "affine"]
        least = sum(one.least for one in maps)
        if least * (weight / wanted.queries + price.term_ms(1, wanted.encrypted)) > self.below:
            return None
        cost, once, chosen = segments.between(start, end)
        return Stretch(start, end, cost, once, layouts=chosen)

    def arranged(
        self, params: Parameters, layouts: tuple[Layouts, ...], stretches: Sequence[Stretch]
    ) -> tuple[Partitioned, Arrangement]:
        """The network with its chains as layers, and where everything stands.

        Raises:
            CompileError: others read what is inside of a chain, or the weights take more than the limit.
        """
        chains, places = list[Section](), list[LayerPlace]()
        for one in stretches:
            begin, stop = self.points[one.start], self.points[one.end]
            assert begin is not None
            assert stop is not None
            if one.bands:
                places += one.bands
            elif one.end - one.start == 1 and self.operations[one.start].kind == "activation":
                places.append(layouts[self.operations[one.start].layer].flat[1])
            else:
                graph = Graph(begin.cut.shape, self.graph.nodes[one.start : one.end])
                chains.append(Section(begin.cut, stop.cut, graph))
                places.append(self._chain(one, layouts, begin, stop))
        joined = with_chains(self.found, chains)
        if joined is None:
            raise CompileError("the network branches inside of what would be a chain in slots")
        cost = sum((one.cost for one in stretches), Cost())
        found = Arrangement(params, tuple(places), cost, sum(one.once for one in stretches))
        check_size(joined.script.layers, found, self.wanted)
        return joined, found

    def _chain(self, one: Stretch, layouts: tuple[Layouts, ...], begin: Stop, stop: Stop) -> ChainPlace:
        ops, parts, layers = self.operations, list[ChainPart](), list[Layer]()
        chosen = one.layouts
        following = iter(chosen)
        for number in range(one.start, one.end):
            layer = self.network.layers[ops[number].layer]
            if ops[number].kind == "affine":
                where: LayerLayout = next(following)
                places = LayerPlaces(where.source, where.target, where.target)
                parts.append(ChainPart(layer.name, len(layer.matrices), NONE, places))
                layers.append(replace(layer, form=NONE))
            elif number > one.start:
                parts[-1] = replace(parts[-1], form=layer.form.public)
                layers[-1] = layer
            else:  # the client lays what it reads
                held = chosen[0].source if number + 1 < one.end else layouts[ops[number].layer].flat[1]
                parts.append(ChainPart("", 0, layer.form.public, LayerPlaces(held, held, held)))
                layers.append(replace(layer, matrices=(), bias=np.zeros(0)))
        ends = (begin.scale, begin.offset), (stop.scale, stop.offset)
        return ChainPlace(tuple(parts), tuple(layers), chosen, self.wanted.taps, *ends)

    def name(self, stretches: Sequence[Stretch]) -> str:
        """For people: which operations have no refresh between them."""
        whole = [one for one in stretches if one.end - one.start > 1 and not one.bands]
        chains = [
            f"{self.operations[one.start].name} to {self.operations[one.end - 1].name}" for one in whole
        ]
        return f"layer by layer, {' and '.join(chains)} in slots without a refresh"
