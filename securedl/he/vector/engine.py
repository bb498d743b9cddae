"""Calls of the kernels: memory, constants and threads behind them. Everything here works on addresses."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from securedl.he.params import Parameters
from securedl.he.vector.chain import Floats, chain_of
from securedl.he.vector.handles import Handle, SwitchKey
from securedl.he.vector.kernels.buffers import Buffers, Piece
from securedl.he.vector.kernels.butterfly import butterflies
from securedl.he.vector.kernels.digits import switch_entries
from securedl.he.vector.kernels.dot import dot, dot_packed
from securedl.he.vector.kernels.keyswitch import SUM_ROWS, SWITCH_ROWS, switch, switch_sum
from securedl.he.vector.kernels.ntt import forward, inverse
from securedl.he.vector.kernels.padding import block_octets, padded_octets
from securedl.he.vector.kernels.rescale import divide
from securedl.he.vector.kernels.rows import multiply
from securedl.he.vector.kernels.twiddles import Integers
from securedl.he.vector.stages import Crew, Stage

#: Most handles that share a piece of memory, a power of two.
PIECE = 16


@lru_cache(maxsize=4096)
def _lines(lines: tuple[tuple[int, ...], ...]) -> Integers:
    """An array for kernels to read. Memory is used again and again, so its addresses are mostly known ones;
    making a new array takes 7 µs where a kernel has left nothing else in the caches.
    """
    return np.array(lines)


def _counts(keys: Sequence[SwitchKey]) -> Integers:
    """Those of each key's automorphism, one line a key."""
    return keys[0].counts[None] if len(keys) == 1 else np.array([key.counts for key in keys])


