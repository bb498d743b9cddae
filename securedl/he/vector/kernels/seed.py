"""The uniform polynomial that SEAL expands from a 64-byte seed.

SEAL's default generator fills 4096-byte buffers with BLAKE2Xb(counter, key = seed), counter = 0, 1, 2...
`sample_poly_uniform` first draws one 64-bit word for every residue, prime after prime, then replaces the
words that would bias the remainder (those at or above the largest multiple of the prime) by the words
that follow, and reduces each modulo its prime.

BLAKE2Xb (blake2.net/blake2x.pdf): a keyed root hash h0 of the counter, then output block i is the unkeyed
BLAKE2b of h0 with i as its node offset. Eight output blocks are computed at a time, one in each lane: 0.2 ms
for four primes at N = 8192, where plain loops took 1.3.
"""

from __future__ import annotations

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from securedl.he.vector.kernels.cache import inner, kernel
from securedl.he.vector.kernels.lanes import LANES, Lanes, Value
from securedl.he.vector.kernels.llvm import lane_kernel

BUFFER_BYTES = 4096
_IV = (
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
)  # fmt: skip
_SIGMA = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
)
#: Parameter blocks: the root (digest 64, key 64, fan-out 1, depth 1) and an output block (digest 64, leaf
#: length 64, inner length 64); the output's length sits beside the node offset.
_ROOT = (0x01014040, BUFFER_BYTES << 32, 0, 0, 0, 0, 0, 0)
_OUTPUT = (64 | 64 << 32, BUFFER_BYTES << 32, 64 << 8, 0, 0, 0, 0, 0)


class _Blake:
    """BLAKE2b's compression of eight messages at once, one in each lane."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes

    def rotate(self, x: Value, bits: int) -> Value:
        return self.lanes.word_or(self.lanes.shift_right(x, bits), self.lanes.shift_left(x, 64 - bits))

    def mix(self, v: list[Value], a: int, b: int, c: int, d: int, x: Value, y: Value) -> None:
        add, xor = self.lanes.word_add, self.lanes.word_xor
        for word, turn, turn_too in ((x, 32, 24), (y, 16, 63)):
            v[a] = add(add(v[a], v[b]), word)
            v[d] = self.rotate(xor(v[d], v[a]), turn)
            v[c] = add(v[c], v[d])
            v[b] = self.rotate(xor(v[b], v[c]), turn_too)

    def compress(self, h: list[Value], m: list[Value], length: int, last: bool) -> list[Value]:
        """The next state from state h and message m; `length` octets so far."""
        constant, xor = self.lanes.words, self.lanes.word_xor
        v = h + [constant(value) for value in _IV]
        v[12] = xor(v[12], constant(length))
        if last:
            v[14] = xor(v[14], constant((1 << 64) - 1))
        for s in _SIGMA:
            for k in range(4):
                self.mix(v, k, 4 + k, 8 + k, 12 + k, m[s[2 * k]], m[s[2 * k + 1]])
            for k in range(4):
                b, c, d = 4 + (k + 1) % 4, 8 + (k + 2) % 4, 12 + (k + 3) % 4
                self.mix(v, k, b, c, d, m[s[8 + 2 * k]], m[s[9 + 2 * k]])
        return [xor(xor(h[k], v[k]), v[k + 8]) for k in range(8)]

    def start(self, block: tuple[int, ...]) -> list[Value]:
        return [self.lanes.words(a ^ b) for a, b in zip(_IV, block, strict=True)]

    def load(self, address: Value) -> list[Value]:
        """Eight words, each in every lane."""
        lanes = self.lanes
        return [lanes.splat(lanes.load_integer(lanes.offset(address, 8 * k))) for k in range(8)]

    def numbers(self, first: Value) -> Value:
        """first, first + 1... in the lanes."""
        return self.lanes.word_add(self.lanes.splat(first), self.lanes.words(range(LANES)))


@lane_kernel("iiidd")
def _roots(lanes: Lanes, seed: Value, counter: Value, out: Value) -> None:
    """The root hashes of eight counters from `counter` on, at out [8 words, 8 lanes]."""
    blake, zero = _Blake(lanes), lanes.words(0)
    state = blake.compress(blake.start(_ROOT), blake.load(seed) + [zero] * 8, 128, last=False)
    message = [blake.numbers(counter)] + [zero] * 15
    for k, word in enumerate(blake.compress(state, message, 136, last=True)):
        lanes.store(word, out, 64 * k)


@lane_kernel("iiidd")
def _outputs(lanes: Lanes, root: Value, first: Value, out: Value) -> None:
    """Output blocks first..first + 8 of one root hash, at out [8 words, 8 lanes]."""
    blake = _Blake(lanes)
    state = blake.start(_OUTPUT)
    state[1] = lanes.word_xor(state[1], blake.numbers(first))
    message = blake.load(root) + [lanes.words(0)] * 8
    for k, word in enumerate(blake.compress(state, message, 64, last=True)):
        lanes.store(word, out, 64 * k)


@inner
def _fill(root, out, work):  # type: ignore[no-untyped-def]
    """One buffer of 512 words from its root hash of eight words."""
    for first in range(0, 64, 8):
        _outputs(root.ctypes.data, first, work.ctypes.data, 1.0, 1.0)
        for k in range(8):
            for i in range(8):
                out[8 * (first + k) + i] = work[i, k]


@inner
def _fill_many(seed, counter, out, roots, root, work):  # type: ignore[no-untyped-def]
    """Eight buffers from `counter` on, as far as `out` goes."""
    _roots(seed.ctypes.data, counter, roots.ctypes.data, 1.0, 1.0)
    for lane in range(min(8, out.size // 512)):
        for i in range(8):
            root[i] = roots[i, lane]
        _fill(root, out[512 * lane : 512 * (lane + 1)], work)


@kernel("void(uint64[::1],uint64[::1],uint64[:,::1])")
def _expand(seed, primes, out):  # type: ignore[no-untyped-def]
    roots, work = np.empty((8, 8), np.uint64), np.empty((8, 8), np.uint64)
    root, buffer = np.empty(8, np.uint64), np.empty(512, np.uint64)
    rows, n = out.shape
    flat = out.reshape(rows * n)
    for start in range(0, rows * n, 4096):  # n is a multiple of 4096, the words of eight buffers
        _fill_many(seed, start // 512, flat[start : start + 4096], roots, root, work)
    counter = rows * n // 512
    used = buffer.size
    biggest = ~uint64(0)
    for row in range(rows):
        q = primes[row]
        limit = biggest - biggest % q - uint64(1)
        for i in range(n):
            word = out[row, i]
            while word >= limit:
                if used == buffer.size:
                    _fill_many(seed, counter, buffer, roots, root, work)
                    counter += 1
                    used = 0
                word = buffer[used]
                used += 1
            out[row, i] = word % q


def expand(seed: bytes, primes: tuple[int, ...], ring: int) -> NDArray[np.uint64]:
    """The residues [primes, N] that SEAL derives from `seed` for a ciphertext's last polynomial."""
    out = np.empty((len(primes), ring), dtype=np.uint64)
    _expand(np.frombuffer(seed, dtype="<u8").copy(), np.array(primes, dtype=np.uint64), out)
    return out
