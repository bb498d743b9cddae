"""Weights and biases of a network as arrays, and the network with others in their place.

For graphs and torch modules alike, so that attacks on numbers are written once. A graph's weight is a stored
entry of a matrix: a convolution has as many there as it has products, a module as many as its kernel holds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from scipy import sparse

from securedl.errors import InputError
from securedl.network.graph import Affine, Array, Graph, Node

if TYPE_CHECKING:
    from torch import nn

#: What has weights; a kind of module comes back as the same kind.
AnyModel = TypeVar("AnyModel", bound="Graph | nn.Module")


@dataclass(frozen=True, eq=False)
class Numbers:
    """Of a layer: weights float64 [any shape], bias float64 [outputs], or [0] where there is none."""

    weights: Array
    bias: Array


def numbers(network: Graph | nn.Module) -> list[Numbers]:
    """Of all layers that have weights, in order.

    Raises:
        InputError: there is none.
    """
    if isinstance(network, Graph):
        found = [Numbers(node.matrix.data, node.bias) for node in network.nodes if isinstance(node, Affine)]
    else:
        found = [Numbers(_array(m.weight), _array(m.bias)) for m in _modules(network)]
    if not sum(layer.weights.size for layer in found):
        raise InputError("the network has no weights to tamper with")
    return found


def with_numbers(network: AnyModel, layers: Sequence[Numbers]) -> AnyModel:
    """A copy with these numbers, one for each of `numbers(network)`."""
    if isinstance(network, Graph):
        return cast("AnyModel", _graph(network, layers))
    changed = copy.deepcopy(network)
    for module, layer in zip(_modules(changed), layers, strict=True):
        _assign(module.weight, layer.weights)
        _assign(module.bias, layer.bias)
    return changed


def _graph(graph: Graph, layers: Sequence[Numbers]) -> Graph:
    places = [i for i, node in enumerate(graph.nodes) if isinstance(node, Affine)]
    nodes: list[Node] = list(graph.nodes)
    for i, layer in zip(places, layers, strict=True):
        node = nodes[i]
        assert isinstance(node, Affine)
        old = node.matrix
        matrix = sparse.csr_matrix((layer.weights, old.indices, old.indptr), shape=old.shape)
        nodes[i] = replace(node, matrix=matrix, bias=layer.bias)
    return Graph(graph.input_shape, tuple(nodes), graph.reads)


def _modules(network: nn.Module) -> list[nn.Module]:
    """Those with a `weight` of their own: dense layers, convolutions, norms."""
    return [m for m in network.modules() if m._parameters.get("weight") is not None]


def _array(parameter: object) -> Array:
    if parameter is None:
        return np.zeros(0)
    return np.asarray(cast("nn.Parameter", parameter).detach().double().cpu().numpy())


def _assign(parameter: object, values: Array) -> None:
    if parameter is not None:
        import torch

        place = cast("nn.Parameter", parameter)
        with torch.no_grad():
            place.copy_(torch.from_numpy(np.asarray(values, dtype=np.float64)))
