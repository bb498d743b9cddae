"""Pass 6: the plan is simulated before any key exists: overflow and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from securedl.compiler.forms import Normalised
from securedl.errors import CompileError
from securedl.he.params import HEADROOM_BITS
from securedl.network.graph import Array

if TYPE_CHECKING:
    from securedl.plan.plan import Plan

#: Encrypted values stay below this; decryption wraps around at 2^(HEADROOM_BITS - 1).
VALUE_LIMIT = 2.0 ** (HEADROOM_BITS - 2)
#: Multiples of the calibration range that are tried for queries and probes, the widest first.
INPUT_LIMITS = (4.0, 3.0, 2.0, 1.5, 1.0)
#: A plan whose simulated error exceeds this share of the logit range is refused.
PRECISION = 2.0**-10


def within_headroom(network: Normalised, x: Array) -> np.ndarray:
    """Which of the samples [samples, features] keep every encrypted value below the limit."""
    pre, reads = network.stages(x)
    worst = np.zeros(len(x))
    with np.errstate(over="ignore", invalid="ignore"):
        for value in (*pre, *(v for group in reads for v in group)):
            worst = np.maximum(worst, np.nan_to_num(np.abs(value).max(axis=1), nan=np.inf))
    inside: np.ndarray = worst <= VALUE_LIMIT
    return inside


def input_limit(network: Normalised) -> float:
    """The widest box in which 512 random inputs, half of them corners, all stay within the headroom.

    In multiples of the calibration range; 0 where none does, so that every query is checked by itself.
    """
    random = np.random.default_rng(0)
    box = random.uniform(-1, 1, (512, len(network.input_scale)))
    box[::2] = np.sign(box[::2])
    for limit in INPUT_LIMITS:
        if np.all(within_headroom(network, box * limit * network.input_scale)):
            return limit
    return 0.0


def check_precision(plan: Plan, x: Array) -> None:
    """Simulate one batch with noise and compare with the network itself.

    Raises:
        CompileError: the error is above 2^-10 of the logit range.
    """
    part = plan.batches(x[: plan.batch])[0]
    exact = plan.graph(part)
    simulated = plan.logits(plan.simulate_checkpoints([part], noise_seed=0)[0][-1])
    error, size = float(np.abs(simulated - exact).max()), float(np.ptp(plan.graph(x)))
    if not error <= PRECISION * size:
        raise CompileError(
            f"the simulated error {error:.2g} is more than 2^-10 of the logit range {size:.2g}: use a larger "
            "ring, a lower degree, or inputs of similar sizes"
        )
