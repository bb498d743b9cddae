"""Memory for residues: aligned, on huge pages, and used again once nothing refers to it.

Pieces are cut from slabs large enough for NumPy to ask for huge pages. A fresh megabyte from the system
costs 250 page faults, about as long as a relinearisation; a piece that comes back is kept. Slabs none of
whose pieces is in use go back to the system, all but `_KEEP_SLABS` of them.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 4096
_SLAB_BYTES = 32 << 20
_KEEP_SLABS = 16


class _Slab:
    """A large piece of memory, cut from the front."""

    __slots__ = ("end", "live", "memory", "next")

    def __init__(self, octets: int) -> None:
        self.memory = np.empty(octets + _ALIGNMENT, dtype=np.uint8)
        start = address(self.memory)
        self.next = -(-start // _ALIGNMENT) * _ALIGNMENT
        self.end = start + self.memory.size
        self.live = 0


class Piece:
    """One piece of memory at address `at`; when nothing refers to it, it returns to its pool."""

    __slots__ = ("_octets", "_pool", "_slab", "at")

    def __init__(self, pool: Buffers, slab: _Slab, at: int, octets: int) -> None:
        self._pool = pool
        self._slab = slab
        self.at = at
        self._octets = octets

    def __del__(self) -> None:
        pool, slab = self._pool, self._slab
        with pool.lock:
            pool.free[self._octets].append((slab, self.at))
            slab.live -= 1
            if slab.live == 0:
                pool.idle_slab(slab)

    def array(self, *shape: int) -> NDArray[np.float64]:
        """The memory as float64 values; the array keeps the block."""
        return np.asarray(_View(self, shape))


class _View:
    """What NumPy needs to make an array that owns a block."""

    __slots__ = ("__array_interface__", "_block")

    def __init__(self, block: Piece, shape: tuple[int, ...]) -> None:
        self._block = block
        self.__array_interface__ = {"shape": shape, "typestr": "<f8", "data": (block.at, False), "version": 3}


class Buffers:
    """A pool of blocks by size; safe to use from many threads."""

    def __init__(self) -> None:
        # Re-entrant: collecting garbage inside `take` may give a block back in the same thread.
        self.lock = threading.RLock()
        self.free: dict[int, list[tuple[_Slab, int]]] = {}
        self._current: _Slab | None = None
        self._idle: set[_Slab] = set()

    def take(self, values: int) -> Piece:
        """Uninitialised memory for so many doubles."""
        octets = -(-8 * values // _ALIGNMENT) * _ALIGNMENT
        with self.lock:
            stack = self.free.get(octets)
            if stack is None:
                stack = self.free[octets] = []
            slab, at = stack.pop() if stack else self._cut(octets)
            if slab.live == 0:
                self._idle.discard(slab)
            slab.live += 1
        return Piece(self, slab, at, octets)

    def _cut(self, octets: int) -> tuple[_Slab, int]:
        slab = self._current
        if slab is None or slab.end - slab.next < octets:
            slab = _Slab(max(_SLAB_BYTES, octets))
            if octets < _SLAB_BYTES:
                self._current = slab
        at = slab.next
        slab.next += octets
        return slab, at

    def idle_slab(self, slab: _Slab) -> None:
        """Called by the last block of a slab, which holds the lock."""
        if slab is not self._current:
            self._idle.add(slab)
            if len(self._idle) > _KEEP_SLABS:
                self._forget(self._idle.pop())

    def _forget(self, slab: _Slab) -> None:
        for octets, stack in self.free.items():
            self.free[octets] = [place for place in stack if place[0] is not slab]


def address(array: NDArray[Any]) -> int:
    """Where an array's data begins."""
    return int(array.__array_interface__["data"][0])
