"""Squared norms of a layer's weight gradients, without the gradients (ghost norms).

∂f/∂W_ij = Σ_p δ_ip a_jp over the positions p where a layer uses its weights: one for a dense layer, all that
a kernel visits for a convolution. For one position the norm is ‖δ‖² (‖a‖² + 1), the 1 being the bias. For
more it is that of a small product, or Σ_pq (δ_pᵀδ_q)(a_pᵀa_q), whichever takes less work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from securedl.network.graph import Affine


class Weighted(ABC):
    """One layer with weights, for some samples.

    Attributes:
        name: which layer it is. read, gave: [samples, ...].
    """

    def __init__(self, name: Any, read: Tensor, gave: Tensor) -> None:
        self.name, self.read, self.gave = name, read, gave

    @abstractmethod
    def norm(self, slope: Tensor) -> Tensor:
        """Σ_k ‖∂f_k/∂(weights, bias)‖², [samples], from slope = ∂f_k/∂gave, [k, samples, ...]."""

    @abstractmethod
    def reach(self, slope: Tensor) -> Tensor:
        """max_k |∂f_k/∂w| for every weight, then every bias: [samples, weights]."""


class Entries(Weighted):
    """An affine layer of a graph: every stored entry is a weight of its own, since the server holds each one
    as its own number; a convolution's are as many as its kernel visits.

    Args:
        pattern: applies the matrix of ones where entries are stored.
    """

    def __init__(self, node: Affine, pattern: Callable[[Tensor], Tensor], read: Tensor, gave: Tensor) -> None:
        super().__init__(id(node), read, gave)
        self._node, self._pattern = node, pattern

    def norm(self, slope: Tensor) -> Tensor:
        """See `Weighted`: Σ δ² (P a² + 1), P being the pattern."""
        squares = (slope * slope).sum(0)
        return (squares * (self._pattern(self.read * self.read) + 1.0)).sum(-1)

    def reach(self, slope: Tensor) -> Tensor:
        """See `Weighted`."""
        entries = self._node.matrix.tocoo()
        most = slope.abs().amax(0)
        rows, columns = (torch.from_numpy(part).long() for part in (entries.row, entries.col))
        return torch.cat([most[:, rows] * self.read.abs()[:, columns], most], 1)


class Shared(Weighted):
    """A layer of a module, which uses each weight at one position or more."""

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d, read: Tensor, gave: Tensor) -> None:
        super().__init__(id(layer), read, gave)
        self._layer: Any = layer
        self._bias = layer.bias is not None

    @abstractmethod
    def inputs(self) -> Tensor:
        """What the weights multiply: [samples, groups, inputs of a unit, positions]."""

    @abstractmethod
    def units(self, slope: Tensor) -> Tensor:
        """[k, samples, ...] as [samples, groups, k x units of a group, positions]."""

    def norm(self, slope: Tensor) -> Tensor:
        """See `Weighted`."""
        a, delta = self.inputs(), self.units(slope)
        places, reads, units = a.shape[-1], a.shape[-2], delta.shape[-2]
        if places == 1:
            whole = (delta * delta).sum((2, 3)) * (a * a).sum((2, 3))
        elif places * (reads + units) < reads * units:
            whole = ((delta.mT @ delta) * (a.mT @ a)).sum((2, 3))
        else:
            whole = (delta @ a.mT).square().sum((2, 3))
        total = whole.sum(1)
        return total + delta.sum(-1).square().sum((1, 2)) if self._bias else total

    def reach(self, slope: Tensor) -> Tensor:
        """See `Weighted`; one output at a time, as all gradients at once may be large."""
        a, found = self.inputs(), None
        for one in slope:
            delta = self.units(one[None])
            parts = [(delta @ a.mT).flatten(1)] + ([delta.sum(-1).flatten(1)] if self._bias else [])
            gradient = torch.cat(parts, 1).abs()
            found = gradient if found is None else torch.maximum(found, gradient)
        assert found is not None  # a network has one output at least
        return found


class Dense(Shared):
    """nn.Linear; axes between the samples and the features are positions."""

    def inputs(self) -> Tensor:
        """See `Shared`."""
        return self.read.reshape(len(self.read), 1, -1, self.read.shape[-1]).mT

    def units(self, slope: Tensor) -> Tensor:
        """See `Shared`."""
        k, samples, units = len(slope), slope.shape[1], slope.shape[-1]
        flat = slope.reshape(k, samples, -1, units)
        return flat.permute(1, 0, 3, 2).reshape(samples, 1, k * units, -1)


class Convolution(Shared):
    """nn.Conv1d or nn.Conv2d with any stride, padding, dilation and groups."""

    def inputs(self) -> Tensor:
        """See `Shared`: the patches under the kernel."""
        layer = self._layer
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = functional.pad(self.read, layer._reversed_padding_repeated_twice, mode=mode)
        sizes = [layer.kernel_size, layer.dilation, layer.stride]
        if padded.dim() == 3:
            padded, sizes = padded.unsqueeze(2), [(1, *size) for size in sizes]
        kernel, dilation, stride = sizes
        patches = functional.unfold(padded, kernel, dilation=dilation, stride=stride)
        return patches.reshape(len(patches), layer.groups, -1, patches.shape[-1])

    def units(self, slope: Tensor) -> Tensor:
        """See `Shared`."""
        k, samples, groups = len(slope), slope.shape[1], self._layer.groups
        apart = slope.reshape(k, samples, groups, slope.shape[2] // groups, -1)
        return apart.permute(1, 2, 0, 3, 4).reshape(samples, groups, -1, apart.shape[-1])
