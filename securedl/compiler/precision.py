"""Pass 6: the plan is simulated before any key exists: overflow and precision."""

from __future__ import annotations

import numpy as np

from securedl.errors import CompileError
from securedl.network.graph import Array
from securedl.plan.normalised import Normalised, within_headroom
from securedl.plan.plan import Plan

#: Multiples of the calibration range that are tried for queries and probes, the widest first.
INPUT_LIMITS = (4.0, 3.0, 2.0, 1.5, 1.0)
#: A plan whose simulated error exceeds this share of the logit range is refused.
PRECISION = 2.0**-10


def input_limit(network: Normalised, value_limit: float) -> float:
    """The widest box in which 512 random inputs, half of them corners, all stay within the headroom.

    In multiples of the calibration range; 0 where none does, so that every query is checked by itself.
    """
    random = np.random.default_rng(0)
    box = random.uniform(-1, 1, (512, len(network.input_scale)))
    box[::2] = np.sign(box[::2])
    for limit in INPUT_LIMITS:
        if np.all(within_headroom(network, box * limit * network.input_scale, value_limit)):
            return limit
    return 0.0


def check_precision(plan: Plan, x: Array) -> None:
    """Simulate one batch with noise and compare with the network itself.

    Raises:
        CompileError: the error is above 2^-10 of the logit range.
    """
    part = plan.batches(x[: plan.batch])[0]
    exact = plan.graph(part)
    simulated = plan.signature.outputs(plan.simulate_checkpoints([part], noise_seed=0)[0][-1])
    error, size = float(np.abs(simulated - exact).max()), float(np.ptp(plan.graph(x)))
    if not error <= PRECISION * size:
        raise CompileError(
            f"the simulated error {error:.2g} is more than 2^-10 of the logit range {size:.2g}: use a larger "
            "ring, a lower degree, or inputs of similar sizes"
        )
