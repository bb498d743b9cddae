"""What it costs a client to check every answer, and to have probes.

    python -m bench.detection costs [--quick] [--json FILE]

In one process, milliseconds of a processor for each query of one batch: encryption, recomputing all values,
and secret combinations of them. Then by a server process: the time of a call that checks every answer over
that of one that checks none, asked in turns; the first call of a new owner over its second; and seconds in
which probes are made, and a saved owner is loaded. Last, in one process again, what taps add to the same
plan: server, client and bytes of a query with them over those without, asked in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

import protocol
import securedl
from bench.detection.answers import plans
from bench.models.measure import Together
from securedl.client.projected import ProjectionCheck, projections
from securedl.demo.data import HIDDEN, load_split, train_network
from securedl.demo.processes import running, serve_command
from securedl.errors import CompileError
from securedl.files import write_atomically
from securedl.plan.plan import Plan
from securedl.program.footprint import footprint
from securedl.verify.check import Check, Finding, Segment

#: Queries in one process, pairs of calls to a server process, and new owners.
QUERIES, PAIRS, OWNERS = 60, 40, 5
_T = TypeVar("_T")


@dataclass(frozen=True)
class Cost:
    """Of one plan.

    Attributes:
        encrypt_ms, recompute_ms, combine_ms: of a processor for each query. call: of a call that checks every
            answer, as a multiple of one that checks none. first: of a first call, as a multiple of the
            second. probes_s, load_s: seconds.
    """

    name: str
    encrypt_ms: float
    recompute_ms: float
    combine_ms: float
    call: float
    first: float
    probes_s: float
    load_s: float

    def __str__(self) -> str:
        shares = ", ".join(
            f"{what} {ms:.3f} ms ({ms / self.encrypt_ms:.1%})"
            for what, ms in (("recomputation", self.recompute_ms), ("combinations", self.combine_ms))
        )
        return (
            f"{self.name:40} encryption {self.encrypt_ms:.2f} ms a query, {shares}; a call "
            f"{self.call:.3f} x, the first {self.first:.2f} x; probes {self.probes_s:.2f} s, "
            f"load {self.load_s:.2f} s"
        )


class _Timed:
    """Processor time of calls."""

    def __init__(self) -> None:
        self.ms = 0.0

    def __call__(self, work: Callable[..., _T]) -> Callable[..., _T]:
        def timed(*args: Any) -> _T:
            began = time.thread_time()
            found = work(*args)
            self.ms += 1e3 * (time.thread_time() - began)
            return found

        return timed


class _Clocked(Check):
    """A check whose time is taken."""

    name, later = "clocked", True

    def __init__(self, check: Check, clock: _Timed) -> None:
        self.name = f"clocked {check.name}"  # type: ignore[misc]
        self._segment = clock(check.segment)

    def segment(self, segment: Segment) -> Finding:
        """As the check's."""
        return self._segment(segment)


def in_one_process(plan: Plan, x: NDArray[Any], queries: int) -> tuple[float, float, float]:
    """Medians of a query's milliseconds: encryption, recomputation, combinations."""
    together = Together(plan)
    owner = together.owner
    known = owner.verification
    clocks = [_Timed() for _ in range(3)]
    owner.keys.encrypt = clocks[0](owner.keys.encrypt)  # type: ignore[method-assign]
    drawn = projections(plan, plan.network, known.tolerances)
    batches, found = plan.batches(plan.checked(x)), []
    for number in range(queries):
        for clock in clocks:
            clock.ms = 0.0
        pairs = zip((known.recompute(), ProjectionCheck(drawn)), clocks[1:], strict=True)
        together.ask(batches[number % len(batches)], [_Clocked(*pair) for pair in pairs])
        found.append([clock.ms for clock in clocks])
    encrypt, recompute, combine = (statistics.median(column) for column in zip(*found[1:], strict=True))
    return encrypt, recompute, combine


