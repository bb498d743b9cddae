"""The compiled kernels as a back end, with packed weights in a file."""

from __future__ import annotations

import logging
import os
import time
from functools import lru_cache
from pathlib import Path

from securedl.he.arithmetic import Evaluator
from securedl.he.backends import Backend
from securedl.he.params import Parameters
from securedl.he.vector import at_rest
from securedl.he.vector.evaluator import VectorEvaluator, warm_up
from securedl.he.vector.handles import Handle
from securedl.he.vector.kernels.cache import compiled
from securedl.he.weights import HeldWeights, ModelWeights, Records, mappable

_log = logging.getLogger("securedl.he")


class VectorBackend(Backend[Handle]):
    """The server's default: no SEAL in its process."""

    name = "vector"

    def prepare(self) -> None:
        """Compile the kernels, about 15 s, or load them, a third of a second."""
        _prepare()

    def open(self, params: Parameters, threads: int = 1) -> VectorEvaluator:
        """An evaluator."""
        return VectorEvaluator(params, threads=threads)

    def weights(
        self, evaluator: Evaluator[Handle], records: Records, folder: Path, room: int
    ) -> ModelWeights[Handle]:
        """Handles in a map of a file in `folder`, or in memory where there can be none."""
        shapes = records.shapes
        if not mappable(records.params):
            return super().weights(evaluator, records, folder, room)

        def load(index: int) -> Handle:  # not a method: through it the map would keep its owner alive
            return evaluator.load_packed(records.packed(index), shapes[index])

        try:
            mapped = at_rest.MappedWeights(folder, records.model_id, records.params, shapes, load)
        except OSError as error:
            _log.warning(
                "weights stay in memory: their file cannot be made: %s", os.strerror(error.errno or 0)
            )
            return super().weights(evaluator, records, folder, room)
        return HeldWeights(mapped.__getitem__, [0] * len(shapes), 0, mapped.busy)


@lru_cache
def _prepare() -> None:
    """Compile the kernels now, not in the first query; once in a process."""
    began, cold = time.monotonic(), not compiled()
    if cold:
        _log.info("compiling kernels, once for this version: about 15 s")
    warm_up()
    if cold:
        _log.info("kernels compiled s=%.1f", time.monotonic() - began)
