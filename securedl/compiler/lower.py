"""Pass 5: emit the public program, with exact scales, and the client's signature beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from securedl.compiler.layout import LayerLayout
from securedl.compiler.levels import Segments
from securedl.he.params import Parameters
from securedl.he.schemes import scheme_of
from securedl.network.graph import Array
from securedl.plan.bands import Bands
from securedl.plan.network import Checkpoint
from securedl.plan.normalised import Layer, LayerPlaces, Normalised
from securedl.plan.served import Served, ServedLinear, ServedPolynomial
from securedl.plan.served_chain import ServedChain
from securedl.program.convolve import Convolve, Span
from securedl.program.program import Program
from securedl.program.steps import AddWeight, Matvec, Multiply, Port, Refresh, Step, Tap


@dataclass
class _Emitter:
    params: Parameters
    delta: float
    registers: dict[int, tuple[int, float, int]] = field(default_factory=dict)  # level, scale, tiles
    steps: list[Step] = field(default_factory=list)
    weights: int = 0

    def new(self, level: int, scale: float, tiles: int) -> int:
        register = len(self.registers)
        self.registers[register] = (level, scale, tiles)
        return register

    def _at(self, register: int, level: int) -> float:
        """The scale of a register that is switched to a level."""
        held, scale, _ = self.registers[register]
        return scheme_of(self.params).lowered(self.params, scale, held, level)

    def matvec(self, sources: list[int], layout: LayerLayout, level: int, scale: float) -> int:
        scheme = scheme_of(self.params)
        scales = tuple(scheme.factor(self.params, level, self._at(s, level), scale) for s in sources)
        out = self.new(level - 1, scale, layout.target.tiles)
        step = Matvec(
            out, tuple(sources), layout.blocks, layout.target.tiles, layout.giant, layout.folds,
            level, scale, scales, self.weights,
        )  # fmt: skip
        self.weights += step.diagonals + step.tiles
        self.steps.append(step)
        return out

    def multiply(self, left: int, right: int) -> int:
        level = min(self.registers[left][0], self.registers[right][0])
        given, other = self._at(left, level), self._at(right, level)
        scale = scheme_of(self.params).product(self.params, level, given, other)
        out = self.new(level - 1, scale, self.registers[left][2])
        self.steps.append(Multiply(out, left, right, level, scale))
        return out

    def add_weight(self, source: int) -> int:
        level, scale, tiles = self.registers[source]
        out = self.new(level, scale, tiles)
        self.steps.append(AddWeight(out, source, level, scale, self.weights))
        self.weights += tiles
        return out

    def refresh(self, source: int, level: int, scale: float, tiles: int, coefficients: bool = False) -> int:
        out = self.new(level, scale, tiles)
        self.steps.append(Refresh(out, source, tiles, level, scale, coefficients))
        return out

    def tap(self, source: int) -> int:
        level, scale, tiles = self.registers[source]
        out = self.new(level, scale, tiles)
        self.steps.append(Tap(out, source, level))
        return out

    def convolve(self, source: int, bands: Bands) -> int:
        scheme = scheme_of(self.params)
        level, value_scale, weight_scale = scheme.coefficient_form
        scale = scheme.whole(self.params, value_scale, weight_scale)
        out = self.new(level, scale, bands.answers)
        step = Convolve(
            out, source, bands.blocks, bands.inputs, tuple(Span(*span) for span in bands.spans),
            bands.channels, level, scale, weight_scale, self.weights,
        )  # fmt: skip
        self.steps.append(step)
        self.weights += sum(stop - start for start, stop in bands.spans)
        return out

    def fresh(self, served: Served) -> tuple[int, float]:
        """Level and scale of what the client sends to a layer."""
        if isinstance(served, ServedPolynomial):
            level = served.form.levels
            return level, served.form.target(self.delta, self.params.primes, level)
        if isinstance(served, ServedChain):
            first, level = served.parts[0], served.levels
            scale = self.delta
            if not first.sources:
                scale = first.form.target(self.delta, self.params.primes, level)
            return level, scale
        level, scale, _ = scheme_of(self.params).coefficient_form
        return level, scale

    def chain(self, register: int, served: ServedChain, layouts: Sequence[LayerLayout]) -> int:
        """All parts of a chain, one after the other."""
        live, level, places = [register], served.levels, iter(layouts)
        for part in served.parts:
            if part.sources:
                level -= 1
                scale = part.form.target(self.delta, self.params.primes, level)
                live = [self.matvec(live, next(places), level + 1, scale)]
                if served.taps_after(part):
                    live = [self.tap(live[0])]
            live = part.form.outputs(self, live[0])
            level -= part.form.levels
        return live[0]

    def add_constant(self, source: int, constant: Array) -> int:
        """For forms: the constant's values are the owner's, and secret; the program knows its place."""
        return self.add_weight(source)

    def target(self, layer: Layer, level: int) -> float:
        """Scale of a pre-activation at `level`, so that its polynomial lands on delta; of whole numbers 1."""
        if self.params.exact:
            return self.delta
        return layer.form.target(self.delta, self.params.primes, level)


def lower(
    params: Parameters,
    network: Normalised,
    plan: Segments,
    encrypted: bool,
) -> tuple[Program, tuple[Checkpoint, ...], tuple[LayerPlaces, ...]]:
    """The program, what the client meets at the query, at every refresh and tap and at the answer, and where
    each layer's values stand.
    """
    layouts, places, held = plan.layouts, list[LayerPlaces](), plan.layouts[0].source
    delta = scheme_of(params).scale(params)
    emit = _Emitter(params, delta)
    first = layouts[0].source
    level = plan.start_level(0)
    live = [emit.new(level, delta, first.tiles)]
    checkpoints = [Checkpoint(0, None, first)]
    for index, op in enumerate(plan.operations):
        layer, layout = network.layers[op.layer], layouts[op.layer]
        if index and index in plan.starts:
            level = plan.start_level(index)
            scale = delta if op.kind == "affine" else emit.target(layer, level)
            sent, held = held, layout.source
            if op.kind == "activation":
                following = index + 1 < len(plan.operations) and index + 1 not in plan.starts
                held = layouts[op.layer + 1].source if following else layout.target.flat
            live = [emit.refresh(live[0], level, scale, held.tiles)]
            checkpoints.append(Checkpoint(2 * op.layer + (op.kind == "activation"), sent, held))
        if op.kind == "affine":
            # After a refresh the activation starts from the refresh's level, so its scale is set there.
            following = index + 1 < len(plan.operations) and index + 1 not in plan.starts
            after = level - 1
            scale = emit.target(layer, after) if following else delta
            live, held = [emit.matvec(live, layout, level, scale)], layout.target
            places.append(LayerPlaces(layout.source, layout.target, layout.target))
            if plan.taps and following:
                live = [emit.tap(live[0])]
                checkpoints.append(Checkpoint(2 * op.layer + 1, layout.target, None))
        else:
            places[-1] = places[-1]._replace(inner=held)
            live = layer.form.outputs(emit, live[0])
        level -= op.levels
    width, batch = first.width, first.batch
    query = Port(first.tiles, plan.start_level(0), delta, exact=params.exact)
    program = Program(params, batch, width, encrypted, query, tuple(emit.steps), live[0])
    checkpoints.append(Checkpoint(2 * len(network.layers) - 1, held, None))
    return program, tuple(checkpoints), tuple(places)


def lower_layers(
    params: Parameters,
    layers: Sequence[Served],
    layouts: Sequence[Sequence[LayerLayout]],
    samples: int,
    encrypted: bool,
) -> Program:
    """Each layer by itself, with a refresh before the next.

    Args:
        layouts: of the affine maps of each layer that is a chain.
    """
    delta = scheme_of(params).scale(params)
    emit = _Emitter(params, delta)
    first, width = layers[0], 0
    linear = isinstance(first, ServedLinear)
    query = Port(first.sent.tiles, *emit.fresh(first), linear, params.exact)
    register = emit.new(query.level, query.scale, query.tiles)
    for number, served in enumerate(layers):
        if number:
            tiles, linear = served.sent.tiles, isinstance(served, ServedLinear)
            register = emit.refresh(register, *emit.fresh(served), tiles, linear)
        if isinstance(served, ServedLinear):
            register = emit.convolve(register, served.bands)
        elif isinstance(served, ServedPolynomial):
            width = served.place.width
            (register,) = served.form.outputs(emit, register)
        elif isinstance(served, ServedChain):
            width = served.parts[0].places.inner.width
            register = emit.chain(register, served, layouts[number])
    return Program(params, samples, width, encrypted, query, tuple(emit.steps), register)
