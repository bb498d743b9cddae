"""How ciphertexts, plaintexts and keys travel and rest: one fixed layout, checked before use.

A record is a 40-byte header and the residues of each polynomial, prime after prime, each residue in
as few whole bytes as its prime needs, little-endian. A fresh symmetric ciphertext carries c0 and the
64-byte seed from which SEAL's generator expands c1. SEAL itself never parses these bytes.

    offset  size  field
    0       4     b"SDL1"
    4       16    parameters id
    20      1     level (primes - 1; for switch keys the whole chain with the special prime)
    21      1     size: 1 a plaintext, 2 or 3 a ciphertext
    22      1     seeded: 1 when c1 is a seed
    23      1     cut: 1 when the residues are coefficients, in their order, cut to four bytes each: c becomes
                  round(c · 2^32 / q). CKKS, level 0, two polynomials, no seed.
    24      8     scale, float64
    32      8     BGV correction factor, 1 for CKKS
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securedl.errors import FormatError
from securedl.he.params import Parameters

MAGIC = b"SDL1"
HEADER = struct.Struct("<4s16sBBBBdQ")
CUT_BITS = 32
SEED_BYTES = 64


@dataclass(frozen=True)
class Shape:
    """What a record must be: the receiver derives it from the program, never from the bytes.

    Attributes:
        level: the record holds primes[: level + 1]; level = len(primes) means the special prime too
            (switch keys only).
        size: number of polynomials, 1 for a plaintext.
        scale: CKKS scale, exact.
        seeded: whether the last polynomial is a seed.
        correction: BGV's correction factor, 1 for CKKS: the residues hold so many times the message
            modulo t.
        cut: whether it holds coefficients of `CUT_BITS` bits.

    Raises:
        FormatError: cut, and not two polynomials of level 0 without a seed.
    """

    level: int
    size: int
    scale: float
    seeded: bool = False
    correction: int = 1
    cut: bool = False

    def __post_init__(self) -> None:
        if self.cut and ((self.level, self.size, self.correction) != (0, 2, 1) or self.seeded):
            raise FormatError(f"only two polynomials of level 0 without a seed are cut, got {self}")


@dataclass(frozen=True, eq=False)
class Record:
    """Residues in NTT form (bit-reversed order, as SEAL keeps them) with their level and scale.

    Attributes:
        residues: uint64 [stored polynomials, primes, N]; a seeded record stores one polynomial less. Of a
            cut record they are below 2^32, and coefficients in their order.
        seed: 64 bytes, or None.
    """

    shape: Shape
    residues: NDArray[np.uint64]
    seed: bytes | None = None

    @property
    def correction(self) -> int:
        """The shape's."""
        return self.shape.correction


def chain(params: Parameters, level: int) -> tuple[int, ...]:
    """The primes of a record at `level`."""
    return (*params.primes, params.special)[: level + 1]


def residue_bytes(prime: int) -> int:
    """Whole bytes one residue takes."""
    return (prime.bit_length() + 7) // 8


