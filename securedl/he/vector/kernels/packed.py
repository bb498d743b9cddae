"""Weights at rest: whole bytes a residue, in the order in which a sum of products reads them.

A packed block is [primes, N/8, polynomials, 8 residues], each residue canonical in `width` little-endian
bytes. A wire record (`layout`) is [polynomials, primes, N residues] of the same bytes, so that packing one
is copying 8·width bytes at a time, and checking that every residue is below its prime.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from securedl.errors import FormatError
from securedl.he.params import Parameters
from securedl.he.record import HEADER, MAGIC, SEED_BYTES, Shape, packed_length
from securedl.he.vector.kernels.arith import WORDS, Lanes, Value, lane_kernel
from securedl.he.vector.kernels.cache import inner, kernel

#: Bytes a packed residue may take. Data primes have at most 48 bits, a quarter of the special prime; chains
#: with smaller ones are no use for a model, and their weights are kept as doubles.
WIDTHS = range(3, 7)
#: Octets that a read may reach beyond the last residue.
SLACK = 64


def _count_large(lanes: Lanes, words: Value) -> Value:
    """One bit for each of eight words that is not below q."""
    mask = lanes.builder.fcmp_unordered(">=", lanes.load_words_as_double(words), lanes.q)
    bits = lanes.builder.bitcast(mask, ir.IntType(8))
    return lanes.builder.zext(bits, ir.IntType(64))


def _exact_load(lanes: Lanes, address: Value, width: int) -> Value:
    """Eight packed residues, reading no further than they go."""
    octets = ir.VectorType(ir.IntType(8), 8 * width)
    data = lanes.load(address, 0, octets)
    zeros = ir.Constant(octets, [0] * (8 * width))
    places = [width * lane + k if k < width else 8 * width for lane in range(8) for k in range(8)]
    return lanes.builder.bitcast(lanes.shuffle(data, zeros, places), WORDS)


def _transfer(width: int) -> Any:
    """Packed residues to packed residues; returns non-zero if one is not below q."""

    @lane_kernel("iidd", returns=True)
    def transfer(lanes: Lanes, source: Value, target: Value) -> Value:
        words = _exact_load(lanes, source, width)
        lanes.store_packed(words, target, width)
        return _count_large(lanes, words)

    return transfer


def _squeeze(width: int) -> Any:
    """64-bit words to packed residues."""

    @lane_kernel("iidd")
    def squeeze(lanes: Lanes, source: Value, target: Value) -> None:
        lanes.store_packed(lanes.load(source, 0, WORDS), target, width)

    return squeeze


def _spread(width: int) -> Any:
    """Packed residues to centred doubles."""

    @lane_kernel("iidd")
    def spread(lanes: Lanes, source: Value, target: Value) -> None:
        lanes.store(lanes.reduce(lanes.load_words_as_double(_exact_load(lanes, source, width))), target)

    return spread


def check_header(params: Parameters, data: bytes | memoryview, expected: Shape) -> tuple[int, bytes | None]:
    """The correction factor and the seed of a wire record whose residues are still to be checked.

    Raises:
        FormatError: wrong length, parameters, level, size or scale.
    """
    length = packed_length(params, expected)
    if len(data) != length:
        raise FormatError(f"a record of {length} bytes was expected, got {len(data)}")
    head, tail = bytes(data[: HEADER.size]), bytes(data[length - SEED_BYTES :])
    magic, owner, level, size, seeded, scale, correction = HEADER.unpack(head)
    wanted = HEADER.pack(
        MAGIC, params.id, expected.level, expected.size, expected.seeded, expected.scale, correction
    )
    if head != wanted or (params.scheme == "ckks" and correction != 1):
        raise FormatError(
            f"a record of {MAGIC!r}, parameters {params.id.hex()} and {expected} was expected, got "
            f"{magic, owner.hex(), level, size, seeded, scale, correction}"
        )
    return correction, tail if seeded else None


_transfer3, _transfer4, _transfer5, _transfer6 = (_transfer(width) for width in range(3, 7))
_squeeze3, _squeeze4, _squeeze5, _squeeze6 = (_squeeze(width) for width in range(3, 7))
_spread3, _spread4, _spread5, _spread6 = (_spread(width) for width in range(3, 7))


@inner
def _row(kind, width, source, source_step, target, target_step, n, q, q_inverse):  # type: ignore[no-untyped-def]
    large = 0
    for k in range(n // 8):
        a, b = source + k * source_step, target + k * target_step
        if kind == 0:
            if width == 3:
                large |= _transfer3(a, b, q, q_inverse)
            elif width == 4:
                large |= _transfer4(a, b, q, q_inverse)
            elif width == 5:
                large |= _transfer5(a, b, q, q_inverse)
            else:
                large |= _transfer6(a, b, q, q_inverse)
        elif kind == 1:
            if width == 3:
                _squeeze3(a, b, q, q_inverse)
            elif width == 4:
                _squeeze4(a, b, q, q_inverse)
            elif width == 5:
                _squeeze5(a, b, q, q_inverse)
            else:
                _squeeze6(a, b, q, q_inverse)
        elif width == 3:
            _spread3(a, b, q, q_inverse)
        elif width == 4:
            _spread4(a, b, q, q_inverse)
        elif width == 5:
            _spread5(a, b, q, q_inverse)
        else:
            _spread6(a, b, q, q_inverse)
    return large


@kernel("int64(int64,int64,int64,int64,int64,int64,int64,int64[::1],float64[::1],float64[::1])")
def convert(kind, source, target, first, stop, polynomials, n, widths, q, q_inverse):  # type: ignore[no-untyped-def]
    """Convert polynomials first..stop of a packed block of `polynomials`.

    kind 0: from wire bytes [stop - first, primes, N]; 1: from 64-bit words of that shape; 2: from the block
    at `source` to centred doubles of that shape at `target`.
    Returns non-zero if a wire residue is not below its prime.
    """
    large, offset, wire = 0, 0, 0
    total = 0
    for i in range(q.size):
        total += widths[i] * n
    for i in range(q.size):
        width = widths[i]
        chunk = 8 * width
        for p in range(first, stop):
            inside = offset + p * chunk
            outside = (p - first) * total + wire if kind == 0 else 8 * n * ((p - first) * q.size + i)
            step = chunk if kind == 0 else 64
            if kind == 2:
                _row(
                    kind,
                    width,
                    source + inside,
                    chunk * polynomials,
                    target + outside,
                    64,
                    n,
                    q[i],
                    q_inverse[i],
                )
            else:
                large |= _row(
                    kind,
                    width,
                    source + outside,
                    step,
                    target + inside,
                    chunk * polynomials,
                    n,
                    q[i],
                    q_inverse[i],
                )
        offset += polynomials * n * width
        wire += n * width
    return large
