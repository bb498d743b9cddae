"""Layers and polynomials of a script that become one layer, computed without a stop between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from securedl.network.graph import Array, Graph
from securedl.network.partition import Partitioned
from securedl.network.script import (
    LAYER,
    ChainLayer,
    Instruction,
    LinearLayer,
    PolynomialLayer,
    Script,
    ServerLayer,
    references,
)

#: By how much values of graph and script may differ, in parts of the largest: rounding.
SAME = 1e-9
#: Samples with which they are compared.
TRIED = 4


@dataclass(frozen=True)
class Cut:
    """A place of a script where a chain may begin or end.

    Attributes:
        register: that holds the value there. shape: of the value, without the samples.
        layer: how many of the script's layers come before it.
    """

    register: int
    shape: tuple[int, ...]
    layer: int


@dataclass(frozen=True, eq=False)
class Cuts:
    """Those of a network that goes straight on: before and after each of its polynomials.

    Attributes:
        start: the samples. around: of each polynomial. end: the logits.
    """

    start: Cut
    around: tuple[tuple[Cut, Cut], ...]
    end: Cut


def cuts(found: Partitioned, graph: Graph, polynomials: Sequence[int], x: Array) -> Cuts | None:
    """The cuts of a script whose values there are those of a graph; None if they are not.

    Args:
        polynomials: numbers of the graph's values that its polynomials read, in order. x: samples [samples,
            *shape].
    """
    script, around = found.script, list[tuple[Cut, Cut]]()
    for one in script.instructions:
        if one.operation != LAYER or not isinstance(layer := script.layers[one.args[0]], PolynomialLayer):
            continue
        if layer.repeat != 1:
            return None
        around.append(
            (Cut(one.args[1]["r"], layer.shape, one.args[0]), Cut(one.out, layer.shape, one.args[0] + 1))
        )
    if len(around) != len(polynomials):
        return None
    part = x[:TRIED]
    ours, theirs = script.values(part, found.kernels), graph.values(part)
    for (before, _), number in zip(around, polynomials, strict=True):
        sent, value = ours[before.layer][0].reshape(len(part), -1), theirs[number]
        if sent.shape != value.shape or np.abs(sent - value).max() > SAME * np.abs(value).max():
            return None
    layers = len(script.layers)
    return Cuts(Cut(0, x.shape[1:], 0), tuple(around), Cut(script.output, found.output_shape, layers))


@dataclass(frozen=True, eq=False)
class Section:
    """What becomes one layer: all between two cuts, whose graph is known."""

    start: Cut
    end: Cut
    graph: Graph


def with_chains(found: Partitioned, chains: Sequence[Section]) -> Partitioned | None:
    """The same network with these as one layer each; None where others read what is inside of one."""
    script = found.script
    layers, kernels = list[ServerLayer](script.layers), list[Any](found.kernels)
    rows = list(script.instructions)
    for chain in chains:
        own = Instruction(chain.end.register, LAYER, [len(layers), {"r": chain.start.register}], {})
        inside = script.layers[chain.start.layer : chain.end.layer]
        name = " + ".join(dict.fromkeys(one.name for one in inside))
        layers.append(ChainLayer(name, chain.start.shape, chain.end.shape))
        kernels.append(chain.graph)
        rows = [own if one.out == chain.end.register else one for one in rows]
    needed, kept, numbers = {script.output}, list[Instruction](), list[int]()
    for one in reversed(rows):
        if one.out in needed:
            needed |= set(references([*one.args, *one.kwargs.values()], "r"))
            kept.append(one)
            numbers += [one.args[0]] if one.operation == LAYER else []
    numbers.reverse()
    left = len(script.layers) - sum(chain.end.layer - chain.start.layer for chain in chains)
    if len(numbers) != left + len(chains):
        return None
    rows = [
        replace(one, args=[numbers.index(one.args[0]), one.args[1]]) if one.operation == LAYER else one
        for one in reversed(kept)
    ]
    whole = Script(tuple(rows), script.constants, tuple(layers[k] for k in numbers), script.output).alive
    return replace(found, script=whole, kernels=tuple(kernels[k] for k in numbers))


def linear_between(script: Script, start: Cut, end: Cut) -> list[LinearLayer] | None:
    """The layers between two cuts; None if not all of them are linear."""
    inside = script.layers[start.layer : end.layer]
    found = [layer for layer in inside if isinstance(layer, LinearLayer)]
    return found if len(found) == len(inside) else None
