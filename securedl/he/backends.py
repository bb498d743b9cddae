"""Back ends: where ciphertexts are computed on. Each is a module of its own, loaded when it is asked for."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic

from securedl.errors import InputError
from securedl.he.arithmetic import Evaluator, H
from securedl.he.params import Parameters
from securedl.he.weights import HeldWeights, ModelWeights, Records, handle_bytes

#: Module and class of each by name; importing the module must load no other's libraries.
_HOMES = {
    "seal": ("securedl.he.seal_backend", "SealBackend"),
    "vector": ("securedl.he.vector.backend", "VectorBackend"),
}


class Backend(ABC, Generic[H]):
    """Makes evaluators of one kind, and the handles of their weights.

    Attributes:
        name: what users call it.
    """

    name: str

    def prepare(self) -> None:
        """Do what takes long and is needed once in a process, before the first query."""

    @abstractmethod
    def open(self, params: Parameters, threads: int = 1) -> Evaluator[H]:
        """An evaluator without keys.

        Args:
            threads: that one evaluation may use, for back ends that have them.

        Raises:
            CompileError, InputError: it cannot work with these parameters.
        """

    def weights(self, evaluator: Evaluator[H], records: Records, folder: Path, room: int) -> ModelWeights[H]:
        """Handles of a model's weights, made when they are first used.

        Args:
            evaluator: one that `open` gave.
            records: the weights as they were stored.
            folder: the model's own, for files that are derived from the records. Their names begin with
                `weights.DERIVED`.
            room: bytes of memory that handles may keep.
        """
        shapes = records.shapes
        costs = handle_bytes(records.params, shapes)
        return HeldWeights(lambda k: evaluator.load_packed(records.packed(k), shapes[k]), costs, room)


def backend(name: str) -> Backend[Any]:
    """The named back end; its module is imported now, and no other's.

    Raises:
        InputError: no such back end, or it cannot be imported.
    """
    if name not in _HOMES:
        raise InputError(f"evaluator {name!r} is unknown: use one of {sorted(_HOMES)}")
    module, attribute = _HOMES[name]
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"evaluator {name!r} cannot be loaded: {error}") from error
    made: Backend[Any] = kind()
    return made
