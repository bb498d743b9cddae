"""What a captured network ends in: a Softmax or Sigmoid that is left to the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from securedl.network.capture import Captured
from securedl.network.moves import MOVING
from securedl.network.operations import is_elementwise, kind_of
from securedl.network.outputs import Head

#: What a network may end in, which the client applies to the decrypted answer: names by operation.
HEADS = {
    "softmax": "softmax",
    "_softmax": "softmax",
    "log_softmax": "log_softmax",
    "_log_softmax": "log_softmax",
    "sigmoid": "sigmoid",
    "special_expit": "sigmoid",
}
#: Operations that leave a tensor as it is.
_IDLE = frozenset(["clone", "detach", "alias", "contiguous", "to", "_to_copy", "dropout", "lift_fresh_copy"])
#: How near to 0 and 1 a clamp of probabilities must be to be left out.
_EDGE = 1e-6


@dataclass(frozen=True)
class Ending:
    """What a network ends in.

    Attributes:
        head: for the client; nothing if the network ends in neither. nodes: that do it, the Softmax or
            Sigmoid itself first, then clamps to almost [0, 1]; the network without them gives the logits.
    """

    head: Head
    nodes: tuple[fx.Node, ...]


def ending_of(captured: Captured) -> Ending:
    """A sigmoid before operations that only move elements, or a softmax that is the last to do anything."""
    node, moved = _last(captured), False
    clamps: list[fx.Node] = []
    while node.op == "call_function" and len(node.users) == 1:
        kind = kind_of(node.target)
        if kind in HEADS:
            head = HEADS[kind]
            if head != "sigmoid" and moved:
                break
            axis = node.args[1] if len(node.args) > 1 and isinstance(node.args[1], int) else 0
            return Ending(Head(head, axis), (node, *clamps))
        if kind in ("clamp", "clip") and _is_wide(node):
            clamps.append(node)
        elif kind in MOVING or kind == "getitem":
            moved = moved or kind not in _IDLE
        elif kind not in _IDLE and not _is_times_one(node):
            break
        if not isinstance(node.args[0], fx.Node):
            break
        node = node.args[0]
    return Ending(Head(), ())


def after_a_sigmoid(captured: Captured) -> str:
    """Which operations follow a sigmoid at the end so that no client can apply it: "" if none does.

    The answers are then probabilities, or made of them, and their signs are no labels.
    """
    node, after = _last(captured), list[str]()
    while node.op == "call_function":
        kind = kind_of(node.target)
        if HEADS.get(kind) == "sigmoid" or kind == "hardsigmoid":
            return " and ".join([kind, *dict.fromkeys(reversed(after))])
        inputs = [one for one in node.all_input_nodes if one.op != "get_attr"]
        if len(inputs) != 1 or not (kind in MOVING or kind == "getitem" or is_elementwise(node.target)):
            return ""
        if kind not in MOVING and kind != "getitem":
            after.append(kind)
        node = inputs[0]
    return ""


def _last(captured: Captured) -> fx.Node:
    (node,) = next(n for n in captured.graph.nodes if n.op == "output").args
    assert isinstance(node, fx.Node)
    return node


def _is_wide(node: fx.Node) -> bool:
    """A clamp that changes no probability by more than `_EDGE`."""
    low, high = (_argument(node, place, name) for place, name in ((1, "min"), (2, "max")))
    if not all(end is None or isinstance(end, int | float) for end in (low, high)):
        return False
    return bool((low is None or low <= _EDGE) and (high is None or high >= 1 - _EDGE))


def _is_times_one(node: fx.Node) -> bool:
    factor = node.args[1] if kind_of(node.target) in ("mul", "div") else None
    return isinstance(factor, int | float) and factor == 1


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if place < len(node.args) else node.kwargs.get(name)
