"""What is often asked about a stored model, kept beside it: nobody parses a program to answer it."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import astuple, dataclass
from pathlib import Path

from protocol.blobs import KEYS_FILE, WEIGHTS_FILE, BlobTable
from securedl.errors import FormatError
from securedl.files import contents, open_file
from securedl.program.footprint import footprint

FIGURES_FILE = "figures"
_LAYOUT = struct.Struct("<16sIQQQ")


@dataclass(frozen=True)
class Figures:
    """Of one model, all of which follow from its program.

    Attributes:
        program_id: 16 bytes. blobs: keys and weights. keys, weights: bytes of their files.
        disk: bytes that it may take there, with packed weights (`Footprint.disk`).
    """

    program_id: bytes
    blobs: int
    keys: int
    weights: int
    disk: int

    @staticmethod
    def of(table: BlobTable) -> Figures:
        """Those of a program, by its table."""
        sizes, program = table.sizes(), table.program
        return Figures(program.id, len(table), sizes[KEYS_FILE], sizes[WEIGHTS_FILE], footprint(program).disk)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of blobs."""
        return {KEYS_FILE: self.keys, WEIGHTS_FILE: self.weights}

    @staticmethod
    def read(folder: Path) -> Figures:
        """Those of the model in this folder.

        Raises:
            FormatError: they are damaged. OSError: they are not there.
        """
        data = contents(folder / FIGURES_FILE)
        figures, check = data[: _LAYOUT.size], data[_LAYOUT.size :]
        if len(figures) < _LAYOUT.size or check != _check(figures):
            raise FormatError("the figures of a stored model are damaged")
        return Figures(*_LAYOUT.unpack(figures))

    def write(self, folder: Path) -> None:
        """Keep them."""
        data, flags = _LAYOUT.pack(*astuple(self)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(open_file(folder / FIGURES_FILE, flags), "wb") as file:
            file.write(data + _check(data))
            file.flush()
            os.fsync(file.fileno())


def _check(data: bytes) -> bytes:
    """Against accidents."""
    return zlib.crc32(data).to_bytes(4, "little")
