"""Several clients at once on one server: is every answer right, how long does it take, is memory flat?

    python -m bench.load [--clients 4] [--seconds 60] [--json FILE] [--quick]

Each client is a process with its own token, keys and uploaded model; even and odd ones have different
networks. It predicts 1 to 48 random samples a call, with verification, and compares every logit and label
with the polynomial model. Exit status 1 on a wrong answer, an alarm, or a client or server that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import queue
import re
import secrets
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from securedl.demo.processes import ServerProcess, running, serve_command
from securedl.errors import InputError
from securedl.files import check_writable, write_atomically

NETWORKS = ((16, 32, 32, 4), (24, 48, 3))
#: The precision that every plan promises, as a share of the logit range.
PRECISION = 2.0**-10
MOST_SAMPLES = 48
#: Memory is compared with what the server had after so many seconds: pools and caches are full by then.
SETTLED_S = 10.0
#: The uploads of all clients may take as long as this, and so may their last calls.
PATIENCE_S = 120.0


@dataclass
class Calls:
    """What one client saw; latencies in ms."""

    client: int
    latencies: list[float] = field(default_factory=list)
    samples: int = 0
    probes: int = 0
    wrong: int = 0
    alarms: int = 0
    worst_error: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Figures:
    """What all clients saw; latencies in ms, memory in MiB.

    Attributes:
        probes: whose answers were compared, under as many keys as there are clients.
        worst_error: largest deviation of a logit, as a share of what the plan promises.
        rss_settled: after `SETTLED_S`. rss_most: largest from then on. anonymous: RSS without mapped files.
        failures: clients or servers that ended early, and why.
    """

    clients: int
    seconds: float
    calls: int
    samples: int
    probes: int
    wrong: int
    alarms: int
    worst_error: float
    median_ms: float
    p95_ms: float
    rss_settled: float
    rss_most: float
    rss_end: float
    anonymous_settled: float
    anonymous_most: float
    anonymous_end: float
    failures: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every client was served, and rightly."""
        return not (self.wrong or self.alarms or self.failures) and self.calls >= self.clients


def prepare(folder: Path, index: int) -> None:
    """Compile a network; its plan, samples and due logits go to `folder`."""
    import torch
    from torch import nn

    import securedl

    sizes = NETWORKS[index]
    x = np.random.default_rng(index).uniform(-1, 1, (300, sizes[0]))
    torch.manual_seed(index)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = securedl.approximate(nn.Sequential(*layers[:-1]).double(), x, degree=2)
    securedl.compile(model, x, batch=32, ring=8192).save(folder / f"plan{index}")
    with torch.no_grad():
        np.savez(folder / f"due{index}.npz", x=x, logits=model(torch.as_tensor(x)).numpy())


def client(folder: Path, address: str, token: str, number: int, ready: Any, until: Any, results: Any) -> None:
    """One client process: upload, say so, predict until the time that `until` holds."""
    calls = Calls(number)
    try:
        _predict(folder, address, token, calls, ready, until)
    except Exception as error:  # any is a finding, and the parent must hear of it
        calls.failure = f"client {number}: {type(error).__name__}: {error}"
        ready.release()
    results.put(calls)


def _predict(folder: Path, address: str, token: str, calls: Calls, ready: Any, until: Any) -> None:
    import protocol
    import securedl

    index = calls.client % len(NETWORKS)
    owner = securedl.Owner(securedl.load_plan(folder / f"plan{index}"))
    owner.verification.prepare()
    due = np.load(folder / f"due{index}.npz")
    allowed = PRECISION * np.ptp(due["logits"])
    rng = np.random.default_rng([7, calls.client])
    with protocol.Client(address, owner, token=token) as connection:
        connection.upload()
        ready.release()
        while until.value == 0:
            time.sleep(0.01)
        while time.time() < until.value:
            chosen = rng.choice(len(due["x"]), rng.integers(1, MOST_SAMPLES + 1), replace=False)
            began = time.perf_counter()
            answer = connection.predict(due["x"][chosen], probes=8)
            calls.latencies.append(1e3 * (time.perf_counter() - began))
            _check(calls, answer, due["logits"][chosen], allowed)


def _check(calls: Calls, answer: Any, logits: np.ndarray, allowed: float) -> None:
    calls.samples += len(logits)
    calls.probes += answer.report.probes
    error = np.abs(answer.logits - logits).max(axis=1)
    calls.worst_error = max(calls.worst_error, float(error.max() / allowed))
    best = np.sort(logits, axis=1)
    sure = best[:, -1] - best[:, -2] > 2 * allowed
    mislabelled = sure & (answer.labels != logits.argmax(axis=1))
    calls.wrong += int(np.count_nonzero((error > allowed) | mislabelled))
    calls.alarms += not answer.report.passed


def serving(folder: Path, tokens: list[str], threads: int) -> AbstractContextManager[ServerProcess]:
    """`securedl serve` on a Unix socket in `folder`."""
    write_atomically(folder / "tokens", "\n".join(tokens).encode())
    options = ["--threads", str(threads), "--token-file", str(folder / "tokens"), "--quiet"]
    command = serve_command(folder / "store", f"unix:{folder / 's'}", *options)
    return running(command, folder / "log")


