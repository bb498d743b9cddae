"""A row of the table, its clock, and its line."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Result = TypeVar("Result")


@dataclass
class Row:
    """What one system takes for one network, one sample; None is not measured.

    Attributes:
        encrypted: for the server.
        server_ms: median of the processor's; of the peers, without loading what comes and packing what goes.
        wall_ms: the same by the clock on the wall.
        client_ms: encryption and decryption, and what SecureDL's client computes.
        error: the largest of a logit, in parts of their range.
        load_s: until the server has the weights, from bytes. note: why nothing is measured, or what to know.
    """

    network: str
    system: str
    way: str
    encrypted: str
    server_ms: float | None = None
    wall_ms: float | None = None
    client_ms: float | None = None
    encrypt_ms: float | None = None
    decrypt_ms: float | None = None
    error: float | None = None
    query_bytes: int | None = None
    answer_bytes: int | None = None
    key_bytes: int | None = None
    weight_bytes: int | None = None
    load_s: float | None = None
    repeats: int | None = None
    settings: str = ""
    note: str = ""
    estimated: bool = False
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Times:
    """Medians in ms: of the processor, and on the wall."""

    cpu: float
    wall: float
    count: int


def repeated(call: Callable[[], Result], seconds: float, most: int = 15) -> tuple[Result, Times]:
    """The last result and the times of a call, repeated for some seconds; of several, without the first."""
    cpu: list[float] = []
    wall: list[float] = []
    began = time.perf_counter()
    while True:
        at, processor = time.perf_counter(), time.process_time()
        result = call()
        cpu.append(1e3 * (time.process_time() - processor))
        wall.append(1e3 * (time.perf_counter() - at))
        if len(cpu) > most or time.perf_counter() - began > seconds:
            break
    cpu, wall = cpu[1:] or cpu, wall[1:] or wall
    return result, Times(statistics.median(cpu), statistics.median(wall), len(cpu))


#: SecureDL's rows that a peer stands against, by their way, and a letter for each.
WAYS = {'activations="client"': "c", 'activations="server"': "s"}
HEAD = (
    f"{'network':10} {'system':9} {'way':28} {'encrypted':15} {'server':>11} {'client':>8} "
    + " ".join(f"{'/server ' + letter:>9} {'/both ' + letter:>8}" for letter in WAYS.values())
    + f" {'error':>7} {'query':>8} {'keys':>8} {'weights':>8} {'load':>7}"
)


def line(row: Row, ours: Sequence[Row]) -> str:
    """Of the table; ratios are to SecureDL's server, and to its server and client together, in each way."""
    start = f"{row.network:10} {row.system:9} {row.way:28} {row.encrypted:15} "
    if row.server_ms is None:
        return f"{start} {row.note}"
    beside = {one.way: one for one in ours if row.system != one.system}
    ratios = " ".join(_ratios(row.server_ms, beside.get(way)) for way in WAYS)
    about = "~" if row.estimated else ""
    load = "-" if row.load_s is None else f"{row.load_s:.2f} s"
    return (
        f"{start}{about + _time(row.server_ms):>11} {_value(row.client_ms, '.1f'):>8} "
        f"{ratios} {_value(row.error, '.0e'):>7} {_size(row.query_bytes):>8} "
        f"{_size(row.key_bytes):>8} {_size(row.weight_bytes):>8} {load:>7}"
        + (f"  {row.note}" if row.note else "")
    )


def _ratios(server_ms: float, ours: Row | None) -> str:
    over_server = over_both = ""
    if ours and ours.server_ms and ours.client_ms:
        over_server = f"{server_ms / ours.server_ms:.1f}x"
        over_both = f"{server_ms / (ours.server_ms + ours.client_ms):.1f}x"
    return f"{over_server:>9} {over_both:>8}"


def _time(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 1e4 else f"{ms / 1e3:.1f} s"


def _value(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
