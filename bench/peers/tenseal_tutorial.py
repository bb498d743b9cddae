"""TenSEAL as its tutorial on MNIST does it: `conv2d_im2col`, `pack_vectors`, `mm`; weights in the clear."""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from bench.peers.networks import Linear


class Tutorial:
    """Dense layers by `mm` (diagonals, a rotation for each input), a convolution by `conv2d_im2col`."""

    kind = ts.CKKSVector
    name, encrypted, rotates = "im2col, mm", "query", True

    def __init__(self, layers: list[Linear]) -> None:
        self.first, self.layers = layers[0], layers
        convolution = self.first.kernels is not None
        self.depth = 2 * len(layers) - 1 + convolution
        self.slots = max(len(layer.bias) for layer in layers)
        if self.first.kernels is not None:
            self.windows = len(self.first.bias) // len(self.first.kernels)
            self.slots = max(self.slots, self.windows * power(self.first.kernels[0].size))

    def weights(self, owner: ts.Context, slots: int) -> list[Any]:
        """Matrix or kernels, then bias, of each layer.

        A bias in the clear would only be added to a vector's first slots, but `mm` reads beyond them, and is
        wrong by a hundredth. An encrypted one is periodic.
        """
        found: list[Any] = []
        for layer in self.layers:
            if layer.kernels is None:
                found += [
                    ts.plain_tensor(layer.weight.T.tolist()),
                    ts.ckks_vector(owner, layer.bias.tolist()),
                ]
            else:
                kernels = [ts.plain_tensor(kernel.tolist()) for kernel in layer.kernels]
                found += [kernels, layer.bias[:: self.windows].tolist()]
        return found

    def query(self, owner: ts.Context, x: NDArray[np.float64]) -> list[Any]:
        """One vector: the sample, or its windows."""
        if self.first.kernels is None:
            return [ts.ckks_vector(owner, x.tolist())]
        image = np.pad(x[0], self.first.padding).tolist()
        _, rows, columns = self.first.kernels.shape
        return [ts.im2col_encoding(owner, image, rows, columns, self.first.stride)[0]]

    def run(self, weights: list[Any], query: list[Any]) -> list[Any]:
        """The tutorial's forward pass."""
        h = query[0]
        for number in range(0, len(weights), 2):
            if number:
                h.square_()
            matrix, bias = weights[number : number + 2]
            if isinstance(matrix, list):
                pairs = zip(matrix, bias, strict=True)
                h = ts.CKKSVector.pack_vectors([h.conv2d_im2col(each, self.windows) + b for each, b in pairs])
            else:
                h = h.mm(matrix).add_(bias)
        return [h]

    def answer(self, decrypted: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Logits."""
        return decrypted[0]


def power(count: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (count - 1).bit_length()
