"""Networks with two convolutions, which TenSEAL's API has no way for: tried, its own words, an estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tenseal as ts
import torch
from torch import nn

from bench.peers.networks import Linear, Square, Squared
from bench.peers.rows import Row, repeated
from bench.peers.tenseal_measure import MOST_BITS, chosen, context
from bench.peers.tenseal_packed import Rows
from bench.peers.tenseal_tutorial import power

#: Inner products that are timed for the estimate.
TIMED = 2


def refused(network: Squared) -> Row:
    """What TenSEAL says to the network's convolutions."""
    print(f"{network.name}: TenSEAL: trying both convolutions", flush=True)
    said = [_said(call) for call in (lambda: _first(network), lambda: _second(network))]
    note = f'cannot: "{said[0]}" (the first), "{said[1]}" (the second, on what the first one leaves)'
    return Row(network.name, "TenSEAL", "conv2d_im2col twice", "query", note=note)


def _said(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no complaint"


def _convolutions(network: Squared) -> tuple[nn.Conv2d, nn.Conv2d]:
    first, second = (layer for layer in network.model if isinstance(layer, nn.Conv2d))
    return first, second


def _kernel(layer: nn.Conv2d) -> list[list[float]]:
    return layer.weight[0, 0].tolist()


def _first(network: Squared) -> Any:
    """A convolution with the largest ring."""
    layer, size = _convolutions(network)[0], network.x.shape[1]
    owner = context(max(MOST_BITS), 40, 2, rotates=False)
    image = np.pad(network.x[0], int(layer.padding[0])).tolist()
    vector, windows = ts.im2col_encoding(owner, image, *layer.kernel_size, layer.stride[0])
    assert windows == size * size or not layer.padding[0]
    return vector.conv2d_im2col(_kernel(layer), windows)


def _second(network: Squared) -> Any:
    """Another one, of a vector with the maps of the first as `pack_vectors` gives them."""
    inputs, outputs = _sizes(network)
    layer = _convolutions(network)[1]
    vector = ts.ckks_vector(context(max(MOST_BITS), 40, 2, rotates=False), [0.5] * inputs)
    return vector.conv2d_im2col(_kernel(layer), outputs // layer.out_channels)


def _sizes(network: Squared) -> tuple[int, int]:
    """Numbers that the first square leaves, and that the second convolution does."""
    x, left = torch.from_numpy(network.x)[None], []
    with torch.no_grad():
        for layer in network.model:
            x = layer(x)
            if isinstance(layer, Square):
                left.append(x.numel())
    return left[0], left[1]


def estimated(network: Squared) -> Row:
    """Of the second convolution, with what is between, as a dense matrix: so many inner products."""
    inputs, outputs = _sizes(network)
    linear = sum(isinstance(layer, nn.Linear | nn.Conv2d) for layer in network.model)
    depth = 2 * linear - 1 + linear - 2  # products, squares, and packing after all but the first and the last
    ring, bits = chosen(depth, power(inputs))
    print(f"{network.name}: TenSEAL: {TIMED} of {outputs} inner products at N = {ring}", flush=True)
    owner = context(ring, bits, depth, rotates=True)
    weight = np.full((TIMED, inputs), 0.01)
    stage = Rows(Linear(weight, np.zeros(TIMED), np.zeros(0, np.int64)), copies=1, after=1, last=True)
    products, biases = (
        [ts.ckks_vector(owner, each.tolist()) for each in part] for part in (stage.products(), stage.biases())
    )
    h = (
        ts.ckks_vector(owner, [0.5] * stage.inputs).square_().square_()
    )  # the levels of the first and its square
    _, times = repeated(lambda: stage.run([h], products, biases), 0)
    size = len(products[0].serialize()) * outputs
    return Row(
        network.name, "TenSEAL", "dense matrix, 2nd conv. only", "query, weights",
        server_ms=times.cpu * outputs / TIMED, wall_ms=times.wall * outputs / TIMED, weight_bytes=size,
        settings=f"N = {ring}, {depth} levels of {bits} bits", estimated=True,
        note=f"estimated from {TIMED} of {outputs} inner products of {stage.inputs} slots",
    )  # fmt: skip
