"""A plan whose layers are computed one by one, with a refresh between any two."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from securedl.compiler.bands import Conditions, LayerCounts, choose
from securedl.compiler.candidate import Candidate
from securedl.compiler.cost import COEFFICIENT_PRICES, EXPECTED_QUERIES, CoefficientPrices, SlotsCost
from securedl.compiler.forms import FAR, Choice
from securedl.compiler.layout import LayerLayout
from securedl.compiler.lower import lower_layers
from securedl.compiler.precision import KEPT_SAMPLES, check_precision, input_limit
from securedl.compiler.quantise import Fineness
from securedl.compiler.ranges import by_channel, ranges_of
from securedl.errors import CompileError
from securedl.he.ckks import WEIGHT_SCALE, coefficient_parameters
from securedl.he.params import Parameters
from securedl.he.record import Shape, packed_length
from securedl.he.schemes import scheme_of
from securedl.network.graph import Array
from securedl.network.outputs import Output
from securedl.network.script import ChainLayer, LinearLayer, PolynomialLayer, Script, ServerLayer
from securedl.plan.bands import Bands
from securedl.plan.forms import COMPLETED
from securedl.plan.layouts import Interleaved
from securedl.plan.normalised import Layer
from securedl.plan.plan import Plan
from securedl.plan.rounds import Layerwise, Rounds
from securedl.plan.served import Ranges, Served, ServedLinear, ServedPolynomial
from securedl.plan.served_chain import ChainPart, ServedChain
from securedl.plan.signature import Cost, Link, Signature
from securedl.program.program import MAX_BATCH, Program

#: Without polynomials, and with: they need slots and levels.
_RINGS = (4096, 8192)
#: What results reach on the calibration data, the first that is precise enough; others may be 16 or 4 times
#: as large before they are refused.
TARGETS = (2.0, 8.0)
#: Batches whose cost is told beside that of the one asked for.
OTHER_BATCHES = (1, 16)
#: Calibration samples used, and simulated: the fewest and the most, so many products in all between them.
CALIBRATION, SIMULATED, SIMULATED_PRODUCTS = 512, (8, 16), 1 << 12
#: Random inputs that try the box of the inputs.
FEW_TRIES = 16
#: Part of what an input feature usually reaches that one without data is given.
UNSEEN = 0.125
WEIGHT = Shape(0, 2, WEIGHT_SCALE, seeded=True)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is asked of a plan.

    Attributes:
        samples: of a query. encrypted: the weights. ring: N, or None. limit_gb: of the upload, 10^9 bytes.
        queries: that share the price of preparing and uploading the weights. taps: whether the client is
            shown pre-activations inside of chains. fineness: of whole numbers; None where values are not
            whole.
    """

    samples: int
    encrypted: bool
    link: Link
    ring: int | None
    columns: tuple[str, ...]
    output: Output
    limit_gb: float
    prices: CoefficientPrices = COEFFICIENT_PRICES
    queries: int = EXPECTED_QUERIES
    taps: bool = False
    fineness: Fineness | None = None


@dataclass(frozen=True, eq=False)
class ChainPlace:
    """Where the values of a chain stand, and its ranges.

    Attributes:
        parts, layers: of the chain, public and secret. layouts: of its affine maps, in order. taps: see
            `Wanted`.
        start, end: scale and offset of what is sent and received: value = normalised · scale + offset.
    """

    parts: tuple[ChainPart, ...]
    layers: tuple[Layer, ...]
    layouts: tuple[LayerLayout, ...]
    taps: bool
    start: tuple[Array, Array]
    end: tuple[Array, Array]


