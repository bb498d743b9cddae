"""What a plan tells about itself, to read: layers, ring, refreshes, keys and cost; never a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from securedl.display import Card, middle_left_out
from securedl.he.params import SECURITY_BITS
from securedl.plan.network import Checkpoint, Network
from securedl.plan.signature import Cost, Signature
from securedl.program.program import Program

#: Refreshes that are named one by one.
NAMED_REFRESHES = 6


def summary(signature: Signature, network: Network) -> str:
    """All layers, levels, refreshes, keys, bytes and estimated time; a line each."""
    program, params = signature.program, signature.program.params
    bits = [q.bit_length() for q in (*params.primes, params.special)]
    lines = [
        f"{params.scheme.upper()}, ring {params.ring}, primes {bits} bits, security {SECURITY_BITS} bits",
        f"batch {program.batch} samples, {_form(program)}, {_weights(program)}",
        *(f"  {row}" for row in network.rows(program)),
        *network.remarks,
        f"refreshes: {_refreshes(signature.checkpoints)}",
        f"keys: {_keys(program)}",
        f"estimate for one batch: {_cost(signature.cost)}",
        f"simulated error: {_error(signature.error)}",
    ]
    return "\n".join(lines)


def plan_card(signature: Signature, network: Network) -> Card:
    """What matters of a plan on one screen."""
    program, params = signature.program, signature.program.params
    layers = [row.partition(";")[0] for row in network.rows(program)]
    shown = middle_left_out(iter(layers))
    count = f"{len(layers)} layer" + "s" * (len(layers) != 1)
    rows = [(name, line) for name, line in zip(["layers", *[""] * len(shown)], shown, strict=False)]
    rows += [
        ("ring", f"{params.ring}, {len(params.primes) + 1} primes, {SECURITY_BITS} bits of security"),
        ("batch", f"{program.batch} samples a ciphertext, {_weights(program)}"),
        ("refreshes", _refreshes(signature.checkpoints)),
        ("keys", _keys(program)),
        ("one batch", _cost(signature.cost)),
        ("program", program.id.hex()),
    ]
    return Card(f"Plan of {count}, {network_shape(network)}, {params.scheme.upper()}", tuple(rows))


def network_shape(network: Network) -> str:
    """Input features -> outputs."""
    return " -> ".join(map(str, network.sizes))


def _form(program: Program) -> str:
    if program.width:
        return f"{program.width} features a ciphertext"
    return "values in coefficients"


def _weights(program: Program) -> str:
    return f"weights {'encrypted' if program.encrypted else 'plain'}"


def _refreshes(checkpoints: Sequence[Checkpoint]) -> str:
    between = checkpoints[1:-1]
    if len(between) > NAMED_REFRESHES:
        return f"{len(between)} (before {between[0].name} to {between[-1].name})"
    places = ", ".join(f"before {point.name}" for point in between)
    return f"{len(between)}" + (f" ({places})" if between else "")


def _keys(program: Program) -> str:
    return f"{len(program.rotations)} rotations" + (" and relinearisation" * program.relinearises)


def _error(error: float) -> str:
    if error <= 0:
        return "not known"
    return f"at most 2^{math.log2(error):.1f} of an output's range, on calibration samples"


def _cost(cost: Cost) -> str:
    times = (("server", cost.server_ms), ("client", cost.client_ms), ("link", cost.link_ms))
    return ", ".join([*(f"{who} {_ms(ms)} ms" for who, ms in times), f"{cost.bytes / 1e6:.1f} MB"])


def _ms(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 1 else f"{ms:.1g}"
