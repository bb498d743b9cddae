"""Arithmetic modulo a prime below 2^50 on eight lanes at a time: what emitters are written on.

An *emitter* is a function that asks `Lanes` for one instruction after another. `llvm` writes them as LLVM
code; the tests carry them out on Python's numbers, and on bounds that are proved instruction by instruction.

A residue is a double with |x| <= q/2 + 1, called *centred* here. The product of x and w modulo q, exact for
|x| < 2^52 and |w| <= q/2:

    h = x·w                    rounded to 53 bits
    l = fma(x, w, -h)          what the rounding lost, exact
    k = round(h / q)           fma(h, 1/q, 1.5·2^52) - 1.5·2^52 rounds to an integer while |k| < 2^51
    r = fma(-k, q, h) + l      exact, for every intermediate is an integer below 2^53

k is off by at most 1/2 + |x|·2^-53, so |r| <= q·(1/2 + |x|·2^-53) <= q.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LANES = 8
#: Adding and subtracting this rounds a double of magnitude below 2^51 to the nearest integer.
ROUNDING = 6755399441055744.0
#: 2^52: the words of its bit pattern with an integer below it are those of the two's sum.
UNIT = 4503599627370496.0
#: Octets ahead of itself that a loop over rows asks for.
ROWS_AHEAD = 512

#: What a machine's instructions work on: a scalar (an address, a length, a double) or a vector of eight.
Value = Any
Body = Callable[[], None]


class Variable(ABC):
    """A vector that changes in loops and branches."""

    @abstractmethod
    def get(self) -> Value:
        """What it holds."""

    @abstractmethod
    def set(self, value: Value) -> None:
        """Let it hold another."""


class Lanes(ABC):
    """A machine with vectors of eight doubles or words, and what is computed with it modulo one prime.

    prime, q_inverse: scalars; `q` and `q_inverse` are vectors of them.
    """

    def __init__(self, prime: Value, q_inverse: Value) -> None:
        self.prime = prime
        self.q = self.splat(prime)
        self.q_inverse = self.splat(q_inverse)
        self.rounding = self.doubles(ROUNDING)
        self.zero = self.doubles(0.0)

    # --- scalars ---------------------------------------------------------------------------------

    @abstractmethod
    def plus(self, a: Value, b: Value) -> Value:
        """a + b of integers; either may be Python's."""

    @abstractmethod
    def times(self, a: Value, factor: int) -> Value:
        """a·factor of an integer."""

    @abstractmethod
    def shifted(self, a: Value, bits: int) -> Value:
        """a / 2^bits, rounded down, of an integer that is not negative."""

    @abstractmethod
    def masked(self, a: Value, mask: int) -> Value:
        """The bits of an integer that are set in the mask."""

    @abstractmethod
    def nonzero(self, a: Value) -> Value:
        """Whether a scalar is not 0, a condition."""

    @abstractmethod
    def integer(self, a: Value) -> Value:
        """A double that is an integer as one."""

    @abstractmethod
    def load_integer(self, address: Value) -> Value:
        """The 64-bit integer at an address."""

    @abstractmethod
    def load_double(self, address: Value) -> Value:
        """The double at an address."""

    # --- control ---------------------------------------------------------------------------------

    @abstractmethod
    def variable(self, value: Value) -> Variable:
        """A variable that holds a vector."""

    @abstractmethod
    def when(self, condition: Value, then: Body, otherwise: Body | None = None) -> None:
        """Do one or the other."""

    @abstractmethod
    def choose(self, number: Value, cases: Mapping[int, Body]) -> None:
        """Do the case of an integer, or nothing."""

    @abstractmethod
    def repeat(self, count: Value, body: Callable[[Value], None]) -> None:
        """Do the body for 0, 1... count - 1."""

    # --- memory ----------------------------------------------------------------------------------

    @abstractmethod
    def load(self, address: Value, octets: int = 0) -> Value:
        """Eight doubles from address + octets."""

    @abstractmethod
    def load_words(self, address: Value, octets: int = 0) -> Value:
        """Eight words from address + octets."""

    @abstractmethod
    def load_repeated(self, address: Value, octets: int, count: int) -> Value:
        """`count` words from address + octets, again and again."""

    @abstractmethod
    def load_packed(self, address: Value, width: int, reach: bool = True) -> Value:
        """Eight little-endian integers of `width` octets, as words; reads 64 octets if it may `reach`."""

    @abstractmethod
    def load_mask(self, address: Value) -> Value:
        """The bits of the octet at an address, one for each lane."""

    @abstractmethod
    def store(self, value: Value, address: Value, octets: int = 0) -> None:
        """Eight doubles or words to address + octets."""

    @abstractmethod
    def store_packed(self, words: Value, address: Value, width: int) -> None:
        """The inverse of `load_packed`; writes only 8·width octets."""

    @abstractmethod
    def prefetch(self, address: Value, octets: int, locality: int, write: bool = False) -> None:
        """Ask for the cache line at address + octets, to `write` to it; locality 3 for the nearest cache, 2
        for the second.
        """

    # --- vectors of doubles ----------------------------------------------------------------------

    @abstractmethod
    def doubles(self, value: float) -> Value:
        """A constant in every lane."""

    @abstractmethod
    def splat(self, scalar: Value) -> Value:
        """A scalar, a double or an integer, in every lane."""

    @abstractmethod
    def add(self, a: Value, b: Value) -> Value:
        """a + b, rounded."""

    @abstractmethod
    def sub(self, a: Value, b: Value) -> Value:
        """a - b, rounded."""

    @abstractmethod
    def mul(self, a: Value, b: Value) -> Value:
        """a·b, rounded."""

    @abstractmethod
    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a·b + c, rounded once."""

    @abstractmethod
    def negate(self, a: Value) -> Value:
        """-a."""

    @abstractmethod
    def less(self, a: Value, b: Value) -> Value:
        """The mask of lanes in which a < b."""

    @abstractmethod
    def both(self, a: Value, b: Value) -> Value:
        """The lanes of two masks."""

    @abstractmethod
    def select(self, mask: Value, a: Value, b: Value) -> Value:
        """a in the lanes of a mask, or where a condition holds; b in others."""

    @abstractmethod
    def mask_integer(self, mask: Value) -> Value:
        """A mask as the bits of an integer."""

    @abstractmethod
    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        """Lanes of a (0 to 7) and b (8 to 15)."""

    @abstractmethod
    def permute(self, a: Value, order: Value) -> Value:
        """Lanes of a, in an order that a vector of words gives (AVX-512)."""

    # --- vectors of words ------------------------------------------------------------------------

    @abstractmethod
    def words(self, values: int | Sequence[int]) -> Value:
        """A constant in every lane, or eight."""

    @abstractmethod
    def word_add(self, a: Value, b: Value) -> Value:
        """a + b modulo 2^64."""

    @abstractmethod
    def word_sub(self, a: Value, b: Value) -> Value:
        """a - b modulo 2^64."""

    @abstractmethod
    def word_and(self, a: Value, b: Value) -> Value:
        """The bits of both."""

    @abstractmethod
    def word_or(self, a: Value, b: Value) -> Value:
        """The bits of either."""

    @abstractmethod
    def word_xor(self, a: Value, b: Value) -> Value:
        """The bits of one only."""

    @abstractmethod
    def shift_left(self, a: Value, bits: int) -> Value:
        """a·2^bits modulo 2^64."""

    @abstractmethod
    def shift_right(self, a: Value, bits: int) -> Value:
        """a / 2^bits, rounded down."""

    @abstractmethod
    def madd_low(self, c: Value, a: Value, b: Value) -> Value:
        """c + the low 52 bits of the product of the low 52 bits of a and b (AVX-512 IFMA)."""

    @abstractmethod
    def madd_high(self, c: Value, a: Value, b: Value) -> Value:
        """c + the bits of that product from the 52nd on."""

    @abstractmethod
    def words_of(self, a: Value) -> Value:
        """The bit patterns of doubles."""

    @abstractmethod
    def doubles_of(self, a: Value) -> Value:
        """The doubles of bit patterns."""

    # --- what every machine can do ---------------------------------------------------------------

    def offset(self, address: Value, octets: int) -> Value:
        """address + octets."""
        return self.plus(address, octets) if octets else address

    def apart(self, address: Value, gap: Value, count: int) -> list[Value]:
        """Addresses that are `gap` octets apart."""
        return [self.plus(address, self.times(gap, k)) for k in range(count)]

    def load_splat(self, address: Value, octets: int = 0) -> Value:
        """The double at address + octets in every lane."""
        return self.splat(self.load_double(self.offset(address, octets)))

    def look_ahead(self, reads: list[Value], writes: list[Value]) -> None:
        """Ask for what a loop over rows will read and write soon: a product of ciphertexts that lie in the
        second-level cache takes 25 µs in place of 32 (N = 8192, 4 primes).
        """
        for address in reads:
            self.prefetch(address, ROWS_AHEAD, 3)
        for address in writes:
            self.prefetch(address, ROWS_AHEAD, 3, write=True)

    def quotient(self, x: Value) -> Value:
        """round(x / q), an integer in a double."""
        return self.sub(self.fma(x, self.q_inverse, self.rounding), self.rounding)

    def reduce(self, x: Value) -> Value:
        """Centred x mod q: |result| <= q/2 + |x|·2^-52 + 1, exactly centred where |x| <= 2q."""
        return self.fma(self.negate(self.quotient(x)), self.q, x)

    def product(self, x: Value, w: Value) -> Value:
        """x·w mod q, within (1/2 + |x|·2^-53)·q."""
        high = self.mul(x, w)
        low = self.fma(x, w, self.negate(high))
        return self.add(self.fma(self.negate(self.quotient(high)), self.q, high), low)

    def lift(self, x: Value, top: Value) -> Value:
        """x, plus top where x is negative: canonical in [0, q) for top = q, x itself for top = 0."""
        return self.select(self.less(x, self.zero), self.add(x, top), x)

    def as_doubles(self, words: Value) -> Value:
        """Integers below 2^52 as doubles, through the bit pattern of 2^52 + n."""
        return self.sub(self.doubles_of(self.word_or(words, self.words(UNIT_BITS))), self.doubles(UNIT))

    def as_words(self, x: Value) -> Value:
        """The inverse of `as_doubles`."""
        return self.word_and(self.words_of(self.add(x, self.doubles(UNIT))), self.words(LOW_BITS))

    def sum(self, start: Value, low: Value) -> RunningSum:
        """A running sum of products that holds `low`; see `RunningSum` for `start`."""
        return RunningSum(self, start, low)


#: The bit pattern of 2^52, and the bits of the integers that may be added to it.
UNIT_BITS, LOW_BITS = 0x4330000000000000, 0x000FFFFFFFFFFFFF


class RunningSum:
    """A running sum of products a·b that are never reduced one by one.

    `high` starts at 1.5·2^(52+b) for primes of b bits, so its last bit weighs 2^b; adding a·b to it with one
    fused operation rounds the product to a multiple of 2^b, and what was lost is recovered exactly:

        new  = fma(a, b, high)
        low += fma(a, b, -(new - high))       |each| <= 2^(b-1)
    """

    def __init__(self, lanes: Lanes, start: Value, low: Value) -> None:
        self.lanes = lanes
        self.start = start
        self.high, self.low = lanes.variable(start), lanes.variable(low)

    def add(self, a: Value, b: Value) -> None:
        lanes, high = self.lanes, self.high.get()
        new = lanes.fma(a, b, high)
        lost = lanes.fma(a, b, lanes.negate(lanes.sub(new, high)))
        self.high.set(new)
        self.low.set(lanes.add(self.low.get(), lost))

    def value(self) -> Value:
        """The sum, centred: |high| mod q is within 1.1 q, so with low it stays below 2^53."""
        lanes = self.lanes
        high = lanes.reduce(lanes.sub(self.high.get(), self.start))
        return lanes.reduce(lanes.add(high, self.low.get()))
