"""Calls of the kernels: memory, constants and threads behind them. Everything here works on addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from securedl.errors import InputError
from securedl.he.params import Parameters
from securedl.he.vector.buffers import Block, Buffers
from securedl.he.vector.chain import Floats, Integers, chain_of
from securedl.he.vector.handles import Handle, SwitchKey
from securedl.he.vector.keyswitch import DIGITS, DIVIDE, SUM, TRANSFORM, digits, switch
from securedl.he.vector.ntt import entries, forward, inverse
from securedl.he.vector.padding import block_octets, padded_octets
from securedl.he.vector.rescale import divide
from securedl.he.vector.rows import add, add_permuted, permute

#: Transformed values from which one operation is given to several threads. At N = 8192 with 4 primes
#: (20 transforms) two threads gain nothing on a key switch, at 16384 with 6 primes (42) 1.5 times.
_SHARED_VALUES = 400_000


_NO_COUNTS = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Item:
    """One key switch of several that share their digits: its key, and addresses of its result and of four
    padded rows.
    """

    key: SwitchKey
    out: int
    remainders: int = 0

    @property
    def line(self) -> tuple[int, ...]:
        """Columns of `keyswitch.switch`."""
        turn = self.key.turn
        places = (turn.moves_at, turn.scatter_at) if turn else (0, 0)
        return self.key.block.at, self.out, self.remainders, *places

    @property
    def counts(self) -> Integers:
        """Of the automorphism's patterns."""
        return _NO_COUNTS if self.key.turn is None else self.key.turn.counts


