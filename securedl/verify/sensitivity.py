"""How strongly the softmax outputs answer to the weights, and the slope of that in the input.

    S(x) = Σ_k ‖∂f_k/∂ω‖²,  f = softmax(logits),  ω = every stored matrix entry and every bias.

No Jacobian is formed (ghost norm): ∂f_k/∂W_ij = δ_i a_j, where a is a layer's input and δ = ∂f_k/∂(its
output), so a layer adds Σ_k (δ_k²)ᵀ (P a² + 1), P being its pattern; for a full pattern that is
‖δ_k‖² (‖a‖² + 1). The δ of all outputs come from one batched backward pass. A stored entry is a weight of
its own, since the server holds each one as its own number; coefficients of polynomials are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from securedl.errors import InputError
from securedl.network.graph import Affine, Array, Graph, Polynomial

DENSE_ENTRIES = 1 << 20  # 8 MiB: below this a dense product beats a sparse one or costs little
DENSE_SHARE = 0.2
CHUNK = 1 << 22  # values of δ at once, samples x outputs x features: 32 MiB for each layer


class _SparseProduct(torch.autograd.Function):
    """rows · matrixᵀ through scipy. Backward is the same product with the transpose, so it can be
    differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: sparse.csr_matrix) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(np.ascontiguousarray((matrix @ rows.detach().numpy().T).T))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _sparse_product(grads[0], ctx.matrix.T.tocsr()), None


def _sparse_product(rows: Tensor, matrix: sparse.csr_matrix) -> Tensor:
    found: Tensor = _SparseProduct.apply(rows, matrix)  # type: ignore[no-untyped-call]
    return found


