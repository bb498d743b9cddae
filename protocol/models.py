"""Models ready to run: an evaluator with its keys, and weights that are read when they are first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.expect import Expectations
from protocol.stored import BlobReader, StoredModel
from protocol.weights import StoredWeights
from securedl.errors import ProtocolError
from securedl.he.arithmetic import Evaluator
from securedl.he.backends import Backend
from securedl.he.record import Record, unpack_key
from securedl.he.weights import ModelWeights
from securedl.program.program import Program


@dataclass(frozen=True)
class ServedModel:
    """What sessions need of a model, wherever its queries are evaluated; shared by all that use it.

    Attributes:
        cost: bytes of memory that it may take here.
    """

    program: Program
    program_id: bytes
    expectations: Expectations
    cost: int


@dataclass(frozen=True)
class LoadedModel(ServedModel):
    """One that is ready to run in this process: its cost is that of its keys and weights."""

    evaluator: Evaluator[Any]
    weights: ModelWeights[Any]


class _Keys(Mapping[int, list[Record]]):
    """Rotation keys by their step, each unpacked when it is asked for: all at once they would take half as
    much memory again as the evaluator's own.
    """

    def __init__(self, stored: StoredModel, blobs: BlobReader) -> None:
        self._params, self._blobs = stored.program.params, blobs
        self._numbers = {step: number for number, step in enumerate(stored.table.keys)}
        self._first = self._numbers.pop(None, None)

    @property
    def relinearisation(self) -> list[Record]:
        """That key, or nothing where there is none."""
        return [] if self._first is None else self._unpacked(self._first)

    def _unpacked(self, number: int) -> list[Record]:
        return unpack_key(self._params, self._blobs[number])

    def __getitem__(self, step: int) -> list[Record]:
        return self._unpacked(self._numbers[step])

    def __iter__(self) -> Iterator[int]:
        return (step for step in self._numbers if step is not None)

    def __len__(self) -> int:
        return len(self._numbers)


def load_model(stored: StoredModel, backend: Backend[Any], threads: int, max_bytes: int) -> LoadedModel:
    """Load keys now and weights later.

    Args:
        threads: of one evaluation.
        max_bytes: of memory for keys and weights together.

    Raises:
        ProtocolError: the upload is not complete.
    """
    check_complete(stored)
    blobs, params = stored.reader(), stored.program.params
    keys, evaluator = _Keys(stored, blobs), backend.open(params, threads)
    evaluator.set_keys(keys.relinearisation, keys)
    key_bytes, weight_bytes = stored.table.expanded()
    room = max(0, min(weight_bytes, max_bytes - key_bytes))
    weights = backend.weights(evaluator, StoredWeights(stored, blobs), stored.folder, room)
    program, cost = stored.program, key_bytes + weights.room
    return LoadedModel(program, stored.figures.program_id, Expectations.of(program), cost, evaluator, weights)


def check_complete(stored: StoredModel) -> None:
    """Refuse a model of which parts are missing.

    Raises:
        ProtocolError: so it is.
    """
    if missing := len(stored.missing()):
        raise ProtocolError(
            f"{missing} of {stored.figures.blobs} parts of this model are not uploaded: call upload()"
        )
