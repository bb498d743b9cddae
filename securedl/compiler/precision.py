"""Pass 6: the plan is simulated before any key exists: overflow and precision."""

from __future__ import annotations

import numpy as np

from securedl.errors import CompileError
from securedl.network.graph import Array
from securedl.plan.network import Conversation, Network, within_headroom
from securedl.plan.plan import Plan

#: Multiples of the calibration range that are tried for queries and probes, the widest first.
INPUT_LIMITS = (4.0, 3.0, 2.0, 1.5, 1.0)
#: Calibration samples kept in the plan, from which the owner makes probes.
KEPT_SAMPLES = 128
#: A plan is refused whose simulated error exceeds this share of the range of an output.
PRECISION = 2.0**-10
#: Samples that are simulated, whatever the batch; fewer only where there are no more.
CHECKED = 64
#: How many standard deviations of simulated errors a plan's stated error is.
DEVIATIONS = 5.0
#: Encrypted models with which all batches are simulated, at most; with fewer than the least they are shared
#: among so many. Products of ciphertexts that are simulated in all.
MODELS, LEAST_MODELS, PRODUCTS = 16, 4, 1 << 11
#: Random inputs of which all must stay within the headroom.
TRIES = 512
#: An output that is constant, or nearly, is held to this part of its scale, which is what it could do, or to
#: the range of the output that varies most.
LEAST_RANGE = 0.125
FEW = 16  # calibration samples say little on the range of an output: it is held to all of its scale
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


def check_precision(plan: Plan, x: Array, checked: int = CHECKED, whole: Array | None = None) -> float:
    """Simulate a batch with noise, `checked` samples at least, and compare with the network itself.

    Where probes may be larger than samples, one stands in each batch of several samples.

    Args:
        whole: logits of `x`, where they are known.

    Returns:
        `DEVIATIONS` standard deviations of an output's error, or its largest if that is more: of the output
        where this is the largest part of its range, and of the sample, where there is enough of each.

    Raises:
        CompileError: an output's error is above 2^-10 of its own range.
    """
    part = x[: max(plan.batch, checked)]
    wrong = _errors(plan, part)
    whole = plan.reference(x) if whole is None else whole
    errors = np.abs(wrong).max(axis=(0, 1))
    ranges = np.ptp(whole, axis=0)
    could = (LEAST_RANGE if len(x) >= FEW else 1.0) * plan.signature.output_scale
    if ranges.max() > CONSTANT * np.abs(whole).max():
        could = np.minimum(could, ranges.max())
    ranges = np.maximum(ranges, could)
    worst = int(np.nan_to_num(errors / ranges, nan=np.inf).argmax())
    if not errors[worst] <= PRECISION * ranges[worst]:
        raise CompileError(
            f"the simulated error {errors[worst]:.2g} of output {worst} is more than 2^-10 of its range "
            f"{ranges[worst]:.2g}: use {_remedy(plan)}"
        )
    spread = np.sqrt((wrong**2).mean(axis=0 if len(wrong) > 1 else (0, 1)))
    expected = np.maximum(errors, DEVIATIONS * np.atleast_2d(spread).max(axis=0))
    return float((expected / ranges).max())


def _errors(plan: Plan, part: Array) -> Array:
    """Of simulated answers [models, samples, outputs]: one model where all would cost too much."""
    alone, batches, want = plan.network.alone, plan.batches(part), plan.reference(part)
    lanes = plan.batch - (alone and plan.batch > 1)  # a probe is in the last one
    wanted = [want[at : at + plan.batch][:lanes] for at in range(0, len(part), plan.batch)]
    each = len(batches) * max(1, plan.program.counts.terms + plan.program.counts.products)
    models = min(MODELS, PRODUCTS // each) if alone else 0

    def errors(seed: int, chosen: slice) -> list[Array]:
        talks = [_talk(plan, batch) for batch in batches[chosen]]
        runs = plan.simulate_talks(talks, noise_seed=seed)
        return [run.logits[: len(exact)] - exact for run, exact in zip(runs, wanted[chosen], strict=True)]

    if models >= LEAST_MODELS:
        return np.array([np.concatenate(errors(seed, slice(None))) for seed in range(models)])
    shares = min(LEAST_MODELS, len(batches)) if alone else 1
    found = [one for seed in range(shares) for one in errors(seed, slice(seed, None, shares))]
    return np.concatenate(found)[None]


def _remedy(plan: Plan) -> str:
    if plan.network.alone:
        return "more calibration samples, inputs of similar sizes, or norms after wide layers"
    return "a larger ring, a lower degree, or inputs of similar sizes"


def _talk(plan: Plan, samples: Array) -> Conversation:
    """What the client does with a batch [batch, features]."""
    talk = plan.signature.converse(samples)
    return _beside_a_probe(plan, samples[-1:], talk) if plan.network.alone and plan.batch > 1 else talk


def _beside_a_probe(plan: Plan, last: Array, talk: Conversation) -> Conversation:
    """The same with a probe in place of the last sample, which goes on as if nothing had been."""
    points, network = plan.signature.checkpoints, plan.network
    probed = network.probed(last, points, plan.program.scheme.value_limit)
    sent, pairs = next(talk), list(zip(network.exchanges(last, points), probed, strict=True))
    starts = [number for number, point in enumerate(points[:-1]) if point.back is not None]
    for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True):
        probe, own = pairs[start][1], pairs[end - 1][0]  # sent after one refresh, received at the next
        mixed = sent.copy()
        mixed[-1] = probe.sent[0]
        received = (yield mixed).copy()
        received[-1] = own.received[0]
        try:
            sent = talk.send(received)
        except StopIteration as end:
            logits: Array = end.value
            return logits
    raise CompileError("the client has more to ask than the network has layers")