def memory(pid: int) -> tuple[float, float]:
    """RSS and its anonymous part in MiB; NaN when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return np.nan, np.nan
    found = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB$", text, re.MULTILINE))
    return float(found.get("VmRSS", "nan")) / 1024, float(found.get("RssAnon", "nan")) / 1024


def run(clients: int, seconds: float, threads: int = 1) -> Figures:
    """Serve, ask from all clients for so long, and collect."""
    context = multiprocessing.get_context("spawn")
    ready, until, results = context.Semaphore(0), context.Value("d", 0.0, lock=False), context.Queue()
    with tempfile.TemporaryDirectory(prefix="sdl") as name:
        folder = Path(name)
        for index in range(min(clients, len(NETWORKS))):
            prepare(folder, index)
        tokens = [secrets.token_hex(16) for _ in range(clients)]
        with serving(folder, tokens, threads) as server:
            workers = [
                context.Process(target=client, args=(folder, server.address, token, k, ready, until, results))
                for k, token in enumerate(tokens)
            ]
            for worker in workers:
                worker.start()
            in_time = all(ready.acquire(timeout=PATIENCE_S) for _ in workers)
            until.value = time.time() + seconds if in_time else 1.0
            used = _watch(server.pid, until.value)
            calls, failures = _collect(workers, results)
            if not in_time:
                failures.append(f"the clients were not ready after {PATIENCE_S:.0f} s each")
            if server.popen.poll() is not None:
                failures.append(f"the server ended with status {server.popen.returncode}")
    return _figures(calls, seconds, np.array(used), failures)


def _watch(pid: int, until: float) -> list[tuple[float, float]]:
    """Memory of the server once a second."""
    used = [memory(pid)]
    while time.time() < until:
        time.sleep(1.0)
        used.append(memory(pid))
    return used


def _collect(workers: list[Any], results: Any) -> tuple[list[Calls], list[str]]:
    calls: list[Calls] = []
    with contextlib.suppress(queue.Empty):
        for _ in workers:
            calls.append(results.get(timeout=PATIENCE_S))
    for worker in workers:
        worker.join(timeout=30)
        if worker.is_alive():
            worker.kill()
    failures = [c.failure for c in calls if c.failure]
    silent = set(range(len(workers))) - {c.client for c in calls}
    return calls, failures + [f"client {k} ended without a word" for k in sorted(silent)]


def _figures(calls: list[Calls], seconds: float, used: np.ndarray, failures: list[str]) -> Figures:
    latencies = [ms for c in calls for ms in c.latencies] or [np.nan]
    settled = min(int(SETTLED_S), len(used) - 1)
    rss, anonymous = used[settled:].T
    return Figures(
        clients=len(calls),
        seconds=seconds,
        calls=sum(len(c.latencies) for c in calls),
        samples=sum(c.samples for c in calls),
        probes=sum(c.probes for c in calls),
        wrong=sum(c.wrong for c in calls),
        alarms=sum(c.alarms for c in calls),
        worst_error=max((c.worst_error for c in calls), default=np.nan),
        median_ms=float(np.median(latencies)),
        p95_ms=float(np.quantile(latencies, 0.95)),
        rss_settled=rss[0],
        rss_most=rss.max(),
        rss_end=rss[-1],
        anonymous_settled=anonymous[0],
        anonymous_most=anonymous.max(),
        anonymous_end=anonymous[-1],
        failures=tuple(failures),
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=4, help="client processes (4)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they ask (60)")
    parser.add_argument("--threads", type=int, default=1, help="of one evaluation of the server (1)")
    parser.add_argument("--quick", action="store_true", help="15 seconds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.clients < 1 or options.seconds <= 0 or options.threads < 1:
        parser.error("clients, seconds and threads must be positive")
    seconds = 15.0 if options.quick else options.seconds
    try:
        check_writable(options.json)
    except InputError as error:
        parser.error(str(error))
    figures = run(options.clients, seconds, options.threads)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(figures), indent=1) + "\n")
    print(
        f"{figures.clients} clients, {seconds:.0f} s: {figures.calls} calls, {figures.samples} samples, "
        f"{figures.wrong} wrong; {figures.probes} probes, {figures.alarms} alarms; "
        f"largest error {figures.worst_error:.3f} of what is promised\n"
        f"latency: median {figures.median_ms:.0f} ms, 95 % {figures.p95_ms:.0f} ms\n"
        f"server MiB: RSS {figures.rss_settled:.1f} at {SETTLED_S:.0f} s, most {figures.rss_most:.1f}, "
        f"end {figures.rss_end:.1f}; anonymous {figures.anonymous_settled:.1f}, "
        f"{figures.anonymous_most:.1f}, {figures.anonymous_end:.1f}"
    )
    for failure in figures.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 0 if figures.sound else 1


if __name__ == "__main__":
    sys.exit(main())
