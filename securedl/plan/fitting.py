"""Whether the parts of a plan fit each other: a file may be from elsewhere, and hold anything.

Sizes are compared before anything is made of them. What a program may have is bounded (`program.steps`), and
arrays are as large as the file, so all else is held against these two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from securedl.errors import InputError
from securedl.network.graph import Array
from securedl.network.script import LinearLayer
from securedl.plan.congruent import Congruent
from securedl.plan.forms import COMPLETED, NONE
from securedl.plan.layouts import folds
from securedl.plan.normalised import Layer
from securedl.plan.rounds import Layerwise
from securedl.plan.served import Served, ServedLinear, ServedPolynomial
from securedl.plan.served_chain import ServedChain
from securedl.plan.signature import Signature
from securedl.program.convolve import Convolve, Span
from securedl.program.program import Program
from securedl.program.steps import MAX_TILES, Port

#: What the client's operations may hold in memory, in bytes: so many, and so many times what the largest
#: message of the program holds as doubles.
SCRIPT_BYTES, SCRIPT_TIMES = 1 << 27, 16


def _require(condition: bool, message: str) -> None:
    """Raise InputError unless the condition holds."""
    if not condition:
        raise InputError(f"the parts of the plan do not fit: {message}")


def check_array(found: Any, shape: tuple[int, ...], what: str, positive: bool = False) -> None:
    """Refuse anything but finite doubles in an array of this shape; or numbers up to zero.

    Raises:
        InputError: so it is.
    """
    _require(found.dtype == np.float64 and found.shape == shape, f"{what} should be float64 {list(shape)}")
    _require(bool(np.isfinite(found).all()), f"{what} has NaN or infinite values")
    _require(not positive or bool((found > 0).all()), f"{what} has values that are not above zero")


def check_shape(shape: tuple[int, ...], count: int, what: str) -> None:
    """Refuse sizes that are none, or not of so many numbers.

    Raises:
        InputError: so they are.
    """
    _require(all(type(size) is int and size >= 1 for size in shape), f"{what} has sizes {list(shape)}")
    _require(math.prod(shape) == count, f"{what} of sizes {list(shape)} has not {count} numbers")


def check_samples(samples: Any, features: int) -> None:
    """Refuse anything but finite samples [any number, features].

    Raises:
        InputError: so they are.
    """
    _require(samples.ndim == 2 and len(samples) > 0, "there are no samples")
    check_array(samples, (len(samples), features), "the samples")


def check_signature(signature: Signature, samples: Any, sizes: tuple[int, int]) -> None:
    """Refuse a signature that is not for samples and answers of these sizes.

    Args:
        samples: some of the calibration data. sizes: features and outputs of the network.

    Raises:
        InputError: so it is.
    """
    (features, outputs), shape, output = sizes, signature.input_shape, signature.output.shape
    check_shape(shape, features, "a sample")
    check_shape(output, outputs, "an answer")
    check_samples(samples, features)
    found = [point.back is not None for point in signature.checkpoints]
    for program in signature.channels:
        due = [True, *(back is not None for _, back in program.shown), False]
        _require(found == due, "its checkpoints are not those of the program")
    rounds = signature.rounds
    _require(rounds is None or rounds.input_shape == shape, "its samples have another shape")
    for end, count in (("input", features), ("output", outputs)):
        check_array(getattr(signature, f"{end}_scale"), (count,), f"the scale of the {end}", positive=True)
        check_array(getattr(signature, f"{end}_offset"), (count,), f"the offset of the {end}")
    columns = signature.columns
    _require(all(isinstance(name, str) for name in columns), "a column has a name that is no text")
    _require(len(columns) in (0, features), "the columns are not the features")
    figures = (*vars(signature.cost).values(), signature.error, signature.input_limit)
    finite = all(isinstance(one, int | float) and 0 <= one < math.inf for one in figures)
    _require(finite, "a figure of cost, error or range is none")


def check_channels(network: Congruent, programs: Sequence[Program]) -> None:
    """Refuse programs that are not those of the network's primes, or primes that do not hold its answers.

    Raises:
        InputError: so it is.
    """
    primes = [program.params.plain_modulus for program in programs]
    _require(list(network.primes) == primes and len(set(primes)) == len(primes), "its primes are others")
    alike = {(one.params.ring, one.batch, one.width, one.encrypted) for one in programs}
    _require(len(alike) == 1, "its programs are of different rings or batches")
    largest = float(network.bounds[-1].max())
    _require(2 * largest + 1 < math.prod(primes), "its primes do not hold the answers")


def check_network(network: Layerwise, program: Program, samples: Any) -> None:
    """Refuse a network that is not the program's, or whose operations fail on the first of some samples.

    Raises:
        InputError: so it is.
    """
    rounds, limit = network.rounds, _limit(program)
    features = network.features
    check_shape(rounds.input_shape, features, "a sample")
    check_samples(samples, features)
    check_layers(rounds.served, network.kernels, program)
    _require(8 * program.batch * features <= limit, "a sample is larger than all that the program is sent")
    flat = np.repeat(samples[:1], program.batch, axis=0)
    try:
        _replay(network, flat, limit, exact=False)
    except InputError:
        raise
    except Exception:  # zeros from all layers may be too little, as for the inverse of a matrix
        try:
            _replay(network, flat, limit, exact=True)
        except Exception as error:
            raise InputError(f"what the client does between the layers fails: {error}") from error


def _limit(program: Program) -> int:
    """Bytes that a script may hold."""
    tiles = max(port.tiles for port in program.ports().values())
    return SCRIPT_BYTES + SCRIPT_TIMES * 8 * program.params.ring * tiles


def _replay(network: Layerwise, flat: Array, limit: int, exact: bool) -> None:
    """Do what the client does with samples [samples, features]; layers give zeros unless it is exact.

    Raises:
        InputError: it takes too much memory, or sends layers other shapes than theirs; or whatever torch
            raises.
    """
    from securedl.network.script_sizes import Meter  # whoever replays scripts has torch

    rounds = network.rounds
    running = rounds.script.run(flat.reshape(len(flat), *rounds.input_shape), Meter(limit))
    try:
        number, value = next(running)
        while True:
            layer, served = rounds.script.layers[number], rounds.served[number]
            image = layer.geometry.image if isinstance(layer, LinearLayer) else layer.shape
            due = (len(flat) * layer.repeat, *image)
            _require(value.shape == due, f"{layer.name!r} is sent {list(value.shape)}, not {list(due)}")
            received = np.zeros((len(flat), layer.repeat * math.prod(layer.output)))
            if exact:
                sent = served.normalised(value).reshape(len(flat), -1)
                received = served.apply(sent, network.kernels[number])
            number, value = running.send(served.result(received))
    except StopIteration as end:
        found = end.value.shape
    _require(found[:1] == (len(flat),), f"{len(flat)} samples give answers of shape {list(found)}")
    _require(math.prod(found[1:]) == rounds.outputs, f"an answer has shape {list(found[1:])}")


def check_layers(served: Sequence[Served], weights: Sequence[Any], program: Program) -> None:
    """Refuse layers that are not what the program computes, or ranges and weights of others.

    Raises:
        InputError: so they are.
    """
    segments = list(_segments(program))
    _require(len(served) == len(weights) == len(segments), "the program has another number of layers")
    for number, (one, weight, segment) in enumerate(zip(served, weights, segments, strict=True), 1):
        if isinstance(one, ServedLinear):
            _check_linear(one, weight, segment, f"layer {number}")
        elif isinstance(one, ServedPolynomial):
            _check_polynomial(one, weight, segment, f"layer {number}")
        elif isinstance(one, ServedChain):
            _check_chain(one, weight, segment, f"layer {number}")


@dataclass(frozen=True)
class _Segment:
    """Steps between two points where the client is asked.

    Attributes:
        source, out: registers of what the client sends and gets.
    """

    program: Program
    ports: dict[int, Port]
    source: int
    steps: tuple[Any, ...]
    out: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Of what the client sends and gets."""
        return self.ports[self.source].tiles, self.ports[self.out].tiles


