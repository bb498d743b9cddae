"""A network as gradients need it: its logits, and what every layer with weights read and gave.

A `Graph` of the compiler and an ordinary torch module are run alike. The module is copied, so that the
caller's stays as it is; its weights are those of Linear, Conv1d and Conv2d. Coefficients of polynomials and
the parameters of norms are no weights here: fold a batch norm into its convolution to have it counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from securedl.errors import InputError
from securedl.network.graph import Affine, Array, Graph, Polynomial
from securedl.verify.ghost import Convolution, Dense, Entries, Weighted

AnyNetwork: TypeAlias = Graph | nn.Module
Layers: TypeAlias = Literal["last", "all"]
#: From logits [samples, classes] to the slope of some outputs in them, [outputs, samples, classes].
Slopes: TypeAlias = Callable[[Tensor], Tensor]

#: Of a matrix with fewer entries, or with more than this share of them stored, the dense product is faster.
DENSE_ENTRIES, DENSE_SHARE = 1 << 16, 0.15
SUMS_TO_1 = 1e-5


class Differentiable:
    """A network in torch: one object for each precision.

    Args:
        network: a graph, or a module in any mode; evaluation mode counts.
        layers: whose weights count, "all" or "last".

    Raises:
        InputError: no layer with weights, or one that is used twice.
    """

    def __init__(
        self, network: AnyNetwork, layers: Layers = "all", dtype: torch.dtype = torch.float64
    ) -> None:
        if layers not in ("last", "all"):
            raise InputError(f"layers must be 'last' or 'all', got {layers!r}")
        self.dtype = dtype
        self._last = layers == "last"
        self._run = _GraphRun(network, dtype) if isinstance(network, Graph) else _ModuleRun(network, dtype)

    def tensor(self, x: Array) -> Tensor:
        """Samples [samples, ...] as the leaf that slopes are taken in."""
        return torch.tensor(np.asarray(x), dtype=self.dtype, requires_grad=True)

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Weighted]]:
        """Logits [samples, classes], and the layers whose weights count, in the order in which they ran."""
        logits, layers = self._run(x)
        return logits, layers[-1:] if self._last else layers

    def slopes(self, x: Tensor, of: Slopes) -> tuple[list[Weighted], list[Tensor]]:
        """Layers, and for each ∂(outputs)/∂(what it gave), [outputs, samples, ...]; both differentiable in x.

        All outputs take one backward pass, over as many copies of the samples.
        """
        logits, layers = self(x)
        slope = of(logits)
        outputs = len(slope)
        given = [layer.gave for layer in layers]
        if len(given) == 1 and given[0] is logits:
            return layers, [slope]
        if outputs > 1:
            logits, copies = self(x.repeat(outputs, *[1] * (x.dim() - 1)))
            given = [layer.gave for layer in copies]
        found = torch.autograd.grad(logits, given, slope.reshape(logits.shape), create_graph=True)
        return layers, [part.reshape(outputs, len(x), *part.shape[1:]) for part in found]

    def sizes(self, shape: Sequence[int]) -> tuple[int, int]:
        """For one sample of this shape: its logits, and the values of the widest layer.

        Raises:
            InputError: the network gives no logits, or probabilities by a softmax that is no module.
        """
        with torch.no_grad():
            logits, layers = self._run(torch.zeros((1, *shape), dtype=self.dtype))
        if logits.shape[1] > 1 and bool((logits >= 0).all()) and abs(float(logits.sum()) - 1) < SUMS_TO_1:
            raise InputError("the network answers probabilities; end it in nn.Softmax, or leave that out")
        return logits.shape[1], max(max(layer.read.numel(), layer.gave.numel()) for layer in layers)


class _ModuleRun:
    """Runs a copy of a module; hooks note what its layers read and gave."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._module = copy.deepcopy(module).cpu().eval().to(dtype).requires_grad_(False)
        self._layers: list[Weighted] = []
        self._passed: Tensor | None = None
        self._softmax: tuple[Tensor, Tensor] | None = None
        weighted = [m for m in self._module.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
        if not weighted:
            raise InputError(
                f"{type(module).__name__} has no Linear, Conv1d or Conv2d: no weights that count"
            )
        for layer in weighted:
            layer.register_forward_hook(self._noted)
        for ending in self._module.modules():
            if isinstance(ending, nn.Softmax):
                ending.register_forward_hook(self._ended)

    def _noted(self, layer: nn.Module, read: tuple[Tensor, ...], gave: Tensor) -> Tensor:
        kind: Any = Dense if isinstance(layer, nn.Linear) else Convolution
        self._layers.append(kind(layer, read[0], gave))
        self._passed = gave.clone()  # what follows may work in place
        return self._passed

    def _ended(self, layer: nn.Module, read: tuple[Tensor, ...], gave: Tensor) -> None:
        self._softmax = read[0], gave

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Weighted]]:
        self._layers, self._softmax = [], None
        answer = self._module(x)
        layers, softmax, passed = self._layers, self._softmax, self._passed
        self._layers, self._softmax, self._passed = [], None, None
        if len({layer.name for layer in layers}) < len(layers):
            raise InputError(
                "a layer of the network runs twice for one sample: its gradient is not one of these"
            )
        logits: Tensor = softmax[0] if softmax is not None and softmax[1] is answer else answer
        if logits is passed:
            logits = layers[-1].gave
        if logits.dim() != 2:
            raise InputError(f"the network answers {list(logits.shape)}; expected [samples, classes]")
        return logits, layers