class Engine:
    """One chain, one pool of memory, and the stages that evaluations consist of; `do` does them."""

    def __init__(self, params: Parameters, threads: int) -> None:
        self.chain = chain_of(params)
        self.buffers = Buffers()
        self.threads = threads
        self.do = Crew(threads).do
        self.n = params.ring
        self.row = 8 * params.ring
        self.work_row = padded_octets(params.ring)
        # Per instance: the cached tuples hold arrays that the kernels read. Through a proxy, so that no
        # circle keeps the memory of a removed model until the collector happens to run.
        own = weakref.proxy(self)
        self._moduli = lru_cache(maxsize=None)(partial(Engine._make_moduli, own))
        self._switch_constants = lru_cache(maxsize=None)(partial(Engine._make_switch_constants, own))
        self._divide_constants = lru_cache(maxsize=None)(partial(Engine._make_divide_constants, own))

    # --- memory and constants --------------------------------------------------------------------

    def rows(self, count: int) -> Piece:
        """Memory for `count` rows of one prime each."""
        return self.buffers.take(count * self.n)

    def work_rows(self, count: int) -> Piece:
        """Memory for `count` padded rows."""
        return self.buffers.take(count * self.work_row // 8)

    def switch_room(self, items: int, level: int) -> Piece:
        """Memory for `switching` of so many, which stages that are done one after another may share."""
        return self.buffers.take(sum(self._switch_rows(items, items, level + 1)) * self.work_row // 8)

    def _switch_rows(self, polynomials: int, items: int, count: int) -> tuple[int, int, int, int]:
        """Padded rows: for digits, remainders, scratch, transformed digits."""
        return count * polynomials, 4 * items, SWITCH_ROWS * self.threads, count * self.threads

    def _work_places(self, *counts: int, room: Piece | None = None) -> tuple[Piece, list[int]]:
        """One piece of memory for several groups of padded rows, and where they begin; hold on to it."""
        starts, total = [], 0
        for count in counts:
            starts.append(total)
            total += count * self.work_row
        work = self.buffers.take(total // 8) if room is None else room
        return work, [work.at + start for start in starts]

    def handle(self, size: int, level: int, scale: float, correction: int) -> Handle:
        """A handle without values."""
        block = self.rows(size * (level + 1))
        return Handle(block, block.at, size, level, scale, correction)

    def handles(self, count: int, size: int, level: int, scale: float, correction: int) -> list[Handle]:
        """Several; those of one piece of memory keep it as long as any of them. Pieces are for powers of two,
        so that there are few sizes, which the pool keeps apart.
        """
        length, found = size * (level + 1), list[Handle]()
        octets = length * self.row
        while left := count - len(found):
            some = min(left, PIECE)
            block = self.rows(length << (some - 1).bit_length())
            starts = range(block.at, block.at + some * octets, octets)
            found += [Handle(block, at, size, level, scale, correction) for at in starts]
        return found

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

    # --- stages ----------------------------------------------------------------------------------

    def switch_alone(self, key: SwitchKey, a: Handle, out: Handle, signs: int) -> None:
        """`switching` of one ciphertext, done by this thread with as little as possible around the kernel.

        Just after a kernel, with nothing else in the caches, the interpreter is three times as slow.
        """
        count, own, step = a.level + 1, self.work_row, (a.level + 1) * self.row
        memory = self.work_rows(2 * count + 4 + SWITCH_ROWS)
        remainders = memory.at + count * own
        scratch = remainders + 4 * own
        source, second = (a.at + 2 * step, a.at + step) if a.size == 3 else (a.at + step, 0)
        lines = _lines(((key.block.at, out.at, remainders, *key.places, 0, source, a.at, second),))
        switch(
            switch_entries(), 0, memory.at, scratch + SWITCH_ROWS * own, scratch, key.digits, count, self.n,
            signs, lines, key.counts[None], *self._switch_constants(count), False, False,
        )  # fmt: skip

    def switching(
        self, keys: Sequence[SwitchKey], handles: Sequence[Handle], outs: Sequence[Handle], signs: int = 0,
        dropping: bool = False, adding: bool = False, room: Piece | None = None,
    ) -> Stage:  # fmt: skip
        """Key switches of ciphertexts of one level, each of its last polynomial; the others are added to it.

        A ciphertext that comes several times is decomposed once. A result has as many primes as its
        ciphertext; with `dropping` one fewer, for CKKS and three polynomials. With `adding` rotations are
        added to what the results hold. signs: address of the rotation's, if it is the same for all, for
        SEAL's digits. room: see `switch_room`.
        """
        n, own, count = self.n, self.work_row, handles[0].level + 1
        places: dict[int, int] = {}
        numbers = [places.setdefault(a.at, len(places)) for a in handles]
        memory, (digits, remainders, scratch, digit_room) = self._work_places(
            *self._switch_rows(len(places), len(keys), count), room=room
        )
        lines = self._lines(keys, handles, outs, numbers, remainders)
        counts = _counts(keys)
        key_digits, constants = keys[0].digits, self._switch_constants(count)

        def call(team: int, thread: int) -> None:
            mine = digit_room + thread * count * own, scratch + thread * SWITCH_ROWS * own
            switch(
                switch_entries(), team, digits, *mine, key_digits, count, n, signs, lines, counts,
                *constants, dropping, adding,
            )  # fmt: skip

        transforms = len(places) * (count + count * count) + 2 * len(keys) * (count + 1)
        return Stage(call, len(places) + len(keys), transforms * n, (memory, keys, handles, outs))

    def _lines(
        self, keys: Sequence[SwitchKey], handles: Sequence[Handle], outs: Sequence[Handle],
        numbers: Sequence[int], remainders: int,
    ) -> Integers:  # fmt: skip
        """Items of `keyswitch.switch`."""
        step, four = (handles[0].level + 1) * self.row, 4 * self.work_row
        return _lines(
            tuple(
                [
                    (
                        key.block.at, out.at, remainders + four * k, *key.places, number,
                        a.at + (a.size - 1) * step, a.at, a.at + step if a.size == 3 else 0,
                    )
                    for k, (key, a, out, number) in enumerate(zip(keys, handles, outs, numbers, strict=True))
                ]
            )
        )  # fmt: skip

    def switching_sum(
        self, keys: Sequence[SwitchKey], handles: Sequence[Handle], out: Handle, still: Handle | None
    ) -> Stage:
        """Rotations of ciphertexts of one level, each with its key, added up, and `still` to them."""
        n, own, count, number = self.n, self.work_row, out.level + 1, len(keys)
        memory, (digits, rests, scratch, room) = self._work_places(
            count * number, 4, SUM_ROWS * self.threads, count * self.threads
        )
        lines = self._lines(keys, handles, [out] * number, range(number), 0)
        counts = _counts(keys)
        key_digits, constants = keys[0].digits, self._switch_constants(count)
        still_at = still.at if still else 0

        def call(team: int, thread: int) -> None:
            mine = room + thread * count * own, scratch + thread * SUM_ROWS * own
            switch_sum(
                switch_entries(), team, digits, *mine, rests, out.at, still_at, key_digits, count, n, lines,
                counts, *constants,
            )  # fmt: skip

        return Stage(call, 2, number * count * (count + 1) * n, (memory, keys, handles, out, still))

    def dividing(self, handles: Sequence[Handle], outs: Sequence[Handle]) -> Stage:
        """Handles of one level, divided by the last of their primes."""
        n, own, row, count = self.n, self.work_row, self.row, handles[0].level + 1
        jobs = np.array(
            [
                (source + (count - 1) * row, source, out.at + p * (count - 1) * row)
                for a, out in zip(handles, outs, strict=True)
                for p in range(a.size)
                for source in [a.at + p * count * row]
            ]
        )
        memory, (rests, work) = self._work_places(2 * len(jobs), self.threads)
        constants = self._divide_constants(count - 1, count - 1)

        def call(team: int, thread: int) -> None:
            divide(switch_entries(), team, jobs, rests, work + thread * own, n, *constants)

        return Stage(call, len(jobs), len(jobs) * count * n, (memory, handles, outs))

    def butterflies(
        self, pairs: Sequence[tuple[Handle, Handle | None]], factor: Handle, sums: Sequence[Handle],
        differences: Sequence[Handle],
    ) -> Stage:  # fmt: skip
        """a + factor · b and a - factor · b of pairs of one level; 2a without a b. factor: a plaintext."""
        n, level = self.n, factor.level
        moduli = self.moduli(level)
        lines = _lines(
            tuple(
                [
                    (a.at, b.at if b else 0, total.at, difference.at)
                    for (a, b), total, difference in zip(pairs, sums, differences, strict=True)
                ]
            )
        )

        def call(team: int, thread: int) -> None:
            butterflies(team, lines, factor.at, n, *moduli)

        memory = pairs, factor, sums, differences
        return Stage(call, 0, len(pairs) * (level + 1) * n, memory)

    def multiplying(self, a: Handle, b: Handle, out: Handle) -> Stage:
        """The product of two ciphertexts, which may be the same."""
        n, moduli = self.n, self.moduli(a.level)

        def call(team: int, thread: int) -> None:
            multiply(team, a.at, b.at, out.at, n, *moduli)

        return Stage(call, 0, (a.level + 1) * n, (a, b, out))

    def summing(self, xs: Sequence[Handle], ws: Sequence[Sequence[Handle]], outs: Sequence[Handle]) -> Stage:
        """outs[k] = Σ x·w for the x and ws[k]; all weights are packed, or none."""
        c, n, count = self.chain, self.n, xs[0].level + 1
        pair, packed, moduli = not ws[0][0].is_plain, ws[0][0].packed, self.moduli(count - 1)
        x_at = np.array([x.at for x in xs])
        w_at = np.array([w.at for some in ws for w in some]).reshape(len(ws), -1)
        out_at = np.array([out.at for out in outs])

        def call(team: int, thread: int) -> None:
            if packed:
                tables = c.ahead
                dot_packed(pair, team, x_at, w_at, out_at, n, c.widths, c.lengths, tables, c.starts, *moduli)
            else:
                dot(pair, team, x_at, w_at, out_at, n, c.lengths, c.starts, *moduli)

        return Stage(call, 0, w_at.size * count * n // 2, (xs, ws, outs))
