"""Two layers whose results are added up become one, on both inputs' channels: a round trip less.

So it is with the projection beside the last convolution of a residual block. What stands between the layers
and their sum, biases and batch norms, goes into the kernels and one bias of the client's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from securedl.network.geometry import Axis, Geometry
from securedl.network.graph import Array
from securedl.network.partition import Partitioned
from securedl.network.script import LAYER, Instruction, LinearLayer, Script, ServerLayer, references

_ADD, _SLICE, _CAT = "aten.add.Tensor", "aten.slice.Tensor", "aten.cat.default"
_RESHAPES = ("aten.reshape.default", "aten.view.default")
#: Where they have the small number beside the variance; the second gives a list, with the result first.
_NORMS = {"aten.batch_norm.default": 7, "aten._native_batch_norm_legit_no_training.default": 6}
_SCALES = ("aten.mul.Tensor", "aten.div.Tensor")
_SHIFTS = (_ADD, "aten.sub.Tensor")
_EITHER_WAY = (_ADD, "aten.mul.Tensor")
_FOLDED = frozenset([*_RESHAPES, *_NORMS, *_SCALES, *_SHIFTS, "getitem"])


@dataclass(frozen=True, eq=False)
class _Branch:
    """result of a layer · factor + shift, reshaped.

    Attributes:
        number: of the layer. sent: register that it is sent. factor, shift: [maps].
        shape: that the result has for the client, without samples; its first axis is that of the maps.
        steps: registers that this makes needless.
    """

    number: int
    sent: int
    factor: Array
    shift: Array
    shape: tuple[int, ...]
    steps: frozenset[int]


def join(found: Partitioned) -> Partitioned:
    """The same network with fewer layers, where two can be one; the very same where none can.

    Two can if nothing else reads their results, neither has groups, both give results of one size, one keeps
    the size of its image (as a 3x3 convolution with padding 1 does) and the other is 1x1, with any stride.
    """
    while (joined := _once(found)) is not None:
        found = joined
    return found


def _once(found: Partitioned) -> Partitioned | None:
    """The first sum that can be one layer, as one."""
    branches = _Branches(found.script)
    for place, one in enumerate(found.script.instructions):
        if one.operation != _ADD or one.kwargs or len(one.args) != 2:
            continue
        operands = [branches.of(argument) for argument in one.args]
        if operands[0] is None or operands[1] is None or operands[0].shape != operands[1].shape:
            continue
        for wide, narrow in (operands, operands[::-1]):
            assert wide is not None
            assert narrow is not None
            layer = _layer(branches.layer(wide.number), branches.layer(narrow.number))
            if layer is not None:
                return _Joined(found, place, wide, narrow, layer).whole()
    return None


def _layer(wide: LinearLayer, narrow: LinearLayer) -> LinearLayer | None:
    """One layer for both; None if there is none. What the narrow one skips, the client leaves out."""
    ours, theirs = wide.geometry, narrow.geometry
    alike = (
        ours.output == theirs.output and ours.groups == theirs.groups == 1 and wide.repeat == narrow.repeat
    )
    if not alike or not all(_is_point(axis) for axis in (theirs.rows, theirs.columns)):
        return None
    if any(_centre(axis) is None for axis in (ours.rows, ours.columns)):
        return None
    geometry = Geometry(ours.channels + theirs.channels, ours.maps, ours.rows, ours.columns)
    return LinearLayer(f"{wide.name} + {narrow.name}", geometry, wide.repeat)


def _is_point(axis: Axis) -> bool:
    return axis.taps == 1 and axis.padding == 0


def _centre(axis: Axis) -> int | None:
    """The tap that reads the place of the result itself, of an axis that keeps its size."""
    tap, rest = divmod(axis.padding, axis.dilation)
    keeps = axis.stride == 1 and axis.outputs == axis.size
    return tap if keeps and not rest and tap < axis.taps else None


class _Branches:
    """What is known of registers that nothing but a sum reads."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.writers = {one.out: one for one in script.instructions}
        self.reads = Counter(register for one in script.instructions for register in _read(one))
        self.reads[script.output] += 1

    def layer(self, number: int) -> LinearLayer:
        """That of a branch."""
        layer = self.script.layers[number]
        assert isinstance(layer, LinearLayer)
        return layer

    def of(self, argument: Any) -> _Branch | None:
        """The branch that ends in an argument."""
        (register,) = references(argument, "r") or [None]
        one = self.writers.get(register)
        if one is None or self.reads[one.out] != 1:
            return None
        if one.operation == LAYER:
            if not isinstance(self.script.layers[one.args[0]], LinearLayer):
                return None
            geometry = self.layer(one.args[0]).geometry
            factor = np.ones(geometry.maps)
            return _Branch(
                one.args[0], one.args[1]["r"], factor, 0 * factor, geometry.output, frozenset([one.out])
            )
        if one.operation not in _FOLDED or len(_read(one)) != 1:
            return None
        before = next((self.of(given) for given in one.args if references(given, "r")), None)
        after = None if before is None else self._then(before, one)
        return None if after is None else replace(after, steps=after.steps | {one.out})

    def _then(self, branch: _Branch, one: Instruction) -> _Branch | None:
        """A branch with one more operation."""
        if one.operation in _RESHAPES:
            return _reshaped(branch, one)
        if one.operation == "getitem":
            norm = self.writers[_read(one)[0]].operation in _NORMS
            return branch if norm and one.args[1:] == [0] else None
        found = None
        if one.operation in _NORMS:
            found = self._batch_norm(branch, one)
        elif one.operation in (*_SCALES, *_SHIFTS) and len(one.args) == 2 and not one.kwargs:
            found = self._arithmetic(branch, one)
        if found is None:
            return None
        factor, shift = found
        return replace(branch, factor=branch.factor * factor, shift=branch.shift * factor + shift)

    def _batch_norm(self, branch: _Branch, one: Instruction) -> tuple[Array, Array] | None:
        place = _NORMS[one.operation]
        if len(one.args) <= place or one.args[place - 2] is True or None in one.args[3:5]:
            return None
        gain, bias, mean, variance = (
            None if given is None else self.script.constants[given["c"]] for given in one.args[1:5]
        )
        assert variance is not None
        factor = (1.0 if gain is None else gain) / np.sqrt(variance + one.args[place])
        return factor, (0.0 if bias is None else bias) - mean * factor

    def _arithmetic(self, branch: _Branch, one: Instruction) -> tuple[Array, Array] | None:
        first = bool(references(one.args[0], "r"))
        if not first and one.operation not in _EITHER_WAY:
            return None
        value = self._for_maps(branch, one.args[1 if first else 0])
        if value is None:
            return None
        if one.operation in _SHIFTS:
            return np.ones_like(value), value if one.operation == _ADD else -value
        return value if one.operation == _SCALES[0] else 1 / value, np.zeros_like(value)

    def _for_maps(self, branch: _Branch, given: Any) -> Array | None:
        """A constant as a number for each map [maps]; None if it differs within a map."""
        value = self.script.constants[given["c"]] if isinstance(given, dict) else given
        if value is None or isinstance(value, str | list):
            return None
        array = np.asarray(value, dtype=np.float64)
        rank, maps = len(branch.shape) + 1, len(branch.factor)
        sizes = (1,) * (rank - array.ndim) + array.shape
        if len(sizes) != rank or sizes[1] not in (1, maps) or math.prod(sizes) != sizes[1]:
            return None
        return np.broadcast_to(array.reshape(-1), maps)


