"""A fused network with what its plans share: ranges and layouts, each made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from securedl.compiler.forms import Choice, normalised_with
from securedl.compiler.layout import Layouts, lay_out
from securedl.network.graph import Array, Graph
from securedl.plan.normalised import Normalised


@dataclass(frozen=True, eq=False)
class Fused:
    """One network as affine maps and polynomials in turn.

    Attributes:
        graph: fused. x: calibration samples [samples, features].
    """

    graph: Graph
    x: Array

    @cached_property
    def normalised(self) -> tuple[Normalised, tuple[Choice, ...]]:
        """The network on normalised values, and what was chosen for each of its layers."""
        return normalised_with(self.graph, self.x)

    @cached_property
    def _layouts(self) -> dict[tuple[int, int, bool], tuple[Layouts, ...]]:
        return {}

    def layouts(self, width: int, batch: int, encrypted: bool) -> tuple[Layouts, ...]:
        """Those of each layer (`layout.lay_out`)."""
        key = width, batch, encrypted
        if key not in self._layouts:
            self._layouts[key] = lay_out(self.normalised[0], *key)
        return self._layouts[key]
