"""Pass 6: the plan is simulated before any key exists: overflow and precision."""

from __future__ import annotations

import numpy as np

from securedl.errors import CompileError
from securedl.network.graph import Array
from securedl.plan.network import Network, within_headroom
from securedl.plan.plan import Plan

#: Multiples of the calibration range that are tried for queries and probes, the widest first.
INPUT_LIMITS = (4.0, 3.0, 2.0, 1.5, 1.0)
#: Calibration samples kept in the plan, from which the owner makes probes.
KEPT_SAMPLES = 128
#: A plan is refused whose simulated error exceeds this share of the range of an output.
PRECISION = 2.0**-10
#: Samples that are simulated, whatever the batch; fewer only where there are no more.
CHECKED = 64
#: Random inputs of which all must stay within the headroom.
TRIES = 512
#: An output that is constant, or nearly, is held to this part of its scale, which is what it could do, or to
#: the range of the output that varies most.
LEAST_RANGE = 0.125
CONSTANT = 1e-12  # outputs vary by this part of their size, or not at all


def input_limit(
    network: Network, middle: Array, reach: Array, value_limit: float, tries: int = TRIES
) -> float:
    """The widest box in which random inputs, half of them corners, all stay within the headroom.

    In multiples of the calibration range; 0 where none does, so that every query is checked by itself.

    Args:
        middle, reach: [features], of the calibration data. tries: how many random inputs.
    """
    random = np.random.default_rng(0)
    box = random.uniform(-1, 1, (tries, len(reach)))
    box[::2] = np.sign(box[::2])
    for limit in INPUT_LIMITS:
        if np.all(within_headroom(network, middle + box * reach * limit, value_limit)):
            return limit
    return 0.0


def check_precision(plan: Plan, x: Array, checked: int = CHECKED) -> float:
    """Simulate a batch with noise, `checked` samples at least, and compare with the network itself.

    Returns:
        The largest error, in parts of the range of its output.

    Raises:
        CompileError: an output's error is above 2^-10 of its own range.
    """
    part = x[: max(plan.batch, checked)]
    answers = [run.logits for run in plan.simulate_batches(plan.batches(part), noise_seed=0)]
    simulated, whole = np.concatenate(answers)[: len(part)], plan.reference(x)
    errors = np.abs(simulated - plan.reference(part)).max(axis=0)
    ranges = np.ptp(whole, axis=0)
    could = LEAST_RANGE * plan.signature.output_scale
    if ranges.max() > CONSTANT * np.abs(whole).max():
        could = np.minimum(could, ranges.max())
    ranges = np.maximum(ranges, could)
    worst = int(np.nan_to_num(errors / ranges, nan=np.inf).argmax())
    if not errors[worst] <= PRECISION * ranges[worst]:
        raise CompileError(
            f"the simulated error {errors[worst]:.2g} of output {worst} is more than 2^-10 of its range "
            f"{ranges[worst]:.2g}: use a larger ring, a lower degree, or inputs of similar sizes"
        )
    return float(errors[worst] / ranges[worst])
