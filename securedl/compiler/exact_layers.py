"""compile(scheme="bgv", activations="client"): layers of whole numbers in coefficients, one by one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np

from securedl.compiler.chains import first_chain, on_smallest_chain
from securedl.compiler.lower import lower_layers
from securedl.compiler.precision import KEPT_SAMPLES
from securedl.compiler.quantise import CLIP_MARGIN, Widths, largest_of, quantising_error
from securedl.compiler.ranges import by_channel, floored, reached, shift_of
from securedl.compiler.rounds import CALIBRATION, Wanted, arrange, arranged, layerwise_plan
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
        CompileError: no plain modulus holds the values, no ring the plan, the weights are too many, or whole
            numbers are not as accurate as is asked.
    """
    assert wanted.fineness is not None
    return wanted.fineness.first(_WholeLayers(script, kernels, x[:CALIBRATION], wanted).plan)


class _WholeLayers:
    """Plans of one network.

    Args:
        x: calibration samples [samples, *shape].
    """

    def __init__(self, script: Script, kernels: Sequence[Array], x: Array, wanted: Wanted) -> None:
        self._script, self._kernels, self._x, self._wanted = script, kernels, x, wanted
        self._layers = [layer for layer in script.layers if isinstance(layer, LinearLayer)]
        assert len(self._layers) == len(script.layers)
        self._ends, _ = reached(script, kernels, x)
        count = len(x) if wanted.fineness and wanted.fineness.accuracy is not None else KEPT_SAMPLES
        self._logits = script.logits(x[:count], kernels).reshape(-1, math.prod(wanted.output.shape))

    def plan(self, widths: Widths) -> Plan:
        """On the smallest ring that holds it."""
        *smaller, largest = (self._wanted.ring,) if self._wanted.ring else LAYER_RINGS
        for ring in smaller:
            with contextlib.suppress(CompileError):
                return self._on(ring, widths)
        return self._on(largest, widths)

    def _on(self, ring: int, widths: Widths) -> Plan:
        layers, wanted, x = self._layers, self._wanted, self._x
        found = [
            whole_layer(layer, kernel, low, high, widths, first=number == 0)
            for number, (layer, kernel, (low, high)) in enumerate(
                zip(layers, self._kernels, self._ends, strict=True)
            )
        ]
        bound = max(float(ranges.bounds(kernel).max()) for ranges, kernel in found)
        t = plain_prime(ring, math.ceil(2 * bound + 1))
        places = arrange(layers, wanted, first_chain(ring, t, PRIMES)).places
        served = tuple(
            ServedLinear(layer, ranges, place)
            for layer, (ranges, _), place in zip(layers, found, places, strict=True)
            if isinstance(place, Bands)
        )

        def attempt(params: Parameters) -> Program:
            return lower_layers(params, served, [()] * len(served), wanted.samples, wanted.encrypted)

        program = on_smallest_chain(ring, t, PRIMES, attempt, lambda one: one)
        cost = arranged(layers, places, program.params, wanted).cost
        rounds = Rounds(self._script, x.shape[1:], math.prod(wanted.output.shape), served)
        network = Layerwise(rounds, tuple(kernel for _, kernel in found))
        plan, logits = layerwise_plan(program, network, x.reshape(len(x), -1), cost, wanted)
        assert wanted.fineness is not None
        wanted.fineness.check(wanted.output, logits[: len(self._logits)], self._logits)
        return plan.with_error(quantising_error(logits[: len(self._logits)], self._logits))


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
