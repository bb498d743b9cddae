"""The network on normalised values: what the compiler makes of it, and the limit of encrypted values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from securedl.network.graph import Array
from securedl.plan.forms import Form


@dataclass(frozen=True, eq=False, repr=False)
class Layer:
    """One affine map and what follows it, on normalised values: |value| <= 1 on the calibration data.

    Attributes:
        matrices: CSR [out, in], one for each source (several after `powers`). bias: [out].
        form: of the polynomial that follows; `Straight` after the last.
    """

    name: str
    matrices: tuple[sparse.csr_matrix, ...]
    bias: Array
    form: Form

    @property
    def features(self) -> int:
        """Output features."""
        return len(self.bias)

    def affine(self, sources: list[Array]) -> Array:
        """Normalised pre-activation [samples, out]."""
        total = sum((m @ s.T).T for m, s in zip(self.matrices, sources, strict=True))
        return np.asarray(total + self.bias)


@dataclass(frozen=True, eq=False, repr=False)
class Normalised:
    """The network on normalised values.

    Attributes:
        input_scale, input_offset: [features]; the query is (x - input_offset) / input_scale.
        layers: in order. output_scale, output_offset: [classes]; logits are value · output_scale +
        output_offset.
    """

    input_scale: Array
    input_offset: Array
    layers: tuple[Layer, ...]
    output_scale: Array
    output_offset: Array

    def stages(self, x: Array) -> tuple[list[Array], list[list[Array]]]:
        """Pre-activations of every layer, and what every layer reads, for x [samples, features]."""
        reads, pre = [[(x - self.input_offset) / self.input_scale]], []
        for layer in self.layers:
            pre.append(layer.affine(reads[-1]))
            reads.append(layer.form.values(pre[-1]))
        return pre, reads


def within_headroom(network: Normalised, x: Array, limit: float) -> np.ndarray:
    """Which of the samples [samples, features] keep every encrypted value below `limit`, a scheme's."""
    pre, reads = network.stages(x)
    worst = np.zeros(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for value in (*pre, *(v for group in reads for v in group)):
            worst = np.maximum(worst, np.nan_to_num(np.abs(value).max(axis=1), nan=np.inf))
    inside: np.ndarray = worst <= limit
    return inside