def _read(one: Instruction) -> list[int]:
    return references([*one.args, *one.kwargs.values()], "r")


def _reshaped(branch: _Branch, one: Instruction) -> _Branch | None:
    """Of one sample each, the maps still first."""
    sizes = one.args[1] if len(one.args) == 2 else None
    if not isinstance(sizes, list) or not all(isinstance(size, int) for size in sizes):
        return None
    shape = tuple(sizes[1:])
    same = sizes[:1] == [-1] and shape[:1] == branch.shape[:1] and math.prod(shape) == math.prod(branch.shape)
    return replace(branch, shape=shape) if same else None


class _Joined:
    """Writes the script in which two layers are one."""

    def __init__(
        self, found: Partitioned, place: int, wide: _Branch, narrow: _Branch, layer: LinearLayer
    ) -> None:
        self.found, self.place, self.layer = found, place, layer
        self.wide, self.narrow = wide, narrow
        self.constants = dict(found.script.constants)
        self.registers = max(one.out for one in found.script.instructions) + 1

    def whole(self) -> Partitioned:
        """The network with the joined layer where the sum was."""
        script, dropped = self.found.script, self.wide.steps | self.narrow.steps
        rows = [*script.instructions[: self.place], *self._sum(), *script.instructions[self.place + 1 :]]
        kept, layers, kernels = list[Instruction](), list[ServerLayer](), list[Array]()
        for one in rows:
            if one.out in dropped:
                continue
            if one.operation == LAYER:
                own = one.args[0] < 0
                layers.append(self.layer if own else script.layers[one.args[0]])
                kernels.append(self._kernel() if own else self.found.kernels[one.args[0]])
                one = replace(one, args=[len(layers) - 1, one.args[1]])
            kept.append(one)
        used = {name for one in kept for name in references([*one.args, *one.kwargs.values()], "c")}
        constants = {name: value for name, value in self.constants.items() if name in used}
        joined = Script(tuple(kept), constants, tuple(layers), script.output)
        return replace(self.found, script=joined, kernels=tuple(kernels))

    def _sum(self) -> Sequence[Instruction]:
        """The narrow layer's image without what its stride skips, beside the wide one's; then the layer."""
        geometry = _Branches(self.found.script).layer(self.narrow.number).geometry
        steps = list[tuple[str, list[Any]]]()
        sent = self.narrow.sent
        for axis, along in ((2, geometry.rows), (3, geometry.columns)):
            if along.stride > 1:
                steps.append((_SLICE, [{"r": sent}, axis, 0, None, along.stride]))
                sent = self.registers + len(steps) - 1
        steps.append((_CAT, [[{"r": self.wide.sent}, {"r": sent}], 1]))
        steps.append((LAYER, [-1, {"r": self.registers + len(steps) - 1}]))
        shape, shift = self.wide.shape, self.wide.shift + self.narrow.shift
        if shape != self.layer.geometry.output:
            last = self.registers + len(steps) - 1
            steps.append((_RESHAPES[0], [{"r": last}, [-1, *shape]]))
        if shift.any():
            name = next(f"j{k}" for k in range(len(self.constants) + 1) if f"j{k}" not in self.constants)
            self.constants[name] = shift.reshape(-1, *[1] * (len(shape) - 1))
            steps.append((_ADD, [{"r": self.registers + len(steps) - 1}, {"c": name}]))
        outs = [*range(self.registers, self.registers + len(steps) - 1)]
        outs.append(self.found.script.instructions[self.place].out)
        return [Instruction(out, name, args, {}) for out, (name, args) in zip(outs, steps, strict=True)]

    def _kernel(self) -> Array:
        """Both kernels with their factors, the narrow one's weights at the centre."""
        ours, theirs = (
            self.found.kernels[branch.number] * branch.factor[:, None, None, None]
            for branch in (self.wide, self.narrow)
        )
        kernel = np.zeros(self.layer.geometry.kernel)
        kernel[:, : ours.shape[1]] = ours
        row, column = _centre(self.layer.geometry.rows), _centre(self.layer.geometry.columns)
        kernel[:, ours.shape[1] :, row, column] = theirs[:, :, 0, 0]
        return kernel
