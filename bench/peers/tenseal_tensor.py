"""TenSEAL's matrix product of two encrypted tensors, `CKKSTensor.mm`: a ciphertext for each number."""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from bench.peers.networks import InexpressibleError, Linear

#: Of one network; more products take minutes and more than 10 GB.
MOST_PRODUCTS = 2000


class Tensors:
    """Every layer by `mm`."""

    kind = ts.CKKSTensor
    name, encrypted, rotates, slots = "CKKSTensor.mm", "query, weights", False, 1

    def __init__(self, layers: list[Linear]) -> None:
        products = sum(layer.weight.size for layer in layers)
        if products > MOST_PRODUCTS:
            raise InexpressibleError(f"a ciphertext for each of {products} weights: not tried")
        self.layers, self.depth = layers, 2 * len(layers) - 1

    def weights(self, owner: ts.Context, slots: int) -> list[Any]:
        """Matrices and biases, one after the other."""
        found: list[Any] = []
        for layer in self.layers:
            found += [ts.ckks_tensor(owner, each.tolist()) for each in (layer.weight.T, layer.bias[None])]
        return found

    def query(self, owner: ts.Context, x: NDArray[np.float64]) -> list[Any]:
        """A row."""
        return [ts.ckks_tensor(owner, x.reshape(1, -1).tolist())]

    def run(self, weights: list[Any], query: list[Any]) -> list[Any]:
        """[1, classes]."""
        h = query[0]
        for number in range(0, len(weights), 2):
            h = (h.square() if number else h).mm(weights[number]) + weights[number + 1]
        return [h]

    def answer(self, decrypted: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Logits."""
        return decrypted[0]
