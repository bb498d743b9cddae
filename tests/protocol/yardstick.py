"""How fast this machine is now, for bounds on processor time that are meant for a usual one."""

from __future__ import annotations

import time

#: Processor time of `_work` on a core of 2.1 GHz (Xeon, 2023) with nothing else beside it.
USUAL_S = 0.016
TIMES = 5


def _work() -> int:
    """What parsing does: small integers, calls, dictionaries and tuples."""
    seen: dict[tuple[int, int], int] = {}
    for number in range(60_000):
        key = (number % 97, number % 89)
        seen[key] = seen.get(key, 0) + len(str(number))
    return sum(seen.values())


def slowness() -> float:
    """This machine's time for Python's usual work as a multiple of a usual one's; at least 1."""
    spent = []
    for _ in range(TIMES):
        began = time.process_time()
        _work()
        spent.append(time.process_time() - began)
    return max(1.0, min(spent) / USUAL_S)
