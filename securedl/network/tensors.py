"""Tensors of a network as the importer sees them: where each element comes from, and what was done to it.

A `Traced` tensor is a torch tensor of `BATCH` samples without values: for each of its elements, which feature
of an earlier value of the graph it is computed from, and the polynomial that computes it. So views,
permutations, slices and paddings are done by torch itself on the numbers of features, and scaling, shifting,
squaring on the polynomials; nothing of that makes a node. What sums over features does: `Builder` keeps
these, and builds their matrices last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from securedl.errors import UnsupportedLayerError
from securedl.network.any_number import BATCH
from securedl.network.graph import Affine, Graph, Node, Polynomial, Sum

#: Highest degree that user-written polynomials may have.
MAX_POWER = 64


class RefusedError(UnsupportedLayerError):
    """Why one operation cannot be imported; the importer adds where it stands."""


@dataclass(eq=False)
class Traced:
    """A tensor whose elements are polynomials in one feature each.

    Attributes:
        source: the value of the graph that it is computed from.
        index: float64 [BATCH, ...], in whatever shape the network gave it: sample · features + feature, or -1
            where the element is a constant.
        coefficients: float64 [degree + 1, *index.shape], ascending powers of that feature.
    """

    source: int
    index: Tensor
    coefficients: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor, all samples."""
        return tuple(self.index.shape)

    @property
    def degree(self) -> int:
        """Of the polynomials; at least 1."""
        return len(self.coefficients) - 1

    def moved(
        self, view: Callable[[Tensor], Tensor], fill: Callable[[Tensor, float], Tensor] | None = None
    ) -> Traced:
        """What an operation gives that only moves, copies or leaves out elements.

        Args:
            fill: the same with the value of new elements, for operations that make some.
        """
        if fill is None:
            return Traced(
                self.source, view(self.index), torch.stack([view(row) for row in self.coefficients])
            )
        rows = [view(self.coefficients[0]), *(fill(row, 0.0) for row in self.coefficients[1:])]
        return Traced(self.source, fill(self.index, -1.0), torch.stack(rows))

    def times(self, factor: Tensor) -> Traced:
        """The product with constants, as torch broadcasts it."""
        index = self.index.expand(np.broadcast_shapes(self.shape, tuple(factor.shape)))
        return Traced(self.source, index, torch.stack([row * factor for row in self.coefficients]))

    def plus(self, term: Tensor) -> Traced:
        """The sum with constants, as torch broadcasts it."""
        index = self.index.expand(np.broadcast_shapes(self.shape, tuple(term.shape)))
        rows = [self.coefficients[0] + term, *(row.expand(index.shape) for row in self.coefficients[1:])]
        return Traced(self.source, index, torch.stack(rows))

    def with_same(self, other: Traced) -> tuple[Traced, Traced] | None:
        """Both in their common shape, if each element of both is computed from the same feature."""
        if self.source != other.source:
            return None
        shape = np.broadcast_shapes(self.shape, other.shape)
        a, b = self.index.expand(shape), other.index.expand(shape)
        if bool(((a >= 0) & (b >= 0) & (a != b)).any()):
            return None
        index = torch.maximum(a, b)
        first, second = ([row.expand(index.shape) for row in some.coefficients] for some in (self, other))
        return Traced(self.source, index, torch.stack(first)), Traced(self.source, index, torch.stack(second))

    def combined(self, other: Traced, add: bool) -> Traced:
        """Sum or product of two that `with_same` gave."""
        if add:
            degree = max(self.degree, other.degree)
            total = torch.zeros((degree + 1, *self.shape), dtype=torch.float64)
            for some in (self, other):
                total[: some.degree + 1] += some.coefficients
            return Traced(self.source, self.index, total)
        if self.degree + other.degree > MAX_POWER:
            raise RefusedError(
                f"a polynomial of degree {self.degree + other.degree}; at most {MAX_POWER} is supported"
            )
        product = torch.zeros((self.degree + other.degree + 1, *self.shape), dtype=torch.float64)
        for k, a in enumerate(self.coefficients):
            for m, b in enumerate(other.coefficients):
                product[k + m] += a * b
        return Traced(self.source, self.index, _trimmed(product))


def _trimmed(coefficients: Tensor) -> Tensor:
    """Without highest powers that are nowhere used; degree 1 stays."""
    degree = len(coefficients) - 1
    while degree > 1 and not bool(coefficients[degree].any()):
        degree -= 1
    return coefficients[: degree + 1]


