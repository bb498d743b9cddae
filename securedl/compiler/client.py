"""compile with activations="client": the layers are the server's, all that is between them the client's."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from securedl.compiler.bands import Conditions, LayerCounts, choose
from securedl.compiler.cost import COEFFICIENT_PRICES, CoefficientPrices
from securedl.compiler.forms import FAR
from securedl.compiler.lower import lower_layers
from securedl.compiler.precision import KEPT_SAMPLES, check_precision, input_limit
from securedl.compiler.ranges import normalised, ranges_of
from securedl.errors import CompileError, InputError
from securedl.he.ckks import WEIGHT_SCALE, coefficient_parameters
from securedl.he.record import Shape, packed_length
from securedl.network.graph import Array
from securedl.network.outputs import Output, task_of
from securedl.network.script import Script
from securedl.plan.plan import Plan
from securedl.plan.rounds import Layerwise, Rounds
from securedl.plan.signature import Cost, Link, Signature
from securedl.program.program import MAX_BATCH, Program

if TYPE_CHECKING:
    from torch import nn

    from securedl.network.partition import Partitioned

RING = 4096
#: What results reach on the calibration data, the first that is precise enough; others may be 16 or 4 times
#: as large before they are refused.
TARGETS = (2.0, 8.0)
#: Calibration samples used, and simulated: a sample takes as long as the network in the
#: clear does.
CALIBRATION, FEW_CHECKED = 512, 8
#: Random inputs that try the box of the inputs.
FEW_TRIES = 16
#: Part of what an input feature usually reaches that one without data is given.
UNSEEN = 0.125
WEIGHT = Shape(0, 2, WEIGHT_SCALE, seeded=True)


def compile_client(
    model: nn.Module,
    x: Array,
    *,
    batch: int | str,
    encrypted: bool,
    link: Link,
    ring: int | None,
    columns: tuple[str, ...],
    task: str | None,
    limit_gb: float,
    prices: CoefficientPrices = COEFFICIENT_PRICES,
) -> Plan:
    """A plan for any network, from calibration samples [samples, *shape].

    Raises:
        UnsupportedLayerError: no layer that a server could compute, or what cannot be captured.
        CompileError: see `compile_script`; or the script is not the model.
    """
    from securedl.network.compare import check_script
    from securedl.network.join import join
    from securedl.network.partition import partition

    samples, plain = _samples(batch), partition(model, x.shape[1:])
    joined = join(plain)
    check_script(model, joined, x)
    shape, head = plain.output_shape, plain.head
    if not head.kind and (task in (None, "binary", "multilabel")):
        _check_logits(joined, x[:KEPT_SAMPLES], task)
    output = Output(shape, task_of(shape, head) if task is None else task, head)

    def plan(found: Partitioned) -> Plan:
        return compile_script(
            found.script, found.kernels, x, samples=samples, encrypted=encrypted, link=link,
            ring=RING if ring is None else ring, columns=columns, output=output, limit_gb=limit_gb,
            prices=prices,
        )  # fmt: skip

    if joined is not plain:
        with contextlib.suppress(CompileError):  # two small results in one may be less precise than each
            return plan(joined)
    return plan(plain)


def _check_logits(found: Partitioned, x: Array, task: str | None) -> None:
    """Refuse answers whose signs are no labels.

    Raises:
        InputError: probabilities, or whole numbers, and nobody said that they are just values.
    """
    logits = found.script.logits(x, found.kernels)
    single = math.prod(found.output_shape) == 1
    whole = bool((logits == np.rint(logits)).all())
    shares = bool(((logits >= 0) & (logits <= 1)).all()) and len(logits) > 1
    if whole or (shares and (single or task == "multilabel")):
        kind = "whole numbers" if whole else "from 0 to 1"
        raise InputError(
            f"all answers of the network are {kind}, so their signs are no labels: let it end in its logits, "
            "or in a Softmax or Sigmoid, which the client applies; or pass task='regression' for the values "
            "alone"
        )


def _samples(batch: int | str) -> int:
    """Samples of a query."""
    if batch == "throughput":
        raise InputError(
            "batch 'throughput' fills the slots of a ciphertext, which activations='client' does not use: "
            "give a number"
        )
    if batch == "latency":
        return 1
    if isinstance(batch, bool) or not isinstance(batch, int | np.integer) or not 1 <= batch <= MAX_BATCH:
        raise InputError(f"batch must be a number from 1 to {MAX_BATCH} or 'latency', got {batch!r}")
    return int(batch)


def compile_script(
    script: Script,
    kernels: Sequence[Array],
    x: Array,
    *,
    samples: int,
    encrypted: bool,
    link: Link,
    ring: int,
    columns: tuple[str, ...],
    output: Output,
    limit_gb: float,
    prices: CoefficientPrices,
) -> Plan:
    """The passes in order: ranges, layouts, program, check.

    Args:
        x: calibration samples [samples, *shape]. samples: of a query.

    Raises:
        CompileError: no layout fits, the weights take more than `limit_gb`, or the precision is too low.
    """
    params = coefficient_parameters(ring)
    conditions = Conditions(params, encrypted, link, prices=prices)
    used = x[:CALIBRATION]
    ranges = ranges_of(script, kernels, used)
    layers = [
        choose(layer.geometry, samples * layer.repeat, conditions, layer.name) for layer in script.layers
    ]
    counted = [LayerCounts.of(bands) for bands in layers]
    program = lower_layers(params, layers, samples, encrypted)
    _check_size(script, counted, conditions, limit_gb)
    cost = sum((conditions.cost(one) for one in counted), Cost(link_ms=link.rtt_ms * len(layers)))

    def plan(target: float) -> Plan:
        reaching = tuple(one.reaching(target) for one in ranges)
        rounds = Rounds(script, x.shape[1:], math.prod(output.shape), reaching, tuple(layers))
        triples = zip(kernels, script.layers, reaching, strict=True)
        network = Layerwise(rounds, tuple(normalised(k, layer.geometry, r) for k, layer, r in triples))
        return _plan(program, network, used.reshape(len(used), -1), cost, columns, output)

    *wide, narrow = TARGETS
    for target in wide:
        with contextlib.suppress(CompileError):
            return plan(target)
    return plan(narrow)


def _plan(
    program: Program, network: Layerwise, flat: Array, cost: Cost, columns: tuple[str, ...], output: Output
) -> Plan:
    """A plan, checked on calibration samples [samples, features]."""
    rounds, limit = network.rounds, program.scheme.value_limit
    middle, reach = _box(flat)
    logits = np.concatenate([network(flat[at : at + 64]) for at in range(0, len(flat), 64)])
    signature = Signature(
        (program,), rounds.checkpoints, rounds.input_shape, reach, middle, *_ends(logits),
        input_limit(network, middle, reach, limit, FEW_TRIES), cost, columns, output, rounds,
    )  # fmt: skip
    found = Plan(signature, network, network, flat[:KEPT_SAMPLES].copy())
    return found.with_error(check_precision(found, flat, FEW_CHECKED))


def _check_size(
    script: Script, counted: Sequence[LayerCounts], conditions: Conditions, limit_gb: float
) -> None:
    sizes = [one.weights * packed_length(conditions.params, WEIGHT) for one in counted]
    if sum(sizes) <= limit_gb * 1e9:
        return
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    layer = script.layers[largest]
    raise CompileError(
        f"the upload takes {sum(sizes) / 1e9:.1f} GB, more than limit_gb={limit_gb:g}: "
        f"{counted[largest].weights:,} of {sum(one.weights for one in counted):,} weights are those of "
        f"{layer.name!r} ({layer.geometry}). Fewer channels make them fewer; or raise limit_gb"
    )


def _box(flat: Array) -> tuple[Array, Array]:
    """Middle and reach [features] of the data; features without any have a part of the others'."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    middle = np.where(np.abs(low + high) > FAR * (high - low), (low + high) / 2, 0.0)
    reach = np.maximum(np.abs(low - middle), np.abs(high - middle))
    alive = reach[reach > 0]
    usual = float(np.median(alive)) if len(alive) else 1.0
    return middle, np.where(reach > 0, reach, UNSEEN * usual)


def _ends(logits: Array) -> tuple[Array, Array]:
    """Scale and offset [outputs] of the answers, which the client makes by itself."""
    reach = np.abs(logits).max(axis=0)
    return np.where(reach > 0, reach, 1.0), np.zeros(logits.shape[1])
