"""The server's default evaluator: compiled kernels on residues held as doubles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np

from securedl.errors import InputError
from securedl.he.layout import Record
from securedl.he.params import Parameters
from securedl.he.vector import rows
from securedl.he.vector.cache import compile_all
from securedl.he.vector.correction import balance
from securedl.he.vector.dot import dot, dot_packed
from securedl.he.vector.engine import Engine
from securedl.he.vector.handles import Handle, SwitchKey
from securedl.he.vector.loading import Loading
from securedl.he.vector.twiddles import centred

#: Scales that differ by less than this are the same scale reached along two paths.
SCALE_TOLERANCE = 1e-9
#: Positions of a sum of products that one thread takes at least.
_PART = 512


@lru_cache
def warm_up() -> None:
    """Compile every kernel, or load it from the cache (about a third of a second)."""
    compile_all()


class VectorEvaluator(Loading):
    """Evaluates with Numba kernels; safe to call from many threads at once.

    Every result equals SEAL's in every residue, but for `rotate` with several steps and `rotate_sum`:
    these share work that SEAL repeats, and equal SEAL after decryption. With `exact` they too give SEAL's
    residues, more slowly.

    Args:
        params: the modulus chain.
        threads: threads that one operation may use; they hold no interpreter lock.
        exact: whether all residues must be SEAL's.
    """

    def __init__(self, params: Parameters, threads: int = 1, exact: bool = False) -> None:
        if threads < 1:
            raise InputError(f"an evaluator needs at least one thread, got {threads}")
        super().__init__(params, Engine(params, threads))
        self.threads = threads
        self.exact = exact
        chain = self._engine.chain
        # Made here, not by the first of several threads: kernels keep the tables' addresses.
        self._pinned = (chain.ahead, chain.back, chain.shrink)
        self._relinearisation: SwitchKey | None = None
        self._rotations: dict[int, SwitchKey] = {}
        self._single = None if threads == 1 else VectorEvaluator(params, 1, exact)

    @property
    def _alone(self) -> VectorEvaluator:
        """Does what belongs to one thread of many; shares the keys.

        Not an attribute: an object that refers to itself keeps its memory until a garbage collection.
        """
        return self._single or self

    # --- keys and levels -------------------------------------------------------------------------

    def set_keys(self, relinearisation: list[Record], rotations: dict[int, list[Record]]) -> None:
        """Install switch keys; `rotations` maps a left rotation, 0 < step < n slots, to its key."""
        self._relinearisation = self.load_key(relinearisation, None) if relinearisation else None
        self._rotations = {step: self.load_key(key, step) for step, key in rotations.items()}
        alone = self._alone
        alone._relinearisation, alone._rotations = self._relinearisation, self._rotations

    def level(self, handle: Handle) -> int:
        """Rescales that remain."""
        return handle.level

    def scale(self, handle: Handle) -> float:
        """The handle's scale."""
        return handle.scale

    # --- sums and products -----------------------------------------------------------------------

    def add(self, a: Handle, b: Handle) -> Handle:
        """a + b; b may be a plaintext.

        Raises:
            InputError: unequal levels or scales.
        """
        a, b = self.unpack(a), self.unpack(b)
        self._same_level(a, b)
        if a.scale != b.scale and not math.isclose(a.scale, b.scale, rel_tol=SCALE_TOLERANCE):
            raise InputError(f"cannot add scales {a.scale} and {b.scale}")
        if a.correction != b.correction:
            a, b = self._balanced(a, b)
        short, long = (a, b) if a.size < b.size else (b, a)
        out = self._engine.handle(long.size, a.level, b.scale, a.correction)
        common, rest = short.size * (a.level + 1), (long.size - short.size) * (a.level + 1)
        moduli = self._engine.moduli(a.level)
        rows.add(a.at, b.at, out.at, common, self.params.ring, *moduli)
        if rest:
            skip = 8 * common * self.params.ring
            rows.copy(long.at + skip, out.at + skip, rest * self.params.ring)
        return out

    def _balanced(self, a: Handle, b: Handle) -> tuple[Handle, Handle]:
        """Equal messages under one correction factor."""
        if b.is_plain:
            return a, self._scaled_plain(b, a.correction)
        common, u, v = balance(a.correction, b.correction, self.params.plain_modulus)
        return self._scaled(a, u, common), self._scaled(b, v, common)

    def _scaled(self, a: Handle, factor: int, correction: int) -> Handle:
        out = self._engine.handle(a.size, a.level, a.scale, correction)
        factors = np.array([centred(factor, p) for p in self.params.primes[: a.level + 1]])
        count = a.size * (a.level + 1)
        rows.scale(a.at, out.at, count, self.params.ring, factors, *self._engine.moduli(a.level))
        return out

    def _scaled_plain(self, plain: Handle, factor: int) -> Handle:
        """The plaintext times `factor` modulo t, lifted centred: SEAL's `add_plain`."""
        engine, t = self._engine, self.params.plain_modulus
        out = engine.handle(1, plain.level, plain.scale, factor)
        coefficients = engine.work_rows(1)
        engine.inverse(plain.at, coefficients.at, 0)
        rows.scale_plain(coefficients.at, engine.work_row // 8, centred(factor, t), float(t))
        for prime in range(plain.level + 1):
            engine.forward(coefficients.at, out.at + prime * engine.row, prime)
        return out

    def multiply(self, a: Handle, b: Handle) -> Handle:
        """a · b, three polynomials; two if b is a plaintext.

        Raises:
            InputError: unequal levels, or a product with more than two polynomials on a side.
        """
        a, b = self.unpack(a), self.unpack(b)
        self._same_level(a, b)
        n, moduli = self.params.ring, self._engine.moduli(a.level)
        if b.is_plain:
            out = self._product(a, b, a.size)
            rows.multiply_plain(a.at, b.at, out.at, a.size, n, *moduli)
            return out
        self._two_by_two(a, b)
        out = self._product(a, b, 3)
        rows.multiply(a.at, b.at, out.at, n, *moduli)
        return out

    def square(self, a: Handle) -> Handle:
        """a · a, three polynomials."""
        a = self.unpack(a)
        self._two_by_two(a, a)
        out = self._product(a, a, 3)
        rows.square(a.at, out.at, self.params.ring, *self._engine.moduli(a.level))
        return out

    def _product(self, a: Handle, b: Handle, size: int) -> Handle:
        t = self.params.plain_modulus
        correction = a.correction * b.correction % t if t else 1
        return self._engine.handle(size, a.level, a.scale * b.scale, correction)

    def dot(self, xs: Sequence[Handle], ws: Sequence[Handle]) -> Handle:
        """Σ x·w, not relinearised; the w are all ciphertexts or all plaintexts.

        Raises:
            InputError: lengths, levels, sizes or scales that do not fit.
        """
        return self.dots(xs, [ws])[0]

    def dots(self, xs: Sequence[Handle], ws: Sequence[Sequence[Handle]]) -> list[Handle]:
        """`dot` of the same xs with several lists of weights; the xs are read from memory once for all.

        Raises:
            InputError: as `dot`.
        """
        if not xs or not ws or any(len(xs) != len(some) for some in ws):
            raise InputError(f"a sum of products needs as many w as x: {len(xs)}, got {[len(w) for w in ws]}")
        first = ws[0][0]
        self._same_level(*xs, *(w for some in ws for w in some))
        pair = not first.is_plain
        outs = []
        for some in ws:
            self._check_terms(xs, some, first.size)
            outs.append(self._product(xs[0], some[0], first.size + 1))
        t = self.params.plain_modulus
        if t and len({x.correction * w.correction % t for some in ws for x, w in zip(xs, some)}) > 1:  # noqa: B905
            return [self._sum_of_products(xs, some) for some in ws]
        chain, n, count = self._engine.chain, self.params.ring, xs[0].level + 1
        if not all(w.packed for some in ws for w in some):
            ws = [[self.unpack(w) for w in some] for some in ws]
        opened = [self.unpack(x) for x in xs]
        x_at = np.array([x.at for x in opened])
        w_at = np.array([[w.at for w in some] for some in ws])
        out_at = np.array([out.at for out in outs])
        lengths, starts, moduli = chain.lengths, chain.starts, self._engine.moduli(count - 1)

        def part(begin: int, end: int) -> None:
            if ws[0][0].packed:
                tables = chain.ahead
                dot_packed(
                    pair, x_at, w_at, out_at, n, begin, end, chain.widths, lengths, tables, starts, *moduli
                )
            else:
                dot(pair, x_at, w_at, out_at, n, begin, end, lengths, starts, *moduli)

        self._engine.split(part, n, _PART)
        return outs

    @staticmethod
    def _check_terms(xs: Sequence[Handle], ws: Sequence[Handle], size: int) -> None:
        scale = xs[0].scale * ws[0].scale
        for x, w in zip(xs, ws, strict=True):
            if x.size != 2 or w.size != size or size > 2:
                raise InputError(f"products need two polynomials by two or one, got {x.size} and {w.size}")
            found = x.scale * w.scale
            if found != scale and not math.isclose(found, scale, rel_tol=SCALE_TOLERANCE):
                raise InputError(f"cannot add scales {scale} and {found}")

    def _sum_of_products(self, xs: Sequence[Handle], ws: Sequence[Handle]) -> Handle:
        """BGV terms under different correction factors, one after another."""
        total = self.multiply(xs[0], ws[0])
        for x, w in zip(xs[1:], ws[1:], strict=True):
            total = self.add(total, self.multiply(x, w))
        return total

    # --- key switching ---------------------------------------------------------------------------

    def relinearise(self, a: Handle) -> Handle:
        """Three polynomials to two; two stay as they are.

        Raises:
            InputError: when no relinearisation key was installed.
        """
        a = self.unpack(a)
        if a.size == 2:
            return a
        if a.size != 3:
            raise InputError(f"only three polynomials can be relinearised, got {a.size}")
        if self._relinearisation is None:
            raise InputError("no relinearisation key was installed: call set_keys first")
        second = a.at + (a.level + 1) * self._engine.row
        return self._engine.switched(a, 2, self._relinearisation, (a.at, second))

    def rotate(self, a: Handle, steps: Sequence[int]) -> list[Handle]:
        """One ciphertext rotated left by each of `steps` slots (0 gives the ciphertext itself).

        Raises:
            InputError: three polynomials, or a step without a key.
        """
        a = self.unpack(a)
        keys = {step: self._rotation_key(step) for step in steps if step != 0}
        self._two_polynomials(a)
        if len(keys) > 1 and not self.exact:
            found = self._engine.hoisted(a, keys)
        else:
            found = {step: self._rotated(a, key) for step, key in keys.items()}
        return [a if step == 0 else found[step] for step in steps]

    def _rotated(self, a: Handle, key: SwitchKey) -> Handle:
        """One rotation, SEAL's bit for bit."""
        return self._engine.switched(a, 1, key, (a.at, 0))

    def rotate_sum(self, handles: Sequence[Handle], steps: Sequence[int]) -> Handle:
        """The sum of handles[k] rotated left by steps[k], with one division by the special prime for all.

        Raises:
            InputError: unequal lengths, levels or scales, three polynomials, or a step without a key.
        """
        if len(handles) != len(steps) or not handles:
            raise InputError(f"as many handles as steps are needed, got {len(handles)} and {len(steps)}")
        handles = [self.unpack(h) for h in handles]
        moved = [(h, self._rotation_key(s)) for h, s in zip(handles, steps, strict=True) if s != 0]
        still = [h for h, s in zip(handles, steps, strict=True) if s == 0]
        first = handles[0]
        self._same_level(*handles)
        for h in handles:
            self._two_polynomials(h)
            if not math.isclose(h.scale, first.scale, rel_tol=SCALE_TOLERANCE):
                raise InputError(f"cannot add scales {first.scale} and {h.scale}")
        one_factor = len({h.correction for h in handles}) == 1
        if self.exact or len(moved) < 2 or not one_factor:
            parts = [self._rotated(h, key) for h, key in moved] + still
        else:
            parts = [self._lazy_sum(moved), *still]
        total = parts[0]
        for part in parts[1:]:
            total = self.add(total, part)
        return total

    def giant_steps(self, groups: Sequence[tuple[Sequence[Handle], Sequence[Handle], int]]) -> Handle:
        """Σ over groups (xs, ws, step) of rescale(relinearise(dot(xs, ws))) rotated left by `step`.

        The second half of a baby-step giant-step product in one call: with several threads each takes whole
        groups, and all rotations share one division by the special prime.

        Raises:
            InputError: as the single operations.
        """
        if not groups:
            raise InputError("a sum of giant steps needs at least one group")
        parts: list[Handle | None] = [None] * len(groups)
        used = {id(x): x for xs, _, _ in groups for x in xs}
        opened = {key: self.unpack(x) for key, x in used.items()}

        def some(numbers: Sequence[int]) -> None:
            alone = self._alone
            first = [opened[id(x)] for x in groups[numbers[0]][0]]
            same = all(
                [id(x) for x in groups[k][0]] == [id(x) for x in groups[numbers[0]][0]] for k in numbers
            )
            products = iter(alone.dots(first, [groups[k][1] for k in numbers]) if same else ())
            for k in numbers:
                xs, ws, _ = groups[k]
                product = next(products) if same else alone.dot([opened[id(x)] for x in xs], ws)
                parts[k] = alone.relinearise_rescale(product)

        pieces = min(self.threads, len(groups))
        self._engine.run([partial(some, range(k, len(groups), pieces)) for k in range(pieces)])
        return self.rotate_sum([p for p in parts if p is not None], [step for _, _, step in groups])

    def relinearise_rescale(self, a: Handle) -> Handle:
        """rescale(relinearise(a)) in one, the same residues with fewer transforms (CKKS, in one thread).

        Raises:
            InputError: as the two operations.
        """
        a = self.unpack(a)
        key, count = self._relinearisation, a.level + 1
        apart = self._engine.shared(count * (count + 1))  # the two operations use all threads
        if apart or self.params.plain_modulus or a.size != 3 or a.level == 0 or key is None:
            return self.rescale(self.relinearise(a))
        return self._engine.switched_and_rescaled(a, key, a.scale / float(self.params.primes[a.level]))

    def _lazy_sum(self, moved: list[tuple[Handle, SwitchKey]]) -> Handle:
        """Rotations summed while they still hold the special prime."""
        engine, first = self._engine, moved[0][0]
        count, row = first.level + 1, engine.row
        sums, main = engine.turned_sum(moved)
        out = engine.handle(2, first.level, first.scale, first.correction)
        second, last = sums.at + (count + 1) * row, count * row
        engine.run(
            [
                partial(engine.divide, source, source + last, added, target, engine.chain.special, count)
                for source, added, target in ((sums.at, main.at, out.at), (second, 0, out.at + count * row))
            ]
        )
        return out

    # --- levels ----------------------------------------------------------------------------------

    def rescale(self, a: Handle) -> Handle:
        """Drop the last prime and divide by it; for BGV the message stays, its correction factor changes.

        Raises:
            InputError: at level 0.
        """
        if a.level == 0:
            raise InputError("a handle at level 0 has no prime left to drop")
        a = self.unpack(a)
        engine, t, level = self._engine, self.params.plain_modulus, a.level
        factor = engine.chain.division(level, level).correction
        scale = a.scale if t else a.scale / float(self.params.primes[level])
        out = engine.handle(a.size, level - 1, scale, a.correction * factor % t if t else 1)
        row = engine.row

        def one(p: int) -> None:
            source = a.at + p * (level + 1) * row
            engine.divide(source, source + level * row, 0, out.at + p * level * row, level, level)

        engine.run_if(a.size * level * (level + 1), [partial(one, p) for p in range(a.size)])
        return out

    def mod_switch(self, a: Handle, level: int) -> Handle:
        """Drop primes down to `level`, the scale kept; BGV ciphertexts are divided, as in SEAL.

        Raises:
            InputError: a level above the handle's.
        """
        if not 0 <= level <= a.level:
            raise InputError(f"cannot switch from level {a.level} to level {level}")
        if level == a.level:
            return a
        a = self.unpack(a)
        if self.params.plain_modulus and not a.is_plain:
            return self.mod_switch(self.rescale(a), level)
        out, row = self._engine.handle(a.size, level, a.scale, a.correction), self._engine.row
        for p in range(a.size):
            source, target = a.at + p * (a.level + 1) * row, out.at + p * (level + 1) * row
            rows.copy(source, target, (level + 1) * self.params.ring)
        return out

    # --- checks ----------------------------------------------------------------------------------

    def _rotation_key(self, step: int) -> SwitchKey:
        try:
            return self._rotations[step]
        except KeyError:
            raise InputError(
                f"no key for a rotation by {step} slots was installed, only for {sorted(self._rotations)}"
            ) from None

    @staticmethod
    def _two_polynomials(a: Handle) -> None:
        if a.size != 2:
            raise InputError(f"only two polynomials can be rotated, got {a.size}: relinearise first")

    @staticmethod
    def _two_by_two(a: Handle, b: Handle) -> None:
        if a.size != 2 or b.size != 2:
            raise InputError(f"products need two polynomials by two or one, got {a.size} and {b.size}")

    @staticmethod
    def _same_level(*handles: Handle) -> None:
        level = handles[0].level
        for h in handles:
            if h.level != level:
                raise InputError(f"operands must have one level, got {[h.level for h in handles]}")
