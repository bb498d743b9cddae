"""How many encryptions are prepared in idle time."""

from __future__ import annotations

from collections import Counter

from securedl.plan.signature import Signature

#: Queries for which encryptions of zero are made ahead: a sample and its probes, one in each, are nine.
AHEAD = 10
#: No more bytes of encryptions of zero are kept than these.
AHEAD_BYTES = 1 << 25


def stock(signature: Signature, queries: int) -> dict[int, int]:
    """How many ciphertexts of each level so many queries take, as far as there is room for them."""
    tiles = Counter[int]()
    for port in signature.back:
        if port is not None:
            tiles[port.level] += port.tiles
    ring = signature.program.params.ring
    size = sum(8 * ring * (level + 1) * number for level, number in tiles.items())
    times = min(queries, AHEAD_BYTES / size)
    return {level: int(times * number) for level, number in tiles.items()}
