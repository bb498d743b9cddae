"""Several threads in one kernel.

The threads of a team call a kernel with the same arguments and walk over the same *units* of work in the same
order. Each draws a number and does the unit of that number, then draws the next; so no thread waits for one
that has not come yet, and whoever comes late does what is left:

    number, unit = draw(team), 0
    for ... :
        if unit == number:
            ...
            number = done(team, number)
        unit += 1
    wait(flag(team, DONE), unit)

Nothing may fail between `draw` and `done`: a unit that was drawn is never drawn again, and all wait for it.
A unit that needs what others leave waits for a *flag*, a counter that they `signal`. It may wait for units
before it only: these have been drawn by threads that are at work on them, and so no two wait for each other.

A team is the address of its counters, a cache line apart and zero at first, or 0 for one thread alone: then
numbers follow each other and nothing waits. Residues do not depend on who does what.
"""

from __future__ import annotations

import platform
import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from securedl.he.vector.kernels.cache import inner

#: Flags of every team: units drawn and units done. A kernel's own flags follow.
DRAWN, DONE, OWN = range(3)
#: Octets of a counter.
LINE = 64
#: Looks at a flag, with a pause of some 50 ns each (none but on x86), before another thread may have the
#: processor (never on Windows).
_PATIENCE = 256

_WORD = ir.IntType(64)
_emitted: Any = intrinsic  # its own type knows nothing of the typing context


def _counter(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _WORD.as_pointer())


@_emitted
def _count(typingctx, address):  # type: ignore[no-untyped-def]
    """Adds one to a counter and gives what it was."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _counter(builder, arguments[0]), _WORD(1), "acq_rel")

    return types.int64(types.int64), codegen


@_emitted
def _look(typingctx, address):  # type: ignore[no-untyped-def]
    """A counter's value; what its threads wrote before they counted can be read afterwards."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_counter(builder, arguments[0]), "acquire", 8)

    return types.int64(types.int64), codegen


def _call(builder: Any, name: str, result: Any) -> None:
    kind = ir.FunctionType(result, [])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])  # type: ignore[no-untyped-call]


@_emitted
def _pause(typingctx):  # type: ignore[no-untyped-def]
    """Leaves the core to a sibling for a moment."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), codegen


@_emitted
def _yield(typingctx):  # type: ignore[no-untyped-def]
    """Lets another thread have the processor."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if sys.platform != "win32":
            _call(builder, "sched_yield", ir.IntType(32))
        return context.get_dummy_value()

    return types.void(), codegen


@inner
def flag(team, number):  # type: ignore[no-untyped-def]
    """Address of a flag; 0 without a team."""
    return team + LINE * number if team != 0 else 0


@inner
def signal(at):  # type: ignore[no-untyped-def]
    """Count a flag up."""
    if at != 0:
        _count(at)


@inner
def wait(at, least):  # type: ignore[no-untyped-def]
    """Wait until a flag has been signalled `least` times."""
    if at == 0:
        return
    looks = 0
    while _look(at) < least:
        looks += 1
        if looks % _PATIENCE == 0:
            _yield()
        else:
            _pause()


@inner
def draw(team):  # type: ignore[no-untyped-def]
    """The number of this thread's first unit."""
    return _count(team + LINE * DRAWN) if team != 0 else 0


@inner
def done(team, number):  # type: ignore[no-untyped-def]
    """Say that unit `number` is done, and draw the next."""
    if team == 0:
        return number + 1
    _count(team + LINE * DONE)
    return _count(team + LINE * DRAWN)
