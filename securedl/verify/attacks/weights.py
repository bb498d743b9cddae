"""Attacks on numbers: no data is needed for them.

`changes` tells which of them altered no output, and those no check of outputs can see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from securedl.errors import InputError
from securedl.network.graph import Affine, Array, Graph
from securedl.verify.attacks.parameters import AnyModel, Numbers, numbers, with_numbers

Attack: TypeAlias = Callable[[Graph, int], Graph]


def weight_noise(
    network: AnyModel, seed: int, *, fraction: float = 0.01, strength: float = 1.0, relative: bool = True
) -> AnyModel:
    """Normal noise on a random fraction of all weights.

    Its deviation is `strength` times that of the layer's weights, or just `strength`: 1 in VerIDeep's
    arbitrary modification (He et al., section VI.D), whatever the weights are.
    """
    rng = np.random.default_rng(seed)

    def noisy(data: Array, chosen: NDArray[np.bool_]) -> Array:
        deviation = strength * (_spread(data) if relative else 1.0)
        return np.asarray(data + chosen * rng.normal(0.0, deviation, data.shape))

    return _on_fraction(network, rng, fraction, noisy)


def zeroed_weights(network: AnyModel, seed: int, *, fraction: float = 0.01) -> AnyModel:
    """A random fraction of all weights set to zero (kept in the pattern)."""
    rng = np.random.default_rng(seed)
    return _on_fraction(network, rng, fraction, lambda data, chosen: np.where(chosen, 0.0, data))


def swapped_rows(graph: Graph, seed: int) -> Graph:
    """Two neurons of one layer exchanged, bias included, and nothing after them."""
    rng = np.random.default_rng(seed)
    affines = {i: node for i, node in enumerate(graph.nodes) if isinstance(node, Affine)}
    wide = [i for i, node in affines.items() if node.matrix.shape[0] > 1]
    if not wide:
        raise InputError("no layer has two rows to swap")
    at = int(rng.choice(wide))
    node = affines[at]
    order = np.arange(node.matrix.shape[0])
    first, second = rng.choice(len(order), 2, replace=False)
    order[[first, second]] = order[[second, first]]
    swapped = replace(node, matrix=node.matrix[order].tocsr(), bias=node.bias[order])
    return Graph(graph.input_shape, (*graph.nodes[:at], swapped, *graph.nodes[at + 1 :]), graph.reads)


def scaled_weight(network: AnyModel, seed: int, *, factor: float = 2.0) -> AnyModel:
    """One non-zero weight, uniform over all of them, multiplied by a factor."""
    rng = np.random.default_rng(seed)
    layers = numbers(network)
    flat = np.concatenate([layer.weights.reshape(-1) for layer in layers])
    places = np.flatnonzero(flat)
    if not len(places):
        raise InputError("every weight is zero: there is none to scale")
    flat[places[int(rng.integers(len(places)))]] *= factor
    return with_numbers(network, _reshaped(layers, flat))


def shifted_bias(network: AnyModel, seed: int, *, strength: float = 0.1) -> AnyModel:
    """One bias moved by `strength` times the deviation of its layer's weights."""
    rng = np.random.default_rng(seed)
    layers = numbers(network)
    biased = [i for i, layer in enumerate(layers) if layer.bias.size]
    if not biased:
        raise InputError("no layer has a bias to shift")
    at = biased[int(rng.integers(len(biased)))]
    bias = layers[at].bias.copy()
    bias[int(rng.integers(len(bias)))] += strength * _spread(layers[at].weights) * rng.choice([-1.0, 1.0])
    return with_numbers(network, [*layers[:at], replace(layers[at], bias=bias), *layers[at + 1 :]])


def quantised(network: AnyModel, seed: int = 0, *, bits: int = 8) -> AnyModel:
    """Weights rounded to `bits` bits, a symmetric grid for each layer; the seed is not used."""
    if bits < 2:
        raise InputError(f"weights of {bits} bits; one is their sign: expected 2 at least")
    steps = 2 ** (bits - 1) - 1

    def rounded(data: Array) -> Array:
        top = float(np.max(np.abs(data), initial=0.0)) or 1.0
        return np.asarray(np.round(data / top * steps) * top / steps)

    return _on_weights(network, rounded)


def half_precision(network: AnyModel, seed: int = 0) -> AnyModel:
    """Weights and biases rounded to 16-bit floats; the seed is not used."""
    layers = [Numbers(_halved(layer.weights), _halved(layer.bias)) for layer in numbers(network)]
    return with_numbers(network, layers)


def pruned(network: AnyModel, seed: int = 0, *, fraction: float = 0.3) -> AnyModel:
    """The smallest weights of each layer set to zero, a fraction of them; the seed is not used.

    Han et al., Learning both Weights and Connections, 2015, without the retraining.
    """
    _fraction(fraction)

    def cut(data: Array) -> Array:
        order = np.argsort(np.abs(data), axis=None, kind="stable")
        found = data.reshape(-1).copy()
        found[order[: round(fraction * data.size)]] = 0.0
        return np.asarray(found.reshape(data.shape))

    return _on_weights(network, cut)


ATTACKS: dict[str, Attack] = {
    "weight noise": weight_noise,
    "zeroed weights": zeroed_weights,
    "swapped rows": swapped_rows,
    "one weight doubled": scaled_weight,
    "one bias shifted": shifted_bias,
    "8-bit weights": quantised,
}


def changes(graph: Graph, tampered: Graph, x: Any, least: float = 0.0) -> bool:
    """Whether any logit of any of these samples moves by more than `least`."""
    return bool(np.max(np.abs(graph(x) - tampered(x)), initial=0.0) > least)


def _on_fraction(
    network: AnyModel,
    rng: np.random.Generator,
    fraction: float,
    change: Callable[[Array, NDArray[np.bool_]], Array],
) -> AnyModel:
    """`change(data, chosen)` on each layer, at least one weight chosen in all."""
    _fraction(fraction)
    layers = numbers(network)
    total = sum(layer.weights.size for layer in layers)
    marks = np.zeros(total)
    marks[rng.choice(total, max(1, round(fraction * total)), replace=False)] = 1.0
    chosen = _reshaped(layers, marks)
    return with_numbers(
        network,
        [
            replace(layer, weights=change(layer.weights, mark.weights > 0))
            for layer, mark in zip(layers, chosen, strict=True)
        ],
    )


def _on_weights(network: AnyModel, change: Callable[[Array], Array]) -> AnyModel:
    layers = [replace(layer, weights=change(layer.weights)) for layer in numbers(network)]
    return with_numbers(network, layers)


def _reshaped(layers: list[Numbers], flat: Array) -> list[Numbers]:
    """The layers with these weights, all of them one after the other."""
    ends = np.cumsum([layer.weights.size for layer in layers])[:-1]
    parts = zip(layers, np.split(flat, ends), strict=True)
    return [replace(layer, weights=part.reshape(layer.weights.shape)) for layer, part in parts]


def _fraction(fraction: float) -> None:
    if not 0.0 < fraction <= 1.0:
        raise InputError(f"fraction of weights {fraction}; expected above 0 and at most 1")


def _spread(data: Array) -> float:
    return float(np.sqrt(np.mean(data * data))) if data.size else 0.0


def _halved(data: Array) -> Array:
    return data.astype(np.float16).astype(np.float64)
