"""SEAL against the vector evaluator in one run: primitives, layers and models, at four rings.

Keys and ciphertexts are random residues: the time of an operation does not depend on them. Each line gives
the medians of alternating blocks of calls, their ratio, and the floor: counted transforms at the best
measured time of one, plus the octets that must be read or written at the measured memory bandwidth, over the
threads.

A layer is a matrix, baby-step giant-step, and a squaring where the chain has the levels for it; a model is
MODEL layers. The number behind the name counts diagonals; their weights are encrypted or plain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from securedl.errors import InputError
from securedl.files import check_writable
from securedl.he.arithmetic import Group
from securedl.he.ckks import ckks_parameters
from securedl.he.record import Record, Shape, chain
from securedl.he.seal import SealEvaluator
from securedl.he.vector import VectorEvaluator, warm_up
from securedl.he.vector.kernels.ntt import forward
from securedl.he.vector.kernels.padding import PAD, block_octets

#: Levels at each ring; the primes are those that the compiler chooses for so many.
LEVELS = {4096: 1, 8192: 3, 16384: 5, 32768: 9}
#: Baby and giant steps of a layer at each ring, as the compiler splits 64 diagonals, and 16 at the largest
#: ring, where SEAL needs seconds for more.
LAYERS = {4096: (16, 4), 8192: (16, 4), 16384: (16, 4), 32768: (8, 2)}
MODEL = 4
#: Terms of a sum of products on SEAL, and rotations of one ciphertext.
TERMS, HOISTED = 8, (1, 2, 3)


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
        self.params = ckks_parameters(ring, LEVELS[ring])
        self.rng = np.random.default_rng(ring)
        self.level = LEVELS[ring]
        self.vector = VectorEvaluator(self.params, threads)
        self.seal = SealEvaluator(self.params)
        baby, giant = LAYERS[ring]
        steps = {*HOISTED, *range(1, baby), *(baby * i for i in range(1, giant))}
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
        """µs of one forward transform between padded rows, of a kind without reductions."""
        engine, n = self.vector._engine, self.params.ring
        c, octets = engine.chain, engine.work_row
        block = engine.work_rows(2)
        block.array(octets // 4)[:] = 1.0
        arguments = (
            block.at,
            block.at + octets,
            block_octets(n) + PAD,
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


def _block(call: Callable[[], Any], settle: float = 10e-3, timed: float = 30e-3) -> list[float]:
    """Times in µs of calls for about 30 ms and three at least, after 10 ms of calls that are not counted.

    After other code the caches are cold and the processor takes some milliseconds to reach its speed: a
    relinearisation took 474, 429, ... 406 µs after one of SEAL's, the last from the ninth call on. Calls that
    take seconds are not repeated so often.
    """
    begin = time.perf_counter()
    call()
    while time.perf_counter() < begin + settle:
        call()
    found = [_timed(call)]
    while sum(found) < 1e6 and (len(found) < 3 or sum(found) < 1e6 * timed):
        found.append(_timed(call))
    return found


def compare(slow: Callable[[], Any], fast: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Medians in µs of two calls in alternating blocks, for about `seconds`; at least one block of each."""
    first: list[float] = []
    second: list[float] = []
    end = time.perf_counter() + seconds
    while not first or time.perf_counter() < end:
        first += _block(slow)
        second += _block(fast)
    return statistics.median(first), statistics.median(second)


def layer(evaluator: Any, x: Any, ws: list[Any], shape: tuple[int, int] = LAYERS[8192]) -> Any:
    """A matrix of `shape` baby and giant steps, and a squaring if a level remains for it."""
    baby, giant = shape
    xs = evaluator.rotate(x, range(baby))
    groups = [Group(xs, ws[baby * i : baby * (i + 1)], baby * i) for i in range(giant)]
    total: Any = None
    if isinstance(evaluator, VectorEvaluator):
        total = evaluator.giant_steps(groups)
    else:
        for xs, some, step in groups:
            part = evaluator.rescale(evaluator.relinearise(evaluator.dot(xs, some)))
            (part,) = evaluator.rotate(part, [step])
            total = part if total is None else evaluator.add(total, part)
    if evaluator.level(total) == 0:
        return total
    if isinstance(evaluator, VectorEvaluator):
        return evaluator.multiply_rescale(total, total)
    return evaluator.rescale(evaluator.relinearise(evaluator.square(total)))


