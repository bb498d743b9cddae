"""Ranges of what layers read and give, where the client does all that is between them.

Errors of weights are as large as a tile is long, whatever the weights are, so the further results reach into
the headroom the more precise they are, and the sooner other data overflow. Errors of what is read are
independent, so those of a result are as large as its row of weights is long; no row is longer than
`LONGEST_ROW` times what the result reaches, also where the data leave a map nearly constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polyval

from securedl.compiler.forms import FAR, LONGEST_ROW, MAX_GAIN, Choice, completed
from securedl.errors import CompileError
from securedl.network.geometry import Geometry
from securedl.network.graph import Array
from securedl.network.script import LinearLayer, PolynomialLayer, Script
from securedl.plan.served import Ranges

#: What a channel does to the layer, in parts of what the largest does: those that do less count as if they
#: did so much, as they may meet other data.
LEAST_SHARE = 0.125
#: Places of its range at which a polynomial is looked at.
MOVED = 33
#: Samples that go through the network at a time.
SAMPLES_AT_ONCE = 32


def ranges_of(script: Script, kernels: Sequence[Any], x: Array) -> tuple[Ranges | Choice | None, ...]:
    """Of every layer, so that results reach 1 on the calibration samples [samples, *shape]; None for chains,
    which have their own.

    Raises:
        CompileError: a polynomial that has no precise form with one result.
    """
    (ends, peaks), none = reached(script, kernels, x), np.zeros(0)
    inputs = [
        _input(layer.geometry, kernel, *end) if isinstance(layer, LinearLayer) else (none, none)
        for layer, kernel, end in zip(script.layers, kernels, ends, strict=True)
    ]
    shifts = [
        shift_of(layer.geometry, kernel, offset) if isinstance(layer, LinearLayer) else none
        for layer, kernel, (offset, _) in zip(script.layers, kernels, inputs, strict=True)
    ]
    found = list[Ranges | Choice | None]()
    for kernel, layer, end, (offset, scale), shift, (low, high) in zip(
        kernels, script.layers, ends, inputs, shifts, peaks, strict=True
    ):
        if isinstance(layer, PolynomialLayer):
            found.append(_completed(layer, kernel, *end))
            continue
        if not isinstance(layer, LinearLayer):
            found.append(None)
            continue
        rows = np.sqrt((by_channel(kernel, layer.geometry, scale) ** 2).sum(axis=(1, 2, 3)))
        # The largest magnitude of each map, without what the offset makes.
        peak = np.maximum(np.abs(low - shift), np.abs(high - shift)).max(axis=(1, 2))
        gain = np.maximum(peak, rows / LONGEST_ROW)
        found.append(Ranges(offset, scale, np.where(gain > 0, gain, 1.0), shift))
    return tuple(found)


def _completed(layer: PolynomialLayer, coefficients: Array, low: Array, high: Array) -> Choice:
    """The form of a polynomial whose argument is between low and high [channels]."""
    table = np.broadcast_to(coefficients, (len(coefficients), len(low)))
    reach = np.maximum(np.abs(low), np.abs(high))
    reach = np.maximum(reach, LEAST_SHARE * reach.max()) if reach.any() else np.ones_like(reach)
    between = np.linspace(-reach, reach, MOVED)
    moved = np.ptp(polyval(between, table, tensor=False), axis=0) / 2
    chosen = completed(table, reach)
    if chosen is None or not (np.abs(chosen.gains[0]) <= MAX_GAIN * moved.max()).all():
        raise CompileError(
            f"{layer.name}: its polynomial is nearly of a lower degree than {layer.degree}, so that a "
            "square or cube of it is not precise"
        )
    return chosen


def by_channel(kernel: Array, geometry: Geometry, factors: Array) -> Array:
    """A kernel with each weight multiplied by the factor of its channel."""
    own = factors.reshape(geometry.groups, -1).repeat(geometry.maps // geometry.groups, axis=0)
    return kernel * own[:, :, None, None]


def reached(
    script: Script, kernels: Sequence[Any], x: Array
) -> tuple[list[tuple[Array, Array]], list[tuple[Array, Array]]]:
    """The least and the largest value of each channel [channels] that each layer is sent, and of each value
    [maps, height, width] that each linear layer makes of it.
    """
    none = (np.array(np.inf), np.array(-np.inf))
    sends, results = [none] * len(script.layers), [none] * len(script.layers)
    for part in _parts(x):
        for number, (sent, result) in enumerate(script.values(part, kernels)):
            others = tuple(axis for axis in range(sent.ndim) if axis != 1)
            sends[number] = _wider(sends[number], sent, others)
            if isinstance(script.layers[number], LinearLayer):
                results[number] = _wider(results[number], result, (0,))
    return sends, results


def _wider(ends: tuple[Array, Array], values: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    low, high = values.min(axis=axes), values.max(axis=axes)
    return np.minimum(ends[0], low), np.maximum(ends[1], high)


def _input(geometry: Geometry, kernel: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Offset and scale [channels]."""
    middle, half = (low + high) / 2, (high - low) / 2
    offset = np.where(np.abs(middle) > FAR * half, middle, 0.0)
    return offset, floored(geometry, kernel, np.maximum(np.abs(low - offset), np.abs(high - offset)))


def floored(geometry: Geometry, kernel: Array, reach: Array) -> Array:
    """What each channel reaches [channels], and no less than what makes it count (`LEAST_SHARE`)."""
    squares = (kernel**2).sum(axis=(2, 3)).reshape(geometry.groups, -1, kernel.shape[1]).sum(axis=1)
    strength = np.sqrt(squares).reshape(-1)  # of each channel
    least = LEAST_SHARE * (reach * strength).max()
    floor = np.divide(least, strength, out=np.zeros_like(strength), where=strength > 0)
    scale = np.maximum(reach, floor)
    return np.where(scale > 0, scale, 1.0)


def shift_of(geometry: Geometry, kernel: Array, offset: Array) -> Array:
    """What the layer makes of the offset."""
    if not offset.any():
        return np.zeros((geometry.maps, 1, 1))
    image = np.broadcast_to(offset[:, None, None], geometry.image)
    shift: Array = geometry.convolve(image[None], kernel)[0]
    return shift


def _parts(x: Array) -> Iterator[Array]:
    return (x[at : at + SAMPLES_AT_ONCE] for at in range(0, len(x), SAMPLES_AT_ONCE))
