"""Weights at rest: whole bytes a residue, in the order in which a sum of products reads them.

A packed block is [primes, N/8, polynomials, 8 residues], each residue canonical in `width` little-endian
bytes. A wire record (`layout`) is [polynomials, primes, N residues] of the same bytes, so that packing one
is copying 8·width bytes at a time, and checking that every residue is below its prime.
"""

from __future__ import annotations

from functools import partial

from securedl.errors import FormatError
from securedl.he.params import Parameters
from securedl.he.record import HEADER, MAGIC, SEED_BYTES, Shape, packed_length
from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.lanes import Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel

#: Bytes a packed residue may take. Data primes have at most 48 bits, a quarter of the special prime; chains
#: with smaller ones are no use for a model, and their weights are kept as doubles.
WIDTHS = range(3, 7)
#: Octets that a read may reach beyond the last residue.
SLACK = 64


@lane_kernel("iiidd", returns=True)
def _transfer(lanes: Lanes, width: Value, source: Value, target: Value) -> Value:
    """Packed residues to packed residues; returns non-zero if one is not below q."""
    residues = lanes.variable(lanes.words(0))

    def transfer(octets: int) -> None:
        residues.set(lanes.load_packed(source, octets, reach=False))
        lanes.store_packed(residues.get(), target, octets)

    lanes.choose(width, {octets: partial(transfer, octets) for octets in WIDTHS})
    largest = lanes.sub(lanes.q, lanes.doubles(1.0))
    return lanes.mask_integer(lanes.less(largest, lanes.as_doubles(residues.get())))


@lane_kernel("iiidd")
def _squeeze(lanes: Lanes, width: Value, source: Value, target: Value) -> None:
    """64-bit words to packed residues."""
    words = lanes.load_words(source)
    lanes.choose(width, {octets: partial(lanes.store_packed, words, target, octets) for octets in WIDTHS})


@lane_kernel("iiidd")
def _spread(lanes: Lanes, width: Value, source: Value, target: Value) -> None:
    """Packed residues to centred doubles."""

    def spread(octets: int) -> None:
        residues = lanes.as_doubles(lanes.load_packed(source, octets, reach=False))
        lanes.store(lanes.reduce(residues), target)

    lanes.choose(width, {octets: partial(spread, octets) for octets in WIDTHS})


def check_header(params: Parameters, data: bytes | memoryview, expected: Shape) -> tuple[int, bytes | None]:
    """The correction factor and the seed of a wire record whose residues are still to be checked.

    Raises:
        FormatError: wrong length, parameters, level, size or scale, or a cut record is expected.
    """
    if expected.cut:
        raise FormatError("a cut record cannot be computed on")
    length = packed_length(params, expected)
    if len(data) != length:
        raise FormatError(f"a record of {length} bytes was expected, got {len(data)}")
    head, tail = bytes(data[: HEADER.size]), bytes(data[length - SEED_BYTES :])
    magic, owner, level, size, seeded, short, scale, correction = HEADER.unpack(head)
    wanted = HEADER.pack(
        MAGIC, params.id, expected.level, expected.size, expected.seeded, False, expected.scale, correction
    )
    if head != wanted or (params.scheme == "ckks" and correction != 1):
        raise FormatError(
            f"a record of {MAGIC!r}, parameters {params.id.hex()} and {expected} was expected, got "
            f"{magic, owner.hex(), level, size, seeded, short, scale, correction}"
        )
    return correction, tail if seeded else None


@inner
def _row(kind, width, source, source_step, target, target_step, n, q, q_inverse):  # type: ignore[no-untyped-def]
    large = 0
    for k in range(n // 8):
        a, b = source + k * source_step, target + k * target_step
        if kind == 0:
            large |= _transfer(width, a, b, q, q_inverse)
        elif kind == 1:
            _squeeze(width, a, b, q, q_inverse)
        else:
            _spread(width, a, b, q, q_inverse)
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
