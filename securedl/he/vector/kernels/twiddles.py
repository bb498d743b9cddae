"""Roots of unity in the order in which the passes of the transforms read them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securedl.he.roots import bit_reversal, minimal_root
from securedl.he.vector.kernels.buffers import address
from securedl.he.vector.kernels.ntt_doubles import splats
from securedl.he.vector.kernels.words import HEADER_OCTETS

Integers = NDArray[np.int64]

_RADIX_ENTRIES = 16  # twiddles of a leading or middle block, padded
_CLOSING_BITS = {12: 5, 13: 5, 14: 6, 15: 7}


def _powers(base: int, prime: int, ring: int) -> Integers:
    """base^bitrev(k) mod prime for k < N."""
    powers = np.empty(ring, dtype=np.int64)
    value = 1
    for k in range(ring):
        powers[k] = value
        value = value * base % prime
    return powers[bit_reversal(ring.bit_length() - 1)]


def centred(value: int, prime: int) -> float:
    """value mod prime as a double in [-prime/2, prime/2]."""
    value %= prime
    return float(value - prime if value > prime // 2 else value)


def aligned(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The parts one after another, from an address that is a multiple of 64."""
    values = np.concatenate([part.ravel() for part in parts])
    room = np.empty(values.size + 8, dtype=values.dtype)
    first = -address(room) % 64 // 8
    out = room[first : first + values.size]
    out[:] = values
    return out


def _network(powers: NDArray[Any], depth: int, blocks: int, width: int) -> NDArray[Any]:
    """For each of `blocks` blocks, the 2^depth - 1 twiddles of a network, padded to `width`."""
    table = np.zeros((blocks, width), dtype=powers.dtype)
    block = np.arange(blocks)
    for level in range(depth):
        for group in range(1 << level):
            table[:, (1 << level) - 1 + group] = powers[(blocks << level) + (block << level) + group]
    return table


def _depths(ring: int) -> tuple[int, int, int]:
    """Levels of the leading pass; closing blocks, and their levels across vectors."""
    bits = ring.bit_length() - 1
    closing_bits = _CLOSING_BITS[bits]
    return bits - 4 - closing_bits, ring >> closing_bits, closing_bits - 3


def _for_doubles(powers: Integers, prime: int, last: int | None) -> NDArray[np.float64]:
    """Centred twiddles; `last`, if not None, stands in for that of an inverse's last level."""
    ring = len(powers)
    values = np.where(powers > prime // 2, powers - prime, powers).astype(np.float64)
    leading, blocks, depth = _depths(ring)
    parts = [
        _network(values, levels, count, _RADIX_ENTRIES) for levels, count in ((leading, 1), (4, 1 << leading))
    ]
    if last is not None:
        parts[0][0, 0] = centred(last, prime)
    pairs = np.arange(0, ring // 8, 2).reshape(-1, 1)  # the eight-value block A of each pair; B follows
    halves = ring // 8 + pairs + np.array([0, 0, 0, 0, 1, 1, 1, 1])
    quarters = ring // 4 + 2 * pairs + np.array([0, 0, 2, 2, 1, 1, 3, 3])
    singles = ring // 2 + 4 * pairs + np.array([0, 1, 4, 5, 2, 3, 6, 7])
    inside = values[np.concatenate([halves, quarters, singles], axis=1)].reshape(blocks, -1)
    across = _network(values, depth, blocks, splats(depth))
    return aligned([*parts, np.concatenate([across, inside], axis=1)])


def _quotients(values: Integers, prime: int) -> Integers:
    """floor(w·2^52 / q)."""
    return np.array([(int(w) << 52) // prime for w in values], dtype=np.int64)


def _for_words(powers: Integers, prime: int) -> Integers:
    """Twiddles with their quotients, for both directions: see `ntt_words`."""
    ring = len(powers)
    quotients = _quotients(powers, prime)
    leading, blocks, depth = _depths(ring)
    shrink = pow(ring, -1, prime)
    offsets = np.array([(1 << 52) + (1 << 51) // prime * prime, (1 << 52) + prime], dtype=np.float64)
    header = np.zeros(HEADER_OCTETS // 8, dtype=np.int64)
    header[:2] = offsets.view(np.int64)
    header[2] = (1 << 52) // prime
    header[3:9] = [
        value
        for w in (shrink, (1 << 52) % prime, int(powers[1]) * shrink % prime)
        for value in (w, (w << 52) // prime)
    ]
    parts = [header]
    for levels, count in ((leading, 1), (4, 1 << leading)):
        networks = [_network(some, levels, count, _RADIX_ENTRIES) for some in (powers, quotients)]
        parts.append(np.concatenate(networks, axis=1))
    pairs = np.arange(0, ring // 8, 2).reshape(-1, 1)
    places = (
        ring // 8 + pairs + np.array([0, 1]),
        ring // 4 + 2 * pairs + np.array([0, 2, 1, 3]),
        ring // 2 + 4 * pairs + np.array([0, 4, 2, 6, 1, 5, 3, 7]),
    )
    across = [_network(some, depth, blocks, 1 << depth) for some in (powers, quotients)]
    inside = [np.concatenate([powers[at], quotients[at]], axis=1).reshape(blocks, -1) for at in places]
    parts.append(np.concatenate([*across, *inside], axis=1))
    return aligned(parts)


@lru_cache(maxsize=256)
def tables(prime: int, ring: int, on_words: bool) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Forward twiddles, inverse twiddles and 1/N, a factor of the inverse's last level, for one prime.

    On words both directions have one table.
    """
    root = minimal_root(prime, ring)
    shrink = pow(ring, -1, prime)
    powers = _powers(root, prime, ring)
    if on_words:
        both = _for_words(powers, prime)
        return both, both, centred(shrink, prime)
    inverse_root = pow(root, -1, prime)
    last = pow(inverse_root, ring // 2, prime) * shrink % prime
    back = _for_doubles(_powers(inverse_root, prime, ring), prime, last)
    return _for_doubles(powers, prime, None), back, centred(shrink, prime)
