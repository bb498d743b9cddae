"""Every answer checked: what an owner, who holds the weights, computes again.

No probe is needed, no lane is left out, and nothing more is asked of the server.
"""

from __future__ import annotations

from securedl.client.probes import Verification
from securedl.client.tolerances import MISS, MISSED_SIGMAS
from securedl.he.variance import SIGMAS
from securedl.verify.check import Check, Finding, Segment
from securedl.verify.report import Blind


class RecomputeCheck(Check):
    """Every value of every lane at every checkpoint against the network's own.

    Attributes:
        blind: the largest change of a value that may have been missed so far, with a chance of `MISS`.
    """

    name = "recomputed"
    later = True

    def __init__(self, verification: Verification) -> None:
        self._points, self._network = verification.plan.signature.checkpoints, verification.network
        self._allowed = verification.tolerances
        self.blind = Blind(0.0, MISS, "")

    def segment(self, segment: Segment) -> Finding:
        """All lanes."""
        allowed = self._allowed[segment.point - 1]
        *stages, exact = self._network.inside(segment.point, segment.sent, self._points)
        grown = allowed.grown(stages)
        ratios = allowed.ratios(segment.received - exact.values, grown)
        change = float((allowed.widest * grown).max()) * (SIGMAS + MISSED_SIGMAS)
        if change > self.blind.change:
            self.blind = Blind(change, MISS, f"the {segment.where}")
        wrong = int((ratios > 1).sum())
        alarms = (f"{wrong} lane(s) differ from the network's at the {segment.where}",) if wrong else ()
        return Finding(len(ratios), float(ratios.max()), alarms)
