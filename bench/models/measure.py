"""What a plan takes, measured: server and client in one process for their times, and as two for the rest."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import protocol
from protocol.blobs import BlobTable
from protocol.expect import Expectations
from securedl.client.batch import Batch
from securedl.client.owner import Owner
from securedl.demo.processes import running, serve_command
from securedl.he.ckks import ckks_parameters
from securedl.he.record import Record, Shape, pack, unpack, unpack_key
from securedl.he.vector import VectorEvaluator
from securedl.plan.plan import Plan
from securedl.program.drive import drive
from securedl.program.execute import Shown, execute
from securedl.verify.check import Check

#: Queries whose median is taken.
REPEATS = 15


@dataclass(eq=False)
class Stages:
    """Milliseconds of each query, by who works; "load" and "dump" are a part of the server's."""

    seen: dict[str, list[float]] = field(default_factory=dict)
    _now: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, *names: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        ms = 1e3 * (time.perf_counter() - began)
        for name in names:
            self._now[name] = self._now.get(name, 0.0) + ms

    def end(self) -> None:
        """Of a query."""
        for name, ms in self._now.items():
            self.seen.setdefault(name, []).append(ms)
        self._now = {}

    def medians(self) -> dict[str, float]:
        """Of all queries but the first."""
        return {name: statistics.median(values[1:] or values) for name, values in self.seen.items()}


class Together:
    """Owner and server in this process, one thread for each.

    Args:
        threads: of the evaluator. ahead: queries for which the client prepares encryptions in idle time.

    Attributes:
        batch: the last query's.
    """

    batch: Batch

    def __init__(self, plan: Plan, threads: int = 1, ahead: int = 0) -> None:
        self.plan, self.owner, self.program = plan, Owner(plan, ahead=ahead), plan.program
        params = self.program.params
        self.evaluator = VectorEvaluator(params, threads)
        keys = {step: unpack_key(params, self.owner.key(step)) for step in self.program.rotations}
        relinearisation = unpack_key(params, self.owner.key(None)) if self.program.relinearises else []
        self.evaluator.set_keys(relinearisation, keys)
        began = time.perf_counter()
        packed = list(self.owner.weights())
        self.prepared_s = time.perf_counter() - began
        pairs = zip(packed, self.program.weight_shapes, strict=True)
        self.weights = [self.evaluator.load_packed(data, shape) for data, shape in pairs]
        self.stages = Stages()

    def rest(self) -> None:
        """Until the client has prepared what it may."""
        zeros = self.owner.keys.zeros
        with zeros.working():
            pass
        while not zeros.full:
            time.sleep(0.01)

    def sent(self, tile: Any, shape: Shape) -> Record:
        """What the server sends of a tile."""
        record: Record = self.evaluator.sent(tile, shape)
        return record

    def ask(self, x: NDArray[Any], checks: Sequence[Check] = ()) -> NDArray[np.float64]:
        """Logits of one batch of samples [batch, ...], its stages timed; checks: of what comes back."""
        params, program, stages = self.program.params, self.program, self.stages
        sent = iter([*(down.sent for down, _ in program.shown), program.answer.sent])
        with stages("client"):
            batch = self.batch = Batch(self.owner.keys, self.plan.signature, x.reshape(len(x), -1), 0, checks)
            tiles = batch.query()

        def load(tiles: list[bytes], shape: Shape) -> list[Any]:
            with stages("load"):
                return [self.evaluator.load(unpack(params, tile, shape)) for tile in tiles]

        def dump(tiles: list[Any]) -> list[bytes]:
            shape = next(sent)
            with stages("dump"):
                records = [self.sent(tile, shape) for tile in tiles]
                return [pack(params, record) for record in records]

        client = [0.0]

        def shown(what: Shown) -> list[Any] | None:
            tiles = dump(what.tiles)
            began = time.perf_counter()
            _, back = program.shown[what.index]
            with stages("client"):
                fresh = list[bytes]()
                if back is None:
                    batch.tap(what.index, tiles)
                else:
                    fresh = batch.refresh(what.index, tiles)
            client[0] += time.perf_counter() - began
            return None if back is None else load(fresh, back.fresh)

        began = time.perf_counter()
        query = load(tiles, program.query.fresh)
        answer = dump(drive(execute(program, self.evaluator, self.weights, query), shown))
        server = time.perf_counter() - began - client[0]
        with stages("client"):
            batch.finish(answer)
        stages._now["server"] = 1e3 * server
        stages.end()
        assert batch.answer is not None
        return batch.answer


