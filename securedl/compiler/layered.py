"""Polynomials by the server, layers in the coefficient form, and a refresh around each polynomial; in mixed
plans, around some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from securedl.compiler.candidate import Candidate
from securedl.compiler.fused import Fused
from securedl.compiler.mixed import Mixed
from securedl.compiler.rounds import Arrangement, Wanted, alternatives, arrange, compile_rounds
from securedl.errors import UnsupportedLayerError
from securedl.network.graph import Array
from securedl.network.partition import Partitioned
from securedl.plan.plan import Plan

if TYPE_CHECKING:
    from torch import nn

    from securedl.network.capture import Captured

#: What such plans are called in summaries.
NAME = "layer by layer"


@dataclass(frozen=True, eq=False)
class Apart:
    """A network whose layers are computed one by one.

    Attributes:
        x: calibration samples [samples, *shape].
    """

    model: nn.Module
    x: Array
    found: Partitioned

    @staticmethod
    def of(model: nn.Module, x: Array, captured: Captured | None = None) -> Apart:
        """The layers of a network.

        Args:
            captured: its operations, if they are known.

        Raises:
            UnsupportedLayerError: the network is no sequence of such layers, or has operations between them
                that are not affine, which the server would have to do.
        """
        from securedl.network.affine_script import is_affine
        from securedl.network.compare import check_intervals
        from securedl.network.join import join
        from securedl.network.partition import partition

        found = join(partition(model if captured is None else captured, x.shape[1:], polynomials=True))
        check_intervals(model, x)
        if not is_affine(found.script, x.shape[1:]):
            raise UnsupportedLayerError("between its layers and polynomials the network is not affine")
        return Apart(model, x, found)

    def layer_by_layer(self, asked: Wanted) -> list[Candidate]:
        """A plan with a refresh around every polynomial, and others that are only told.

        Raises:
            CompileError: see `compiler.rounds.arrange`.
        """
        layers = self.found.script.layers
        own = self._candidate(NAME, self.found, arrange(layers, asked), asked)
        return [own, *alternatives(layers, asked, f"{NAME}, ")]

    def mixed(self, fused: Fused, asked: Wanted, below: float) -> list[Candidate]:
        """The cheapest plan with chains in slots beside layers in coefficients; none where no such plan takes
        less than `below`, milliseconds of a query and its share of what is paid once.

        Raises:
            CompileError: see `Mixed.arranged`.
        """
        search = Mixed(self.found, fused, self.x, asked, below)
        if (best := search.best()) is None:
            return []
        return [self._candidate(search.name(best[2]), *search.arranged(*best), asked)]

    def _candidate(self, name: str, found: Partitioned, where: Arrangement, asked: Wanted) -> Candidate:
        from securedl.network.compare import check_script

        def make() -> Plan:
            check_script(self.model, found, self.x)
            return compile_rounds(found.script, found.kernels, self.x, asked, where)

        return Candidate(name, asked.samples, where.cost, where.once, asked.queries, make)