@dataclass(frozen=True)
class Cost:
    """Transforms, and octets read from or written to memory."""

    transforms: int = 0
    octets: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.transforms + other.transforms, self.octets + other.octets)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.transforms * times, self.octets * times)


class Costs:
    """What the operations of one setting cannot do without, on ciphertexts of `count` primes."""

    def __init__(self, setting: Setting) -> None:
        chain = setting.vector._engine.chain
        self.n = setting.params.ring
        self._widths = [int(width) for width in chain.widths]
        self._key_widths = [int(width) for width in chain.key_widths]

    def rows(self, count: int) -> Cost:
        """Reading or writing so many rows."""
        return Cost(0, 8 * self.n * count)

    def weight(self, count: int, polynomials: int) -> Cost:
        """Reading a packed weight."""
        return Cost(0, polynomials * self.n * sum(self._widths[:count]))

    def key(self, count: int) -> Cost:
        """Reading a switch key."""
        return Cost(0, 2 * count * self.n * (sum(self._key_widths[:count]) + self._key_widths[-1]))

    def digits(self, count: int) -> Cost:
        """Every digit modulo every other prime."""
        return Cost(count + count * count)

    def divided(self, count: int) -> Cost:
        """Two polynomials over the special prime."""
        return Cost(2 * (1 + count))

    def switch(self, count: int, polynomials: int) -> Cost:
        """A key switch that reads and writes so many polynomials."""
        return self.digits(count) + self.key(count) + self.divided(count) + self.rows(polynomials * count)

    def switch_and_rescale(self, count: int) -> Cost:
        """A relinearisation and a rescaling, which share transforms."""
        return self.digits(count) + self.key(count) + Cost(2 * (2 + count)) + self.rows(5 * count)

    def layer(self, count: int, shape: tuple[int, int], encrypted: bool) -> Cost:
        baby, giant = shape
        low = count - 1
        total = self.digits(count) + (self.key(count) + self.divided(count)) * (baby - 1)
        total += self.weight(count, 2 if encrypted else 1) * (baby * giant)
        total += (self.switch_and_rescale(count) if encrypted else Cost(2 * count)) * giant
        total += (self.digits(low) + self.key(low)) * (giant - 1) + self.divided(low)
        return total + self.switch_and_rescale(low) if low > 1 else total


def measure(setting: Setting, threads: int, speed: float, seconds: float) -> list[Line]:
    """Every operation at one ring and number of threads."""
    v, s, level = setting.vector, setting.seal, setting.level
    count, shape = level + 1, LAYERS[setting.params.ring]
    transform, costs = setting.best_transform(), Costs(setting)
    records = {"a": (2, level), "b": (2, level), "c": (3, level), "p": (1, level)}
    made = {name: setting.record(*size) for name, size in records.items()}
    va, vb, vc, vp = (v.load(record) for record in made.values())
    sa, sb, sc, sp = (s.load(record) for record in made.values())
    lines = []

    def line(
        name: str, slow: Callable[[], Any], fast: Callable[[], Any], cost: Cost, per: tuple[int, int] = (1, 1)
    ) -> None:
        a, b = compare(slow, fast, seconds)
        floor = (cost.transforms * transform + cost.octets / speed) / threads
        lines.append(Line(setting.params.ring, threads, name, a / per[0], b / per[1], floor / per[1]))

    rows = costs.rows(count)
    line("add", lambda: s.add(sa, sb), lambda: v.add(va, vb), rows * 6)
    line("multiply", lambda: s.multiply(sa, sb), lambda: v.multiply(va, vb), rows * 7)
    line("square", lambda: s.square(sa), lambda: v.square(va), rows * 5)
    line("multiply, plain", lambda: s.multiply(sa, sp), lambda: v.multiply(va, vp), rows * 5)
    line("relinearise", lambda: s.relinearise(sc), lambda: v.relinearise(vc), costs.switch(count, 5))
    line("rotate", lambda: s.rotate(sa, [1]), lambda: v.rotate(va, [1]), costs.switch(count, 4))
    many = len(HOISTED)
    each = costs.key(count) + costs.divided(count) + rows * 2
    line(
        "rotate, hoisted, each", lambda: s.rotate(sa, HOISTED[:2]), lambda: v.rotate(va, HOISTED),
        costs.digits(count) + each * many, (2, many),
    )  # fmt: skip
    line("rescale", lambda: s.rescale(sa), lambda: v.rescale(va), Cost(2 * count) + rows * 4)
    diagonals = shape[0] * shape[1]
    for polynomials, kind in ((2, "encrypted"), (1, "plain")):
        weights = [setting.record(polynomials, level) for _ in range(diagonals)]
        sw = [s.load(w) for w in weights]
        vw = [[v.load_weight(w) for w in weights] for _ in range(MODEL)]  # each layer reads its own
        del weights
        line(
            f"dot, {kind}, per term", partial(s.dot, [sa] * TERMS, sw[:TERMS]),
            partial(v.dot, [va] * diagonals, vw[0]), costs.weight(count, polynomials) * diagonals,
            (TERMS, diagonals),
        )  # fmt: skip
        for name, times in (("layer", 1), ("model", MODEL)):
            line(
                f"{name}, {kind}, {times * diagonals}",
                partial(_layers, s, sa, [sw] * times, shape),
                partial(_layers, v, va, vw[:times], shape),
                costs.layer(count, shape, polynomials == 2) * times,
            )
    return lines


