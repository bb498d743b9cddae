"""Whether what a script does between its layers is affine, so that all polynomials are layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from securedl.network.graph import Array
from securedl.network.script import Script

#: Sizes of the values that are tried, and what counts as rounding beside the results.
_SIZES, _ROUNDING = (1.0, 1e3), 1e-9
_SAMPLES = 2


def is_affine(script: Script, shape: Sequence[int]) -> bool:
    """Whether all that is sent to layers, and the logits, are affine in the samples and the layers' results.

    Tried with random values of two sizes: f(a + b) - f(b) = f(a) - f(0).

    Args:
        shape: of one sample.

    Example: False for a script with a ReLU, a product of two values or a pooling by maxima.
    """
    for size in _SIZES:
        try:
            at_zero, at_a, at_b, at_both = (
                _everything(script, shape, seeds, size) for seeds in ((), (1,), (2,), (1, 2))
            )
        except Exception:  # operations that take some values only, as a table does
            return False
        difference = np.abs(at_both - at_b - at_a + at_zero)
        if not difference.max() <= _ROUNDING * max(np.abs(at_both).max(), np.abs(at_zero).max()):
            return False
    return True


def _everything(script: Script, shape: Sequence[int], seeds: Sequence[int], size: float) -> Array:
    """What goes to the layers, and the logits, where samples and results are sums of seeded random values."""
    streams, found = [np.random.default_rng(seed) for seed in seeds], list[Array]()

    def drawn(*sizes: int) -> Array:
        return sum((stream.normal(0.0, size, sizes) for stream in streams), np.zeros(sizes))

    running = script.run(drawn(_SAMPLES, *shape))
    try:
        number, sent = next(running)
        while True:
            found.append(sent.reshape(-1))
            number, sent = running.send(drawn(len(sent), *script.layers[number].output))
    except StopIteration as end:
        return np.concatenate([*found, end.value.reshape(-1)])
