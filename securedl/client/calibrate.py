"""What the coefficient form costs: measured, so that plans state times of the machines at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from securedl.arguments import number
from securedl.client.keys import Keys
from securedl.compiler.cost import CoefficientPrices
from securedl.he.backends import backend as backend_named
from securedl.he.ckks import coefficient_parameters
from securedl.he.cut import cut
from securedl.he.prices import (
    SENT_ANSWER,
    SENT_TILE,
    SENT_WEIGHT,
    ServerPrices,
    cold_each_ms,
    cold_ms,
    server_prices,
)
from securedl.he.record import pack


@dataclass(frozen=True)
class ClientPrices:
    """Milliseconds of a client at N = 4096 with one data prime.

    Attributes:
        send: encoding, encrypting and packing a tile, by an encryption of zero. zero: making that one.
        read: the inverse of both. prepare: encrypting a weight.
        between: what is done between two layers, the operations on values apart.

    Raises:
        InputError: one is no positive number.
    """

    send: float
    zero: float
    read: float
    prepare: float
    between: float

    def __post_init__(self) -> None:
        for name, ms in asdict(self).items():
            number(ms, f"the price {name!r}", above=0)


def client_prices() -> ClientPrices:
    """Prices of this machine's client, in about half a second."""
    params = coefficient_parameters()
    keys, random = Keys(params), np.random.default_rng(0)
    values = random.uniform(-1, 1, params.ring)
    residues = random.integers(0, params.primes[0], (2, params.ring)).astype(np.float64)
    answer = pack(params, cut(params, residues, SENT_ANSWER.scale))
    zero = keys.zero(0)  # nothing that is encrypted by it more than once leaves here
    with _one_thread():
        between = cold_ms(_between)
    return ClientPrices(
        send=cold_each_ms(lambda: keys.encrypt(values, SENT_TILE, lambda level: zero)),
        zero=cold_each_ms(lambda: keys.zero(0)),
        read=cold_each_ms(lambda: keys.decrypt(answer, SENT_ANSWER, coefficients=True)),
        prepare=cold_each_ms(lambda: keys.encrypt(values, SENT_WEIGHT)),
        between=between,
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """On a busy machine torch waits 20 ms for a second thread to begin with what takes half a millisecond."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _between() -> None:
    """About what a client does between two layers: a few operations on a small image, and its tiles."""
    import torch

    with torch.inference_mode():
        image = torch.ones((1, 16, 14, 14), dtype=torch.float64)
        image = torch.max_pool2d(torch.relu(image * 2.0 + 1.0), 2).reshape(1, -1)
    tile = np.append(image.numpy(), 0.0)[np.zeros(4096, dtype=np.int64)]
    tile[np.arange(1024)].reshape(1, -1)


def joined_prices(server: ServerPrices, client: ClientPrices) -> CoefficientPrices:
    """What `compile` takes."""
    return CoefficientPrices(**asdict(server), **asdict(client))


def measured_prices(backend: str = "vector", threads: int = 1) -> CoefficientPrices:
    """Prices of a client and a server on this machine, in about two seconds. `protocol.prices` asks a server
    elsewhere.

    Args:
        backend, threads: as for `securedl serve`.

    Example: `securedl.compile(model, x, activations="client", prices=measured_prices())`
    """
    return joined_prices(server_prices(backend_named(backend), threads), client_prices())
