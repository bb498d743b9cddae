"""What a plan tells about itself, to read: layers, ring, refreshes, keys and cost; never a weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from securedl.display import Card, middle_left_out
from securedl.he.params import SECURITY_BITS
from securedl.plan.normalised import Layer
from securedl.plan.signature import Checkpoint, Cost, Signature
from securedl.program.program import Program


def summary(signature: Signature, layers: Sequence[Layer]) -> str:
    """All layers, levels, refreshes, keys, bytes and estimated time; a line each.

    Args:
        layers: the normalised network's.
    """
    program, params = signature.program, signature.program.params
    bits = [q.bit_length() for q in (*params.primes, params.special)]
    products = [step for step in program.steps if step.diagonals]
    lines = [
        f"{params.scheme.upper()}, ring {params.ring}, primes {bits} bits, security {SECURITY_BITS} bits",
        f"batch {program.batch} samples, {program.width} features a ciphertext, {_weights(program)}",
    ]
    for layer, step in zip(_layers(layers), products, strict=True):
        lines.append(f"  {layer}; {step.diagonals} diagonals, level {step.level}")
    lines += [
        f"refreshes: {_refreshes(signature.checkpoints)}",
        f"keys: {_keys(program)}",
        f"estimate for one batch: {_cost(signature.cost)}",
    ]
    return "\n".join(lines)


def plan_card(signature: Signature, layers: Sequence[Layer]) -> Card:
    """What matters of a plan on one screen; arguments as for `summary`."""
    program, params = signature.program, signature.program.params
    shown = middle_left_out(_layers(layers))
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
    return Card(f"Plan of {count}, {network_shape(layers)}, {params.scheme.upper()}", tuple(rows))


def network_shape(layers: Sequence[Layer]) -> str:
    """Input features -> outputs."""
    return f"{layers[0].matrices[0].shape[1]} -> {layers[-1].features}"


def _layers(layers: Sequence[Layer]) -> Iterator[str]:
    for number, layer in enumerate(layers):
        form = f", {layer.form}" if str(layer.form) else ""
        yield f"{number + 1}. {layer.name}: {layer.matrices[0].shape[1]} -> {layer.features}{form}"


def _weights(program: Program) -> str:
    return f"weights {'encrypted' if program.encrypted else 'plain'}"


def _refreshes(checkpoints: Sequence[Checkpoint]) -> str:
    between = checkpoints[1:-1]
    places = ", ".join(f"before {point.name}" for point in between)
    return f"{len(between)}" + (f" ({places})" if between else "")


def _keys(program: Program) -> str:
    return f"{len(program.rotations)} rotations" + (" and relinearisation" * program.relinearises)


def _cost(cost: Cost) -> str:
    return (
        f"server {cost.server_ms:.0f} ms, client {cost.client_ms:.0f} ms, link {cost.link_ms:.0f} ms, "
        f"{cost.bytes / 1e6:.1f} MB"
    )
