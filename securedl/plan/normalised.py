"""The network on normalised values: what the compiler makes of it, and the limit of encrypted values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from securedl.he.params import HEADROOM_BITS
from securedl.network.graph import Array

#: Encrypted values stay below this; decryption wraps around at 2^(HEADROOM_BITS - 1).
VALUE_LIMIT = 2.0 ** (HEADROOM_BITS - 2)


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One affine map and what follows it, on normalised values: |value| <= 1 on the calibration data.

    Attributes:
        matrices: CSR [out, in], one for each source (several after `powers`). bias: [out].
        form: "none" (the last layer), "square", "cubic" or "powers". degree: 1, 2, 3 or that of the powers.
        constant: κ/B² of a cubic [out], else empty.
    """

    name: str
    matrices: tuple[sparse.csr_matrix, ...]
    bias: Array
    form: str
    degree: int
    constant: Array

    @property
    def features(self) -> int:
        """Output features."""
        return len(self.bias)

    def affine(self, sources: list[Array]) -> Array:
        """Normalised pre-activation [samples, out]."""
        total = sum((m @ s.T).T for m, s in zip(self.matrices, sources, strict=True))
        return np.asarray(total + self.bias)

    def activate(self, v: Array) -> list[Array]:
        """The values that the next layer reads."""
        if self.form == "square":
            return [v * v]
        if self.form == "cubic":
            return [v * (v * v + self.constant)]
        if self.form == "powers":
            return [v**k for k in range(1, self.degree + 1)]
        return [v]


@dataclass(frozen=True, eq=False, repr=False)
class Normalised:
    """The network on normalised values.

    Attributes:
        input_scale: [features]; the query is x / input_scale.
        layers: in order. output_scale: [classes]; logits are value · output_scale.
    """

    input_scale: Array
    layers: tuple[Layer, ...]
    output_scale: Array

    def stages(self, x: Array) -> tuple[list[Array], list[list[Array]]]:
        """Pre-activations of every layer, and what every layer reads, for x [samples, features]."""
        reads, pre = [[x / self.input_scale]], []
        for layer in self.layers:
            pre.append(layer.affine(reads[-1]))
            reads.append(layer.activate(pre[-1]))
        return pre, reads


def within_headroom(network: Normalised, x: Array) -> np.ndarray:
    """Which of the samples [samples, features] keep every encrypted value below the limit."""
    pre, reads = network.stages(x)
    worst = np.zeros(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for value in (*pre, *(v for group in reads for v in group)):
            worst = np.maximum(worst, np.nan_to_num(np.abs(value).max(axis=1), nan=np.inf))
    inside: np.ndarray = worst <= VALUE_LIMIT
    return inside