class _Matrix:
    """A constant matrix applied to rows; dense where that is small."""

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        entries = matrix.shape[0] * matrix.shape[1]
        small = entries <= DENSE_ENTRIES or matrix.nnz > DENSE_SHARE * entries
        self.dense = torch.from_numpy(matrix.toarray().astype(np.float64)) if small else None
        self.forward, self.transpose = matrix, matrix.T.tocsr()

    def times(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return rows @ self.dense.T if self.dense is not None else self._sparse(rows, self.forward)

    def back(self, rows: Tensor) -> Tensor:
        """[..., out] to [..., in]."""
        return rows @ self.dense if self.dense is not None else self._sparse(rows, self.transpose)

    @staticmethod
    def _sparse(rows: Tensor, matrix: sparse.csr_matrix) -> Tensor:
        flat = _sparse_product(rows.reshape(-1, rows.shape[-1]), matrix)
        return flat.reshape(*rows.shape[:-1], -1)


class _Layer:
    """An affine node as torch sees it."""

    def __init__(self, node: Affine) -> None:
        self.weights = _Matrix(node.matrix)
        self.bias = torch.from_numpy(np.asarray(node.bias, dtype=np.float64))
        full = node.matrix.nnz == node.matrix.shape[0] * node.matrix.shape[1]
        self.pattern = None if full else _Matrix(node.pattern)

    def forward(self, a: Tensor) -> Tensor:
        return self.weights.times(a) + self.bias

    def back(self, delta: Tensor, a: Tensor) -> Tensor:
        return self.weights.back(delta)

    def norm(self, delta: Tensor, a: Tensor) -> Tensor:
        """Σ_k ‖∂f_k/∂(weights, bias)‖², [samples], from δ [k, samples, out]."""
        delta2 = (delta * delta).sum(0)
        if self.pattern is None:
            return delta2.sum(-1) * ((a * a).sum(-1) + 1.0)
        return (delta2 * (self.pattern.times(a * a) + 1.0)).sum(-1)


class _Activation:
    """A polynomial node as torch sees it; its coefficients are not counted as weights."""

    def __init__(self, node: Polynomial) -> None:
        self.coefficients = torch.from_numpy(np.asarray(node.coefficients, dtype=np.float64))
        powers = torch.arange(self.coefficients.shape[0], dtype=torch.float64)[:, None]
        self.slopes = (powers * self.coefficients)[1:]

    def forward(self, a: Tensor) -> Tensor:
        return _horner(self.coefficients, a)

    def back(self, delta: Tensor, a: Tensor) -> Tensor:
        return delta * _horner(self.slopes, a)

    def norm(self, delta: Tensor, a: Tensor) -> Tensor:
        return torch.zeros(len(a), dtype=torch.float64)


class _Tape:
    """The domain of torch tensors: runs a graph forward and remembers how to go back.

    Attributes:
        steps: what each node did, in order: the operation (None for a sum) and the values it read.
    """

    def __init__(self, operations: dict[int, _Layer | _Activation]) -> None:
        self._operations = operations
        self.steps: list[tuple[_Layer | _Activation | None, Sequence[Tensor]]] = []

    def affine(self, node: Affine, x: Tensor) -> Tensor:
        return self._apply(node, x)

    def polynomial(self, node: Polynomial, x: Tensor) -> Tensor:
        return self._apply(node, x)

    def add(self, xs: Sequence[Tensor]) -> Tensor:
        self.steps.append((None, xs))
        return torch.stack(list(xs)).sum(0)

    def _apply(self, node: Affine | Polynomial, x: Tensor) -> Tensor:
        operation = self._operations[id(node)]
        self.steps.append((operation, [x]))
        return operation.forward(x)


def _horner(coefficients: Tensor, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for row in coefficients.flip(0):
        y = y * x + row
    return y


class Sensitivity:
    """log S of a graph, and its gradient in the input.

    The logarithm has the same direction of ascent, and neither overflows nor vanishes: where softmax
    saturates, S is below 1e-300 on confident samples of a wide box and its gradient is exactly 0.
    """

    def __init__(self, graph: Graph) -> None:
        affines = [node for node in graph.nodes if isinstance(node, Affine)]
        if not affines:
            raise InputError("sensitivity of a graph without affine layers: it has no weights to answer to")
        shapes = [node.matrix.shape for node in affines]
        self.chunk = max(1, CHUNK // (shapes[-1][0] * max(max(shape) for shape in shapes)))
        self._graph = graph
        self._operations: dict[int, _Layer | _Activation] = {id(node): _Layer(node) for node in affines}
        others = [node for node in graph.nodes if isinstance(node, Polynomial)]
        self._operations |= {id(node): _Activation(node) for node in others}
        # Values below some weight: only to those must anything flow back.
        weighted = [False]
        for node, reads in zip(graph.nodes, graph.reads, strict=True):
            weighted.append(isinstance(node, Affine) or any(weighted[k] for k in reads))
        self._weighted = weighted

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """(log S [samples], ∂ log S/∂x [samples, features]); not finite where the network overflows."""
        heights, slopes = np.empty(len(x)), np.empty(np.shape(x))
        for first in range(0, len(x), self.chunk):
            part = slice(first, first + self.chunk)
            inputs = torch.tensor(x[part], dtype=torch.float64, requires_grad=True)
            found = self._log(inputs)
            (slope,) = torch.autograd.grad(found.sum(), inputs)
            heights[part], slopes[part] = found.detach().numpy(), slope.numpy()
        return heights, slopes

    def _log(self, x: Tensor) -> Tensor:
        tape = _Tape(self._operations)
        values = self._graph.run(tape, x)
        delta, shift = _softmax_jacobian(values[-1])
        deltas = {len(values) - 1: delta}  # ∂f/∂value, for values that something after them read
        total = torch.zeros(len(x), dtype=torch.float64)
        for k in reversed(range(len(tape.steps))):
            if k + 1 not in deltas:
                continue
            delta, (operation, read) = deltas.pop(k + 1), tape.steps[k]
            if operation is not None:
                total = total + operation.norm(delta, read[0])
            for value in self._graph.reads[k]:
                if self._weighted[value]:
                    back = delta if operation is None else operation.back(delta, read[0])
                    deltas[value] = deltas[value] + back if value in deltas else back
        return torch.log(total) + 2.0 * shift


def _softmax_jacobian(z: Tensor) -> tuple[Tensor, Tensor]:
    """∂softmax(z)_k/∂z_j · exp(-shift) as [k, samples, j], and the constant shift [samples].

    Off the diagonal -f_k f_j, on it f_k (1 - f_k), every entry from its logarithm, so that the largest is
    1 whatever the logits. One logit is read as a sigmoid: a second class of logit 0 is put beside it.
    """
    single = z.shape[-1] == 1
    logits = torch.cat([z, torch.zeros_like(z)], -1) if single else z
    log_f = torch.log_softmax(logits, -1)
    eye = torch.eye(log_f.shape[-1], dtype=torch.bool)
    rest = torch.logsumexp(log_f[:, None, :].masked_fill(eye, -torch.inf), -1)
    other = torch.where(eye, rest[:, :, None], log_f[:, None, :])
    exponent = log_f[:, :, None] + other
    shift = exponent.detach().amax((1, 2))
    sign = torch.where(eye, 1.0, -1.0).to(torch.float64)
    jacobian = (sign * torch.exp(exponent - shift[:, None, None])).transpose(0, 1)
    return (jacobian[..., :1] if single else jacobian), shift
