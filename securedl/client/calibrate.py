"""What the coefficient form costs on this machine: measured, so that plans state times of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from securedl.client.keys import Keys
from securedl.compiler.cost import CoefficientPrices
from securedl.he.arithmetic import Evaluator, merge_step
from securedl.he.backends import backend as backend_named
from securedl.he.ckks import VALUE_SCALE, WEIGHT_SCALE, coefficient_parameters
from securedl.he.record import Shape, pack, unpack, unpack_key

#: Sums of products, terms of the long ones, and answers that are merged.
_SUMS, _TERMS, _MERGED = 16, 8, 16
REPEATS = 15
#: Octets that are written between two calls.
ELSEWHERE = 1 << 25


def _ms(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median of a call just after something else, which has left nothing of it in the caches: a server and a
    client take turns.
    """
    call()
    times, other = [], np.zeros(ELSEWHERE // 8)
    for _ in range(repeats):
        other += 1.0
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def _between() -> None:
    """About what a client does between two layers: a few operations on a small image, and its tiles."""
    import torch

    with torch.inference_mode():
        image = torch.ones((1, 16, 14, 14), dtype=torch.float64)
        image = torch.max_pool2d(torch.relu(image * 2.0 + 1.0), 2).reshape(1, -1)
    tile = np.append(image.numpy(), 0.0)[np.zeros(4096, dtype=np.int64)]
    tile[np.arange(1024)].reshape(1, -1)


def measured_prices(backend: str = "vector", threads: int = 1) -> CoefficientPrices:
    """Prices of a client and a server on this machine, in about a second.

    Args:
        backend, threads: as for `securedl serve`.

    Example: `securedl.compile(model, x, activations="client", prices=measured_prices())`
    """
    params = coefficient_parameters()
    keys, random = Keys(params), np.random.default_rng(0)
    sent, weight = Shape(0, 2, VALUE_SCALE, seeded=True), Shape(0, 2, WEIGHT_SCALE, seeded=True)
    answer = Shape(0, 2, VALUE_SCALE * WEIGHT_SCALE, cut=True)
    evaluator: Evaluator[Any] = backend_named(backend).open(params, threads)
    steps = {merge_step(params.ring, _MERGED >> k) for k in range(_MERGED.bit_length() - 1)}
    evaluator.set_keys(
        unpack_key(params, keys.switch_key(None)),
        {step: unpack_key(params, keys.switch_key(step)) for step in steps},
    )
    values = random.uniform(-1, 1, params.ring)
    tile, factor = keys.encrypt(values, sent), keys.encrypt(values, weight)
    xs = [evaluator.load(unpack(params, tile, sent)) for _ in range(_TERMS)]
    # As many weights as a model has, so that they come from memory.
    ws = [[evaluator.load_packed(factor, weight) for _ in range(_TERMS)] for _ in range(_SUMS)]
    short = _ms(lambda: evaluator.products([(xs[:1], row[:1]) for row in ws]))
    long = _ms(lambda: evaluator.products([(xs, row) for row in ws]))
    product = max(long - short, 0.0) / (_SUMS * (_TERMS - 1))
    one = _ms(lambda: evaluator.products([(xs[:1], ws[0][:1])]))
    relinearise = max(short / _SUMS - product, 0.0)
    answers = evaluator.products([(xs[:1], row[:1]) for row in ws])[:_MERGED]
    merged = _ms(lambda: evaluator.merge(answers, _MERGED))
    found = evaluator.merge(answers, _MERGED)
    packed = pack(params, evaluator.sent(found, answer))
    return CoefficientPrices(
        product=product,
        relinearise=relinearise,
        merge=merged / (_MERGED - 1),
        load=_ms(lambda: evaluator.load(unpack(params, tile, sent))),
        dump=_ms(lambda: pack(params, evaluator.sent(found, answer))),
        send=_ms(lambda: keys.encrypt(values, sent)),
        read=_ms(lambda: keys.decrypt(packed, answer, coefficients=True)),
        prepare=_ms(lambda: keys.encrypt(values, weight)),
        layer=max(one - relinearise - product, 0.0),
        between=_ms(_between),
    )