class _GraphRun:
    """Runs a graph on tensors [samples, features]."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        if not any(isinstance(node, Affine) for node in graph.nodes):
            raise InputError("a graph without affine layers has no weights")
        self._graph = graph
        affines = [node for node in graph.nodes if isinstance(node, Affine)]
        self._matrices = {id(node): _Matrix(node.matrix, dtype) for node in affines}
        self._biases = {id(node): torch.tensor(node.bias, dtype=dtype) for node in affines}
        self._patterns = {id(node): _Pattern(node, dtype) for node in affines}
        self._coefficients = {
            id(node): torch.tensor(node.coefficients, dtype=dtype)
            for node in graph.nodes
            if isinstance(node, Polynomial)
        }
        self._layers: list[Weighted] = []

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Weighted]]:
        self._layers, flat = [], x.reshape(len(x), -1)
        if flat.shape[1] != self._graph.features:
            raise InputError(
                f"samples of shape {list(x.shape)}; expected [samples, {self._graph.features} features]"
            )
        logits = self._graph.run(self, flat)[-1]
        layers, self._layers = self._layers, []
        return logits, layers

    def affine(self, node: Affine, x: Tensor) -> Tensor:
        gave = self._matrices[id(node)](x) + self._biases[id(node)]
        self._layers.append(Entries(node, self._patterns[id(node)], x, gave))
        return gave

    def polynomial(self, node: Polynomial, x: Tensor) -> Tensor:
        rows = self._coefficients[id(node)]
        y = rows[-1].expand(x.shape)
        for row in rows[:-1].flip(0):
            y = y * x + row
        return y

    def add(self, xs: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(xs)).sum(0)


class _Matrix:
    """A constant matrix applied to rows, [..., in] to [..., out]; dense where that is small."""

    def __init__(self, matrix: sparse.csr_matrix, dtype: torch.dtype) -> None:
        entries = matrix.shape[0] * matrix.shape[1]
        small = entries <= DENSE_ENTRIES or matrix.nnz > DENSE_SHARE * entries
        single = matrix.astype(np.float32 if dtype == torch.float32 else np.float64)
        self._dense = torch.from_numpy(single.toarray()) if small else None
        self._sparse = single, single.T.tocsr()

    def __call__(self, rows: Tensor) -> Tensor:
        return _product(rows, *self._sparse) if self._dense is None else rows @ self._dense.T


class _Pattern:
    """The matrix of ones where entries are stored, applied to rows; made when first needed."""

    def __init__(self, node: Affine, dtype: torch.dtype) -> None:
        self._node, self._dtype = node, dtype

    @cached_property
    def _matrix(self) -> _Matrix | None:
        outputs, inputs = self._node.matrix.shape
        full = self._node.matrix.nnz == outputs * inputs
        return None if full else _Matrix(self._node.pattern, self._dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        if self._matrix is not None:
            return self._matrix(rows)
        return rows.sum(-1, keepdim=True).expand(*rows.shape[:-1], self._node.matrix.shape[0])


class _SparseProduct(torch.autograd.Function):
    """rows · matrixᵀ through scipy. Backward is the same product with the transpose, so it can be
    differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: sparse.csr_matrix, transpose: sparse.csr_matrix) -> Tensor:
        ctx.matrices = transpose, matrix
        return torch.from_numpy(np.ascontiguousarray((matrix @ rows.detach().numpy().T).T))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _product(grads[0], *ctx.matrices), None, None


def _product(rows: Tensor, matrix: sparse.csr_matrix, transpose: sparse.csr_matrix) -> Tensor:
    found: Tensor = _SparseProduct.apply(rows, matrix, transpose)  # type: ignore[no-untyped-call]
    return found
