"""Programs that keep every rule of their steps, and take far more than their bytes: and some that break one
where it is found last.
"""

from __future__ import annotations

import json
from typing import Any

from securedl.he.ckks import ckks_parameters
from securedl.he.params import Parameters
from securedl.program.program import Program
from securedl.program.steps import MAX_TILES, Block, Matvec, Multiply, Port, Refresh, Step

SMALL, LARGE, DEEP = (ckks_parameters(ring, levels) for ring, levels in ((4096, 1), (8192, 3), (16384, 7)))
S, DEEP_S = 2.0**30, 2.0**40


def program(params: Parameters, tiles: int, steps: list[Step], level: int, scale: float = S) -> Program:
    return Program(
        params, params.slots // 16, 16, True, Port(tiles, level, scale), tuple(steps), steps[-1].out
    )


def folding(count: int, tiles: int = 1) -> Program:
    """One weight for each answer tile, and so many rotate-and-sum steps."""
    prime, blocks = float(SMALL.primes[1]), tuple(Block(tile, 0, 0, (0,)) for tile in range(tiles))
    return program(SMALL, 1, [Matvec(1, (0,), blocks, tiles, 1, (1,) * count, 1, S, (prime,), 0)], 1)


def folds() -> Program:
    """Few weights, and as many rotations of results as there are tiles and folds."""
    prime, tiles, steps = float(DEEP.primes[7]), 500, list[Step]()
    blocks = tuple(Block(tile, 0, 0, (0,)) for tile in range(tiles))
    turns = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    for number in range(15):
        first = 2 * tiles * number
        steps.append(
            Matvec(2 * number + 1, (2 * number,), blocks, tiles, 1, turns, 7, DEEP_S, (prime,), first)
        )
        steps.append(Refresh(2 * number + 2, 2 * number + 1, 1, 7, DEEP_S))
    return Program(DEEP, 16, 512, True, Port(1, 7, DEEP_S), tuple(steps), steps[-1].out)


def squares(tiles: int, count: int) -> Program:
    """Many tiles, squared again and again."""
    square = 2.0**72 / LARGE.primes[3]
    steps: list[Step] = [Multiply(k + 1, 0, 0, 3, square) for k in range(count)]
    return program(LARGE, tiles, steps, 3, 2.0**36)


def registers(count: int) -> Program:
    """One query tile, and as many registers that all live to the end."""
    square = 2.0**72 / LARGE.primes[3]
    steps: list[Step] = [Multiply(k + 1, 0, 0, 3, square) for k in range(count)]
    pairs = [Multiply(count + 1 + k, k + 1, count - k, 2, square**2 / LARGE.primes[2]) for k in range(count)]
    return program(LARGE, 1, [*steps, *pairs], 3, 2.0**36)


def messages() -> Program:
    """More tiles in one message than a server holds, and of the largest ring."""
    params = ckks_parameters(32768, 16)
    steps: list[Step] = [Refresh(1, 0, MAX_TILES, 16, S)]
    return program(params, MAX_TILES, steps, 16)


def taken() -> dict[str, bytes]:
    """Those that take too much, by name."""
    made = {"folds": folds(), "key switches": squares(256, 1100), "registers": squares(MAX_TILES, 2)}
    made["messages"] = messages()
    return {name: one.to_json() for name, one in made.items()}


def broken() -> dict[str, bytes]:
    """Those that break a rule, as large as they may be."""
    fields: dict[str, Any] = json.loads(folding(1).to_json())

    def changed(**others: Any) -> bytes:
        return json.dumps({**fields, **others}, sort_keys=True, separators=(",", ":")).encode()

    step = fields["steps"][0]
    block = {"diagonals": [], "output": 0, "source": 0, "tile": 0}
    primes = list(range(8193, 8193 + 8192 * 60000, 8192))
    most = 1 << 20
    return {
        "empty lists": b"[" + b"[]," * (most // 3 - 1) + b"[]",
        "empty objects": b"[" + b"{}," * (most // 3 - 1) + b"{}",
        "numbers": changed(steps=[{**step, "folds": [1] * 500_000}])[:most],
        "lists in a list": changed(steps=[{**step, "folds": [[]] * 300_000}]),
        "primes": changed(params={**fields["params"], "primes": primes}),
        "diagonals": changed(
            steps=[{**step, "blocks": [{**block, "diagonals": [*range(140_000), 7]}], "giant": 1}]
        ),
        "blocks": changed(steps=[{**step, "blocks": [block] * 17_000}]),
        "fewer blocks": changed(steps=[{**step, "blocks": [block] * 8_000}]),
        "one long number": b'{"version":' + b"9" * (most - 12) + b"}",
        "nesting": b"[" * most,
    }
