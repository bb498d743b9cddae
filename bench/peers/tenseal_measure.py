"""Any way through TenSEAL's API, measured: an owner with all keys, a server with public ones."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import tenseal as ts
from numpy.typing import NDArray

from bench.peers.networks import InexpressibleError, Squared
from bench.peers.rows import Row, repeated

#: Most bits of a modulus chain for 128-bit security, by ring dimension (the homomorphic encryption standard).
MOST_BITS = {8192: 218, 16384: 438, 32768: 881}
#: The first and the last prime have so many more than the scale, for the whole part of values.
WHOLE = 10
#: Bits of a scale: fewer lose the answer (TenSEAL's tutorial takes 26), more gain nothing.
LEAST, MOST = 26, 40


class Way(Protocol):
    """One way to run a network.

    Attributes:
        kind: of its vectors. encrypted: for the server. depth: levels. slots: it needs.
        rotates: needs Galois keys.
    """

    kind: type[Any]
    name: str
    encrypted: str
    depth: int
    slots: int
    rotates: bool

    def weights(self, owner: ts.Context, slots: int) -> list[Any]:
        """What the server works with: encrypted by the owner, or plain."""

    def query(self, owner: ts.Context, x: NDArray[np.float64]) -> list[Any]:
        """A sample, encrypted."""

    def run(self, weights: list[Any], query: list[Any]) -> list[Any]:
        """The server's part: encrypted logits."""

    def answer(self, decrypted: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Logits [classes]."""


def chosen(depth: int, slots: int) -> tuple[int, int]:
    """The smallest ring dimension that is secure, and the most precise scale that it allows, in bits."""
    for ring, most in MOST_BITS.items():
        bits = (most - 2 * WHOLE) // (depth + 2)
        if 2 * slots <= ring and bits >= LEAST:
            return ring, min(bits, MOST)
    raise InexpressibleError(f"no ring of at most {max(MOST_BITS)} has {depth} levels and {slots} slots")


def context(ring: int, bits: int, depth: int, rotates: bool) -> ts.Context:
    """Of the owner, with one thread."""
    chain = [bits + WHOLE, *[bits] * depth, bits + WHOLE]
    owner = ts.context(ts.SCHEME_TYPE.CKKS, ring, coeff_mod_bit_sizes=chain, n_threads=1)
    owner.global_scale = 2.0**bits
    if rotates:
        owner.generate_galois_keys()
    return owner


def measured(way: Way, network: Squared, seconds: float) -> Row:
    """One row.

    Args:
        seconds: that the server's part is repeated for, once at least.

    Raises:
        InexpressibleError: where no parameters allow it.
    """
    ring, bits = chosen(way.depth, way.slots)
    print(f"{network.name}: TenSEAL, {way.name}: keys and weights at N = {ring}", flush=True)
    owner = context(ring, bits, way.depth, way.rotates)
    public = owner.serialize(save_secret_key=False)
    began = time.perf_counter()
    server = ts.context_from(public, n_threads=1)
    keys_s = time.perf_counter() - began
    weights, size, load_s = _sent(way.weights(owner, ring // 2), way.kind, server)
    sent, encrypted = repeated(
        lambda: [v.serialize() for v in way.query(owner, network.x)], min(seconds, 0.5)
    )
    query = [way.kind.load(server, data) for data in sent]
    print(f"{network.name}: TenSEAL, {way.name}: running", flush=True)
    found, run = repeated(lambda: way.run(weights, query), seconds)
    back = [vector.serialize() for vector in found]

    def decrypt() -> NDArray[np.float64]:
        return way.answer([_plain(way.kind.load(owner, data).decrypt()) for data in back])

    logits, decrypted = repeated(decrypt, min(seconds, 0.5))
    return Row(
        network.name,
        "TenSEAL",
        way.name,
        way.encrypted,
        server_ms=run.cpu,
        wall_ms=run.wall,
        client_ms=encrypted.cpu + decrypted.cpu,
        encrypt_ms=encrypted.cpu,
        decrypt_ms=decrypted.cpu,
        error=float(np.abs(logits - network.logits).max() / np.ptp(network.logits)),
        query_bytes=sum(map(len, sent)),
        answer_bytes=sum(map(len, back)),
        key_bytes=len(public),
        weight_bytes=size,
        load_s=load_s,
        repeats=run.count,
        settings=f"N = {ring}, {way.depth} levels of {bits} bits, TenSEAL {ts.__version__}",
        extra={"keys_load_s": keys_s},
    )


def _sent(weights: list[Any], kind: type[Any], server: ts.Context) -> tuple[list[Any], int, float]:
    """Weights as the server has them, the bytes of those that are encrypted, and seconds to load them."""
    size, seconds = 0, 0.0
    for at, weight in enumerate(weights):
        if not isinstance(weight, kind):
            continue
        data = weight.serialize()
        began = time.perf_counter()
        weights[at] = kind.load(server, data)
        seconds += time.perf_counter() - began
        size += len(data)
    return weights, size, seconds


def _plain(decrypted: Any) -> NDArray[np.float64]:
    return np.ravel(decrypted.tolist() if isinstance(decrypted, ts.PlainTensor) else decrypted)
