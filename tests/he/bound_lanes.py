"""Lanes that prove: a vector is the interval that its values lie in, whatever the data.

An instruction is refused that could round where exactness is claimed, or overflow. Products and remainders
modulo q go by the two lemmas of `kernels.lanes`, sums of products by that of `lanes.RunningSum`, products on
words by that of `kernels.words`; everything else is interval arithmetic. What is in memory is what was stored
there, or, in tables and records, the least interval of the eight values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from exact_lanes import ScalarLanes
from interpreter import Memory, RefusedError
from numpy.typing import NDArray

from securedl.he.vector.kernels import words
from securedl.he.vector.kernels.lanes import LANES, LOW_BITS, UNIT_BITS, Lanes, RunningSum, Value

EXACT = 1 << 53
WORD = 1 << 52


@dataclass(frozen=True)
class Doubles:
    """Integers in doubles, low <= x <= high; constants may be fractions."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -EXACT <= self.low <= self.high <= EXACT:
            raise RefusedError(f"{self} are not exact in doubles")

    @property
    def size(self) -> float:
        return max(-self.low, self.high)


@dataclass(frozen=True, eq=False)
class Words:
    """Words.

    Attributes:
        low, high: of the integers that they stand for.
        clean: whether a word is that integer; if not, its low 52 bits are, and others may be anything.
        double: whether the bits above are the exponent of 2^52.
        moved: the words from which these differ, and by what; for differences of the two.
        twice: the words of which these are the sum with themselves.
    """

    low: int
    high: int
    clean: bool = True
    double: bool = False
    moved: tuple[Words, int, int] | None = None
    twice: Words | None = None

    def operand(self) -> tuple[int, int]:
        """What IFMA's multiplications read: their low 52 bits, which must be all."""
        if not 0 <= self.low <= self.high < WORD:
            raise RefusedError(f"{self.low}..{self.high} are no words of 52 bits")
        return self.low, self.high


#: Of which nothing is known; nothing modulo a prime may come from them.
ANY = Words(0, (1 << 64) - 1, clean=False)


def hull(a: Any, b: Any) -> Any:
    """The least interval that holds two."""
    if isinstance(a, Doubles):
        return Doubles(min(a.low, b.low), max(a.high, b.high))
    return Words(min(a.low, b.low), max(a.high, b.high), a.clean and b.clean, a.double and b.double)


