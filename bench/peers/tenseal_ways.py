"""Which ways of TenSEAL's API are measured for which network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.peers import tenseal_limits
from bench.peers.networks import InexpressibleError, Linear, Squared, linear_layers
from bench.peers.rows import Row
from bench.peers.tenseal_measure import Way, measured
from bench.peers.tenseal_packed import Packed
from bench.peers.tenseal_tensor import Tensors
from bench.peers.tenseal_tutorial import Tutorial

#: Copies of inputs from the second layer on, with encrypted and with plain weights, and slots of a vector:
#: the fastest for the server of those tried. Of wine, 4 copies take 0.7 of the time, but the answer is off by
#: 4% of its range, as a ring of 8192 has 28 bits a level then. Of digits, 8, 16, 32 take 2.0, 1.8, 2.6 s.
COPIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "wine": ((1,), (1,), 4096),
    "digits": ((16, 1), (64, 1), 8192),
    "cryptonets": ((8, 1), (8, 1), 8192),
}


def rows(network: Squared, seconds: float, quick: bool) -> Iterator[Row]:
    """Of one network; those that take minutes are left out if it is to be quick."""
    if network.name not in COPIES:
        yield from tenseal_limits.rows(network, not quick)
        return
    layers = linear_layers(network)
    for way in ways(network.name, layers, quick):
        try:
            yield measured(way(), network, seconds)
        except InexpressibleError as reason:
            print(f"{network.name}: TenSEAL: {reason}", flush=True)


def ways(name: str, layers: list[Linear], quick: bool) -> Iterator[Callable[[], Way]]:
    """From the slowest to the fastest, weights in the clear first."""
    encrypted, plain, most = COPIES[name]
    ones = (1,) * (len(layers) - 1)
    if not quick:
        yield lambda: Tutorial(layers)
    yield lambda: Packed("packed by hand", layers, plain, most, plain=True)
    if not quick:
        yield lambda: Tensors(layers)
        first = most if layers[0].kernels is not None else None
        yield lambda: Packed("dot, pack_vectors", layers, ones, first)
    yield lambda: Packed("packed by hand", layers, encrypted, most)
