"""Models ready to run: an evaluator with its keys, and weights that are read when they are first used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocol.expect import Expectations
from protocol.stored import StoredModel
from protocol.weights import StoredWeights
from securedl.errors import ProtocolError
from securedl.he.arithmetic import Evaluator
from securedl.he.backends import Backend
from securedl.he.record import unpack_key
from securedl.he.weights import ModelWeights
from securedl.program.program import Program


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run; shared by all sessions that use it.

    Attributes:
        cost: bytes of memory that its keys and weights may take.
    """

    program: Program
    program_id: bytes
    expectations: Expectations
    evaluator: Evaluator[Any]
    weights: ModelWeights[Any]
    cost: int


def load_model(stored: StoredModel, backend: Backend[Any], threads: int, max_bytes: int) -> LoadedModel:
    """Load keys now and weights later.

    Args:
        threads: of one evaluation.
        max_bytes: of memory for keys and weights together.

    Raises:
        ProtocolError: the upload is not complete.
    """
    missing = len(stored.missing())
    if missing:
        raise ProtocolError(
            f"{missing} of {len(stored.table)} parts of this model are not uploaded: call upload()"
        )
    blobs, params = stored.reader(), stored.program.params
    keys = {name: unpack_key(params, blobs[number]) for number, name in enumerate(stored.table.keys)}
    evaluator = backend.open(params, threads)
    evaluator.set_keys(keys.pop(None, []), {step: key for step, key in keys.items() if step is not None})
    key_bytes, weight_bytes = stored.table.expanded()
    room = max(0, min(weight_bytes, max_bytes - key_bytes))
    weights = backend.weights(evaluator, StoredWeights(stored, blobs), stored.folder, room)
    program, cost = stored.program, key_bytes + weights.room
    return LoadedModel(program, stored.program_id, Expectations.of(program), evaluator, weights, cost)
