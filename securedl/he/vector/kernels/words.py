"""Arithmetic modulo a prime on eight 52-bit integers at a time, for processors with AVX-512 IFMA.

A lane is a 64-bit word of which the low 52 bits count; IFMA's multiplications read no others, and what is
above them is never looked at. The values that the words stand for are never negative.

The product of y < 2^52 and w < q, with w' = floor(w·2^52 / q) from a table (Shoup):

    k = floor(y·w' / 2^52)        one instruction
    r = y·w - k·q mod 2^52        two

0 <= y·w/q - y·w'/2^52 < y/2^52, so 0 <= r < q·(1 + y/2^52) < 2q. A butterfly takes five instructions where
doubles (`arith`) take eight.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from securedl.he.vector.kernels.arith import LANES, VECTOR, WORDS, Lanes, Value

_WORD = ir.IntType(64)

#: Octets of each constant before a table of twiddles (`twiddles`): 2^52 + B (see `ntt_words_forward`) and
#: 2^52 + q as doubles; floor(2^52 / q), and three factors with their quotients as words: 1/N, 2^52, and what
#: differences of an inverse's last level are multiplied by.
OFFSET, SMALL_OFFSET, ONE, SHRINK, SHRINK_QUOTIENT, WRAP, WRAP_QUOTIENT, LAST, LAST_QUOTIENT = range(0, 72, 8)
HEADER_OCTETS = 128


def has_ifma() -> bool:
    """Whether the processor that kernels are compiled for has the instructions."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return {"+avx512f", "+avx512dq", "+avx512vl", "+avx512ifma"} <= set(features)


#: Whether kernels may use this arithmetic; where not, its code is never emitted.
IFMA = has_ifma()


class Words:
    """Writes arithmetic on words modulo the prime of `lanes`."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.builder = lanes.builder
        self.zero = ir.Constant(WORDS, [0] * LANES)
        self.prime = self.builder.fptosi(lanes.prime, _WORD)
        self.q = self.splat(self.prime)
        self.unity = ir.Constant(WORDS, [1] * LANES)
        #: -q, which as a factor is 2^52 - q.
        self.minus_q = self.builder.sub(self.zero, self.q)
        #: The offset of words that stand for themselves, see `from_double`.
        self.unit = ir.Constant(VECTOR, [4503599627370496.0] * LANES)

    def multiple(self, count: int) -> Value:
        """count·q."""
        return self.splat(self.builder.mul(self.prime, _WORD(count)))

    def splat(self, scalar: Value) -> Value:
        index = ir.IntType(32)
        first = self.builder.insert_element(ir.Constant(WORDS, ir.Undefined), scalar, index(0))
        return self.lanes.shuffle(first, first, [0] * LANES)

    def load_splat(self, address: Value, octets: int = 0) -> Value:
        return self.splat(self.builder.load(self.lanes.pointer(self.lanes.offset(address, octets), _WORD)))

    def load_repeated(self, address: Value, octets: int, count: int) -> Value:
        """`count` words, again and again."""
        some = self.lanes.load(address, octets, ir.VectorType(_WORD, count))
        return self.lanes.shuffle(some, some, [k % count for k in range(LANES)])

    def load(self, address: Value, octets: int = 0) -> Value:
        return self.builder.load(self.lanes.pointer(self.lanes.offset(address, octets), WORDS), align=8)

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.add(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.builder.sub(a, b)

    def _multiply(self, half: str, c: Value, a: Value, b: Value) -> Value:
        kind = ir.FunctionType(WORDS, [WORDS] * 3)
        name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
        return self.builder.call(self.lanes.function(kind, name), [c, a, b])

    def low(self, c: Value, a: Value, b: Value) -> Value:
        """c + the low 52 bits of a·b."""
        return self._multiply("l", c, a, b)

    def high(self, c: Value, a: Value, b: Value) -> Value:
        """c + the bits of a·b from the 52nd on."""
        return self._multiply("h", c, a, b)

    def product(self, y: Value, w: Value, quotient: Value, start: Value | None = None) -> Value:
        """y·w mod q in [0, 2q), plus `start`; `quotient` is w'."""
        k = self.high(self.zero, y, quotient)
        return self.low(self.low(self.zero if start is None else start, y, w), k, self.minus_q)

    def reduce(self, y: Value, one: Value) -> Value:
        """y mod q in [0, 2q); `one` is floor(2^52 / q)."""
        return self.low(y, self.high(self.zero, y, one), self.minus_q)

    def carry(self, y: Value) -> Value:
        """What a word holds above its 52 bits."""
        return self.builder.lshr(y, ir.Constant(WORDS, [52] * LANES))

    def from_double(self, x: Value, offset: Value) -> Value:
        """x + B as words, for `offset` = 2^52 + B and integers -B <= x < 2^52 - B."""
        return self.builder.bitcast(self.lanes.add(x, offset), WORDS)

    def to_double(self, words: Value, offset: Value) -> Value:
        """The inverse of `from_double`."""
        exponent = ir.Constant(WORDS, [0x4330000000000000] * LANES)
        mask = ir.Constant(WORDS, [0x000FFFFFFFFFFFFF] * LANES)
        bits = self.builder.or_(self.builder.and_(words, mask), exponent)
        return self.lanes.sub(self.builder.bitcast(bits, VECTOR), offset)

    def turned(self, value: Value, turn: Value, place: Value) -> tuple[Value, Value]:
        """A block of eight doubles as an automorphism orders it, and where it goes.

        turn, place: addresses of the automorphism's `scatter` and of the block's entry in it.
        """
        builder = self.builder
        entry = builder.load(self.lanes.pointer(place, _WORD))
        pattern = builder.shl(builder.and_(entry, _WORD(63)), _WORD(6))
        order = self.load(builder.add(turn, pattern))
        kind = ir.FunctionType(VECTOR, [VECTOR, WORDS])
        move = self.lanes.function(kind, "llvm.x86.avx512.permvar.df.512")
        return builder.call(move, [value, order]), builder.and_(entry, _WORD(-64))


class WordSum:
    """A running sum of products on words: their low and their high halves apart, reduced once.

    Bounds for T <= 32 products x·w < 2^(52 + b), b <= 49: the high halves and the carry from the low ones are
    at most T·(2^b + 1) < 2^52 for T < 2^(52-b), the low halves with what was kept (T + 1)·2^52 < 2^64.
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self.low, self.high = (
            cgutils.alloca_once_value(words.builder, words.zero)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )

    def keep(self, value: Value) -> None:
        """Start with a value: nothing may be above its 52 bits, for that is where the carry is found."""
        mask = ir.Constant(WORDS, [(1 << 52) - 1] * LANES)
        self.words.builder.store(self.words.builder.and_(value, mask), self.low)

    def add(self, x: Value, w: Value) -> None:
        builder, words = self.words.builder, self.words
        builder.store(words.low(builder.load(self.low), x, w), self.low)
        builder.store(words.high(builder.load(self.high), x, w), self.high)

    def value(self, constants: Value) -> Value:
        """The sum as centred doubles."""
        builder, words = self.words.builder, self.words
        one, wrap, quotient = (words.load_splat(constants, at) for at in (ONE, WRAP, WRAP_QUOTIENT))
        low = builder.load(self.low)
        high = words.add(builder.load(self.high), words.carry(low))
        value = words.product(high, wrap, quotient, words.reduce(low, one))  # in [0, 4q)
        return words.lanes.reduce(words.to_double(value, words.unit))