LayerPlace: TypeAlias = Bands | Interleaved | ChainPlace


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Where everything stands, before any weight is looked at.

    Attributes:
        places: of each layer. cost: of a query. once: milliseconds of preparing and uploading the weights.
    """

    params: Parameters
    places: tuple[LayerPlace, ...]
    cost: Cost
    once: float


def arrange(layers: Sequence[ServerLayer], wanted: Wanted, params: Parameters | None = None) -> Arrangement:
    """The cheapest layout of each layer.

    Args:
        params: for those of another scheme than CKKS.

    Raises:
        CompileError: no layout fits, or the weights take more than `limit_gb`.
    """
    degrees = [layer.degree for layer in layers if isinstance(layer, PolynomialLayer)]
    levels = max((COMPLETED[degree].levels for degree in degrees), default=0)
    params = params or coefficient_parameters(wanted.ring or _RINGS[levels > 0], levels)
    most = params.slots if levels else MAX_BATCH
    if wanted.samples > most:
        raise CompileError(f"batch {wanted.samples} does not fit: a query has {most} samples at most")
    conditions, places = _conditions(params, wanted), list[Bands | Interleaved]()
    for layer in layers:
        if isinstance(layer, LinearLayer):
            places.append(choose(layer.geometry, wanted.samples * layer.repeat, conditions, layer.name))
        elif isinstance(layer, PolynomialLayer):
            features = layer.repeat * math.prod(layer.shape)
            places.append(Interleaved(features, params.slots // wanted.samples, wanted.samples))
    found = arranged(layers, places, params, wanted)
    check_size(layers, found, wanted)
    return found


def _conditions(params: Parameters, wanted: Wanted) -> Conditions:
    return Conditions(params, wanted.encrypted, wanted.link, wanted.queries, wanted.prices)


def arranged(
    layers: Sequence[ServerLayer], places: Sequence[LayerPlace], params: Parameters, wanted: Wanted
) -> Arrangement:
    """What layers cost in these places."""
    conditions, in_slots = _conditions(params, wanted), SlotsCost(params, wanted.link, wanted.prices)
    cost, once = Cost(link_ms=wanted.link.rtt_ms * len(layers)), 0.0
    for layer, place in zip(layers, places, strict=True):
        if isinstance(place, Bands):
            counts = LayerCounts.of(place)
            cost += conditions.cost(counts)
            once += conditions.once(counts)
        elif isinstance(place, Interleaved) and isinstance(layer, PolynomialLayer):
            form = COMPLETED[layer.degree]
            cost += in_slots.polynomial(place.tiles, form.products, form.levels)
    return Arrangement(params, tuple(places), cost, once)


def alternatives(
    layers: Sequence[ServerLayer], wanted: Wanted, name: str = "", params: Parameters | None = None
) -> list[Candidate]:
    """What the same layers would cost in other batches, and with activations="client" where some are
    polynomials; only told.

    Args:
        name: of such plans, where there are others. params: as of `arrange`.
    """
    found, linear = list[Candidate](), [layer for layer in layers if isinstance(layer, LinearLayer)]
    asked = [
        (f"{name}batch {samples}", layers, replace(wanted, samples=samples))
        for samples in OTHER_BATCHES
        if samples != wanted.samples
    ]
    if len(linear) < len(layers):
        asked.append(("activations='client'", linear, wanted))
    for text, those, other in asked:
        with contextlib.suppress(CompileError):  # it cannot be had
            arrangement = arrange(those, other, params)
            found.append(Candidate(text, other.samples, arrangement.cost, arrangement.once, wanted.queries))
    return found


def compile_rounds(
    script: Script, kernels: Sequence[Any], x: Array, wanted: Wanted, arrangement: Arrangement | None = None
) -> Plan:
    """The passes in order: layouts, ranges, program, check.

    Args:
        x: calibration samples [samples, *shape]. arrangement: of the layers, where it is known.

    Raises:
        CompileError: no layout fits, the weights take more than `limit_gb`, or the precision is too low.
    """
    arrangement, used = arrangement or arrange(script.layers, wanted), x[:CALIBRATION]
    ranges = ranges_of(script, kernels, used)

    def plan(target: float) -> Plan:
        served, weights = list[Served](), list[Any]()
        for layer, where, kernel, found in zip(
            script.layers, arrangement.places, kernels, ranges, strict=True
        ):
            one, normalised = _served(layer, where, kernel, found, target)
            served.append(one)
            weights.append(normalised)
        rounds = Rounds(script, x.shape[1:], math.prod(wanted.output.shape), tuple(served))
        layouts = [one.layouts if isinstance(one, ChainPlace) else () for one in arrangement.places]
        program = lower_layers(arrangement.params, served, layouts, wanted.samples, wanted.encrypted)
        network = Layerwise(rounds, tuple(weights))
        return _plan(program, network, used.reshape(len(used), -1), arrangement.cost, wanted)

    *wide, narrow = TARGETS
    for target in wide:
        with contextlib.suppress(CompileError):
            return plan(target)
    return plan(narrow)


def _served(
    layer: ServerLayer, where: LayerPlace, kernel: Any, found: Ranges | Choice | None, target: float
) -> tuple[Served, Any]:
    """A layer as it is computed, and its normalised weights."""
    if isinstance(layer, ChainLayer):
        assert isinstance(where, ChainPlace)
        return ServedChain(layer, where.parts, where.taps, *where.start, *where.end), where.layers
    if isinstance(layer, LinearLayer):
        assert isinstance(found, Ranges)
        assert isinstance(where, Bands)
        ranges = found.reaching(target)
        weights = by_channel(kernel, layer.geometry, ranges.scale) / ranges.gain[:, None, None, None]
        return ServedLinear(layer, ranges, where), weights
    assert isinstance(found, Choice)
    assert isinstance(where, Interleaved)
    constant = found.form.constant
    if len(constant):
        one = np.broadcast_to(constant.reshape(-1, *[1] * (len(layer.shape) - 1)), layer.shape)
        constant = np.tile(one.reshape(-1), layer.repeat)
    served = ServedPolynomial(
        layer, COMPLETED[layer.degree], found.shift, found.reach, found.gains[0], found.offset, where
    )
    return served, constant


def _plan(program: Program, network: Layerwise, flat: Array, cost: Cost, wanted: Wanted) -> Plan:
    """A plan, checked on calibration samples [samples, features]."""
    found, logits = layerwise_plan(program, network, flat, cost, wanted)
    least, most = SIMULATED
    products = program.counts.terms + program.counts.products
    checked = min(max(SIMULATED_PRODUCTS // products, least), most)
    return found.with_error(check_precision(found, flat, checked, logits))


def layerwise_plan(
    program: Program, network: Layerwise, flat: Array, cost: Cost, wanted: Wanted
) -> tuple[Plan, Array]:
    """A plan, and the network's logits of calibration samples [samples, features]."""
    rounds, limit = network.rounds, program.scheme.value_limit
    middle, reach = _box(flat)
    logits = network(flat)
    ends = _ends(network, logits, middle, reach)
    signature = Signature(
        (program,), rounds.checkpoints, rounds.input_shape, reach, middle, *ends,
        input_limit(network, middle, reach, limit, FEW_TRIES), cost, wanted.columns, wanted.output, rounds,
    )  # fmt: skip
    return Plan(signature, network, network, flat[:KEPT_SAMPLES].copy()), logits


