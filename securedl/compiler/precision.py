"""Pass 6: the plan is simulated before any key exists: overflow and precision."""

from __future__ import annotations

import numpy as np

from securedl.errors import CompileError
from securedl.network.graph import Array
from securedl.plan.normalised import Normalised, within_headroom
from securedl.plan.plan import Plan

#: Multiples of the calibration range that are tried for queries and probes, the widest first.
INPUT_LIMITS = (4.0, 3.0, 2.0, 1.5, 1.0)
#: A plan is refused whose simulated error exceeds this share of the range of an output.
PRECISION = 2.0**-10
#: Samples that are simulated, whatever the batch; fewer only where there are no more.
CHECKED = 64
#: An output that is constant, or nearly, is held to this part of its scale, which is what it could do, or to
#: the range of the output that varies most.
LEAST_RANGE = 0.125
CONSTANT = 1e-12  # outputs vary by this part of their size, or not at all


def input_limit(network: Normalised, value_limit: float) -> float:
    """The widest box in which 512 random inputs, half of them corners, all stay within the headroom.

    In multiples of the calibration range; 0 where none does, so that every query is checked by itself.
    """
    random = np.random.default_rng(0)
    middle, reach = network.input_offset, network.input_scale
    box = random.uniform(-1, 1, (512, len(network.input_scale)))
    box[::2] = np.sign(box[::2])
    for limit in INPUT_LIMITS:
        if np.all(within_headroom(network, middle + box * reach * limit, value_limit)):
            return limit
    return 0.0


def check_precision(plan: Plan, x: Array) -> None:
    """Simulate a batch with noise, `CHECKED` samples at least, and compare with the network itself.

    Raises:
        CompileError: an output's error is above 2^-10 of its own range.
    """
    part = x[: max(plan.batch, CHECKED)]
    answers = [seen[-1] for seen in plan.simulate_checkpoints(plan.batches(part), noise_seed=0)]
    simulated = plan.signature.outputs(np.concatenate(answers)[: len(part)])
    errors = np.abs(simulated - plan.graph(part)).max(axis=0)
    ranges = np.ptp(plan.graph(x), axis=0)
    could = LEAST_RANGE * plan.signature.output_scale
    if ranges.max() > CONSTANT * np.abs(plan.graph(x)).max():
        could = np.minimum(could, ranges.max())
    ranges = np.maximum(ranges, could)
    worst = int(np.nan_to_num(errors / ranges, nan=np.inf).argmax())
    if not errors[worst] <= PRECISION * ranges[worst]:
        raise CompileError(
            f"the simulated error {errors[worst]:.2g} of output {worst} is more than 2^-10 of its range "
            f"{ranges[worst]:.2g}: use a larger ring, a lower degree, or inputs of similar sizes"
        )
