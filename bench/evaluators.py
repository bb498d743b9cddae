"""SEAL against the vector evaluator, primitive by primitive, in one run.

    python -m bench.evaluators [--quick] [--json FILE]

Keys and ciphertexts are random residues: the time of an operation does not depend on them. Each line gives
the median of interleaved repetitions, the ratio, and the floor: counted transforms at the best measured
time of one, plus the octets that must be read or written at the measured memory bandwidth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from securedl.he.layout import Record, Shape, chain
from securedl.he.params import Parameters, ntt_primes
from securedl.he.seal import SealEvaluator
from securedl.he.vector import VectorEvaluator, warm_up
from securedl.he.vector.ntt import forward

#: Bits of the data primes and of the special prime at each ring.
CHAINS = {
    4096: ((33, 31), 37),
    8192: ((47, 38, 38, 38), 49),
    16384: ((47, 40, 40, 40, 40, 40), 49),
    32768: ((47, 40, 40, 40, 40, 40, 40, 40, 40, 40), 49),
}
BABY, GIANT = 8, 8
LAYER = BABY * GIANT
HOISTED = tuple(range(1, BABY))


@dataclass(frozen=True)
class Line:
    """One operation of one evaluator configuration; times in µs."""

    ring: int
    threads: int
    operation: str
    seal: float
    vector: float
    floor: float

    @property
    def ratio(self) -> float:
        return self.seal / self.vector


class Setting:
    """Both evaluators at one ring, with the same random keys and operands."""

    def __init__(self, ring: int, threads: int) -> None:
        bits, special_bits = CHAINS[ring]
        special = next(ntt_primes(ring, special_bits))
        sources = {b: (q for q in ntt_primes(ring, b) if 4 * q <= special) for b in set(bits)}
        self.params = Parameters("ckks", ring, tuple(next(sources[b]) for b in bits), special)
        self.rng = np.random.default_rng(ring)
        self.level = len(bits) - 1
        self.vector = VectorEvaluator(self.params, threads)
        self.seal = SealEvaluator(self.params)
        steps = {*HOISTED, *(BABY * i for i in range(1, GIANT))} if ring <= 8192 else set(HOISTED)
        key = self._key()
        for evaluator in (self.vector, self.seal):
            evaluator.set_keys(key, dict.fromkeys(steps, key))

    def record(self, size: int, level: int) -> Record:
        primes = np.array(chain(self.params, level), dtype=np.uint64)[None, :, None]
        shape = (size, level + 1, self.params.ring)
        return Record(Shape(level, size, 1.0), self.rng.integers(0, primes, shape, dtype=np.uint64))

    def _key(self) -> list[Record]:
        return [self.record(2, len(self.params.primes)) for _ in self.params.primes]

    def best_transform(self) -> float:
        """µs of one forward transform."""
        c, n = self.vector._engine.chain, self.params.ring
        block = self.vector._engine.rows(2)
        block.array(2, n)[:] = 1.0
        arguments = (
            block.at,
            block.at + 8 * n,
            int(c.ahead[1]),
            n,
            c.q[1],
            c.q_inverse[1],
            int(c.methods[1]),
            0,
            0,
        )
        return min(_timed(lambda: forward(*arguments)) for _ in range(300))


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


def bandwidth() -> float:
    """Octets per µs that one core reads from memory."""
    a, b = np.ones(1 << 24), np.ones(1 << 24)
    return 2 * a.nbytes / min(_timed(lambda: np.dot(a, b)) for _ in range(5))


def compare(slow: Callable[[], Any], fast: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Medians in µs of two calls, alternating for about `seconds`."""
    slow(), fast(), fast()
    first: list[float] = []
    second: list[float] = []
    end = time.perf_counter() + seconds
    while len(first) < 3 or time.perf_counter() < end:
        first.append(_timed(slow))
        second.extend(_timed(fast) for _ in range(3))
    return statistics.median(first), statistics.median(second)


def layer(evaluator: Any, x: Any, ws: list[Any]) -> Any:
    """A 64 x 64 layer, baby-step giant-step, and a squaring."""
    xs = evaluator.rotate(x, range(BABY))
    groups = [(xs, ws[BABY * i : BABY * (i + 1)], BABY * i) for i in range(GIANT)]
    if isinstance(evaluator, VectorEvaluator):
        total = evaluator.giant_steps(groups)
    else:
        total = None
        for xs, some, step in groups:
            part = evaluator.rescale(evaluator.relinearise(evaluator.dot(xs, some)))
            (part,) = evaluator.rotate(part, [step])
            total = part if total is None else evaluator.add(total, part)
    return evaluator.rescale(evaluator.relinearise(evaluator.square(total)))