def check_size(layers: Sequence[ServerLayer], found: Arrangement, wanted: Wanted) -> None:
    """Refuse weights that are too many to be sent.

    Raises:
        CompileError: so they are; names the largest layer.
    """
    weights, total = list[int](), 0
    for place in found.places:
        count, level = 0, scheme_of(found.params).coefficient_form.level
        if isinstance(place, Bands):
            count = LayerCounts.of(place).weights
        elif isinstance(place, ChainPlace):
            count, level = sum(one.diagonals for one in place.layouts), found.params.levels
        weights.append(count)
        total += count * packed_length(found.params, replace(WEIGHT, level=level))
    if total <= wanted.limit_gb * 1e9:
        return
    largest = max(range(len(weights)), key=weights.__getitem__)
    layer = layers[largest]
    what = f" ({layer.geometry})" if isinstance(layer, LinearLayer) else ""
    raise CompileError(
        f"the upload takes {total / 1e9:.1f} GB, more than limit_gb={wanted.limit_gb:g}: "
        f"{weights[largest]:,} of {sum(weights):,} weights are those of "
        f"{layer.name!r}{what}. Fewer channels make them fewer; or raise limit_gb"
    )


def _box(flat: Array) -> tuple[Array, Array]:
    """Middle and reach [features] of the data; features without any have a part of the others'."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    middle = np.where(np.abs(low + high) > FAR * (high - low), (low + high) / 2, 0.0)
    reach = np.maximum(np.abs(low - middle), np.abs(high - middle))
    alive = reach[reach > 0]
    usual = float(np.median(alive)) if len(alive) else 1.0
    return middle, np.where(reach > 0, reach, UNSEEN * usual)


def _ends(network: Layerwise, logits: Array, middle: Array, reach: Array) -> tuple[Array, Array]:
    """Scale and offset [outputs] of the answers, which the client makes by itself.

    Few samples may leave an output nearly constant; random ones show what it can do.
    """
    found = np.abs(logits).max(axis=0)
    random = np.random.default_rng(0).uniform(-1, 1, (FEW_TRIES, len(reach)))
    with contextlib.suppress(Exception):  # of the client's operations: some take no such values
        spread = network(middle + random * reach).std(axis=0)
        found = np.maximum(found, np.nan_to_num(spread, nan=0.0, posinf=0.0))
    return np.where(found > 0, found, 1.0), np.zeros(logits.shape[1])
