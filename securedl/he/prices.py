"""What the coefficient form costs on a server, measured there: on random residues, for times depend on no
value, and a server has neither secrets nor keys of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from securedl.arguments import number, shown
from securedl.errors import InputError
from securedl.he.arithmetic import Evaluator, merge_step
from securedl.he.backends import Backend
from securedl.he.ckks import VALUE_SCALE, WEIGHT_SCALE, coefficient_parameters
from securedl.he.params import Parameters
from securedl.he.record import SEED_BYTES, Record, Shape, chain, key_shape, pack, unpack
from securedl.version import __version__

#: A tile or weight as it comes, and an answer as it goes.
SENT_TILE, SENT_WEIGHT = Shape(0, 2, VALUE_SCALE, seeded=True), Shape(0, 2, WEIGHT_SCALE, seeded=True)
SENT_ANSWER = Shape(0, 2, VALUE_SCALE * WEIGHT_SCALE, cut=True)
#: Milliseconds of a server with one core of a Zen 5. What is a hundred times faster, or a thousand times
#: slower, is no server's.
TYPICAL_MS = {
    "product": 0.004, "relinearise": 0.03, "merge": 0.04, "load": 0.04, "dump": 0.03, "layer": 0.1,
}  # fmt: skip
_FASTER, _SLOWER = 100.0, 1000.0

#: Sums of products, terms of the long ones, and answers that are merged.
_SUMS, _TERMS, _MERGED = 16, 8, 16
#: Calls that are timed at most and at least, and seconds after which there are no more of them.
_MOST, _LEAST, _ENOUGH_S = 15, 5, 0.15
#: Tiles that come or go together.
IN_A_ROW = 2
#: Octets that are written between two calls.
_ELSEWHERE = 1 << 25


@dataclass(frozen=True)
class ServerPrices:
    """Milliseconds of the coefficient form at N = 4096 with one data prime, with a server's threads.

    Attributes:
        product: of an input tile and a weight, in a sum. relinearise, merge: of answers. load: a tile that
            came. dump: one that goes. layer: what a layer takes besides.

    Raises:
        InputError: one is no time that a server could need.
    """

    product: float
    relinearise: float
    merge: float
    load: float
    dump: float
    layer: float

    def __post_init__(self) -> None:
        for name, ms in asdict(self).items():
            number(ms, f"the price {name!r}", above=0)
            least, most = _limits(name)
            if not least <= ms <= most:
                raise InputError(f"the price {name!r} must be {least:g} to {most:g} ms, got {shown(ms)}")


def _limits(name: str) -> tuple[float, float]:
    """The least and the most milliseconds."""
    return TYPICAL_MS[name] / _FASTER, TYPICAL_MS[name] * _SLOWER


def nothing() -> None:
    """Wait for nothing."""


def cold_ms(call: Callable[[], Any], wait: Callable[[], None] = nothing) -> float:
    """Median of a call just after something else, which has left nothing of it in the caches: a server and a
    client take turns.

    Args:
        wait: is called before each.
    """
    call()
    times, other, end = list[float](), np.zeros(_ELSEWHERE // 8), time.monotonic() + _ENOUGH_S
    while len(times) < _LEAST or (len(times) < _MOST and time.monotonic() < end):
        wait()
        other += 1.0
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def cold_each_ms(call: Callable[[], Any], wait: Callable[[], None] = nothing) -> float:
    """The same of each of a few calls in a row, as a layer has them: all but the first find something."""
    return cold_ms(lambda: [call() for _ in range(IN_A_ROW)], wait) / IN_A_ROW


def server_prices(
    backend: Backend[Any], threads: int = 1, wait: Callable[[], None] = nothing
) -> ServerPrices:
    """Prices of a back end on this machine, in about a second.

    Args:
        threads: of one evaluation. wait: is called every few milliseconds; what it raises is passed on.
    """
    params, random = coefficient_parameters(), np.random.default_rng(0)
    evaluator: Evaluator[Any] = backend.open(params, threads)
    steps = {merge_step(params.ring, _MERGED >> k) for k in range(_MERGED.bit_length() - 1)}
    key = [_random(params, key_shape(params), random) for _ in params.primes]
    wait()
    evaluator.set_keys(key, dict.fromkeys(steps, key))
    tile, weight = (pack(params, _random(params, shape, random)) for shape in (SENT_TILE, SENT_WEIGHT))
    xs = [evaluator.load(unpack(params, tile, SENT_TILE)) for _ in range(_TERMS)]
    # As many weights as a model has, so that they come from memory.
    ws = list[list[Any]]()
    for _ in range(_SUMS):
        wait()
        ws.append([evaluator.load_packed(weight, SENT_WEIGHT) for _ in range(_TERMS)])
    answers = evaluator.products([(xs[:1], row[:1]) for row in ws])[:_MERGED]
    found = evaluator.merge(answers, _MERGED)

    short = cold_ms(lambda: evaluator.products([(xs[:1], row[:1]) for row in ws]), wait)
    long = cold_ms(lambda: evaluator.products([(xs, row) for row in ws]), wait)
    one = cold_ms(lambda: evaluator.products([(xs[:1], ws[0][:1])]), wait)
    product = (long - short) / (_SUMS * (_TERMS - 1))
    relinearise = (short - one) / (_SUMS - 1) - product
    return _possible(
        product=product,
        relinearise=relinearise,
        merge=cold_ms(lambda: evaluator.merge(answers, _MERGED), wait) / (_MERGED - 1),
        load=cold_each_ms(lambda: evaluator.load(unpack(params, tile, SENT_TILE)), wait),
        dump=cold_each_ms(lambda: pack(params, evaluator.sent(found, SENT_ANSWER)), wait),
        layer=one - relinearise - product,
    )


def _random(params: Parameters, shape: Shape, random: np.random.Generator) -> Record:
    """A record of that shape, which encrypts nothing that anybody knows."""
    primes = np.array(chain(params, shape.level), dtype=np.uint64)[None, :, None]
    stored = shape.size - shape.seeded
    residues = random.integers(0, primes, (stored, primes.shape[1], params.ring), dtype=np.uint64)
    return Record(shape, residues, random.bytes(SEED_BYTES) if shape.seeded else None)


def _possible(**measured: float) -> ServerPrices:
    """Differences of times may come out as nothing, and a machine may have been asleep."""
    limits = {name: _limits(name) for name in measured}
    return ServerPrices(
        **{name: min(max(ms, limits[name][0]), limits[name][1]) for name, ms in measured.items()}
    )


def setup_id(what: str, threads: int) -> bytes:
    """16 bytes that change with what measures (a back end, a client), threads, machine and release."""
    parts = (__version__, what, threads, os.cpu_count(), platform.machine(), _processor())
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _processor() -> str:
    """Its name, where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor()