def measure(setting: Setting, threads: int, speed: float, seconds: float) -> list[Line]:
    """Every operation at one ring and number of threads."""
    v, s, level = setting.vector, setting.seal, setting.level
    count, row = level + 1, 8 * setting.params.ring
    transform = setting.best_transform()
    records = {"a": (2, level), "b": (2, level), "c": (3, level), "p": (1, level)}
    made = {name: setting.record(*shape) for name, shape in records.items()}
    va, vb, vc, vp = (v.load(record) for record in made.values())
    sa, sb, sc, sp = (s.load(record) for record in made.values())
    terms = LAYER if setting.params.ring <= 8192 else 2 * BABY
    weights = [setting.record(2, level) for _ in range(terms)]
    vw, sw = [v.load_weight(w) for w in weights], [s.load(w) for w in weights[:BABY]]
    plain = [setting.record(1, level) for _ in range(terms)]
    vp64, sp64 = [v.load_weight(w) for w in plain], [s.load(w) for w in plain[:BABY]]
    packed = setting.params.ring * int(v._engine.chain.widths[:count].sum())
    key = 2 * count * (count + 1) * row
    switching = count + count * count + 2 * (1 + count)
    lines = []

    def line(
        name: str, slow: Callable[[], Any], fast: Callable[[], Any], transforms: int, octets: int,
        per: tuple[int, int] = (1, 1),
    ) -> None:  # fmt: skip
        a, b = compare(slow, fast, seconds)
        floor = (transforms * transform + octets / speed) / threads
        lines.append(Line(setting.params.ring, threads, name, a / per[0], b / per[1], floor / per[1]))

    xs, sxs = [va] * terms, [sa] * BABY
    line("add", lambda: s.add(sa, sb), lambda: v.add(va, vb), 0, 6 * count * row)
    line("multiply", lambda: s.multiply(sa, sb), lambda: v.multiply(va, vb), 0, 7 * count * row)
    line("square", lambda: s.square(sa), lambda: v.square(va), 0, 5 * count * row)
    line("multiply, plain", lambda: s.multiply(sa, sp), lambda: v.multiply(va, vp), 0, 5 * count * row)
    line("dot, per term", lambda: s.dot(sxs, sw), lambda: v.dot(xs, vw), 0, terms * 2 * packed, (BABY, terms))
    line(
        "dot, plain, per term", lambda: s.dot(sxs, sp64), lambda: v.dot(xs, vp64), 0, terms * packed,
        (BABY, terms),
    )  # fmt: skip
    line(
        "relinearise", lambda: s.relinearise(sc), lambda: v.relinearise(vc), switching, key + 5 * count * row
    )
    line("rotate", lambda: s.rotate(sa, [1]), lambda: v.rotate(va, [1]), switching, key + 4 * count * row)
    many = len(HOISTED)
    line(
        "rotate, hoisted, each", lambda: s.rotate(sa, HOISTED[:2]), lambda: v.rotate(va, HOISTED),
        count + count * count + many * 2 * (1 + count), many * (key + 2 * count * row), (2, many),
    )  # fmt: skip
    line("rescale", lambda: s.rescale(sa), lambda: v.rescale(va), 2 * count, 4 * count * row)
    if setting.params.ring == 8192:
        sw = [s.load(w) for w in weights]
        low = 3 * (1 + level) * 1 + level + level * level
        work = count + count * count + (BABY - 1) * 2 * (1 + count)
        work += (
            GIANT * (switching + 2 * count) + (GIANT - 1) * (level + level * level) + 2 * (1 + level) + low
        )
        octets = terms * 2 * packed + (2 * GIANT + BABY) * key
        line(
            f"layer {LAYER} x {LAYER}, square",
            lambda: layer(s, sa, sw),
            lambda: layer(v, va, vw),
            work,
            octets,
        )
    return lines


def show(lines: list[Line]) -> None:
    """Print a table."""
    print(
        f"{'ring':>6} {'threads':>7}  {'operation':<24} {'SEAL µs':>10} {'vector µs':>10} "
        f"{'ratio':>7} {'floor µs':>9}"
    )
    for x in lines:
        print(
            f"{x.ring:>6} {x.threads:>7}  {x.operation:<24} {x.seal:>10.1f} {x.vector:>10.1f} "
            f"{x.ratio:>7.1f} {x.floor:>9.1f}"
        )


def threads_gain(diagonals: int = 256) -> float:
    """How many times faster two threads are than one on a matrix of so many diagonals at ring 8192."""
    times = []
    settings = [Setting(8192, threads) for threads in (1, 2)]
    for setting in settings:
        v = setting.vector
        x = v.load(setting.record(2, setting.level))
        ws = [v.load_weight(setting.record(2, setting.level)) for _ in range(diagonals)]

        def matrix(v: VectorEvaluator = v, x: Any = x, ws: list[Any] = ws) -> None:
            for first in range(0, diagonals, LAYER):
                layer(v, x, ws[first : first + LAYER])

        times.append(matrix)
    return statistics.median(a / b for a, b in ((_timed(times[0]), _timed(times[1])) for _ in range(9)))


def main() -> None:
    parser = argparse.ArgumentParser(description="SEAL against the vector evaluator")
    parser.add_argument("--quick", action="store_true", help="rings 4096 and 8192 only, less than a minute")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--ring", type=int, action="append", choices=CHAINS, help="only this one")
    options = parser.parse_args()
    compiled = _timed(warm_up) / 1e6
    speed = bandwidth()
    rings = tuple(options.ring or ((4096, 8192) if options.quick else CHAINS))
    seconds = 0.25 if options.quick else 1.0
    lines = [
        some
        for ring in rings
        for threads in (1, 2)
        for some in measure(Setting(ring, threads), threads, speed, seconds)
    ]
    gain = threads_gain()
    print(f"kernels ready in {compiled:.2f} s; memory {speed / 1e3:.1f} GB/s; two threads {gain:.2f} x one")
    show(lines)
    if options.json:
        figures = [{**asdict(x), "ratio": x.ratio} for x in lines]
        options.json.write_text(
            json.dumps(
                {"warm_up_s": compiled, "gb_per_s": speed / 1e3, "threads_gain": gain, "lines": figures}
            )
        )


if __name__ == "__main__":
    main()
