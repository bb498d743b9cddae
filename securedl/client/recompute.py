"""Every answer checked: what an owner, who holds the weights, computes again.

No probe is needed, no lane is left out, and nothing more is asked of the server.
"""

from __future__ import annotations

from securedl.client.probes import Verification
from securedl.verify.check import Check, Finding, Segment


class RecomputeCheck(Check):
    """Every value of every lane at every checkpoint against the network's own."""

    name = "recomputed"

    def __init__(self, verification: Verification) -> None:
        self._points, self._network = verification.plan.signature.checkpoints, verification.network
        self._allowed = verification.tolerances

    def segment(self, segment: Segment) -> Finding:
        """All lanes."""
        allowed = self._allowed[segment.point - 1]
        *inside, exact = self._network.inside(segment.point, segment.sent, self._points)
        ratios = allowed.ratios(segment.received - exact, allowed.grown([segment.sent, *inside]))
        wrong = int((ratios > 1).sum())
        alarms = (f"{wrong} lane(s) differ from the network's at the {segment.where}",) if wrong else ()
        return Finding(len(ratios), float(ratios.max()), alarms)
