"""A network captured for one number of samples, made one for any number.

`len(x)` is a whole number to Python, and `torch.export` takes it for a constant: `x.view(len(x), -1)` fixes
the number of samples. The network captured for another number as well shows which constants count samples.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

#: Samples of the two runs. More than one, so that what mixes samples can be told from what does not.
BATCH, OTHER = 3, 5


def count_samples(graph: fx.Graph, other: fx.Graph) -> bool:
    """Put the number of samples for constants of `graph` that are multiples of `BATCH` there and the same
    multiples of `OTHER` in `other`; whether all the rest is equal, without which nothing is changed.
    """
    pairs = list(zip(graph.nodes, other.nodes, strict=False))
    if len(pairs) != max(len(graph.nodes), len(other.nodes)):
        return False
    same = {theirs: ours for ours, theirs in pairs}
    if any(ours.op != theirs.op or ours.target != theirs.target for ours, theirs in pairs):
        return False
    try:
        changed = {
            ours: (_merged(ours.args, theirs.args, same), _merged(ours.kwargs, theirs.kwargs, same))
            for ours, theirs in pairs
        }
    except _DifferentError:
        return False
    samples = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(samples):
        number = graph.call_function(torch.ops.aten.sym_size.int, (samples, 0))
    for node, (args, kwargs) in changed.items():
        node.args, node.kwargs = _counted(graph, node, number, args), _counted(graph, node, number, kwargs)
    return True


class _DifferentError(Exception):
    """The two networks do different things."""


class _Times(int):
    """So many times the number of samples."""


def _merged(ours: Any, theirs: Any, same: dict[fx.Node, fx.Node]) -> Any:
    """An argument of both networks, with `_Times` in place of what counts samples."""
    if isinstance(ours, list | tuple) and type(ours) is type(theirs) and len(ours) == len(theirs):
        return type(ours)(_merged(a, b, same) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return {key: _merged(value, theirs[key], same) for key, value in ours.items()}
    if isinstance(theirs, fx.Node):
        theirs = same[theirs]
    if type(ours) is type(theirs) and ours == theirs:
        return ours
    if type(ours) is type(theirs) is int and ours * OTHER == theirs * BATCH and ours > 0:
        return _Times(ours // BATCH)
    raise _DifferentError


def _counted(graph: fx.Graph, node: fx.Node, number: fx.Node, argument: Any) -> Any:
    """An argument with nodes that compute the number of samples in place of `_Times`."""
    if isinstance(argument, list | tuple):
        return type(argument)(_counted(graph, node, number, one) for one in argument)
    if isinstance(argument, dict):
        return {key: _counted(graph, node, number, value) for key, value in argument.items()}
    if not isinstance(argument, _Times) or argument == 1:
        return number if isinstance(argument, _Times) else argument
    with graph.inserting_before(node):
        return graph.call_function(operator.mul, (number, int(argument)))