def _segments(program: Program) -> Iterator[_Segment]:
    ports, source, steps = program.ports(), 0, list[Any]()
    for step in program.steps:
        if step.refreshes:
            (sent,) = step.reads()
            yield _Segment(program, ports, source, tuple(steps), sent)
            source, steps = step.out, []
        else:
            steps.append(step)
    yield _Segment(program, ports, source, tuple(steps), program.output)


def _check_linear(one: ServedLinear, kernel: Array, segment: _Segment, where: str) -> None:
    geometry, bands, program = one.layer.geometry, one.bands, segment.program
    check_array(kernel, geometry.kernel, f"the kernel of {where}")  # which bounds its taps and channels
    channels, maps = (geometry.channels,), (geometry.maps,)
    check_array(one.ranges.offset, channels, f"the offset of {where}")
    check_array(one.ranges.scale, channels, f"the scale of {where}", positive=True)
    check_array(one.ranges.gain, maps, f"the gain of {where}", positive=True)
    _require((one.whole > 0) == program.params.exact, f"{where} has whole numbers, or should have them")
    if one.whole:
        _require(bool((kernel == np.rint(kernel)).all()), f"the kernel of {where} is not whole")
        largest = float(one.ranges.bounds(kernel).max())
        _require(2 * largest < program.params.plain_modulus, f"{where} has results above the plain modulus")
    shift = one.ranges.shift
    check_array(shift, (*maps, 1, 1) if shift.shape[1:] == (1, 1) else geometry.output, f"{where}'s shift")
    found, due = (bands.samples, bands.ring), (program.batch * one.layer.repeat, program.params.ring)
    _require(
        one.layer.repeat >= 1 and found == due, f"{where} has bands for {found} samples and coefficients"
    )
    tiles = bands.inputs * bands.blocks, bands.answers
    few = bands.outputs * bands.blocks <= MAX_TILES
    _require(few and tiles == segment.tiles, f"{where} has {tiles} tiles, the program {segment.tiles}")
    _require(len(segment.steps) == 1, f"{where} is not one step of the program")
    (step,), ports = segment.steps, segment.ports
    sent, got = ports[segment.source], ports[segment.out]
    weight = next(step.shapes(program, [sent]), sent.fresh)
    expected = Convolve(
        segment.out, segment.source, bands.blocks, bands.inputs,
        tuple(Span(*span) for span in bands.spans), bands.channels,
        sent.level, got.scale, weight.scale, step.first_weight or 0,
    )  # fmt: skip
    _require(step == expected, f"{where} is not what the program computes")