class BoundMemory(Memory):
    """What was stored, by the address of eight values."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: dict[int, tuple[int, Any]] = {}
        self.words: set[int] = set()  # of eight octets each, that were stored

    def find(self, address: int, octets: int) -> Any:
        """What was stored there, or None if nothing was."""
        found = self.stored.get(address)
        if found is not None and found[0] == octets:
            return found[1]
        self.check(address, octets)
        if found is not None or self.written(address, octets):
            raise RefusedError(f"{octets} octets are read where others were written")
        return None

    def written(self, address: int, octets: int) -> bool:
        """Whether something was stored in any of these octets."""
        return any(word in self.words for word in range(address >> 3, (address + octets + 7) >> 3))

    def read(self, address: int, octets: int) -> bytes:
        if self.written(address, octets):
            raise RefusedError(f"{octets} octets are read as NumPy wrote them, and were written since")
        return super().read(address, octets)

    def register(self, array: NDArray[Any]) -> int:
        """An array that NumPy wrote: nothing that was stored in its place is there any more."""
        start = super().register(array)
        for address in [at for at in self.stored if start <= at < start + array.nbytes]:
            octets, _ = self.stored.pop(address)
            self.words.difference_update(range(address >> 3, (address + octets + 7) >> 3))
        return start

    def keep(self, address: int, octets: int, value: Any) -> None:
        found = self.stored.get(address)
        if found is None or found[0] != octets:
            self.check(address, octets)
            if found is not None or self.written(address, octets):
                raise RefusedError(f"{octets} octets are written across what was stored")
            self.words.update(range(address >> 3, (address + octets + 7) >> 3))
        self.stored[address] = octets, value


class BoundLanes(ScalarLanes):
    """Lanes of `Doubles`, `Words` and masks of which nothing is known."""

    memory: BoundMemory

    def __init__(self, memory: BoundMemory, q: float, q_inverse: float) -> None:
        self.memory = memory
        self.modulus = int(q)
        super().__init__(q, q_inverse)

    # --- memory ----------------------------------------------------------------------------------

    def load(self, address: int, octets: int = 0) -> Any:
        found = self.memory.find(address + octets, 64)
        if isinstance(found, Doubles):
            return found
        if found is not None:
            raise RefusedError(f"{found} are read as doubles")
        values = np.frombuffer(self.memory.read(address + octets, 64), np.float64)
        if not np.isfinite(values).all():
            raise RefusedError("what nobody wrote is read")
        if (values != np.rint(values)).any():
            raise RefusedError("doubles that are no integers are read")
        return Doubles(int(values.min()), int(values.max()))

    def load_words(self, address: int, octets: int = 0) -> Any:
        found = self.memory.find(address + octets, 64)
        if isinstance(found, Doubles):
            raise RefusedError(f"{found} are read as words")
        return self._words(self.memory.read(address + octets, 64)) if found is None else found

    def load_repeated(self, address: int, octets: int, count: int) -> Any:
        return self._words(self.memory.read(address + octets, 8 * count))

    def _words(self, data: bytes) -> Words:
        values = np.frombuffer(data, np.uint64)
        return Words(int(values.min()), int(values.max()))

    def load_packed(self, address: int, width: int, reach: bool = True) -> Any:
        self.memory.check(address, 64 if reach else 8 * width)
        found = self.memory.find(address, 8 * width)
        if found is not None:
            return found
        data = self.memory.read(address, 8 * width)
        some = [int.from_bytes(data[width * k : width * (k + 1)], "little") for k in range(LANES)]
        return Words(min(some), max(some))

    def load_mask(self, address: int) -> None:
        self.memory.check(address, 1)

    def store(self, value: Any, address: int, octets: int = 0) -> None:
        self.memory.keep(address + octets, 64, value)

    def store_packed(self, words: Any, address: int, width: int) -> None:
        if not (words.clean and 0 <= words.low <= words.high < 256**width):
            raise RefusedError(f"{words} do not fit {width} octets")
        self.memory.keep(address, 8 * width, words)

    # --- doubles ---------------------------------------------------------------------------------

    def doubles(self, value: float) -> Doubles:
        return Doubles(value, value)

    def splat(self, scalar: float) -> Any:
        if isinstance(scalar, int):
            return Words(scalar % 2**64, scalar % 2**64)
        value = int(scalar) if scalar.is_integer() else scalar
        return Doubles(value, value) if abs(value) <= EXACT else scalar  # where a sum starts

    def add(self, a: Any, b: Any) -> Doubles:
        return Doubles(a.low + b.low, a.high + b.high)

    def sub(self, a: Any, b: Any) -> Doubles:
        return Doubles(a.low - b.high, a.high - b.low)

    def mul(self, a: Any, b: Any) -> Doubles:
        raise RefusedError("a product that may be rounded")

    def fma(self, a: Any, b: Any, c: Any) -> Doubles:
        raise RefusedError("a product that may be rounded")

    def negate(self, a: Any) -> Doubles:
        return Doubles(-a.high, -a.low)

    def less(self, a: Any, b: Any) -> None:
        """Nothing is known."""

    def both(self, a: Any, b: Any) -> None:
        """Nothing is known."""

    def select(self, mask: Any, a: Any, b: Any) -> Any:
        if mask is None:
            return hull(a, b)
        return a if mask else b

    def mask_integer(self, mask: Any) -> int:
        return 0

    def shuffle(self, a: Any, b: Any, order: Sequence[int]) -> Any:
        return hull(a, b)

    def permute(self, a: Any, order: Any) -> Any:
        if not 0 <= order.low <= order.high < LANES:
            raise RefusedError(f"{order} is no order of eight lanes")
        return replace(a, moved=None, twice=None) if isinstance(a, Words) else a

    def _remainder(self, size: int, twice: int) -> Doubles:
        """x - kq of |x| <= size, for a quotient x/q that was rounded `twice` or once before k was."""
        q = self.modulus
        if size >= (q << 51):
            raise RefusedError(f"a quotient of {size / q:.3g} is not rounded to an integer")
        # q/2 and |x|·2^-53 for each rounding, with their product
        bound = (q * WORD + twice * size + (size >> 53) + 1) >> 53
        return Doubles(-bound, bound)

    def quotient(self, x: Any) -> Doubles:
        raise RefusedError("a quotient outside `reduce` and `product`")

    def reduce(self, x: Any) -> Doubles:
        return self._remainder(int(x.size), 1)

    def product(self, x: Any, w: Any) -> Doubles:
        if x.size >= WORD:
            raise RefusedError(f"{x} are multiplied, which is allowed below 2^52")
        size = int(x.size) * int(w.size)
        found = self._remainder(size, 2)
        if found.high + (size >> 53) >= EXACT:  # h - kq is off r by what was lost
            raise RefusedError(f"the product of {x} and {w} is not exact")
        return found

    def lift(self, x: Any, top: Any) -> Doubles:
        parts = [Doubles(max(0, x.low), x.high)] if x.high >= 0 else []
        if x.low < 0:
            parts.append(Doubles(x.low + top.low, min(-1, x.high) + top.high))
        return hull(parts[0], parts[-1])

    def sum(self, start: Value, low: Value) -> RunningSum:
        return BoundSum(self, start, low)

    # --- words -----------------------------------------------------------------------------------

    def words(self, values: int | Sequence[int]) -> Words:
        some = [values] if isinstance(values, int) else list(values)
        return Words(min(some), max(some))

    def word_add(self, a: Any, b: Any) -> Words:
        if a is b:
            return replace(self._sum(a, b.low, b.high, b.clean), twice=a)
        return self._sum(a, b.low, b.high, b.clean)

    def word_sub(self, a: Any, b: Any) -> Words:
        if b.moved is not None and a.twice is b.moved[0]:  # 2X - (X + s)
            _, low, high = b.moved
            return self._sum(a.twice, -high, -low, False)
        return self._sum(a, -b.high, -b.low, False)

    def _sum(self, a: Words, low: int, high: int, clean: bool) -> Words:
        low, high = a.low + low, a.high + high
        if a.clean and clean and high >= 1 << 64:
            return ANY
        return Words(low, high, a.clean and clean and low >= 0)

    def word_and(self, a: Any, b: Any) -> Words:
        if b.low == b.high == LOW_BITS:
            return Words(*a.operand()) if not (a.clean and a.high >= WORD) else Words(0, LOW_BITS)
        return Words(0, b.high) if b.clean else ANY

    def word_or(self, a: Any, b: Any) -> Words:
        if b.low == b.high == UNIT_BITS and a.clean:
            low, high = a.operand()
            return Words(low, high, clean=False, double=True)
        return ANY

    def word_xor(self, a: Any, b: Any) -> Words:
        return ANY

    def shift_left(self, a: Any, bits: int) -> Words:
        return ANY

    def shift_right(self, a: Any, bits: int) -> Words:
        if not a.clean:
            return ANY
        return Words(a.low >> bits, a.high >> bits)

    def madd_low(self, c: Any, a: Any, b: Any) -> Words:
        a.operand(), b.operand()
        return self._sum(c, 0, WORD - 1, True)

    def madd_high(self, c: Any, a: Any, b: Any) -> Words:
        (a_low, a_high), (b_low, b_high) = a.operand(), b.operand()
        return self._sum(c, a_low * b_low >> 52, a_high * b_high >> 52, True)

    def words_of(self, a: Any) -> Words:
        if not WORD <= a.low <= a.high < EXACT:
            raise RefusedError(f"{a} are not the bits of 2^52 and an integer below")
        return Words(int(a.low) - WORD, int(a.high) - WORD, clean=False, double=True)

    def doubles_of(self, a: Any) -> Doubles:
        if not a.double:
            raise RefusedError("the bits of words are no doubles")
        return Doubles(a.low + WORD, a.high + WORD)


class BoundSum(RunningSum):
    """The lemma of `RunningSum`: products of at most so much in all, each rounded to a multiple of 2^b."""

    def __init__(self, lanes: BoundLanes, start: float, low: Doubles) -> None:
        self.bounds = lanes
        self.first = start
        self.unit = int(start / 1.5) >> 52
        self.total = 0
        self.lost = low

    def add(self, a: Any, b: Any) -> None:
        self.total += int(a.size) * int(b.size)
        if self.total > self.unit << 51:
            raise RefusedError(f"a sum of products of {self.total} leaves its power of two")
        half = self.unit >> 1
        self.lost = self.bounds.add(self.lost, Doubles(-half, half))

    def value(self) -> Doubles:
        high = self.bounds._remainder(self.total, 1)
        return self.bounds.reduce(self.bounds.add(high, self.lost))


class BoundWords(words.Words):
    """The lemma of `words`: y·w mod q is below q·(1 + y/2^52)."""

    lanes: BoundLanes

    def _remainder(self, y: Any, factor: Any) -> int:
        """The greatest remainder of a product."""
        q = self.lanes.modulus
        if factor is None:  # a remainder of the low 52 bits, where others are told from them
            high = WORD - 1 if y.clean and y.high >= WORD else y.operand()[1]
        else:
            high = y.operand()[1]
            if not 0 <= factor.low <= factor.high < q:
                raise RefusedError(f"{factor} is no residue modulo {q}")
        return q - 1 + (q * high >> 52)

    def product(self, y: Any, w: Any, quotient: Any, start: Any = None) -> Words:
        high = self._remainder(y, w)
        first = Words(0, 0) if start is None else start
        return Words(first.low, first.high + high, clean=False)

    def product_less(self, y: Any, w: Any, quotient: Any, start: Any) -> Words:
        q = self.lanes.modulus
        low, high = -q, self._remainder(y, w) - q
        return Words(start.low + low, start.high + high, clean=False, moved=(start, low, high))

    def reduce(self, y: Any, one: Any) -> Words:
        return Words(0, self._remainder(y, None), clean=False)


class BoundMachine:
    """See `interpreter.Machine`."""

    words = BoundWords

    def __init__(self, ifma: bool) -> None:
        self.memory = BoundMemory()
        self.ifma = ifma
        self._lanes: dict[float, Lanes] = {}

    def lanes(self, q: float, q_inverse: float) -> Lanes:
        if q not in self._lanes:
            self._lanes[q] = BoundLanes(self.memory, q, q_inverse)
        return self._lanes[q]
