"""Sums and products of handles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from securedl.errors import InputError
from securedl.he.roots import monomial
from securedl.he.vector.correction import balance
from securedl.he.vector.handles import Handle
from securedl.he.vector.kernels import rows
from securedl.he.vector.kernels.twiddles import centred
from securedl.he.vector.loading import Loading
from securedl.he.vector.stages import Stage

#: Scales that differ by less than this are the same scale reached along two paths.
SCALE_TOLERANCE = 1e-9


class Products(Loading):
    """The part of an evaluator that needs no keys and drops no primes."""

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

    def _scaled_plain(self, plain: Handle, correction: int) -> Handle:
        """The same message under another factor, lifted centred: SEAL's `add_plain`."""
        engine, t = self._engine, self.params.plain_modulus
        factor = correction * pow(plain.correction, -1, t) % t
        out = engine.handle(1, plain.level, plain.scale, correction)
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
        rows.multiply(0, a.at, b.at, out.at, n, *moduli)
        return out

    def square(self, a: Handle) -> Handle:
        """a · a, three polynomials."""
        a = self.unpack(a)
        self._two_by_two(a, a)
        out = self._product(a, a, 3)
        rows.multiply(0, a.at, a.at, out.at, self.params.ring, *self._engine.moduli(a.level))
        return out

    def moved(self, a: Handle, power: int, divisor: int = 1) -> Handle:
        """a times a monomial."""
        return self.multiply(a, self.load(monomial(self.params, a.level, power, divisor)))

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
        stages: list[Stage] = []
        outs = self._dots([self.unpack(x) for x in xs], ws, stages)
        self._engine.do(*stages)
        return outs

    def _sums(
        self, sums: Sequence[tuple[Sequence[Handle], Sequence[Handle]]], stages: list[Stage]
    ) -> list[Handle]:
        """`dot` of each (xs, ws); those of the same xs, and with weights of one kind, are one stage."""
        products: dict[int, Handle] = {}
        alike: dict[tuple[int, ...], list[int]] = {}
        for k, (xs, ws) in enumerate(sums):
            alike.setdefault((ws[0].size if ws else 0, *map(id, xs)), []).append(k)
        for numbers in alike.values():
            opened = [self.unpack(x) for x in sums[numbers[0]][0]]
            found = self._dots(opened, [sums[k][1] for k in numbers], stages)
            products.update(zip(numbers, found, strict=True))
        return [products[k] for k in range(len(sums))]

    def _dots(
        self, xs: Sequence[Handle], ws: Sequence[Sequence[Handle]], stages: list[Stage]
    ) -> list[Handle]:
        if not xs or not ws or any(len(xs) != len(some) for some in ws):
            raise InputError(f"a sum of products needs as many w as x: {len(xs)}, got {[len(w) for w in ws]}")
        weights = [w for some in ws for w in some]
        self._same_level(*xs, *weights)
        left, right = {x.size for x in xs}, {w.size for w in weights}
        if left != {2} or right not in ({1}, {2}):
            raise InputError(
                f"products need two polynomials by two, or all by one, got {sorted(left)} and {sorted(right)}"
            )
        for some in ws:
            scales = [x.scale * w.scale for x, w in zip(xs, some, strict=True)]
            for found in scales:
                if found != scales[0] and not math.isclose(found, scales[0], rel_tol=SCALE_TOLERANCE):
                    raise InputError(f"cannot add scales {scales[0]} and {found}")
        t = self.params.plain_modulus
        if t and len({x.correction * w.correction % t for some in ws for x, w in zip(xs, some)}) > 1:  # noqa: B905
            return [self._sum_of_products(xs, some) for some in ws]
        outs = self._totals(xs[0], [some[0] for some in ws])
        if not all(w.packed for w in weights):
            ws = [[self.unpack(w) for w in some] for some in ws]
        stages.append(self._engine.summing(xs, ws, outs))
        return outs

    def _totals(self, x: Handle, firsts: Sequence[Handle]) -> list[Handle]:
        """Room for sums, given the first term of each."""
        w, t = firsts[0], self.params.plain_modulus
        scale, correction = x.scale * w.scale, x.correction * w.correction % t if t else 1
        outs = self._engine.handles(len(firsts), w.size + 1, x.level, scale, correction)
        for out, other in zip(outs, firsts, strict=True):
            out.scale = x.scale * other.scale
        return outs

    def _sum_of_products(self, xs: Sequence[Handle], ws: Sequence[Handle]) -> Handle:
        """BGV terms under different correction factors, one after another."""
        total = self.multiply(xs[0], ws[0])
        for x, w in zip(xs[1:], ws[1:], strict=True):
            total = self.add(total, self.multiply(x, w))
        return total

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
