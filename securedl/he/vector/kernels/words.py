"""Arithmetic modulo a prime on eight 52-bit integers at a time, for processors with AVX-512 IFMA.

A lane is a 64-bit word of which the low 52 bits count; IFMA's multiplications read no others, and what is
above them is never looked at. The values that the words stand for are never negative.

The product of y < 2^52 and w < q, with w' = floor(w·2^52 / q) from a table (Shoup):

    k = floor(y·w' / 2^52)        one instruction
    r = y·w - k·q mod 2^52        two

0 <= y·w/q - y·w'/2^52 < y/2^52, so 0 <= r < q·(1 + y/2^52) < 2q. A butterfly takes five instructions where
doubles (`lanes`) take eight.
"""

from __future__ import annotations

from securedl.he.vector.kernels.lanes import LOW_BITS, UNIT, UNIT_BITS, Lanes, Value

#: Octets of each constant before a table of twiddles (`twiddles`): 2^52 + B (see `ntt_words_forward`) and
#: 2^52 + q as doubles; floor(2^52 / q), and three factors with their quotients as words: 1/N, 2^52, and what
#: differences of an inverse's last level are multiplied by.
OFFSET, SMALL_OFFSET, ONE, SHRINK, SHRINK_QUOTIENT, WRAP, WRAP_QUOTIENT, LAST, LAST_QUOTIENT = range(0, 72, 8)
HEADER_OCTETS = 128


class Words:
    """Arithmetic on words modulo the prime of `lanes`."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.zero = lanes.words(0)
        self.prime = lanes.integer(lanes.prime)
        self.q = lanes.splat(self.prime)
        #: -q, which as a factor is 2^52 - q.
        self.minus_q = lanes.word_sub(self.zero, self.q)

    def multiple(self, count: int) -> Value:
        """count·q."""
        return self.lanes.splat(self.lanes.times(self.prime, count))

    def load_splat(self, address: Value, octets: int = 0) -> Value:
        """The word at address + octets in every lane."""
        return self.lanes.splat(self.lanes.load_integer(self.lanes.offset(address, octets)))

    def add(self, a: Value, b: Value) -> Value:
        return self.lanes.word_add(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.lanes.word_sub(a, b)

    def product(self, y: Value, w: Value, quotient: Value, start: Value | None = None) -> Value:
        """y·w mod q in [0, 2q), plus `start`; `quotient` is w'."""
        lanes = self.lanes
        k = lanes.madd_high(self.zero, y, quotient)
        start = self.zero if start is None else start
        return lanes.madd_low(lanes.madd_low(start, y, w), k, self.minus_q)

    def product_less(self, y: Value, w: Value, quotient: Value, start: Value) -> Value:
        """y·w mod q less q, in [-q, q), plus `start`."""
        lanes = self.lanes
        k = lanes.madd_high(lanes.words(1), y, quotient)  # one more than the quotient
        return lanes.madd_low(lanes.madd_low(start, y, w), k, self.minus_q)

    def reduce(self, y: Value, one: Value) -> Value:
        """y mod q in [0, 2q); `one` is floor(2^52 / q)."""
        return self.lanes.madd_low(y, self.lanes.madd_high(self.zero, y, one), self.minus_q)

    def carry(self, y: Value) -> Value:
        """What a word holds above its 52 bits."""
        return self.lanes.shift_right(y, 52)

    def from_double(self, x: Value, offset: Value) -> Value:
        """x + B as words, for `offset` = 2^52 + B and integers -B <= x < 2^52 - B."""
        return self.lanes.words_of(self.lanes.add(x, offset))

    def to_double(self, words: Value, offset: Value) -> Value:
        """The inverse of `from_double`."""
        lanes = self.lanes
        bits = lanes.word_or(lanes.word_and(words, lanes.words(LOW_BITS)), lanes.words(UNIT_BITS))
        return lanes.sub(lanes.doubles_of(bits), offset)

    def turned(self, value: Value, turn: Value, place: Value) -> tuple[Value, Value]:
        """A block of eight doubles as an automorphism orders it, and where it goes.

        turn, place: addresses of the automorphism's `scatter` and of the block's entry in it.
        """
        lanes = self.lanes
        entry = lanes.load_integer(place)
        order = lanes.load_words(lanes.plus(turn, lanes.times(lanes.masked(entry, 63), 64)))
        return lanes.permute(value, order), lanes.masked(entry, -64)


class WordSum:
    """A running sum of products on words: their low and their high halves apart, reduced once.

    Bounds for T <= 32 products x·w < 2^(52 + b), b <= 49: the high halves and the carry from the low ones are
    at most T·(2^b + 1) < 2^52 for T < 2^(52-b), the low halves with what was kept (T + 1)·2^52 < 2^64.
    """

    def __init__(self, words: Words) -> None:
        self.words = words
        self.low, self.high = (words.lanes.variable(words.zero) for _ in range(2))

    def keep(self, value: Value) -> None:
        """Start with a value: nothing may be above its 52 bits, for that is where the carry is found."""
        lanes = self.words.lanes
        self.low.set(lanes.word_and(value, lanes.words(LOW_BITS)))

    def add(self, x: Value, w: Value) -> None:
        lanes = self.words.lanes
        self.low.set(lanes.madd_low(self.low.get(), x, w))
        self.high.set(lanes.madd_high(self.high.get(), x, w))

    def value(self, constants: Value) -> Value:
        """The sum as centred doubles."""
        words = self.words
        one, wrap, quotient = (words.load_splat(constants, at) for at in (ONE, WRAP, WRAP_QUOTIENT))
        low = self.low.get()
        high = words.add(self.high.get(), words.carry(low))
        value = words.product(high, wrap, quotient, words.reduce(low, one))  # in [0, 4q)
        return words.lanes.reduce(words.to_double(value, words.lanes.doubles(UNIT)))
