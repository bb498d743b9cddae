"""Records to handles and keys, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from securedl.errors import FormatError, InputError
from securedl.he.cut import cut
from securedl.he.params import Parameters
from securedl.he.record import HEADER, Record, Shape, check_correction, unpack
from securedl.he.vector.chain import automorphism
from securedl.he.vector.engine import Engine
from securedl.he.vector.handles import Handle, SwitchKey
from securedl.he.vector.kernels import rows
from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.keysum import pack_digit
from securedl.he.vector.kernels.packed import SLACK, WIDTHS, check_header, convert
from securedl.he.vector.kernels.padding import PAD, block_octets
from securedl.he.vector.kernels.seed import expand

#: Kinds of `packed.convert`.
_FROM_WIRE, _FROM_WORDS, _TO_RESIDUES = 0, 1, 2


class Loading:
    """The part of an evaluator that takes and gives records."""

    def __init__(self, params: Parameters, engine: Engine) -> None:
        self.params = params
        self._engine = engine

    def load_key(self, records: list[Record], step: int | None) -> SwitchKey:
        """A relinearisation key, or with `step` a rotation key: the digits' records in their order.

        Raises:
            InputError: not one digit for each data prime.
        """
        engine, n = self._engine, self.params.ring
        if len(records) != len(self.params.primes):
            raise InputError(
                f"a switch key has a digit for each of the {len(self.params.primes)} data primes, got "
                f"{len(records)}"
            )
        chain, primes = engine.chain, engine.chain.special + 1
        element = None if step is None else pow(3, step, 2 * n)
        back = None if element is None else automorphism(n, element, backwards=True)
        octets = 2 * n * len(records) * int(chain.key_widths.sum())
        block = engine.buffers.take(-(-(octets + SLACK) // 8))
        plain, permuted = engine.rows(2 * primes), engine.rows(2 * primes)
        for digit, record in enumerate(records):
            words, work = self._words(record, chain.primes), plain
            rows.from_words(address(words), work.at, 2 * primes, n, chain.q, chain.q_inverse)
            if back is not None:
                rows.permute(work.at, permuted.at, 2 * primes, n, address(back.moves), back.counts)
                work = permuted
            pack_digit(work.at, block.at, digit, len(records), n, chain.key_widths, chain.q, chain.q_inverse)
        return SwitchKey(block, len(records), None if element is None else automorphism(n, element))

    def _words(self, record: Record, primes: tuple[int, ...]) -> NDArray[np.uint64]:
        words = record.residues
        if record.seed is not None:
            words = np.concatenate([words, expand(record.seed, primes, self.params.ring)[None]])
        return np.ascontiguousarray(words, dtype=np.uint64)

    def load(self, record: Record) -> Handle:
        """A handle for checked residues; a seeded record is expanded."""
        level = record.shape.level
        words = self._words(record, self.params.primes[: level + 1])
        out = self._engine.handle(len(words), level, record.shape.scale, record.correction)
        count = out.size * (level + 1)
        rows.from_words(address(words), out.at, count, self.params.ring, *self._engine.moduli(level))
        return out

    def load_weight(self, record: Record) -> Handle:
        """A packed handle for checked residues, to be a weight in `dot`: less memory, and faster to read.

        Any other operation takes it too, and unpacks it first.
        """
        level, polynomials = record.shape.level, record.shape.size
        if not self._packable(level):
            return self.load(record)
        words = self._words(record, self.params.primes[: level + 1])
        out = self._packed(polynomials, level, record.shape.scale, record.correction)
        self._convert(_FROM_WORDS, address(words), out.at, 0, out)
        return out

    def load_packed(self, data: bytes | memoryview, shape: Shape) -> Handle:
        """A packed handle straight from a wire record, as `record.unpack` and `load_weight` but faster.

        Raises:
            FormatError: as `record.unpack`.
        """
        if not self._packable(shape.level):
            return self.load(unpack(self.params, data, shape))
        correction, seed = check_header(self.params, data, shape)
        check_correction(self.params, correction, shape)
        out = self._packed(shape.size, shape.level, shape.scale, correction)
        octets = np.frombuffer(data, dtype=np.uint8)
        stored = shape.size - shape.seeded
        start = address(octets) + HEADER.size
        if self._convert(_FROM_WIRE, start, out.at, 0, out, stored):
            raise FormatError("a residue is not below its prime")
        if seed is not None:
            words = expand(seed, self.params.primes[: shape.level + 1], self.params.ring)
            self._convert(_FROM_WORDS, address(words), out.at, stored, out)
        return out

    def _packable(self, level: int) -> bool:
        return all(int(width) in WIDTHS for width in self._engine.chain.widths[: level + 1])

    def _packed(self, size: int, level: int, scale: float, correction: int) -> Handle:
        octets = size * self.params.ring * int(self._engine.chain.widths[: level + 1].sum()) + SLACK
        block = self._engine.buffers.take(-(-octets // 8))
        return Handle(block, block.at, size, level, scale, correction, packed=True)

    def _convert(
        self, kind: int, source: int, target: int, first: int, packed: Handle, stop: int | None = None
    ) -> int:
        """Run the kernel on polynomials first..stop of a packed handle."""
        engine, level = self._engine, packed.level
        found: int = convert(
            kind, source, target, first, packed.size if stop is None else stop, packed.size, self.params.ring,
            engine.chain.widths, *engine.moduli(level),
        )  # fmt: skip
        return found

    def unpack(self, handle: Handle) -> Handle:
        """The handle with its residues as doubles."""
        if not handle.packed:
            return handle
        out = self._engine.handle(handle.size, handle.level, handle.scale, handle.correction)
        self._convert(_TO_RESIDUES, handle.at, out.at, 0, handle)
        return out

    def dump(self, handle: Handle) -> Record:
        """The residues of a handle, as a record without a seed."""
        handle = self.unpack(handle)
        n, level = self.params.ring, handle.level
        words = np.empty((handle.size, level + 1, n), dtype=np.uint64)
        count = handle.size * (level + 1)
        rows.to_words(handle.at, address(words), count, n, *self._engine.moduli(level))
        shape = Shape(level, handle.size, handle.scale, correction=handle.correction)
        return Record(shape, words)

    def sent(self, handle: Handle, shape: Shape) -> Record:
        """The residues of a handle, or its coefficients cut."""
        if not shape.cut:
            return self.dump(handle)
        engine, handle = self._engine, self.unpack(handle)
        work = np.empty(engine.work_row // 8)
        block = block_octets(self.params.ring) // 8
        coefficients = np.empty((handle.size, self.params.ring))
        for polynomial in range(handle.size):
            engine.inverse(handle.at + polynomial * engine.row, address(work), 0)
            coefficients[polynomial] = work.reshape(-1, block + PAD // 8)[:, :block].ravel()
        return cut(self.params, coefficients, handle.scale)