def by_a_server(plan: Plan, x: NDArray[Any], pairs: int, owners: int) -> tuple[float, float, float, float]:
    """Ratios of calls, every answer checked over none, first over second; seconds of probes, of load."""
    with tempfile.TemporaryDirectory() as folder:
        at, address = Path(folder), f"unix:{folder}/server"
        firsts, ratios, probes, loads = list[float](), list[float](), list[float](), list[float]()
        with running(serve_command(at / "store", address, "--threads", "1", "--quiet"), at / "log"):
            for _ in range(owners):
                owner = securedl.Owner(plan)
                with protocol.Client(address, owner) as client:
                    probes.append(client.upload().prepare_s)
                    first, second = (_seconds(lambda: client.predict(x[:8])) for _ in range(2))
                    firsts.append(first / second)
                    for _ in range(-(-pairs // owners)):
                        every, none = (_seconds(_ask(client, x, verify)) for verify in ("every", "none"))
                        ratios.append(every / none)
                    client.remove()
                owner.save(at / "owner", "p")
                loads.append(_seconds(lambda: securedl.Owner.load(at / "owner", "p")))
    call, first, made, load = (statistics.median(values) for values in (ratios, firsts, probes, loads))
    return call, first, made, load


def _ask(client: protocol.Client, x: NDArray[Any], verify: str) -> Callable[[], Any]:
    return lambda: client.predict(x[:8], probes=0, verify=verify)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chosen_plans(quick: bool) -> Iterator[tuple[str, Plan, NDArray[Any]]]:
    """Those of `answers`, each at the ring that the planner chooses."""
    return ((name, plan, x) for name, plan, x in plans(quick) if "ring" not in name and "taps" not in name)


@dataclass(frozen=True)
class Taps:
    """Of one plan, so many times what they are without taps.

    Attributes:
        server, client: times of a query. bytes: of a query and its answer.
    """

    name: str
    taps: int
    server: float
    client: float
    bytes: float

    def __str__(self) -> str:
        return (
            f"{self.name:40} {self.taps} tap(s): server {self.server:.3f} x, client {self.client:.3f} x, "
            f"bytes {self.bytes:.2f} x"
        )


def tapped_plans(quick: bool) -> Iterator[tuple[str, Plan, Plan, NDArray[Any]]]:
    """Plans that the planner chooses for squares and cubics, and the same with taps."""
    for data in ("wine",) if quick else HIDDEN:
        split = load_split(data)
        model = train_network(split, HIDDEN[data])
        for degree in (2, 3):
            network = securedl.approximate(model, split.x_train, degree=degree, progress=False)
            for batch in (1, 64):
                plain = securedl.compile(network, split.x_train, batch=batch)
                options: dict[str, Any] = {
                    "batch": batch,
                    "ring": plain.program.params.ring,
                    "refreshes": len(plain.program.refreshes),
                }
                plain = securedl.compile(network, split.x_train, **options)
                tapped = securedl.compile(network, split.x_train, checked_by="client", **options)
                if [tap.tiles for tap in tapped.program.taps] != [one.tiles for one in plain.program.hidden]:
                    raise CompileError(f"taps chose other layouts for {data}")
                if tapped.program.taps:
                    yield f"{data}, degree {degree}, batch {batch}", plain, tapped, split.x_test


def with_taps(name: str, plain: Plan, tapped: Plan, x: NDArray[Any], queries: int) -> Taps:
    """Medians of ratios of queries that are asked in turns."""
    both = [Together(plan) for plan in (plain, tapped)]
    batches = plain.batches(plain.checked(x))
    for number in range(queries):
        for together in both:
            together.ask(batches[number % len(batches)])
    ratios = {
        who: statistics.median(
            two / one for one, two in zip(*(t.stages.seen[who][1:] for t in both), strict=True)
        )
        for who in ("server", "client")
    }
    one, two = (footprint(plan.program).traffic for plan in (plain, tapped))
    return Taps(name, len(tapped.program.taps), ratios["server"], ratios["client"], two / one)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line: none of its own."""


def main(chosen: argparse.Namespace) -> int:
    """The tables."""
    counts = (10, 4, 2) if chosen.quick else (QUERIES, PAIRS, OWNERS)
    rows = list[Cost | Taps]()

    def add(row: Cost | Taps) -> None:
        rows.append(row)
        print(row, flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps([asdict(row) for row in rows], indent=1).encode())

    for name, plain, tapped, x in tapped_plans(chosen.quick):
        add(with_taps(name, plain, tapped, x, counts[0]))
    for name, plan, x in chosen_plans(chosen.quick):
        print(f"{name}: asking", file=sys.stderr, flush=True)
        add(Cost(name, *in_one_process(plan, x, counts[0]), *by_a_server(plan, x, *counts[1:])))
    return 0
