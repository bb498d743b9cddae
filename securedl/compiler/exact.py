"""compile(scheme="bgv"): whole numbers, a plain modulus that holds them, and a chain that holds the noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from securedl.compiler.candidate import Candidate
from securedl.compiler.chains import on_smallest_chain
from securedl.compiler.cost import CoefficientPrices, SlotsCost
from securedl.compiler.fused import Fused
from securedl.compiler.layout import lanes
from securedl.compiler.levels import Segments, operations
from securedl.compiler.limit import SizeLimit
from securedl.compiler.lower import lower
from securedl.compiler.precision import KEPT_SAMPLES
from securedl.compiler.quantise import (
    CLIP_MARGIN,
    DEFAULT_FINENESS,
    Fineness,
    Widths,
    quantise,
    quantising_error,
)
from securedl.compiler.segments import SegmentCosts
from securedl.errors import CompileError
from securedl.he.bgv import plain_prime
from securedl.he.params import Parameters
from securedl.network.outputs import Output
from securedl.plan.network import Checkpoint
from securedl.plan.normalised import LayerPlaces
from securedl.plan.plan import Plan
from securedl.plan.quantised import Quantised
from securedl.plan.signature import Cost, Link, Signature
from securedl.program.program import Program

#: Rings that are tried.
EXACT_RINGS = (4096, 8192, 16384)
ROWS = 2


@dataclass(frozen=True)
class WholeWanted:
    """What is asked of a plan of whole numbers.

    Attributes:
        batch: as of `compile`; an even number is taken, for there are two rows. encrypted: the weights.
        ring: N, or None.
        fineness: the first widths that fit are taken. limit_gb: of the weights, as of `compile`. taps:
            whether the client is shown pre-activations between refreshes.
    """

    batch: int | str
    encrypted: bool
    link: Link
    prices: CoefficientPrices
    queries: int
    ring: int | None = None
    fineness: Fineness = DEFAULT_FINENESS
    columns: tuple[str, ...] = ()
    limit_gb: float = 8.0
    taps: bool = False


class Lowered(NamedTuple):
    """A program on its chain."""

    params: Parameters
    program: Program
    points: tuple[Checkpoint, ...]
    places: tuple[LayerPlaces, ...]
    segments: Segments


def exact_candidates(fused: Fused, wish: WholeWanted, output: Output) -> Iterator[Candidate]:
    """A plan for each ring that holds it.

    Raises:
        CompileError: no plain modulus holds the values, or no ring the plan; what is said of the largest.
    """
    whole = wish.fineness.first(lambda widths: _quantised(fused, widths, wish.fineness, output))
    bound = max(float(one.max()) for one in whole.bounds)
    reasons, found = list[CompileError](), 0
    for ring in (wish.ring,) if wish.ring else EXACT_RINGS:
        try:
            ops = operations(fused.normalised[0])
            starts = (0, *(k for k, op in enumerate(ops) if op.kind == "activation"))
            t = plain_prime(ring, math.ceil(2 * bound + 1))
            laying = Laying(fused, ring, starts, wish)
            laying.check_upload(lowered := laying.smallest(t))
        except CompileError as reason:
            reasons.append(reason)
            continue
        found += 1
        yield _candidate(fused, whole, lowered, wish, output)
    if not found:
        raise reasons[-1]


def _quantised(fused: Fused, widths: Widths, fineness: Fineness, output: Output) -> Quantised:
    found, flat = quantise(fused.normalised[0], widths), fused.x.reshape(len(fused.x), -1)
    if fineness.accuracy is not None:
        fineness.check(output, found(flat), fused.graph(flat))
    return found


def _candidate(
    fused: Fused, whole: Quantised, lowered: Lowered, wish: WholeWanted, output: Output
) -> Candidate:
    params, program, points, places, segments = lowered
    network, graph = replace(whole, places=places), fused.graph
    signature = Signature(
        (program,), points, graph.input_shape, whole.input_scale, whole.input_offset, whole.output_scale,
        whole.output_offset, CLIP_MARGIN, segments.cost, wish.columns, output, requantised=whole.client,
    )  # fmt: skip

    def make() -> Plan:
        plan = Plan(signature, network, graph, fused.x[:KEPT_SAMPLES].copy())
        flat = fused.x.reshape(len(fused.x), -1)
        return plan.with_error(quantising_error(network(flat), plan.reference(flat)))

    once = SlotsCost(params, wish.link, wish.prices).once_ms(program)
    return Candidate(
        f"whole numbers, ring {params.ring}", program.batch, segments.cost, once, wish.queries, make
    )


class Laying:
    """A network in the slots of one ring, whatever the primes.

    Args:
        starts: operations at which segments begin; the first is 0.

    Raises:
        CompileError: the batch does not fit, or the weights are too many.
    """

    def __init__(self, fused: Fused, ring: int, starts: tuple[int, ...], wish: WholeWanted) -> None:
        samples = max(ROWS, lanes(wish.batch, ring))
        if samples > ring:
            raise CompileError(f"batch {wish.batch} does not fit the {ring} slots of ring {ring}")
        network = fused.normalised[0]
        ops = operations(network)
        self._layouts = fused.layouts(ring // samples, samples, wish.encrypted)
        self._limit = SizeLimit(wish.limit_gb, network, samples)
        self._limit.check_memory([one.at(laid=True, summed=True) for one in self._layouts], ring)
        self._cut = list(zip(starts, (*starts[1:], len(ops)), strict=True))
        self._network, self._ring, self._ops, self._starts, self._wish = network, ring, ops, starts, wish
        self._primes = 1 + max(sum(op.levels for op in ops[a:b]) for a, b in self._cut)

    def on(self, params: Parameters) -> Lowered:
        """The program on a chain of enough primes."""
        wish, ops = self._wish, self._ops
        price = SlotsCost(params, wish.link, wish.prices)
        costs = SegmentCosts(
            price, self._network, ops, self._layouts, wish.encrypted, wish.queries, wish.taps
        )
        parts = [costs.between(a, b) for a, b in self._cut]
        cost = sum((part.cost for part in parts), Cost())
        chosen = tuple(layout for part in parts for layout in part.layouts)
        segments = Segments(ops, self._starts, cost, chosen, sum(part.once for part in parts), wish.taps)
        return Lowered(params, *lower(params, self._network, segments, wish.encrypted), segments)

    def smallest(self, t: int) -> Lowered:
        """The program on the smallest chain that the noise model allows.

        Raises:
            CompileError: there is none.
        """
        return on_smallest_chain(self._ring, t, self._primes, self.on, lambda one: one.program)

    def check_upload(self, lowered: Lowered, times: int = 1) -> None:
        """Refuse weights that are too many to be sent, so many times.

        Raises:
            CompileError: so they are.
        """
        self._limit.check_upload(lowered.program, lowered.segments.layouts, times)
