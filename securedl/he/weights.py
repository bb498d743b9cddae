"""A model's weights: the records that a server was given, and the handles that an evaluator makes of them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic

from securedl.he.arithmetic import H
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape, chain, residue_bytes, unpack

#: How names of files begin that a back end makes from stored weights; a client's share has room for them.
DERIVED = "packed-"
#: Bytes of a residue that kernels read from a map; wider ones they are given as doubles.
MAPPABLE = range(3, 7)
#: Every weight in a map begins at a whole cache line, and a kernel may read this far beyond its last residue.
_LINE, _SLACK = 64, 64


class Records(ABC):
    """Weights of a model as they were given to the server.

    Attributes:
        model_id: 16 bytes that name the model.
        shapes: of each weight.
    """

    model_id: bytes
    params: Parameters
    shapes: Sequence[Shape]

    @abstractmethod
    def packed(self, index: int) -> bytes | memoryview:
        """Bytes of one weight; its residues were checked when it arrived, and it is whole.

        Raises:
            ServerError: it is missing or damaged.
        """

    def record(self, index: int) -> Record:
        """One weight, checked.

        Raises:
            FormatError: it is not of its shape. ServerError: as `packed`.
        """
        return unpack(self.params, self.packed(index), self.shapes[index])


class ModelWeights(ABC, Generic[H]):
    """Handles of a model's weights by index; safe to use from many threads.

    Attributes:
        room: bytes of the server's memory that they may take.
    """

    room: int

    @abstractmethod
    def __getitem__(self, index: int) -> H:
        """One weight.

        Raises:
            ServerError: it is missing or damaged. OSError: the disk refuses.
        """

    @abstractmethod
    def warm(self, alive: Callable[[], bool]) -> None:
        """Read what fits before the first query does, as long as `alive` says so."""


def handle_bytes(params: Parameters, shapes: Sequence[Shape]) -> list[int]:
    """Bytes of memory that a handle of each shape keeps: eight for a residue."""
    return [shape.size * (shape.level + 1) * 8 * params.ring for shape in shapes]


def mappable(params: Parameters) -> bool:
    """Whether weights of these parameters can be in a map."""
    return all(residue_bytes(q) in MAPPABLE for q in params.primes)


def mapped_lengths(params: Parameters, shapes: Sequence[Shape]) -> list[int]:
    """Bytes of each weight in a map: no header, and nothing in place of a seed."""
    return [s.size * params.ring * sum(map(residue_bytes, chain(params, s.level))) for s in shapes]


def mapped_starts(params: Parameters, shapes: Sequence[Shape]) -> list[int]:
    """Where each weight begins in the file of a map, and then where the file ends."""
    spaces = (-(-(length + _SLACK) // _LINE) * _LINE for length in mapped_lengths(params, shapes))
    return list(accumulate(spaces, initial=0))


class HeldWeights(ModelWeights[H]):
    """Handles in memory, as far as `room` bytes go.

    What no longer fits is made again for each query: queries scan the weights in one order, so replacing
    the oldest would evict each weight just before its next use.

    Args:
        load: makes the handle of a weight.
        costs: bytes that each handle keeps.
        busy: whether some thread is at this weight right now.
    """

    def __init__(
        self,
        load: Callable[[int], H],
        costs: Sequence[int],
        room: int,
        busy: Callable[[int], bool] = lambda index: False,
    ) -> None:
        self._load, self._costs, self._busy = load, costs, busy
        self.room = self._left = room
        self._handles: dict[int, H] = {}
        self._lock = threading.Lock()

    def __getitem__(self, index: int) -> H:
        """One weight."""
        if index in self._handles:
            return self._handles[index]
        handle = self._load(index)
        with self._lock:
            if index not in self._handles and self._costs[index] <= self._left:
                self._left -= self._costs[index]
                self._handles[index] = handle
        return handle

    def warm(self, alive: Callable[[], bool]) -> None:
        """Read what fits before the first query does."""
        for index, cost in enumerate(self._costs):
            if not alive():
                return
            # A query that is at it is gone ahead of, so that both share the work.
            if cost <= self._left and not self._busy(index):
                self[index]