def _check_polynomial(one: ServedPolynomial, constant: Array, segment: _Segment, where: str) -> None:
    layer, place, program = one.layer, one.place, segment.program
    _require(min((*layer.shape, layer.repeat)) >= 1 and len(layer.shape) > 0, f"{where} has no shape")
    features = layer.repeat * math.prod(layer.shape)
    found, due = (place.features, place.width, place.batch), (features, program.width, program.batch)
    _require(found == due, f"{where} stands in slots as {found}, not {due}")
    _require((place.tiles,) * 2 == segment.tiles, f"{where} has other tiles than the program")
    for name in ("shift", "reach", "gain", "offset"):
        array = getattr(one, name)
        shape = (1,) if array.shape == (1,) else layer.shape[:1]
        check_array(array, shape, f"the {name} of {where}", positive=name == "reach")
    _require(one.form.name == COMPLETED[layer.degree].name, f"{where} has the form of another degree")
    circuit = _Followed(segment)
    _require(one.form.outputs(circuit, segment.source) == [segment.out], f"{where} is computed otherwise")
    _require(not circuit.left, f"{where} has other steps than the program")
    check_array(constant, (features,) if circuit.constants else (0,), f"the constant of {where}")


def _check_chain(one: ServedChain, weights: Sequence[Layer], segment: _Segment, where: str) -> None:
    program, features = segment.program, math.prod(one.layer.shape)
    for name, count in (("scale", features), ("offset", features)):
        check_array(getattr(one, name), (count,), f"the {name} of {where}")
    for name in ("gain", "shift"):
        check_array(getattr(one, name), (math.prod(one.layer.output),), f"the {name} of {where}")
    _require(bool((one.scale != 0).all()), f"the scale of {where} has zeros")
    _require(len(one.parts) == len(weights) > 0, f"{where} has other weights than parts")
    circuit, live, sources = _Followed(segment), [segment.source], 1
    for number, (part, layer) in enumerate(zip(one.parts, weights, strict=True)):
        source, target, inner = part.places
        degrees = {one.name: one.degree for one in (NONE, *COMPLETED.values())}
        _require(
            part.form.degree == degrees.get(part.form.name, part.form.degree),
            f"{where} has a form of another degree",
        )
        _require(part.sources == (0 if number == 0 and not part.sources else sources), f"{where}: sources")
        if part.sources:
            _require(source.features == features, f"{where} reads {source.features} features")
            step = circuit.product(tuple(live))
            _require(step.folds == folds(source, target), f"{where} sums up otherwise")
            _require(step.tiles == target.tiles, f"{where} has other tiles than the program")
            for matrix in layer.matrices:
                _require(matrix.shape == (target.features, features), f"{where} has a matrix of another size")
                check_array(matrix.data, matrix.data.shape, f"a matrix of {where}")
            check_array(layer.bias, (target.features,), f"the bias of {where}")
            live, features = [step.out], target.features
            if one.taps_after(part):
                live = [circuit.tap(step.out)]
        _require(inner.features == features, f"{where} has {inner.features} values for a polynomial")
        before = circuit.constants
        live = part.form.outputs(circuit, live[0])
        constants = (features,) if circuit.constants > before else (0,)
        check_array(layer.form.constant, constants, f"the constant of {where}")
        sources = len(live)
    _require(live == [segment.out] and not circuit.left, f"{where} has other steps than the program")
    _require(features == math.prod(one.layer.output), f"{where} gives {features} values")
    tiles = one.sent.tiles, one.received.tiles
    _require(tiles == segment.tiles, f"{where} has {tiles} tiles, the program {segment.tiles}")
    _require(one.sent.shape[0] == program.batch, f"{where} has another batch than the program")