def _layers(evaluator: Any, x: Any, many: list[list[Any]], shape: tuple[int, int]) -> None:
    for ws in many:
        layer(evaluator, x, ws, shape)


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


def threads_gain(seconds: float = 8.0) -> tuple[float, float]:
    """How many times faster two threads are than one on a model at ring 8192, its weights encrypted; and how
    much more two threads do that evaluate a model each: what this machine, at this moment, lets two gain.
    Medians of alternating blocks.
    """
    models = []
    shape = LAYERS[8192]
    for threads in (1, 2, 1):
        setting = Setting(8192, threads)
        v, level = setting.vector, setting.level
        count = shape[0] * shape[1]
        ws = [[v.load_weight(setting.record(2, level)) for _ in range(count)] for _ in range(MODEL)]
        models.append(partial(_layers, v, v.load(setting.record(2, level)), ws, shape))
    one: list[float] = []
    two: list[float] = []
    apart: list[float] = []
    times = (100e-3, 200e-3)
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(2) as pool:
        while not one or time.perf_counter() < end:
            one += _block(models[0], *times)
            two += _block(models[1], *times)
            apart += _block(lambda: list(pool.map(lambda model: model(), models[::2])), *times)
    alone = statistics.median(one)
    return alone / statistics.median(two), 2 * alone / statistics.median(apart)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.evaluators", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="rings 4096 and 8192 with few repetitions, under a minute"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument(
        "--ring", type=int, action="append", choices=LEVELS, help="only this one (may be given again)"
    )
    options = parser.parse_args()
    try:
        check_writable(options.json)
    except InputError as error:
        parser.error(str(error))
    compiled = _timed(warm_up) / 1e6
    speed = bandwidth()
    rings = tuple(options.ring or ((4096, 8192) if options.quick else LEVELS))
    seconds = 0.25 if options.quick else 1.0
    lines = [
        some
        for ring in rings
        for threads in (1, 2)
        for some in measure(Setting(ring, threads), threads, speed, seconds)
    ]
    gain, limit = threads_gain(8 * seconds)
    print(f"kernels ready in {compiled:.2f} s; memory {speed / 1e3:.1f} GB/s")
    print(f"two threads {gain:.2f} x one; with a model each they would do {limit:.2f} x as much")
    show(lines)
    if options.json:
        figures = [{**asdict(x), "ratio": x.ratio} for x in lines]
        options.json.write_text(
            json.dumps(
                {
                    "warm_up_s": compiled,
                    "gb_per_s": speed / 1e3,
                    "threads_gain": gain,
                    "threads_limit": limit,
                    "lines": figures,
                }
            )
        )


if __name__ == "__main__":
    main()
