"""What a query takes of its server, about, and from the program alone: too much is refused beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from securedl.errors import QuotaError
from securedl.he.params import Parameters
from securedl.he.record import packed_length
from securedl.program.execute import dying
from securedl.program.footprint import Work, each_work, note_rows
from securedl.program.program import Program

#: Key switches of a query that a server takes: counting more of them than that would take long by itself.
MAX_SWITCHES = 1 << 17
#: Seconds of one transform of a prime at N = 8192. What a term of a sum of products takes, for each prime, in
#: transforms. Octets that are packed or unpacked in a second.
_TRANSFORM_S, _TERM, _OCTETS = 6.6e-6, 0.53, 1e8


@dataclass(frozen=True)
class Effort:
    """Of one query.

    Attributes:
        seconds: of one core. memory: bytes at once: registers, what is computed of them, and tiles that came.
    """

    seconds: float
    memory: int


def effort(program: Program, seconds: float = float("inf"), memory: float = float("inf")) -> Effort:
    """Of a query of this program; the cheapest figures first, and no further than to what is too much.

    Args:
        seconds, memory: that it may take at most.

    Raises:
        QuotaError: it takes more.
    """
    params = program.params
    held = _came(program) + 8 * params.ring * max(_held(program), default=0)
    _check_memory(held, memory)
    least = least_switches(program)
    _check_switches(sum(count for _, count in least))
    _check_seconds(sum(count * switch_seconds(params, primes) for primes, count in least), seconds)
    taken, switches, rows = 0.0, 0, dict[int, int]()
    for work in each_work(program):
        note_rows(rows, work)
        _check_memory(held + 8 * params.ring * sum(rows.values()), memory)
        taken, switches = taken + _seconds(params, work), switches + work.counts.switches
        _check_switches(switches)
        _check_seconds(taken, seconds)
    return Effort(taken, held + 8 * params.ring * sum(rows.values()))


def least_switches(program: Program) -> list[tuple[int, int]]:
    """Of each step: primes, and key switches that it takes at least."""
    ports, encrypted = program.ports(), program.encrypted
    return [
        (step.level + 1, step.least_switches(encrypted) * ports[step.out].tiles) for step in program.steps
    ]


def _check_switches(switches: int) -> None:
    if switches > MAX_SWITCHES:
        raise QuotaError(
            f"a query of this model takes more than {MAX_SWITCHES:,} key switches, which this server "
            "refuses: compile with a larger batch, or a smaller network"
        )


def _check_seconds(taken: float, seconds: float) -> None:
    if taken > seconds:
        raise QuotaError(
            f"a query of this model takes more than the {seconds:g} s of computing that this server "
            "allows: compile a smaller network, or ask for more"
        )


def _check_memory(held: int, memory: float) -> None:
    if held > memory:
        raise QuotaError(
            f"a query of this model takes {held:,} bytes of the server's memory, and {memory:,} are allowed: "
            "compile a smaller network, or ask for more"
        )


def switch_seconds(params: Parameters, primes: int) -> float:
    """Of one key switch of so many primes."""
    terms = primes * (primes + 1)
    return (terms + 4 * primes + 2 + terms * _TERM) * _TRANSFORM_S * params.ring / 8192


def term_seconds(params: Parameters, primes: int) -> float:
    """Of one term of a sum of products."""
    return primes * _TERM * _TRANSFORM_S * params.ring / 8192


def _seconds(params: Parameters, work: Work) -> float:
    counts, primes = work.counts, work.primes
    switches = counts.switches * switch_seconds(params, primes)
    return switches + counts.terms * term_seconds(params, primes) + (work.down + work.up) / _OCTETS


def _came(program: Program) -> int:
    """Bytes of the largest message of the client's."""
    messages = [program.query, *(back for _, back in program.refreshes)]
    return max(port.tiles * packed_length(program.params, port.fresh) for port in messages)


def _held(program: Program) -> list[int]:
    """Rows (see `Work.rows`) of the registers that are kept while each step runs, its result among them."""
    ports = program.ports()
    rows = {register: 2 * (port.level + 1) * port.tiles for register, port in ports.items()}
    held, found = rows[0], []
    for step, gone in zip(program.steps, dying(program), strict=True):
        held += rows[step.out]
        found.append(held)
        held -= sum(rows[register] for register in gone)
    return found