class _Followed:
    """A circuit (`plan.forms`) on registers, whose steps must be those of a segment."""

    def __init__(self, segment: _Segment) -> None:
        self.left, self.constants = list(segment.steps), 0

    def _next(self, reads: tuple[int, ...]) -> Any:
        _require(bool(self.left), "a polynomial has more steps than the program")
        step = self.left.pop(0)
        _require(
            step.reads() == reads and not step.diagonals, "a polynomial has other steps than the program"
        )
        return step

    def product(self, reads: tuple[int, ...]) -> Any:
        """The step of a matrix."""
        _require(bool(self.left), "a chain has more steps than the program")
        step = self.left.pop(0)
        _require(step.reads() == reads and step.diagonals > 0, "a chain has other steps than the program")
        return step

    def tap(self, source: int) -> int:
        """The step that shows it."""
        step = self._next((source,))
        _require(step.shows, "a chain has no tap in the program where it should have one")
        return int(step.out)

    def multiply(self, a: int, b: int) -> int:
        step = self._next((a, b))
        _require(step.first_weight is None, "a polynomial has a weight that it should not have")
        return int(step.out)

    def add_constant(self, a: int, constant: Array) -> int:
        step = self._next((a,))
        _require(step.first_weight is not None, "a polynomial has no constant in the program")
        self.constants += 1
        return int(step.out)
