"""What a plan tells about itself, to read: layers, ring, refreshes, keys and cost; never a weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from securedl.display import Card, middle_left_out
from securedl.he.params import SECURITY_BITS
from securedl.plan.network import Checkpoint, Network, refreshed
from securedl.plan.signature import Cost, Signature
from securedl.program.footprint import Footprint, Work, footprint_of_all, works
from securedl.program.program import Program

#: Refreshes that are named one by one.
NAMED_REFRESHES = 6
#: Milliseconds for each prime at N = 8192, one core of a Zen 5: encoding, encrypting and packing a weight in
#: slots and in coefficients, and making a digit of a switch key.
SLOT_WEIGHT_MS, COEFFICIENT_WEIGHT_MS, KEY_DIGIT_MS = 0.6, 1.4, 0.5


def summary(signature: Signature, network: Network, runners_up: Sequence[str] = ()) -> str:
    """All that is paid, and for what: each layer, what is paid once, what each query takes; a line each.

    Args:
        runners_up: a line on each plan that was not chosen.
    """
    programs = signature.channels
    program, params = programs[0], programs[0].params
    bits = [q.bit_length() for q in (*params.primes, params.special)]
    taken, done = footprint_of_all(programs), works(program)
    once = len(programs) * prepare_ms(program, done)
    times = f"{len(programs)} x " if len(programs) > 1 else ""
    channels = [f"channels: {len(programs)}, each with a key, weights and a query of its own"] * bool(times)
    lines = [
        f"{params.scheme.upper()}, ring {params.ring}, primes {bits} bits, security {SECURITY_BITS} bits",
        f"batch {_samples(program.batch)}; {_form(program)}, {_weights(program)}",
        *channels,
        *(f"  {row}" for row in _layers(network.rows(program), done, signature.rounds is not None)),
        *network.remarks,
        f"refreshes: {_refreshes(signature.checkpoints)}",
        f"keys: {times}{_keys(program)}, {_size(taken.key_bytes)}",
        f"once: about {_seconds(once)} to prepare {_count(taken.weights, 'weight')} and the keys, then "
        f"{_size(taken.upload)} of upload",
        f"server: {_size(taken.disk)} of disk, about {_size(taken.memory)} of memory",
        f"a query: {_traffic(taken)}; {_trips(signature)}",
        f"checks: {_checks(network.projectable(signature.checkpoints))}",
        f"estimate for one batch: {_times(signature.cost, program.batch)}",
        f"{_error_of(signature)}: {_error(signature.error)}",
        *(f"instead: {line}" for line in runners_up),
    ]
    return "\n".join(lines)


def plan_card(signature: Signature, network: Network) -> Card:
    """What matters of a plan on one screen."""
    program, params = signature.channels[0], signature.channels[0].params
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
        *(("program", one.id.hex()) for one in signature.channels),
    ]
    return Card(f"Plan of {count}, {network_shape(network)}, {params.scheme.upper()}", tuple(rows))


def network_shape(network: Network) -> str:
    """Input features -> outputs."""
    return " -> ".join(map(str, network.sizes))


def _form(program: Program) -> str:
    forms = {port.coefficients for port in program.ports().values()}
    parts = ["values in coefficients"] * (True in forms) + [f"{program.width} features a ciphertext"] * (
        False in forms
    )
    return " and in slots, ".join(parts)


def _weights(program: Program) -> str:
    return f"weights {'encrypted' if program.encrypted else 'plain'}"


def _refreshes(checkpoints: Sequence[Checkpoint]) -> str:
    between = refreshed(checkpoints)
    if len(between) > NAMED_REFRESHES:
        return f"{len(between)} (before {between[0].name} to {between[-1].name})"
    places = ", ".join(f"before {point.name}" for point in between)
    return f"{len(between)}" + (f" ({places})" if between else "")


def _checks(projectable: Sequence[bool]) -> str:
    parts = f"{sum(projectable)} of {len(projectable)} checkpoints"
    without = "without them too" if all(projectable) else f"without them at {parts}"
    return f"every value of every answer by whoever holds the weights, {without}"


def _keys(program: Program) -> str:
    rotations = _count(len(program.rotations), "rotation")
    return rotations + " and relinearisation" * program.relinearises


def _error_of(signature: Signature) -> str:
    return "error of quantising" if signature.channels[0].params.exact else "simulated error"


def _error(error: float) -> str:
    if error <= 0:
        return "not known"
    return f"at most 2^{math.log2(error):.1f} of an output's range, on calibration samples"


def _cost(cost: Cost) -> str:
    return f"{_stages(cost)}, {cost.bytes / 1e6:.1f} MB"


def _stages(cost: Cost, ahead: str = "") -> str:
    server, client, link = (f"{shown_ms(ms)} ms" for ms in (cost.server_ms, cost.client_ms, cost.link_ms))
    return f"server {server}, client {client}{ahead}, link {link}"


def _times(cost: Cost, batch: int) -> str:
    each = f", {shown_ms(cost.total_ms / batch)} ms a sample" if batch > 1 else ""
    ahead = f" ({shown_ms(cost.ahead_ms)} of them ahead, in idle time)" if cost.ahead_ms else ""
    return f"{_stages(cost, ahead)}; {shown_ms(cost.total_ms)} ms in all{each}"


def _samples(batch: int) -> str:
    return f"{batch} samples, which share the price of a query" if batch > 1 else "1 sample"


def _layers(rows: Sequence[str], done: Sequence[Work], by_refresh: bool) -> list[str]:
    """Rows of a network with what each layer takes.

    Args:
        by_refresh: whether a layer is what lies between two refreshes; else it begins with its matrix.
    """
    parts = list[list[Work]]([[]])
    for work in done:
        before = bool(parts[-1]) and (bool(parts[-1][-1].up) if by_refresh else work.sums)
        if before:
            parts.append([])
        parts[-1].append(work)
    if len(parts) != len(rows):
        return list(rows)
    return [f"{row.partition(';')[0]}; {_taken(part)}" for row, part in zip(rows, parts, strict=True)]


def _taken(part: Sequence[Work]) -> str:
    weights, rotations = sum(work.weights for work in part), sum(work.rotations for work in part)
    products = sum(work.counts.products for work in part)
    found = ["coefficients" if part[0].coefficients else "slots", _count(weights, "weight")]
    if not weights:
        found[1] = _count(products, "product")
    found += [_count(rotations, "rotation"), f"level {part[0].primes - 1}"]
    found += [f"tap {_size(w.down)} down" for w in part if w.down and not w.up]
    found += [f"refresh {_size(w.down)} down, {_size(w.up)} up" for w in part if w.up]
    return ", ".join(found)


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _traffic(taken: Footprint) -> str:
    found = [f"{_size(taken.query)} up"]
    if taken.down:
        found.append(f"refreshes {_size(taken.down)} down and {_size(taken.up)} up")
    if taken.taps:
        found.append(f"taps {_size(taken.taps)} down")
    return ", ".join([*found, f"answer {_size(taken.answer)} down"]) + f": {_size(taken.traffic)}"


def _trips(signature: Signature) -> str:
    return _count(1 + len(signature.channels[0].refreshes), "round trip")


def prepare_ms(program: Program, done: Sequence[Work]) -> float:
    """Milliseconds that making keys and weights takes, about: without probes."""
    digits, total = len(program.params.primes), 0.0
    for work in done:
        each = COEFFICIENT_WEIGHT_MS if work.coefficients else SLOT_WEIGHT_MS
        total += work.weights * work.primes * each
    keys = len(program.rotations) + program.relinearises
    total += keys * digits * (digits + 1) * KEY_DIGIT_MS
    return total * program.params.ring / 8192


def _size(octets: int) -> str:
    """For people: two or three digits and a unit, 1 kB being 1000 bytes."""
    size, units = float(octets), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.1f} {units[0]}" if size < 9.95 and units[0] != "bytes" else f"{size:.0f} {units[0]}"


def _seconds(ms: float) -> str:
    if ms >= 100_000:
        return f"{ms / 60_000:.0f} minutes"
    if ms >= 9950:
        return f"{ms / 1000:.0f} s"
    return f"{ms / 1000:.1f} s" if ms >= 950 else f"{ms:.0f} ms"


def shown_ms(ms: float) -> str:
    """An estimate, which has two digits."""
    return f"{ms:.0f}" if ms >= 9.95 else f"{ms:.2g}"
