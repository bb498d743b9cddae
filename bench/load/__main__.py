"""The command line of `bench.load`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import bench.load
from bench.load.running import Figures, run
from securedl.errors import InputError
from securedl.files import check_writable

#: A client's time a sample under restarts, as a multiple of its own in the calm run.
MOST_SLOWER = 2.0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description=bench.load.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--clients", type=int, default=4, help="client processes (4)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they ask (60)")
    parser.add_argument("--threads", type=int, default=1, help="of one evaluation of the server (1)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server (1)")
    parser.add_argument("--restart-every", type=float, default=0.0, help="seconds between restarts (0: none)")
    parser.add_argument("--quick", action="store_true", help="15 seconds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    if min(options.clients, options.threads, options.workers) < 1 or options.seconds <= 0:
        parser.error("clients, seconds, threads and workers must be positive")
    if options.restart_every < 0 or (options.restart_every and options.workers < 2):
        parser.error("--restart-every needs seconds above 0 and at least --workers 2")
    if options.quick:
        options.seconds = 15.0
    try:
        check_writable(options.json)
    except InputError as error:
        parser.error(str(error))
    return options


def _show(name: str, figures: Figures) -> None:
    print(
        f"{name}: {figures.clients} clients, {figures.workers} workers, {figures.seconds:.0f} s: "
        f"{figures.calls} calls, {figures.samples} samples, {figures.queries} queries\n"
        f"{figures.wrong} wrong, {figures.lost} lost; {figures.probes} probes, {figures.alarms} alarms; "
        f"{figures.restarts} restarts, {figures.asked_again} times asked again; largest error "
        f"{figures.worst_error:.3f} of what is promised\n"
        f"latency: median {figures.median_ms:.0f} ms, 95 % {figures.p95_ms:.0f} ms, longest "
        f"{figures.longest_ms:.0f} ms\nprocesses and store, settled / most / end:"
    )
    for kind, one in figures.used.items():
        print(f"  {kind:10} {one.settled:9.1f} {one.most:9.1f} {one.end:9.1f}")
    sys.stdout.flush()
    for kind in figures.grown:
        print(f"FAILED {kind} has grown", file=sys.stderr)
    for failure in figures.disagreements + figures.failures:
        print(f"FAILED {failure}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, and write what was asked for."""
    options = _options(arguments)
    runs = {"calm": run(options.clients, options.seconds, options.threads, options.workers)}
    _show("calm", runs["calm"])
    sound, found = runs["calm"].sound, {}
    if options.restart_every:
        again = runs["restarts"] = run(
            options.clients, options.seconds, options.threads, options.workers, options.restart_every
        )
        _show("restarts", again)
        both = zip(again.ms_a_sample, runs["calm"].ms_a_sample, strict=False)
        found["slower"] = [now / before for now, before in both]
        print(
            "a client's time a sample, against the calm run: "
            + ", ".join(f"{s:.2f}" for s in found["slower"])
        )
        sound = sound and again.sound and max(found["slower"], default=9.0) <= MOST_SLOWER
    if options.json is not None:
        told = {name: asdict(figures) for name, figures in runs.items()} | found
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
