"""The network as the compiler sees it: a single-assignment graph of affine maps, polynomials and sums.

A node is an operation; it says in terms of a `Domain` how it is applied, so the same graph runs on arrays, on
torch tensors, or on whatever else has these three operations.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from securedl.errors import InputError
from securedl.network.samples import numbers_of

Array: TypeAlias = NDArray[np.float64]


V = TypeVar("V")


class Domain(Protocol[V]):
    """What values are, and how each operation is done on them."""

    def affine(self, node: Affine, x: V) -> V:
        """matrix · x + bias."""

    def polynomial(self, node: Polynomial, x: V) -> V:
        """Feature by feature."""

    def add(self, xs: Sequence[V]) -> V:
        """The sum of values with equal features."""


class Node(ABC):
    """One operation; it does not know which values it is given.

    Attributes:
        name: module path, for messages.
    """

    name: str

    @abstractmethod
    def apply(self, on: Domain[V], xs: Sequence[V]) -> V:
        """The value of the node, from those that it reads."""

    @abstractmethod
    def to_arrays(self) -> dict[str, Any]:
        """All but the name, for a file."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, Any], name: str) -> Node:
        """The inverse of `to_arrays`."""


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Node):
    """y = matrix · x + bias.

    Attributes:
        matrix: float64 CSR [out, in]. Its stored entries, zeros among them, are the pattern that the
            layer's *shape* allows: which entries are stored must never depend on the values of weights.
        bias: float64 [out].
        name: module path, for messages.
        shape: of what it gives, channels first; () where that is a vector.

    Raises:
        InputError: parts that do not fit each other.
    """

    matrix: sparse.csr_matrix
    bias: Array
    name: str = ""
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.matrix.shape[0] != self.bias.shape[0]:
            raise InputError(
                f"layer {self.name!r}: matrix {self.matrix.shape} and bias {self.bias.shape} differ"
            )
        if self.shape and (min(self.shape) < 1 or math.prod(self.shape) != len(self.bias)):
            raise InputError(f"layer {self.name!r}: {len(self.bias)} outputs are not {list(self.shape)}")

    def apply(self, on: Domain[V], xs: Sequence[V]) -> V:
        """One value in."""
        (x,) = xs
        return on.affine(self, x)

    def to_arrays(self) -> dict[str, Any]:
        """Matrix, bias, and the shape of what it gives."""
        gives = np.array(self.shape, dtype=np.int64)
        return {"bias": self.bias, "gives": gives, **matrix_arrays(self.matrix)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], name: str) -> Affine:
        """See `Node`."""
        return cls(matrix_from(arrays), arrays["bias"], name, tuple(int(size) for size in arrays["gives"]))

    @property
    def pattern(self) -> sparse.csr_matrix:
        """The stored entries as ones."""
        ones = np.ones_like(self.matrix.data)
        parts = (ones, self.matrix.indices, self.matrix.indptr)
        pattern: sparse.csr_matrix = sparse.csr_matrix(parts, shape=self.matrix.shape)
        return pattern

    def __call__(self, x: Array) -> Array:
        """[samples, in] to [samples, out]."""
        return np.asarray((self.matrix @ x.T).T + self.bias)

    def after(self, earlier: Affine) -> Affine:
        """The product self ∘ earlier as one layer; its pattern is the product of the patterns."""
        pattern = (self.pattern @ earlier.pattern).tocsr()
        matrix = _laid_on(pattern, (self.matrix @ earlier.matrix).tocsr())
        name = f"{earlier.name} + {self.name}" if earlier.name and self.name else self.name or earlier.name
        return Affine(matrix, np.asarray(self.matrix @ earlier.bias + self.bias), name, self.shape)


def _laid_on(pattern: sparse.csr_matrix, product: sparse.csr_matrix) -> sparse.csr_matrix:
    """`product` with every entry of `pattern` stored, zeros too (a product may drop what cancels)."""
    placed: sparse.csr_matrix = pattern.copy()
    placed.sort_indices()
    placed.data[:] = 0.0
    product.sort_indices()
    rows_p = np.repeat(np.arange(placed.shape[0]), np.diff(placed.indptr))
    rows_v = np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
    keys = rows_p * placed.shape[1] + placed.indices
    values = rows_v * product.shape[1] + product.indices
    placed.data[np.searchsorted(keys, values)] = product.data
    return placed


@dataclass(frozen=True, eq=False, repr=False)
class Polynomial(Node):
    """y = Σ_k coefficients[k] · x^k, feature by feature.

    Attributes:
        coefficients: float64 [degree + 1, features], ascending powers.
    """

    coefficients: Array
    name: str = ""

    def apply(self, on: Domain[V], xs: Sequence[V]) -> V:
        """One value in."""
        (x,) = xs
        return on.polynomial(self, x)

    def to_arrays(self) -> dict[str, Any]:
        """The coefficients."""
        return {"coefficients": self.coefficients}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], name: str) -> Polynomial:
        """See `Node`."""
        return cls(arrays["coefficients"], name)

    @property
    def degree(self) -> int:
        """Highest power stored."""
        return len(self.coefficients) - 1

    def __call__(self, x: Array) -> Array:
        """[samples, features] to the same shape, by Horner's rule."""
        y: Array = np.broadcast_to(self.coefficients[-1], x.shape).copy()
        for row in self.coefficients[-2::-1]:
            y = y * x + row
        return y


