"""Which ways of TenSEAL's API are measured for which network."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from bench.peers import tenseal_limits
from bench.peers.networks import InexpressibleError, Linear, linear_layers, squared
from bench.peers.rows import Row
from bench.peers.tenseal_measure import Way, measured
from bench.peers.tenseal_packed import Packed
from bench.peers.tenseal_tensor import Tensors
from bench.peers.tenseal_tutorial import Tutorial

#: Copies of inputs from the second layer on, with encrypted and with plain weights, and slots of a vector:
#: the fastest for the server. Of wine, 4 copies take 0.7 of the time, but the answer is off by 4% of its
#: range, as a ring of 8192 has 28 bits a level then. Of digits, 8, 16, 32 take 2.0, 1.8, 2.6 s; of
#: cryptonets, 8 need the fewest products and rotations.
COPIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "wine": ((1,), (1,), 4096),
    "digits": ((16, 1), (64, 1), 8192),
    "cryptonets": ((8, 1), (8, 1), 8192),
}


#: From the slowest to the fastest, weights in the clear first; those that take minutes are not quick.
WAYS, QUICK = ("tutorial", "plain", "tensors", "dots", "packed"), ("plain", "packed")
#: Of networks that cannot be run, what is tried and estimated instead.
LIMITS, QUICK_LIMITS = ("refused", "estimated"), ("refused",)


def rows(name: str, seconds: float, quick: bool) -> Iterator[Row]:
    """Of one network, each from a process of its own, for SEAL keeps the memory that it once had."""
    possible = (QUICK if quick else WAYS) if name in COPIES else (QUICK_LIMITS if quick else LIMITS)
    for way in possible:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                yield pool.submit(row, name, way, seconds).result()
            except InexpressibleError as reason:
                print(f"{name}: TenSEAL: {reason}", flush=True)
            except BrokenProcessPool:
                yield Row(
                    name, "TenSEAL", way, "", note="failed: its process ended, perhaps for want of memory"
                )


def row(name: str, way: str, seconds: float) -> Row:
    """Of one network and one of its ways."""
    network = squared(name)
    if name not in COPIES:
        tried = tenseal_limits.refused if way == "refused" else tenseal_limits.estimated
        return tried(network)
    return measured(made(way, name, linear_layers(network)), network, seconds)


def made(way: str, name: str, layers: list[Linear]) -> Way:
    """One of `WAYS` for a network of `COPIES`."""
    encrypted, plain, most = COPIES[name]
    if way == "tutorial":
        return Tutorial(layers)
    if way == "tensors":
        return Tensors(layers)
    if way == "plain":
        return Packed("packed by hand", layers, plain, most, plain=True)
    if way == "packed":
        return Packed("packed by hand", layers, encrypted, most)
    ones = (1,) * (len(layers) - 1)
    return Packed("dot, pack_vectors", layers, ones, None if layers[0].kernels is None else most)
