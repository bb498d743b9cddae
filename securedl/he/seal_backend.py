"""SEAL as a back end."""

from __future__ import annotations

from securedl.he.backends import Backend
from securedl.he.params import Parameters
from securedl.he.seal import SealEvaluator, SealHandle


class SealBackend(Backend[SealHandle]):
    """The reference: TenSEAL's SEAL, one thread."""

    name = "seal"

    def open(self, params: Parameters, threads: int = 1) -> SealEvaluator:
        """An evaluator; SEAL has no threads."""
        return SealEvaluator(params)