def relinearisation_us() -> float:
    """Median of one at N = 8192 with four primes, one thread: the unit of the tables."""
    params = ckks_parameters(8192, 3)
    random = np.random.default_rng(0)

    def residues(polynomials: int, primes: tuple[int, ...]) -> NDArray[np.uint64]:
        rows = [
            [random.integers(0, q, params.ring, dtype=np.uint64) for q in primes] for _ in range(polynomials)
        ]
        return np.array(rows)

    chain = (*params.primes, params.special)
    evaluator = VectorEvaluator(params)
    key = [Record(Shape(len(params.primes), 2, 1.0), residues(2, chain)) for _ in params.primes]
    evaluator.set_keys(key, {})
    a = evaluator.load(Record(Shape(3, 3, 1.0), residues(3, params.primes)))
    return 1e6 * median(lambda: evaluator.relinearise(a), 300)


def median(call: Callable[[], Any], count: int) -> float:
    """Seconds of a call."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[count // 10 :])


def timed(
    plan: Plan, x: NDArray[Any], repeats: int = REPEATS, threads: int = 1, ahead: int = 0
) -> dict[str, float]:
    """Milliseconds of one query by stage, preparation and probes apart.

    Args:
        ahead: queries for which the client prepares encryptions while it rests between any two.
    """
    together = Together(plan, threads, ahead)
    batches = plan.batches(plan.checked(x))
    for number in range(repeats + 1):
        together.rest()
        together.ask(batches[number % len(batches)])
    return {**together.stages.medians(), "prepare_s": together.prepared_s}


def sizes(plan: Plan) -> dict[str, int]:
    """Bytes and counts that follow from the program."""
    program, table = plan.program, BlobTable(plan.program)
    traffic = Expectations.of(program).traffic(1)
    return {
        "weights": len(table.shapes),
        "keys": len(table.keys),
        "key_bytes": len(table.keys) * table.key_bytes,
        "upload_bytes": table.total_bytes,
        "query_bytes": traffic["query"] + traffic["fresh"],
        "answer_bytes": traffic["refresh"] + traffic["tap"] + traffic["answer"],
        "trips": 1 + len(program.refreshes),
    }


def forget_peak() -> None:
    """From now on `peak_mib` tells of what follows, where the system can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(pid: int | str = "self") -> float:
    """The most memory that a process has held."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def served(plan: Plan, x: NDArray[Any], probes: int = 8) -> dict[str, Any]:
    """Answers to samples by a real server process: logits, verification, latency and throughput."""
    owner = Owner(plan)
    with tempfile.TemporaryDirectory() as folder:
        at, address = Path(folder), f"unix:{folder}/server"
        command = serve_command(at / "store", address, "--threads", "1", "--quiet")
        with running(command, at / "log") as server, protocol.Client(address, owner) as client:
            upload = client.upload()
            owner.verification.prepare()
            client.predict(x[:1], probes=0)
            one = [client.predict(x[:1], probes=0).timings["total"] for _ in range(5)]
            began = time.perf_counter()
            answer = client.predict(x, probes=probes)
            seconds = time.perf_counter() - began
            memory = peak_mib(server.pid)
    return {
        "logits": answer.logits,
        "passed": answer.report.passed,
        "probes": answer.report.probes,
        "one_ms": statistics.median(one),
        "per_s": len(x) / seconds,
        "upload_s": upload.seconds,
        "server_mib": memory,
    }