@dataclass(frozen=True)
class Samples:
    """Where the samples of a tensor are: along an axis of length BATCH · n, whole samples first or last.

    One sample's part has the same axes, that one with length n: what an operation does to it, it does to
    each.
    """

    axis: int
    outer: bool

    def split(self, tensor: Tensor) -> Tensor:
        """[BATCH, ...] with one sample's part at each place."""
        a, shape = self.axis, tuple(tensor.shape)
        n = shape[a] // BATCH
        if self.outer:
            return tensor.reshape(*shape[:a], BATCH, n, *shape[a + 1 :]).movedim(a, 0)
        return tensor.reshape(*shape[:a], n, BATCH, *shape[a + 1 :]).movedim(a + 1, 0)

    def merge(self, parts: Tensor) -> Tensor:
        """The inverse of `split`."""
        a, n = self.axis, parts.shape[self.axis + 1]
        moved = parts.movedim(0, a if self.outer else a + 1)
        return moved.reshape(*moved.shape[:a], BATCH * n, *moved.shape[a + 2 :])

    def image(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One sample's shape without the axis of samples; () where nothing or more than samples is on it."""
        return shape[: self.axis] + shape[self.axis + 1 :] if shape[self.axis] == 1 and len(shape) > 2 else ()


@dataclass(frozen=True, eq=False)
class Relation:
    """A linear map of one sample's tensor.

    Attributes:
        shape: of the result, one sample's.
        count: how many entries it has.
        entries: gives rows, places in the sample's tensor, and values of the entries.
        bias: gives what is added, flat; None for nothing.
    """

    shape: tuple[int, ...]
    count: int
    entries: Callable[[], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
    bias: Callable[[], NDArray[Any]] | None = None


Part: TypeAlias = "tuple[int, Tensor, Tensor]"


class Builder:
    """Collects the nodes of a graph; matrices are made by `graph`, when their sizes are known.

    Args:
        shape: of one sample.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._make: list[Callable[[], Node]] = []
        self._reads: list[tuple[int, ...]] = []
        self._features = [math.prod(shape)]
        #: Names and entries of the matrices so far.
        self.sizes: list[tuple[str, int]] = []

    def input(self) -> Traced:
        """The samples."""
        return self._plain(0, self.shape, None)

    def features(self, source: int) -> int:
        """Of one value."""
        return self._features[source]

    def _plain(self, source: int, shape: tuple[int, ...], samples: Samples | None) -> Traced:
        """A value itself, as a tensor with one sample's part of this shape."""
        index = torch.arange(BATCH * math.prod(shape), dtype=torch.float64).reshape(BATCH, *shape)
        index = index if samples is None else samples.merge(index)
        return Traced(source, index, torch.stack([torch.zeros_like(index), torch.ones_like(index)]))

    def _add(self, make: Callable[[], Node], reads: Sequence[int], features: int) -> int:
        self._make.append(make)
        self._reads.append(tuple(reads))
        self._features.append(features)
        return len(self._make)

    def samples(self, tensor: Traced) -> Samples:
        """Where a tensor's samples are.

        Raises:
            RefusedError: nowhere: an element depends on several, or on how many there are.
        """
        features = self._features[tensor.source]
        for axis, size in enumerate(tensor.shape):
            if size % BATCH:
                continue
            for outer in (True, False) if size > BATCH else (True,):
                found = Samples(axis, outer)
                if _repeats(found, tensor, features):
                    return found
        raise RefusedError(
            "it mixes samples, or depends on how many there are: an encrypted network treats each by itself"
        )

    def _part(self, tensor: Traced, samples: Samples) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """One sample's features, and its polynomials [degree + 1, elements], flat."""
        index = samples.split(tensor.index)[0].reshape(-1).numpy().astype(np.int64)
        rows = [samples.split(row)[0].reshape(-1) for row in tensor.coefficients]
        return index, torch.stack(rows).numpy()

    def affine(
        self, name: str, tensor: Traced, relation: Callable[[tuple[int, ...], Samples], Relation]
    ) -> Traced:
        """What a linear operation gives.

        Args:
            relation: of one sample's shape and where the samples are, what the operation does to one.
        """
        tensor = self.linear(name, tensor)
        samples = self.samples(tensor)
        features, (constant, factor) = self._part(tensor, samples)
        found = relation(tuple(samples.split(tensor.index).shape[1:]), samples)
        outputs, inputs = math.prod(found.shape), self._features[tensor.source]
        self.sizes.append((name, found.count))

        def make() -> Node:
            rows, places, values = found.entries()
            bias = np.bincount(rows, values * constant[places], minlength=outputs).astype(np.float64)
            if found.bias is not None:
                bias = bias + found.bias()
            live = features[places] >= 0
            rows, places, values = rows[live], places[live], values[live]
            matrix = stored(values * factor[places], rows, features[places], (outputs, inputs))
            return Affine(matrix, bias, name, samples.image(found.shape))

        return self._plain(self._add(make, [tensor.source], outputs), found.shape, samples)

    def gathered(self, name: str, tensor: Traced) -> Traced:
        """The same tensor as a value of its own, its features in its order."""

        def same(shape: tuple[int, ...], samples: Samples) -> Relation:
            places = np.arange(math.prod(shape))
            return Relation(shape, len(places), lambda: (places, places, np.ones(len(places))))

        return self.affine(name, tensor, same)

    def dense(self, name: str, tensor: Traced) -> Traced:
        """A tensor that is a value itself: nothing if it is one already, a node or two if not."""
        tensor = self.linear(name, tensor)
        whole = self._plain(tensor.source, (self._features[tensor.source],), None)
        samples = self.samples(tensor)
        flat = samples.split(tensor.index).reshape(BATCH, -1)
        if flat.shape == whole.index.shape and bool((flat == whole.index).all()) and _is_plain(tensor):
            return tensor
        return self.gathered(name, tensor)

    def linear(self, name: str, tensor: Traced) -> Traced:
        """A tensor of degree 1: one that is not goes through a node that computes its polynomials."""
        if tensor.degree == 1:
            return tensor
        ones, zeros = torch.ones_like(tensor.index), torch.zeros_like(tensor.index)
        base = self.dense(
            name, Traced(tensor.source, tensor.index, torch.stack([zeros, ones * (tensor.index >= 0)]))
        )
        samples = self.samples(base)
        _, coefficients = self._part(Traced(base.source, base.index, tensor.coefficients), samples)
        return self.polynomial(name, base, coefficients)

    def polynomial(self, name: str, base: Traced, coefficients: NDArray[np.float64]) -> Traced:
        """Polynomials [degree + 1, features] of a dense tensor, feature by feature."""
        samples = self.samples(base)
        shape = tuple(samples.split(base.index).shape[1:])
        table = np.ascontiguousarray(coefficients)
        number = self._add(lambda: Polynomial(table, name), [base.source], table.shape[1])
        return self._plain(number, shape, samples)

    def total(self, name: str, a: Traced, b: Traced) -> Traced:
        """The sum of two tensors, computed from whatever they are."""
        same = a.with_same(b)
        if same is not None:
            return same[0].combined(same[1], add=True)
        a, b = (self.linear(name, some) for some in (a, b))
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = (some.moved(lambda row: row.expand(shape)) for some in (a, b))
        samples = self.samples(a)
        if self.samples(b) != samples:
            raise RefusedError("it adds samples in different orders")
        if a.source == b.source:
            return self._two(name, a, b, samples)
        a, b = (self.dense(name, some) for some in (a, b))
        one = tuple(samples.split(a.index).shape[1:])
        number = self._add(lambda: Sum(name), [a.source, b.source], math.prod(one))
        return self._plain(number, one, samples)

    def _two(self, name: str, a: Traced, b: Traced, samples: Samples) -> Traced:
        """The sum of two affine tensors from one value, in one matrix."""
        parts = [self._part(some, samples) for some in (a, b)]
        one = tuple(samples.split(a.index).shape[1:])
        outputs, inputs = math.prod(one), self._features[a.source]
        self.sizes.append((name, 2 * outputs))

        def make() -> Node:
            rows = np.concatenate([np.flatnonzero(index >= 0) for index, _ in parts])
            cols = np.concatenate([index[index >= 0] for index, _ in parts])
            values = np.concatenate([table[1][index >= 0] for index, table in parts])
            bias = parts[0][1][0] + parts[1][1][0]
            return Affine(stored(values, rows, cols, (outputs, inputs)), bias, name, samples.image(one))

        return self._plain(self._add(make, [a.source], outputs), one, samples)

    def joined(self, name: str, tensors: Sequence[Traced | Tensor], axis: int) -> Traced:
        """Tensors one after the other along an axis; constants among them."""
        traced = [some for some in tensors if isinstance(some, Traced)]
        if len({some.source for some in traced}) == 1:
            degree = max(some.degree for some in traced)
            whole = [raised(some, traced[0].source, degree) for some in tensors]
            index = torch.cat([some.index for some in whole], axis)
            coefficients = torch.cat([some.coefficients for some in whole], axis + 1 if axis >= 0 else axis)
            return Traced(traced[0].source, index, coefficients)
        lengths = [some.shape[axis] for some in tensors]
        total: Traced | None = None
        constant: Tensor | None = None
        for k, some in enumerate(tensors):
            placed = _padded(some, axis, sum(lengths[:k]), sum(lengths[k + 1 :]))
            if isinstance(placed, Tensor):
                constant = placed if constant is None else constant + placed
            else:
                total = placed if total is None else self.total(name, total, placed)
        assert total is not None
        return total if constant is None else total.plus(constant)

    def opaque(self, name: str, tensor: Traced) -> Traced:
        """A new value of the same shape, for an activation that is still to become a polynomial."""
        base = self.dense(name, tensor)
        return self.polynomial(name, base, np.zeros((3, self._features[base.source])))

    def unknown(self, shape: tuple[int, ...]) -> Traced:
        """A value of which nothing is known: what follows a refused operation is looked at all the same."""
        number = self._add(_never, [0], math.prod(shape[1:]))
        return self._plain(number, shape[1:], None)

    def check_answer(self, answer: Traced) -> None:
        """Refuse an answer whose first axis is not the samples."""
        samples = self.samples(answer)
        if samples.axis != 0 or answer.shape[0] != BATCH:
            raise RefusedError(
                "the first axis of what the network gives must be the samples, and nothing else; it is "
                f"{list(answer.shape)} for {BATCH} samples"
            )

    def graph(self, answer: Traced) -> tuple[Graph, tuple[int, ...]]:
        """The graph whose last value is this tensor, and the shape of one sample's answer."""
        self.check_answer(answer)
        shape = answer.shape
        answer = self.dense("answer", answer)
        needed = {answer.source}
        for number in range(answer.source, 0, -1):
            needed |= set(self._reads[number - 1]) if number in needed else set()
        order = sorted(needed | {0})
        new = {old: k for k, old in enumerate(order)}
        nodes = tuple(self._make[old - 1]() for old in order[1:])
        reads = tuple(tuple(new[value] for value in self._reads[old - 1]) for old in order[1:])
        return Graph(self.shape, nodes, reads), shape[1:]


def _never() -> Node:
    raise AssertionError("a refused operation has no node")


def raised(tensor: Traced | Tensor, source: int, degree: int) -> Traced:
    """With so many powers; constants as polynomials too."""
    if isinstance(tensor, Tensor):
        index, coefficients = torch.full(tensor.shape, -1.0, dtype=torch.float64), tensor.double()[None]
    else:
        index, coefficients = tensor.index, tensor.coefficients
    more = torch.zeros((degree + 1 - len(coefficients), *coefficients.shape[1:]), dtype=torch.float64)
    return Traced(source, index, torch.cat([coefficients, more]))


def _padded(tensor: Traced | Tensor, axis: int, before: int, after: int) -> Traced | Tensor:
    """Between zeros along an axis."""

    def pad(row: Tensor, value: float) -> Tensor:
        sizes = [0, 0] * (row.ndim - 1 - axis % row.ndim) + [before, after]
        return torch.nn.functional.pad(row, sizes, value=value)

    if isinstance(tensor, Tensor):
        return pad(tensor.double(), 0.0)
    return tensor.moved(lambda row: pad(row, 0.0), pad)


def _is_plain(tensor: Traced) -> bool:
    zero, one = tensor.coefficients
    return not bool(zero.any()) and bool((one == 1).all())


def _repeats(samples: Samples, tensor: Traced, features: int) -> bool:
    """Whether every sample's part is the first one's, with that sample's features."""
    index = samples.split(tensor.index)
    first = index[0]
    if bool((first >= features).any()):
        return False
    for number in range(1, BATCH):
        if not bool((index[number] == torch.where(first >= 0, first + number * features, first)).all()):
            return False
    return all(bool((part == part[:1]).all()) for part in map(samples.split, tensor.coefficients))


def stored(
    values: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """CSR with every given entry stored, zeros too: the pattern must not show which weights are pruned."""
    matrix = sparse.coo_matrix(
        (values.astype(np.float64), (rows, cols)), shape=shape
    ).tocsr()  # adds duplicates
    matrix.sort_indices()
    return matrix


def flat_numbers(shape: Iterable[int]) -> NDArray[np.int64]:
    """Places of a tensor's elements, in its shape."""
    sizes = tuple(shape)
    return np.arange(math.prod(sizes)).reshape(sizes)
