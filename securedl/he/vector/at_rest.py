"""Weights in the form in which sums of products read them, in a file: page cache, not memory of the server.

    MODEL/packed-FORM.bin        each weight's residues, packed, at offsets computed from the program
    MODEL/packed-FORM.journal    which of them are there, each with a checksum

All of it is derived from `weights.bin` and may be deleted while no server runs. FORM is the hash of the
kernel sources: another version makes files of its own and removes these. A weight is written when it is
first loaded; from then on, also after a restart, it is a place in the map. The system keeps as much of it
in memory as it has room for and reads the rest again, so a model may be larger than memory.

Measured (with slower kernels), N = 8192, 344 kB a weight, one core, µs a weight and query: 31 in memory of
the server's own, 32 mapped, 170 mapped and read from disk, 690 made anew from `weights.bin`.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from securedl.files import open_file
from securedl.he.journal import Journal
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.he.vector.handles import Handle
from securedl.he.vector.kernels.cache import kernel_folder, source_hash
from securedl.he.weights import DERIVED, mapped_lengths, mapped_starts


def kernels() -> str:
    """The hash of the kernels that this process loaded; their sources on disk may be newer by now."""
    folder = kernel_folder()  # found once, when they were loaded
    return source_hash() if folder is None else Path(folder).name.rpartition("-")[2]


class MappedWeights:
    """Packed weights of a model; safe to use from many threads, and from several servers at once.

    All primes must be `mappable`.

    Args:
        folder: the model's own.
        model_id: keys the journal's check bytes.
        shapes: of each weight.
        load: makes the packed handle of a weight from what is stored.

    Raises:
        OSError: the disk has no room for the file.
    """

    def __init__(
        self,
        folder: Path,
        model_id: bytes,
        params: Parameters,
        shapes: Sequence[Shape],
        load: Callable[[int], Handle],
    ) -> None:
        self._load, self._shapes = load, shapes
        self._lengths, self._starts = mapped_lengths(params, shapes), mapped_starts(params, shapes)
        path = folder / f"{DERIVED}{kernels()}.bin"
        for other in folder.glob(f"{DERIVED}*"):
            if other.stem != path.stem:
                other.unlink(missing_ok=True)  # a server that still maps it keeps it
        self._file = open_file(path, os.O_RDWR | os.O_CREAT)
        weakref.finalize(self, os.close, self._file)
        os.posix_fallocate(self._file, 0, self._starts[-1])
        self._map = mmap.mmap(self._file, self._starts[-1], access=mmap.ACCESS_READ)
        journal = path.with_suffix(".journal")
        journal.touch()
        self._journal = Journal(journal, model_id, len(self._shapes))
        self._sums, self._end = self._journal.read()
        self._at = int(np.frombuffer(self._map, np.uint8).__array_interface__["data"][0])
        self._changed = threading.Condition()
        self._busy: set[int] = set()

    def busy(self, index: int) -> bool:
        """Whether some thread is loading this weight right now."""
        return index in self._busy

    def __getitem__(self, index: int) -> Handle:
        """A handle into the map; the weight is written there first if it is missing or damaged.

        Raises:
            ServerError: the weight is damaged in `weights.bin`, too. OSError: the disk refuses.
        """
        view = memoryview(self._map)[self._starts[index] : self._starts[index] + self._lengths[index]]
        with self._turn(index):
            known = self._sums.get(index)
            if known is None or known != _checksum(view):
                self._write(index, self._load(index))
                self._note(index, _checksum(view))
        return self._handle(self._at + self._starts[index], self._shapes[index])

    @contextlib.contextmanager
    def _turn(self, index: int) -> Iterator[None]:
        """One thread at a time loads a weight; others want it too, a query and `warm` say."""
        with self._changed:
            self._changed.wait_for(lambda: index not in self._busy)
            self._busy.add(index)
        try:
            yield
        finally:
            with self._changed:
                self._busy.discard(index)
                self._changed.notify_all()

    def _handle(self, at: int, shape: Shape) -> Handle:
        # The kernels read addresses only; a handle's block is what keeps its memory alive.
        block = cast(Any, self._map)
        return Handle(block, at, shape.size, shape.level, shape.scale, shape.correction, packed=True)

    def _write(self, index: int, handle: Handle) -> None:
        residues = (ctypes.c_char * self._lengths[index]).from_address(handle.at)
        data, done = residues.raw, 0
        while done < len(data):
            done += os.pwrite(self._file, memoryview(data)[done:], self._starts[index] + done)

    def _note(self, index: int, checksum: bytes) -> None:
        """Journal a weight without waiting for the disk: after a crash its checksum tells.

        The files may be gone, with their model or by another version; the map outlives them.
        """
        with self._changed, contextlib.suppress(FileNotFoundError):
            self._sums[index] = checksum
            self._end = self._journal.append([(index, checksum)], self._end, wait=False)


def _checksum(view: memoryview) -> bytes:
    """16 bytes, as a journal keeps them; against accidents only, so the fastest there is."""
    return zlib.crc32(view).to_bytes(16, "little")
