"""compile(scheme="bgv", refreshes=0): whole numbers from the query to the answer, modulo several primes.

Values have 70 bits and more, so that no plain modulus holds them: a plan has a *channel* for each of some
primes, the same program on parameters of its own, and the client joins the answers (Chinese remainder
theorem).
"""

from __future__ import annotations

import math
from dataclasses import replace

from securedl.compiler.candidate import Candidate
from securedl.compiler.chains import check_noise
from securedl.compiler.cost import SlotsCost
from securedl.compiler.exact import Laying, Lowered, WholeWanted
from securedl.compiler.fused import Fused
from securedl.compiler.precision import KEPT_SAMPLES
from securedl.compiler.quantise import CLIP_MARGIN, Widths, quantise_through, quantising_error
from securedl.errors import CompileError
from securedl.he.bgv import bgv_parameters, plain_primes
from securedl.network.outputs import Output
from securedl.plan.congruent import Congruent
from securedl.plan.plan import Plan
from securedl.plan.signature import Cost, Signature

#: Rings that are tried.
THROUGH_RINGS = (8192, 16384, 32768)
#: A plan has so many channels at most.
MOST_CHANNELS = 8


def through_candidates(fused: Fused, wish: WholeWanted, output: Output) -> list[Candidate]:
    """A plan for each ring that holds it, with the first of the widths that one does.

    Raises:
        CompileError: none does; names the layer with the largest values, and their bits.
    """
    return wish.fineness.first(lambda widths: _candidates(fused, widths, wish, output))


def _candidates(fused: Fused, widths: Widths, wish: WholeWanted, output: Output) -> list[Candidate]:
    """With these widths.

    Raises:
        CompileError: no ring holds the plan; what is said of the largest.
    """
    whole, found, reasons = (
        quantise_through(fused.normalised[0], widths),
        list[Candidate](),
        list[CompileError](),
    )
    for ring in (wish.ring,) if wish.ring else THROUGH_RINGS:
        try:
            channels = _channels(whole, Laying(fused, ring, (0,), wish), ring)
        except CompileError as reason:
            reasons.append(reason)
        else:
            found.append(_candidate(fused, whole, channels, wish, output))
    if not found:
        raise reasons[-1]
    return found


def _channels(whole: Congruent, laying: Laying, ring: int) -> list[Lowered]:
    """The program for each of as few primes as there can be.

    Raises:
        CompileError: values have too many bits for the ring, or weights are too many.
    """
    least = 2 * math.ceil(float(whole.bounds[-1].max())) + 1
    for number in range(1, MOST_CHANNELS + 1):
        try:
            *others, largest = plain_primes(ring, least, number)
            first = laying.smallest(largest)
        except CompileError:
            continue
        laying.check_upload(first, number)
        bits = [q.bit_length() for q in first.params.primes]
        found = [*(laying.on(bgv_parameters(ring, t, bits)) for t in others), first]
        for channel in found:
            check_noise(channel.program)
        return found
    raise CompileError(
        f"layer {whole.layers[-1].name!r} needs {least.bit_length()} bits for its values without a refresh, "
        f"and ring {ring} has no room for the noise of {MOST_CHANNELS} plain moduli that hold them: allow "
        "refreshes, use fewer bits for inputs and weights, or a lower degree"
    )


def _candidate(
    fused: Fused, whole: Congruent, channels: list[Lowered], wish: WholeWanted, output: Output
) -> Candidate:
    first, graph = channels[-1], fused.graph
    programs = tuple(channel.program for channel in channels)
    primes = tuple(program.params.plain_modulus for program in programs)
    network = replace(whole, primes=primes, places=first.places)
    if wish.fineness.accuracy is not None:
        flat = fused.x.reshape(len(fused.x), -1)
        wish.fineness.check(output, network(flat), fused.graph(flat))
    waits = (len(channels) - 1) * wish.link.rtt_ms  # all are asked at once
    total = sum((channel.segments.cost for channel in channels), Cost())
    cost = replace(total, link_ms=total.link_ms - waits)
    signature = Signature(
        programs, first.points, graph.input_shape, whole.input_scale, whole.input_offset, whole.output_scale,
        whole.output_offset, CLIP_MARGIN, cost, wish.columns, output, requantised=whole.client,
    )  # fmt: skip

    def make() -> Plan:
        plan = Plan(signature, network, graph, fused.x[:KEPT_SAMPLES].copy())
        flat = fused.x.reshape(len(fused.x), -1)
        return plan.with_error(quantising_error(network(flat), plan.reference(flat)))

    once = sum(SlotsCost(one.params, wish.link, wish.prices).once_ms(one.program) for one in channels)
    count = f"{len(channels)} channel" + "s" * (len(channels) != 1)
    name = f"whole numbers without refreshes, ring {first.params.ring}, {count}"
    return Candidate(name, programs[0].batch, cost, once, wish.queries, make)