@dataclass(frozen=True)
class Sum(Node):
    """y = Σ x over the values it reads: where branches of a residual network join."""

    name: str = ""

    def apply(self, on: Domain[V], xs: Sequence[V]) -> V:
        """Two values in, or more."""
        return on.add(xs)

    def to_arrays(self) -> dict[str, Any]:
        """None."""
        return {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], name: str) -> Sum:
        """See `Node`."""
        return cls(name)


#: Kinds of node by the names that files have for them.
NODES: dict[str, type[Node]] = {kind.__name__: kind for kind in (Affine, Polynomial, Sum)}


def matrix_arrays(matrix: sparse.csr_matrix) -> dict[str, Any]:
    """A sparse matrix for a file, its stored zeros too."""
    parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
    return {**parts, "shape": np.array(matrix.shape)}


def matrix_from(arrays: Mapping[str, Any]) -> sparse.csr_matrix:
    """The inverse of `matrix_arrays`.

    Raises:
        ValueError: entries outside of the matrix, which products would read.
    """
    rows, cols = arrays["shape"]
    parts = tuple(arrays[part] for part in ("data", "indices", "indptr"))
    matrix = sparse.csr_matrix(parts, shape=(int(rows), int(cols)))
    matrix.check_format(full_check=True)
    return matrix


class ArrayDomain:
    """The domain of float64 arrays [samples, features]."""

    def affine(self, node: Affine, x: Array) -> Array:
        """See `Domain`."""
        return node(x)

    def polynomial(self, node: Polynomial, x: Array) -> Array:
        """See `Domain`."""
        return node(x)

    def add(self, xs: Sequence[Array]) -> Array:
        """See `Domain`."""
        total: Array = np.sum(xs, axis=0)
        return total


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """Nodes in an order in which each reads earlier values only: value 0 is the input, node k gives k + 1.

    Attributes:
        input_shape: shape of one sample; features are its elements in row-major order.
        reads: values that each node reads; a straight line where it is not given.

    Raises:
        InputError: a node reads nothing, or a value that is not there yet.
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    reads: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.reads:
            object.__setattr__(self, "reads", tuple((k,) for k in range(len(self.nodes))))
        if len(self.reads) != len(self.nodes):
            raise InputError(f"{len(self.nodes)} nodes need as many lists of values, got {len(self.reads)}")
        for k, (node, read) in enumerate(zip(self.nodes, self.reads, strict=True)):
            if not read or not all(0 <= value <= k for value in read):
                name = node.name or type(node).__name__
                raise InputError(f"node {k} ({name}) reads values {list(read)}; there are 0 to {k}")

    @property
    def straight(self) -> bool:
        """Whether each node reads the value before it and nothing else."""
        return self.reads == tuple((k,) for k in range(len(self.nodes)))

    @property
    def entries(self) -> int:
        """Stored ones of all matrices."""
        return sum(node.matrix.nnz for node in self.nodes if isinstance(node, Affine))

    def run(self, on: Domain[V], x: V) -> list[V]:
        """Input and the value of each node, in any domain."""
        values = [x]
        for node, read in zip(self.nodes, self.reads, strict=True):
            values.append(node.apply(on, [values[k] for k in read]))
        return values

    @property
    def features(self) -> int:
        """Number of input features."""
        return math.prod(self.input_shape)

    def values(self, x: Any) -> list[Array]:
        """Input and the value after each node, each float64 [samples, features]."""
        return self.run(ArrayDomain(), np.asarray(x, dtype=np.float64).reshape(len(x), -1))

    def __call__(self, x: Any) -> Array:
        """Logits, float64 [samples, classes]."""
        logits: Array = self.values(x)[-1]
        return logits


def samples_of(
    x: Any, input_shape: tuple[int, ...] | None = None, what: str = "x", columns: Sequence[str] = ()
) -> Array:
    """A float64 array [samples, ...] from numpy, torch, scipy's sparse matrices, pandas, or lists of these.

    Args:
        columns: names in the order in which a table's columns are taken; as they stand without.

    Raises:
        InputError: empty, not numeric, NaN or infinite values, other columns than those, or not samples of
            `input_shape`.
    """
    array = numbers_of(x, what, columns)
    if input_shape is not None and array.shape[1:] != tuple(input_shape):
        raise InputError(
            f"{what} must have shape [samples, {', '.join(map(str, input_shape))}], got {list(array.shape)}"
        )
    if array.ndim < 2 or len(array) == 0:
        raise InputError(
            f"{what} must have shape [samples, ...] with at least one sample, got {list(array.shape)}"
        )
    if not np.all(np.isfinite(array)):
        bad = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise InputError(f"{what} has NaN or infinite values, first in sample {bad}: clean the data first")
    return array