def _widths(params: Parameters, shape: Shape) -> list[int]:
    """Bytes of a residue of each prime.

    Raises:
        FormatError: a cut record of another scheme than CKKS.
    """
    if shape.cut:
        if params.scheme != "ckks":
            raise FormatError(f"only records of CKKS are cut, these parameters are {params.scheme.upper()}'s")
        return [CUT_BITS // 8]
    return [residue_bytes(q) for q in chain(params, shape.level)]


def _unit(width: int) -> int:
    """Bytes that are copied at a time: packing is 1.4 times as fast with two at a time as with one."""
    return width & -width


def packed_length(params: Parameters, shape: Shape) -> int:
    """Length in bytes of a packed record."""
    polynomial = params.ring * sum(_widths(params, shape))
    stored = shape.size - shape.seeded
    return HEADER.size + stored * polynomial + SEED_BYTES * shape.seeded


def pack(params: Parameters, record: Record) -> bytes:
    """Bytes of a record."""
    shape = record.shape
    parts = [
        HEADER.pack(
            MAGIC, params.id, shape.level, shape.size, shape.seeded, shape.cut, shape.scale, shape.correction
        )
    ]
    for polynomial in record.residues:
        for row, width in zip(polynomial, _widths(params, shape), strict=True):
            pieces, unit = np.ascontiguousarray(row, dtype="<u8"), _unit(width)
            parts.append(pieces.view(f"<u{unit}").reshape(-1, 8 // unit)[:, : width // unit].tobytes())
    if shape.seeded:
        assert record.seed is not None
        parts.append(record.seed)
    return b"".join(parts)


def unpack(params: Parameters, data: bytes | memoryview, expected: Shape) -> Record:
    """The record in `data`, after checking every field and every residue against `expected`.

    Raises:
        FormatError: wrong length, parameters, level, size, scale, correction factor, or a residue not
            below its prime.
    """
    length = packed_length(params, expected)
    if len(data) != length:
        raise FormatError(f"a record of {length} bytes was expected, got {len(data)}")
    magic, owner, level, size, seeded, short, scale, correction = HEADER.unpack_from(data)
    if magic != MAGIC or short != expected.cut:
        raise FormatError("this is not a record of this version: its first bytes are wrong")
    if owner != params.id:
        raise FormatError("the record was made for other encryption parameters")
    found = (level, size, bool(seeded), scale)
    wanted = (expected.level, expected.size, expected.seeded, expected.scale)
    if found != wanted or seeded > 1:
        raise FormatError(f"(level, size, seeded, scale) should be {wanted}, got {found}")
    check_correction(params, correction, expected)
    primes, widths = chain(params, level), _widths(params, expected)
    residues = np.zeros((size - seeded, len(primes), params.ring), dtype="<u8")
    offset = HEADER.size
    for polynomial in range(size - seeded):
        for index, prime in enumerate(primes):
            width = widths[index]
            count = width * params.ring
            unit = _unit(width)
            source = np.frombuffer(data, f"<u{unit}", count // unit, offset).reshape(-1, width // unit)
            pieces = residues[polynomial, index].view(f"<u{unit}").reshape(-1, 8 // unit)
            pieces[:, : width // unit] = source
            if not short and residues[polynomial, index].max() >= prime:
                raise FormatError(f"a residue is not below its prime {prime}")
            offset += count
    seed = bytes(data[offset:]) if seeded else None
    return Record(expected, residues, seed)


def check_correction(params: Parameters, found: int, expected: Shape) -> None:
    """Compare a record's correction factor with the one that the program names.

    Raises:
        FormatError: it is another.
    """
    if found != expected.correction:
        scheme = params.scheme.upper()
        raise FormatError(f"a {scheme} record has correction factor {expected.correction}, got {found}")


def key_shape(params: Parameters) -> Shape:
    """Shape of one digit of a switch key: fresh, seeded, over the whole chain."""
    return Shape(level=len(params.primes), size=2, scale=1.0, seeded=True)


def packed_key_length(params: Parameters) -> int:
    """Length in bytes of a packed switch key: one digit for each data prime."""
    return len(params.primes) * packed_length(params, key_shape(params))


def pack_key(params: Parameters, digits: list[Record]) -> bytes:
    """Bytes of a switch key."""
    return b"".join(pack(params, digit) for digit in digits)


def unpack_key(params: Parameters, data: bytes | memoryview) -> list[Record]:
    """The digits of a switch key.

    Raises:
        FormatError: as `unpack`.
    """
    if len(data) != packed_key_length(params):
        raise FormatError(f"a switch key of {packed_key_length(params)} bytes was expected, got {len(data)}")
    one = packed_length(params, key_shape(params))
    view = memoryview(data)
    return [
        unpack(params, view[start : start + one], key_shape(params)) for start in range(0, len(data), one)
    ]
