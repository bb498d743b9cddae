"""Counts before anything is built: plans that no memory or link would bear are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from securedl.compiler.layout import LayerLayout
from securedl.errors import CompileError
from securedl.he.record import packed_length
from securedl.plan.normalised import Normalised
from securedl.program.program import Program


@dataclass(frozen=True, eq=False)
class SizeLimit:
    """What the weights of a plan may take.

    Attributes:
        gb: in GB of 10^9 bytes. network, batch: whose plan it is, for the message.
    """

    gb: float
    network: Normalised
    batch: int | str

    def check_memory(self, layouts: Sequence[LayerLayout], slots: int) -> None:
        """Refuse weights that are too many as plain slots, of which the simulation holds all.

        Raises:
            CompileError: names the largest layer, its count and size, and what would help.
        """
        self._check(
            "memory while it is prepared", layouts, 8 * slots * sum(layout.diagonals for layout in layouts)
        )

    def check_upload(self, program: Program, layouts: Sequence[LayerLayout], times: int = 1) -> None:
        """Refuse weights that are too many to be sent, so many times.

        Raises:
            CompileError: as above.
        """
        size = sum(packed_length(program.params, shape) for shape in program.weight_shapes)
        self._check("upload", layouts, times * size)

    def _check(self, what: str, layouts: Sequence[LayerLayout], size: int) -> None:
        if size <= self.gb * 1e9:
            return
        counts = [layout.diagonals for layout in layouts]
        largest = max(range(len(counts)), key=counts.__getitem__)
        layer = self.network.layers[largest]
        shape = f"{layer.matrices[0].shape[1]} -> {layer.features}"
        raise CompileError(
            f"the plan needs {size / 1e9:.1f} GB of {what}, more than limit_gb={self.gb:g}: of "
            f"{sum(counts):,} diagonals {counts[largest]:,} are those of {layer.name!r} ({shape} "
            f"features, batch {self.batch}). Fewer channels, smaller images, or pooling "
            "before that layer make them fewer, and so does batch='latency'; or raise limit_gb"
        )
