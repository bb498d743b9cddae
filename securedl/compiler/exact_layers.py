"""compile(scheme="bgv", activations="client"): layers of whole numbers in coefficients, one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from securedl.compiler.chains import first_chain, on_smallest_chain
from securedl.compiler.lower import lower_layers
from securedl.compiler.precision import KEPT_SAMPLES
from securedl.compiler.quantise import CLIP_MARGIN, Widths, largest_of, quantising_error
from securedl.compiler.ranges import by_channel, floored, reached, shift_of
from securedl.compiler.rounds import CALIBRATION, Arrangement, Wanted, arrange, arranged, layerwise_plan
from securedl.errors import CompileError
from securedl.he.bgv import plain_prime
from securedl.he.modular import MODULUS_BITS
from securedl.he.params import Parameters
from securedl.network.graph import Array
from securedl.network.script import LinearLayer, Script
from securedl.plan.bands import Bands
from securedl.plan.plan import Plan
from securedl.plan.rounds import Layerwise, Rounds
from securedl.plan.served import Ranges, ServedLinear
from securedl.program.program import Program

#: Rings that are tried.
LAYER_RINGS = (4096, 8192)
PRIMES = 2


def compile_whole_layers(script: Script, kernels: Sequence[Array], x: Array, wanted: Wanted) -> Plan:
    """A plan with the first of the widths that a ring holds, on the smallest ring.

    Args:
        x: calibration samples [samples, *shape].

    Raises:
        CompileError: no plain modulus holds the values, no ring the plan, or the weights are too many; what
            is said of the first widths.
    """
    assert wanted.widths is not None
    used, reasons = x[:CALIBRATION], list[CompileError]()
    ends, _ = reached(script, kernels, used)
    for widths in wanted.widths:
        for ring in (wanted.ring,) if wanted.ring else LAYER_RINGS:
            try:
                return _compiled(script, kernels, ends, used, wanted, widths, ring)
            except CompileError as reason:
                reasons.append(reason)
    raise reasons[0 if wanted.ring else len(LAYER_RINGS) - 1]


def _compiled(
    script: Script,
    kernels: Sequence[Array],
    ends: Sequence[tuple[Array, Array]],
    x: Array,
    wanted: Wanted,
    widths: Widths,
    ring: int,
) -> Plan:
    layers = [layer for layer in script.layers if isinstance(layer, LinearLayer)]
    assert len(layers) == len(script.layers)
    found = [
        whole_layer(layer, kernel, low, high, widths, first=number == 0)
        for number, (layer, kernel, (low, high)) in enumerate(zip(layers, kernels, ends, strict=True))
    ]
    bound = max(float(ranges.bounds(kernel).max()) for ranges, kernel in found)
    t = plain_prime(ring, math.ceil(2 * bound + 1))
    arrangement = arrange(layers, wanted, first_chain(ring, t, PRIMES))
    served = _served(layers, [ranges for ranges, _ in found], arrangement)

    def attempt(params: Parameters) -> Program:
        return lower_layers(params, served, [()] * len(served), wanted.samples, wanted.encrypted)

    program = on_smallest_chain(ring, t, PRIMES, attempt, lambda one: one)
    cost = arranged(layers, arrangement.places, program.params, wanted).cost
    rounds = Rounds(script, x.shape[1:], math.prod(wanted.output.shape), served)
    network, flat = Layerwise(rounds, tuple(kernel for _, kernel in found)), x.reshape(len(x), -1)
    plan, logits = layerwise_plan(program, network, flat, cost, wanted)
    some = x[:KEPT_SAMPLES]
    exact = script.logits(some, kernels).reshape(len(some), -1)
    return plan.with_error(quantising_error(logits[: len(some)], exact))


def _served(
    layers: Sequence[LinearLayer], ranges: Sequence[Ranges], arrangement: Arrangement
) -> tuple[ServedLinear, ...]:
    places = [place for place in arrangement.places if isinstance(place, Bands)]
    return tuple(ServedLinear(*one) for one in zip(layers, ranges, places, strict=True))


def whole_layer(
    layer: LinearLayer, kernel: Array, low: Array, high: Array, widths: Widths, *, first: bool
) -> tuple[Ranges, Array]:
    """A layer in whole numbers: ranges of what is sent and received, and its kernel.

    Each channel has units of its own, with zero among their multiples. What is sent reaches `CLIP_MARGIN`
    times what it does on the calibration data; below zero it does not where it ends there, as after a ReLU.
    The largest weight of each map is as large as its width lets it be.

    Args:
        low, high: [channels], the ends of what is sent on the calibration data. first: whether that is an
            input.

    Raises:
        CompileError: a bound that no plain modulus reaches; names the layer and the bits that it needs.
    """
    most, limit = largest_of(widths.weights), largest_of(widths.inputs if first else widths.values)
    spare = (CLIP_MARGIN - 1) * np.maximum(np.abs(low), np.abs(high))
    low, high = low - spare * ((low != 0) | first), high + spare
    step = floored(layer.geometry, kernel, (high - low) / 2) / (limit - 1)  # one to spare for the offset
    offset = np.rint((low + high) / 2 / step) * step
    fine = by_channel(kernel, layer.geometry, step)
    largest = np.abs(fine).max(axis=(1, 2, 3))
    gain = np.where(largest > 0, largest, 1.0) / most
    whole = np.rint(fine / gain[:, None, None, None])
    ranges = Ranges(offset, step, gain, shift_of(layer.geometry, kernel, offset), limit)
    bits = math.log2(2 * ranges.bounds(whole).max() + 1)
    if bits > MODULUS_BITS:
        raise CompileError(
            f"layer {layer.name!r} needs {math.ceil(bits)} bits for its values, and a plain modulus has "
            f"{MODULUS_BITS} at most: use fewer bits for weights or refreshed values"
        )
    return ranges, whole
