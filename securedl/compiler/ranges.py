"""Ranges of what layers read and give, where the client does all that is between them.

Errors of weights are as large as a tile is long, whatever the weights are, so the further results reach into
the headroom the more precise they are, and the sooner other data overflow. Errors of what is read are
independent, so those of a result are as large as its row of weights is long; no row is longer than
`LONGEST_ROW` times what the result reaches, also where the data leave a map nearly constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from securedl.compiler.forms import FAR, LONGEST_ROW
from securedl.network.geometry import Geometry
from securedl.network.graph import Array
from securedl.network.script import Script
from securedl.plan.rounds import Ranges

#: What a channel does to the layer, in parts of what the largest does: those that do less count as if they
#: did so much, as they may meet other data.
LEAST_SHARE = 0.125
#: Samples that go through the network at a time.
SAMPLES_AT_ONCE = 32


def ranges_of(script: Script, kernels: Sequence[Array], x: Array) -> tuple[Ranges, ...]:
    """Of every layer, so that results reach 1 on the calibration samples [samples, *shape]."""
    lows, highs = _channels(script, kernels, x)
    inputs = [
        _input(layer.geometry, kernel, low, high)
        for layer, kernel, low, high in zip(script.layers, kernels, lows, highs, strict=True)
    ]
    shifts = [
        _shift(layer.geometry, kernel, offset)
        for layer, kernel, (offset, _) in zip(script.layers, kernels, inputs, strict=True)
    ]
    peaks = _peaks(script, kernels, x, shifts)
    found = []
    for kernel, layer, (offset, scale), shift, peak in zip(
        kernels, script.layers, inputs, shifts, peaks, strict=True
    ):
        rows = np.sqrt((by_channel(kernel, layer.geometry, scale) ** 2).sum(axis=(1, 2, 3)))
        gain = np.maximum(peak, rows / LONGEST_ROW)
        found.append(Ranges(offset, scale, np.where(gain > 0, gain, 1.0), shift))
    return tuple(found)


def normalised(kernel: Array, geometry: Geometry, ranges: Ranges) -> Array:
    """A kernel for normalised values."""
    return by_channel(kernel, geometry, ranges.scale) / ranges.gain[:, None, None, None]


def by_channel(kernel: Array, geometry: Geometry, factors: Array) -> Array:
    """A kernel with each weight multiplied by the factor of its channel."""
    own = factors.reshape(geometry.groups, -1).repeat(geometry.maps // geometry.groups, axis=0)
    return kernel * own[:, :, None, None]


def _channels(script: Script, kernels: Sequence[Array], x: Array) -> tuple[list[Array], list[Array]]:
    """The least and the largest value of each channel [channels] that each layer is sent."""
    lows = [np.full(layer.geometry.channels, np.inf) for layer in script.layers]
    highs = [-low for low in lows]
    for part in _parts(x):
        for number, (sent, _) in enumerate(script.values(part, kernels)):
            lows[number] = np.minimum(lows[number], sent.min(axis=(0, 2, 3)))
            highs[number] = np.maximum(highs[number], sent.max(axis=(0, 2, 3)))
    return lows, highs


def _peaks(script: Script, kernels: Sequence[Array], x: Array, shifts: Sequence[Array]) -> list[Array]:
    """The largest magnitude of each map [maps] of each layer, without what the offset makes."""
    peaks = [np.zeros(layer.geometry.maps) for layer in script.layers]
    for part in _parts(x):
        for number, (_, result) in enumerate(script.values(part, kernels)):
            peaks[number] = np.maximum(peaks[number], np.abs(result - shifts[number]).max(axis=(0, 2, 3)))
    return peaks


def _input(geometry: Geometry, kernel: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Offset and scale [channels]."""
    middle, half = (low + high) / 2, (high - low) / 2
    offset = np.where(np.abs(middle) > FAR * half, middle, 0.0)
    reach = np.maximum(np.abs(low - offset), np.abs(high - offset))
    squares = (kernel**2).sum(axis=(2, 3)).reshape(geometry.groups, -1, kernel.shape[1]).sum(axis=1)
    strength = np.sqrt(squares).reshape(-1)  # of each channel
    least = LEAST_SHARE * (reach * strength).max()
    floor = np.divide(least, strength, out=np.zeros_like(strength), where=strength > 0)
    scale = np.maximum(reach, floor)
    return offset, np.where(scale > 0, scale, 1.0)


def _shift(geometry: Geometry, kernel: Array, offset: Array) -> Array:
    """What the layer makes of the offset."""
    if not offset.any():
        return np.zeros((geometry.maps, 1, 1))
    image = np.broadcast_to(offset[:, None, None], geometry.image)
    shift: Array = geometry.convolve(image[None], kernel)[0]
    return shift


def _parts(x: Array) -> Iterator[Array]:
    return (x[at : at + SAMPLES_AT_ONCE] for at in range(0, len(x), SAMPLES_AT_ONCE))
