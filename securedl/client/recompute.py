"""Every answer checked: what an owner, who holds the weights, computes again.

No probe is needed, no lane is left out, and nothing more is asked of the server.
"""

from __future__ import annotations

from securedl.client.tolerances import MISS, MISSED_SIGMAS, Tolerance
from securedl.he.variance import SIGMAS
from securedl.plan.network import Network
from securedl.plan.plan import Plan
from securedl.verify.check import Finding, Segment, ValueCheck
from securedl.verify.report import Blind


class RecomputeCheck(ValueCheck):
    """Every value of every lane at every checkpoint against the network's own.

    Args:
        network: the plan's, or one that computes the same faster. allowed: tolerances of each segment.
    """

    name, later = "recomputed", True

    def __init__(self, plan: Plan, network: Network, allowed: list[Tolerance]) -> None:
        self._points, self._network, self._allowed = plan.signature.checkpoints, network, allowed
        self._exact = plan.program.params.exact
        self.points, self.blind = len(self._allowed), Blind(0.0, 0.0 if self._exact else MISS, "")

    def segment(self, segment: Segment) -> Finding:
        """All lanes."""
        allowed = self._allowed[segment.point - 1]
        *stages, exact = self._network.inside(segment.point, segment.sent, self._points)
        grown = allowed.grown(stages)
        ratios = allowed.ratios(segment.received - exact.values, grown)
        if not self._exact:
            self._blinder(float((allowed.widest * grown).max()) * (SIGMAS + MISSED_SIGMAS), segment)
        return self._found(ratios, segment)
