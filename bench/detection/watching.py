"""An owner who checks every answer twice: by recomputing all values, and by secret combinations of them, as a
client without weights would."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import securedl
from securedl.client.inference import Inference
from securedl.client.projected import Projected, ProjectionCheck, projections
from securedl.verify.check import Check


class Watching:
    """As `securedl.Owner`, to a client.

    Attributes:
        inference: the last call. drawn: its combinations.
    """

    def __init__(self, owner: securedl.Owner) -> None:
        self._owner = owner
        self.inference: Inference | None = None
        self.drawn: list[Projected | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def ask(self, x: Any, probes: Any = 8, *options: Any) -> Inference:
        """As `Owner.ask`; combinations are drawn afresh for each call."""
        owner, plan = self._owner, self._owner.plan
        self.drawn = projections(plan, plan.network, owner.verification.tolerances)

        def check(lanes: NDArray[np.int64]) -> Check:
            return ProjectionCheck(self.drawn)

        ask = partial(Inference, owner.keys, owner.verification, x, probes, [check])
        self.inference = ask(*options)
        return self.inference

    def worst(self, name: str) -> float:
        """What a check found in the last call: the largest deviation over what is allowed."""
        assert self.inference is not None
        found = [finding for batch in self.inference.batches for finding in batch.findings[name]]
        return max((finding.worst for finding in found), default=0.0)

    def claims(self, point: int, change: float) -> bool:
        """Whether a report of the last call, by combinations alone, would say that it sees such a change of
        one value."""
        assert self.inference is not None
        checks = [check for batch in self.inference.batches for check in batch.checks]
        blind = max(check.blind.change for check in checks if isinstance(check, ProjectionCheck))
        return self.drawn[point - 1] is not None and change > blind
