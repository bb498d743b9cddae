"""Which blobs a model has, how long each is and where it rests: all of it computed from the program."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from protocol import messages_pb2 as pb
from securedl.he.record import Shape, packed_key_length, packed_length, unpack, unpack_key
from securedl.program.program import Program

KEYS_FILE, WEIGHTS_FILE = "keys.bin", "weights.bin"


@dataclass(frozen=True)
class Blob:
    """One key or weight.

    Attributes:
        kind: KEY or WEIGHT.
        name: what the owner calls it: a rotation in slots (None: relinearisation), or a weight's index.
        offset, length: bytes in `file`.
    """

    kind: int
    name: int | None
    file: str
    offset: int
    length: int


class BlobTable:
    """Blobs of a program, numbered from 0: switch keys, then weights."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shapes: list[Shape] = program.weight_shapes
        self.keys: list[int | None] = [*([None] if program.relinearises else []), *program.rotations]
        self.key_bytes = packed_key_length(program.params)
        lengths: dict[Shape, int] = {s: packed_length(program.params, s) for s in set(self.shapes)}
        self._ends = list(accumulate((lengths[s] for s in self.shapes), initial=0))

    def __len__(self) -> int:
        return len(self.keys) + len(self.shapes)

    def __getitem__(self, number: int) -> Blob:
        """The blob of that number.

        Raises:
            IndexError: there is none.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} blobs, none is number {number}")
        if number < len(self.keys):
            return Blob(pb.KEY, self.keys[number], KEYS_FILE, number * self.key_bytes, self.key_bytes)
        index = number - len(self.keys)
        start, end = self._ends[index], self._ends[index + 1]
        return Blob(pb.WEIGHT, index, WEIGHTS_FILE, start, end - start)

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {KEYS_FILE: len(self.keys) * self.key_bytes, WEIGHTS_FILE: self._ends[-1]}

    @property
    def total_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(self.sizes().values())

    def check(self, number: int, data: bytes) -> None:
        """Unpack a blob and compare every field and residue with what the program says.

        Raises:
            FormatError: it is something else.
        """
        params = self.program.params
        if number >= len(self.keys):
            unpack(params, data, self.shapes[number - len(self.keys)])
        else:
            unpack_key(params, data)

    def expanded(self) -> tuple[int, int]:
        """Bytes that an evaluator holds for all (keys, weights): eight for a residue, no seeds."""
        params = self.program.params
        row = 8 * params.ring
        digits = len(params.primes)
        keys = len(self.keys) * digits * 2 * (digits + 1) * row
        return keys, sum(s.size * (s.level + 1) * row for s in self.shapes)
