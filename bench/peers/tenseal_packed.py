"""TenSEAL's vectors: products of whole vectors, with weights encrypted or not, and its own sums over slots.

A vector of a power of two slots is periodic in TenSEAL's ciphertexts, so that its rotations are cyclic:

- `dot` leaves an inner product in every slot, and `pack_vectors` puts those of a layer into one vector;
- a vector that holds every input s times, [input, copy], times the weights of s outputs, [input, output], and
  then `enc_matmul_plain` with ones, which adds slots that are s apart, gives s outputs for the price of one;
- the owner can send the sample in any layout: [term, output] gives all outputs of the first layer at once.

The first is what the API offers for encrypted weights, the others what an expert can make of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from bench.peers.networks import Linear
from bench.peers.tenseal_tutorial import power

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """A layer of one vector, some outputs at a time.

    Attributes:
        copies: of each input in the vector, and so outputs at a time. after: copies wanted of each output.
        last: leaves its groups of outputs apart.
    """

    layer: Linear
    copies: int
    after: int
    last: bool

    @property
    def inputs(self) -> int:
        """Rounded up to a power of two, as all sizes."""
        return power(self.layer.weight.shape[1])

    @property
    def outputs(self) -> int:
        """With their copies."""
        return max(power(len(self.layer.bias)) * self.after, self.copies)

    @property
    def groups(self) -> int:
        """Of outputs, those that are not padding."""
        return -(-len(self.layer.bias) * self.after // self.copies)

    @property
    def depth(self) -> int:
        """Levels: the product, its sum over slots that are apart, packing."""
        return 1 + (self.copies > 1) + self.packs

    @property
    def packs(self) -> bool:
        """Several groups into one vector."""
        return not self.last and self.outputs > self.copies

    @property
    def slots(self) -> int:
        """Of its largest vector."""
        return max(self.inputs * self.copies, self.outputs)

    def products(self) -> list[Array]:
        """Weights of each group, [inputs, outputs of the group]."""
        weight = _placed(self.layer.weight, self.after, self.outputs, self.inputs)
        groups = weight.reshape(-1, self.copies, self.inputs)
        return [group.T.ravel() for group in groups[: self.groups]]

    def biases(self) -> list[Array]:
        """One of all outputs, or one a group."""
        bias = _placed(self.layer.bias[:, None], self.after, self.outputs, 1)[:, 0]
        return list(bias.reshape(-1, self.copies)[: self.groups]) if self.last else [bias]

    def run(self, query: list[Any], products: list[Any], biases: list[Any]) -> list[Any]:
        """Vectors of the groups, or one of all."""
        found = [self._group(query[0], product) for product in products]
        if self.last:
            return [group + bias for group, bias in zip(found, biases, strict=True)]
        if self.packs:
            padding = self.outputs // self.copies - self.groups
            found = [ts.CKKSVector.pack_vectors(found + found[-1:] * padding)]
        return [found[0] + biases[0]]

    def _group(self, h: Any, product: Any) -> Any:
        if self.copies == 1:
            return h.dot(product)
        return h.mul(product).enc_matmul_plain_([1.0] * self.inputs, self.copies)


@dataclass(frozen=True, eq=False)
class Together:
    """A first layer, all outputs at once: some terms of its sums in each of several vectors, [term, output].

    Attributes:
        after: copies wanted of each output. most: slots of a vector.
    """

    layer: Linear
    after: int
    most: int

    @property
    def outputs(self) -> int:
        """With their copies."""
        return power(len(self.layer.bias)) * self.after

    @property
    def chunk(self) -> int:
        """Terms in a vector."""
        return min(self.most // self.outputs, power(self.layer.weight.shape[1]))

    @property
    def depth(self) -> int:
        """Levels: the product, and its sum over slots that are apart."""
        return 1 + (self.chunk > 1)

    @property
    def slots(self) -> int:
        """Of a vector."""
        return self.chunk * self.outputs

    def products(self) -> list[Array]:
        """Weights, [terms of the vector, outputs]."""
        return self.laid(self.layer.weight)

    def laid(self, values: Array) -> list[Array]:
        """Values [outputs, terms] by vector."""
        count = -(-values.shape[1] // self.chunk)
        placed = _placed(values, self.after, self.outputs, count * self.chunk)
        return [part.T.ravel() for part in np.split(placed, count, axis=1)]

    def biases(self) -> list[Array]:
        """One of all outputs."""
        return [_placed(self.layer.bias[:, None], self.after, self.outputs, 1)[:, 0]]

    def run(self, query: list[Any], products: list[Any], biases: list[Any]) -> list[Any]:
        """One vector of all outputs."""
        h = query[0].mul(products[0])
        for vector, product in zip(query[1:], products[1:], strict=True):
            h.add_(vector.mul(product))
        if self.chunk > 1:
            h.enc_matmul_plain_([1.0] * self.chunk, self.outputs)
        return [h.add_(biases[0])]


def _placed(values: Array, after: int, rows: int, columns: int) -> Array:
    """Rows repeated, and zeros up to [rows, columns]."""
    found = np.zeros((rows, columns))
    found[: len(values) * after, : values.shape[1]] = np.repeat(values, after, axis=0)
    return found


class Packed:
    """A network of layers with squares between them.

    Args:
        copies: of each input of the second layer, the third and so on; powers of two.
        most: slots of a vector of the first layer, all of whose outputs are computed at once; None for one by
            one, with `dot`.
        plain: weights stay in the clear. TenSEAL does not repeat them, so that only a product of all slots is
            periodic and can be packed. Biases are encrypted anyway.
    """

    kind = ts.CKKSVector
    rotates = True

    def __init__(
        self, name: str, layers: list[Linear], copies: tuple[int, ...], most: int | None, plain: bool = False
    ) -> None:
        self.name, self.plain = name, plain
        self.encrypted = "query" if plain else "query, weights"
        ends = zip(layers, (1, *copies), (*copies, 1), strict=True)
        self.stages: list[Rows | Together] = [
            Rows(layer, before, after, layer is layers[-1]) for layer, before, after in ends
        ]
        if most:
            self.stages[0] = Together(layers[0], copies[0], most)
        self.depth = sum(stage.depth for stage in self.stages) + len(layers) - 1
        self.slots = max(stage.slots for stage in self.stages)
        self.classes = len(layers[-1].bias)

    def weights(self, owner: ts.Context, slots: int) -> list[Any]:
        """Of each layer: vectors of its products, then of its biases."""
        found: list[Any] = []
        for stage in self.stages:
            if self.plain and isinstance(stage, Rows) and stage.packs and stage.inputs * stage.copies < slots:
                raise ValueError(f"plain weights of {stage.inputs * stage.copies} slots: expected {slots}")
            products = [vector.tolist() for vector in stage.products()]
            found += [ts.plain_tensor(p) if self.plain else ts.ckks_vector(owner, p) for p in products]
            found += [ts.ckks_vector(owner, bias.tolist()) for bias in stage.biases()]
        return found

    def query(self, owner: ts.Context, x: Array) -> list[Any]:
        """One vector, or those of the terms of the first layer."""
        first = self.stages[0]
        if isinstance(first, Together):
            padded = np.append(x.ravel(), 0.0)  # what -1 takes
            return [
                ts.ckks_vector(owner, vector.tolist()) for vector in first.laid(padded[first.layer.taken])
            ]
        return [ts.ckks_vector(owner, np.pad(x.ravel(), (0, first.inputs - x.size)).tolist())]

    def run(self, weights: list[Any], query: list[Any]) -> list[Any]:
        """Vectors of logits."""
        left = iter(weights)
        for number, stage in enumerate(self.stages):
            if number:
                query[0].square_()
            products = list(islice(left, len(stage.products())))
            query = stage.run(query, products, list(islice(left, len(stage.biases()))))
        return query

    def answer(self, decrypted: list[Array]) -> Array:
        """Logits."""
        return np.concatenate(decrypted)[: self.classes]