class Engine:
    """One chain, one pool of memory and one of threads."""

    def __init__(self, params: Parameters, threads: int) -> None:
        self.chain = chain_of(params)
        self.buffers = Buffers()
        self.threads = threads
        self.n = params.ring
        self.row = 8 * params.ring
        self.work_row = padded_octets(params.ring)
        self._pool = ThreadPoolExecutor(threads - 1, "securedl-vector") if threads > 1 else None
        # Per instance: the cached tuples hold arrays that the kernels read.
        self._moduli = lru_cache(maxsize=None)(self._make_moduli)
        self._extended = lru_cache(maxsize=None)(self._make_extended)
        self._switch_constants = lru_cache(maxsize=None)(self._make_switch_constants)
        self._divide_constants = lru_cache(maxsize=None)(self._make_divide_constants)

    # --- memory and constants --------------------------------------------------------------------

    def rows(self, count: int) -> Block:
        """Memory for `count` rows of one prime each."""
        return self.buffers.take(count * self.n)

    def work_rows(self, count: int) -> Block:
        """Memory for `count` padded rows."""
        return self.buffers.take(count * self.work_row // 8)

    def _work_places(self, *counts: int) -> tuple[Block, tuple[int, ...]]:
        """One piece of memory for several groups of padded rows, and where they begin; hold on to it."""
        *starts, total = accumulate(counts, initial=0)
        work = self.work_rows(total)
        return work, tuple(work.at + self.work_row * start for start in starts)

    def handle(self, size: int, level: int, scale: float, correction: int) -> Handle:
        """A handle without values."""
        block = self.rows(size * (level + 1))
        return Handle(block, block.at, size, level, scale, correction)

    def moduli(self, level: int) -> tuple[Floats, Floats]:
        """The primes of a level, and their inverses."""
        return self._moduli(level)

    def _make_moduli(self, level: int) -> tuple[Floats, Floats]:
        return self.chain.q[: level + 1], self.chain.q_inverse[: level + 1]

    def _make_switch_constants(self, count: int) -> tuple[Any, ...]:
        c = self.chain
        d = c.division(c.special, count)
        t = float(c.params.plain_modulus)
        primes = len(c.primes)

        def column(values: Any) -> Any:
            return np.pad(np.asarray(values), (0, primes - len(values)))

        dropping = c.division(count - 1, count - 1).inverse if count > 1 else np.zeros(0)
        whole = [c.ahead, c.back, c.methods, c.key_lengths, c.key_widths]
        real = [c.q, c.q_inverse, c.shrink, c.starts, d.inverse, d.residue, dropping]
        columns = (np.stack([column(some) for some in table], axis=1) for table in (whole, real))
        return (*(np.ascontiguousarray(table) for table in columns), t, d.plain_factor)

    def _make_divide_constants(self, dropped: int, count: int) -> tuple[Any, ...]:
        c = self.chain
        d = c.division(dropped, count)
        one = (
            int(c.back[dropped]),
            c.shrink[dropped],
            c.q[dropped],
            c.q_inverse[dropped],
            int(c.methods[dropped]),
        )
        many = (c.ahead, c.q[:count], c.q_inverse[:count], c.methods, d.inverse, d.residue)
        return (*one, *many, float(c.params.plain_modulus), d.plain_factor)

    # --- threads ---------------------------------------------------------------------------------

    def shared(self, transforms: int) -> bool:
        """Whether so many transforms are worth several threads: handing over costs about 50 µs a phase."""
        return self.threads > 1 and transforms * self.n >= _SHARED_VALUES

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Do all tasks; with a pool, this thread works too."""
        if self._pool is None or len(tasks) == 1:
            for task in tasks:
                task()
            return
        queue = iter(tasks)  # next() on a shared iterator is atomic under the interpreter's lock

        def drain() -> None:
            for task in queue:
                task()

        others = [self._pool.submit(drain) for _ in range(min(self.threads, len(tasks)) - 1)]
        try:
            drain()
        finally:  # whatever happened: tasks write to memory that the caller is about to give back
            begun = [other for other in others if not other.cancel()]
            wait(begun)
        for other in begun:
            other.result()

    def run_if(self, transforms: int, tasks: Sequence[Callable[[], None]]) -> None:
        """Do all tasks, in this thread alone if they are small together."""
        if self.shared(transforms):
            self.run(tasks)
        else:
            for task in tasks:
                task()

    def split(self, part: Callable[[int, int], None], total: int, unit: int) -> None:
        """Do part(begin, end) over 0..total in as many pieces as there are threads."""
        pieces = min(self.threads, -(-total // unit))
        if pieces == 1:
            part(0, total)
            return
        bounds = [total * k // pieces // unit * unit for k in range(pieces)] + [total]
        self.run([partial(part, bounds[k], bounds[k + 1]) for k in range(pieces)])

    # --- transforms ------------------------------------------------------------------------------

    def forward(self, source: int, out: int, prime: int) -> None:
        """Transform a padded row to a plain one."""
        c = self.chain
        at, q, q_inverse, how = int(c.ahead[prime]), c.q[prime], c.q_inverse[prime], int(c.methods[prime])
        forward(source, out, block_octets(self.n), at, self.n, q, q_inverse, how, 0, 0)

    def inverse(self, source: int, out: int, prime: int) -> None:
        """Transform a plain row back to exactly centred coefficients, a padded one."""
        c = self.chain
        at, q, q_inverse, how = int(c.back[prime]), c.q[prime], c.q_inverse[prime], int(c.methods[prime])
        inverse(source, out, at, self.n, c.shrink[prime], 0.0, 0, q, q_inverse, how)

    # --- key switching ---------------------------------------------------------------------------

    def digits(self, source: int, out: int, count: int, signs: int = 0) -> None:
        """The digits of one polynomial of `count` primes, to padded rows at `out`."""
        c = self.chain
        constants = c.back, c.shrink, c.q, c.q_inverse, c.methods

        def part(first: int, end: int) -> None:
            digits(entries(), source, out, self.n, signs, first, end, *constants)

        if self.shared(count * (count + 1)):
            self.split(part, count, 1)
        else:
            part(0, count)

    def switch(
        self, work: tuple[int, ...], source: int, count: int, phases: int, begin: int, end: int,
        items: Sequence[Item], shared: bool = False, added: tuple[int, int] = (0, 0), signs: int = 0,
        dropping: bool = False, adding: bool = False,
    ) -> None:  # fmt: skip
        """Call the kernel. work: digits, expanded digits (every position's if `shared`) and four rows."""
        digit_rows, expanded, scratch = work
        lines = np.array([item.line for item in items])
        counts = items[0].counts[None] if len(items) == 1 else np.array([item.counts for item in items])
        switch(
            entries(), digit_rows, source, expanded, self.work_row * count if shared else 0,
            items[0].key.digits, count, begin, end, self.n, phases, *added, scratch,
            signs, lines, counts, adding, *self._switch_constants(count), dropping,
        )  # fmt: skip

    def switched(self, a: Handle, polynomial: int, key: SwitchKey, added: tuple[int, int]) -> Handle:
        """One polynomial of a, switched, and `added` (addresses, or 0) to the two of the result.

        With a rotation key the result is then permuted.
        """
        signs, count = key.signs_at, a.level + 1
        source = a.at + polynomial * count * self.row
        out = self.handle(2, a.level, a.scale, a.correction)
        shared = self.shared(count * (count + 1))
        _work, (digit_rows, remainders, scratch, expanded) = self._work_places(
            count, 4, 4, count * (count + 1 if shared else 1)
        )
        items = [Item(key, out.at, remainders)]
        if not shared:
            work = digit_rows, expanded, scratch
            phases = DIGITS | TRANSFORM | SUM | DIVIDE
            self.switch(work, source, count, phases, 0, count + 1, items, False, added, signs)
            return out
        self.digits(source, digit_rows, count, signs)

        def part(phases: int, position: int) -> None:
            mine = self.work_rows(4)
            work = digit_rows, expanded, mine.at
            self.switch(work, source, count, phases, position, position + 1, items, True, added, signs)

        first = [partial(part, TRANSFORM | SUM | DIVIDE, 0)]
        self.run(first + [partial(part, TRANSFORM, k) for k in range(1, count + 1)])
        self.run([partial(part, SUM | DIVIDE, k) for k in range(1, count + 1)])
        return out

    def switched_and_rescaled(self, a: Handle, key: SwitchKey, scale: float) -> Handle:
        """Three polynomials to two and one prime fewer, for CKKS, in this thread."""
        count, row = a.level + 1, self.row
        source = a.at + 2 * count * row
        out = self.handle(2, a.level - 1, scale, a.correction)
        _work, (digit_rows, remainders, scratch, expanded) = self._work_places(count, 4, 4, count)
        self.switch(
            (digit_rows, expanded, scratch), source, count, DIGITS | TRANSFORM | SUM | DIVIDE, 0, count + 1,
            [Item(key, out.at, remainders)], added=(a.at, a.at + count * row), dropping=True,
        )  # fmt: skip
        return out

    def hoisted(self, a: Handle, keys: dict[int, SwitchKey]) -> dict[int, Handle]:
        """All rotations of a from one decomposition, prime after prime for all keys: a prime's digits stay in
        the cache. Several threads take some keys each; where transforms are small, each transforms for
        itself.
        """
        count, all_positions = a.level + 1, a.level + 2
        source = a.at + count * self.row
        outs = [self.handle(2, a.level, a.scale, a.correction) for _ in keys]
        pieces = min(self.threads, len(keys))
        common = pieces > 1 and self.shared(count * all_positions)
        _work, (digit_rows, scratch, rests, expanded) = self._work_places(
            count * pieces, 4 * pieces, 4 * len(keys), count * (all_positions if common else pieces)
        )
        items = [
            Item(key, out.at, rests + 4 * k * self.work_row)
            for k, (key, out) in enumerate(zip(keys.values(), outs, strict=True))
        ]

        def some(phases: int, begin: int, end: int, share: Sequence[Item], thread: int) -> None:
            own, mine = count * thread * self.work_row, scratch + 4 * thread * self.work_row
            work = (digit_rows, expanded, mine) if common else (digit_rows + own, expanded + own, mine)
            self.switch(work, source, count, phases, begin, end, share, common, (a.at, 0))

        phases = DIGITS | TRANSFORM | SUM | DIVIDE
        if common:
            self.digits(source, digit_rows, count)
            self.run([partial(some, TRANSFORM, k, k + 1, items[:1], 0) for k in range(all_positions)])
            phases = SUM | DIVIDE
        shares = [items[k::pieces] for k in range(pieces)]
        if not common or count % pieces or len(items) % pieces == 0:
            self.run([partial(some, phases, 0, all_positions, share, k) for k, share in enumerate(shares)])
        else:  # an odd key would keep one thread waiting; positions after the first can be shared evenly
            self.run([partial(some, phases, 0, 1, share, k) for k, share in enumerate(shares)])
            part = [1 + count * k // pieces for k in range(pieces + 1)]
            self.run([partial(some, phases, part[k], part[k + 1], items, k) for k in range(pieces)])
        return dict(zip(keys, outs, strict=True))

    def turned_sum(self, moved: Sequence[tuple[Handle, SwitchKey]]) -> tuple[Block, Block]:
        """Σ digit x key of all handles' second polynomials [2, primes + 1, N], and beside it the sum of their
        first polynomials, each under its key's automorphism.

        Threads take some of the handles each, or some of the primes of all, whichever takes less time.
        """
        count, threads = moved[0][0].level + 1, self.threads
        digits, each = count, count + 2  # transforms, and sums at about two, of one position
        by_handles = -(-len(moved) // threads) * (digits + (count + 1) * each)
        by_positions = len(moved) * (digits + -(-(count + 1) // threads) * each)
        if by_positions < by_handles:
            total = self._room_for_sum(count)
            bounds = [(count + 1) * k // threads for k in range(threads + 1)]
            self.run([partial(self._turn_and_add, moved, total, *some) for some in pairwise(bounds)])
            return total
        shares = [moved[k::threads] for k in range(min(threads, len(moved)))]
        totals = [self._room_for_sum(count) for _ in shares]
        self.run(
            [
                partial(self._turn_and_add, share, total, 0, count + 1)
                for share, total in zip(shares, totals, strict=True)
            ]
        )
        (sums, main), *others = totals
        for more_sums, more_main in others:
            add(sums.at, more_sums.at, sums.at, 2 * (count + 1), self.n, *self._extended(count))
            add(main.at, more_main.at, main.at, count, self.n, *self._moduli(count - 1))
        return sums, main

    def _room_for_sum(self, count: int) -> tuple[Block, Block]:
        return self.rows(2 * (count + 1)), self.rows(count)

    def _make_extended(self, count: int) -> tuple[Floats, Floats]:
        """As `moduli`, the special prime after the others."""
        c = self.chain
        return np.append(c.q[:count], c.q[-1]), np.append(c.q_inverse[:count], c.q_inverse[-1])

    def _turn_and_add(
        self, moved: Sequence[tuple[Handle, SwitchKey]], total: tuple[Block, Block], begin: int, end: int
    ) -> None:
        """Positions begin..end of `turned_sum`, and as many rows of the first polynomials; in this thread."""
        sums, main = total
        count, n = moved[0][0].level + 1, self.n
        first, last = (count * k // (count + 1) for k in (begin, end))
        q, q_inverse = self._moduli(count - 1)
        _work, work = self._work_places(count, count, 4)
        for k, (a, key) in enumerate(moved):
            if key.turn is None:
                raise InputError("a relinearisation key rotates nothing")
            source, out = a.at + first * self.row, main.at + first * self.row
            moves, counts = key.turn.moves_at, key.turn.counts
            if k == 0:
                permute(source, out, last - first, n, moves, counts)
            else:
                some = q[first:last], q_inverse[first:last]
                add_permuted(source, out, last - first, n, moves, counts, *some)
            second, items = a.at + count * self.row, [Item(key, sums.at)]
            self.switch(work, second, count, DIGITS | TRANSFORM | SUM, begin, end, items, adding=k > 0)

    def divide(self, source: int, last: int, added: int, out: int, dropped: int, count: int) -> None:
        """out = (source - last)/prime + added for one polynomial, `dropped` the index of that prime."""
        scratch = self.work_rows(3)
        divide(
            entries(), last, source, added, out, scratch.at, self.n, *self._divide_constants(dropped, count)
        )
