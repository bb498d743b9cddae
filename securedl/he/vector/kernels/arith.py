"""Arithmetic modulo a prime below 2^50 on eight doubles at a time.

A residue is a double with |x| <= q/2 + 1, called *centred* here. `Lanes` writes LLVM code for vectors of
eight doubles; without AVX-512 the compiler splits them, without FMA it calls libm's `fma`: slow but right.

The product of x and w modulo q, exact for |x| < 2^52 and |w| <= q/2:

    h = x·w                    rounded to 53 bits
    l = fma(x, w, -h)          what the rounding lost, exact
    k = round(h / q)           fma(h, 1/q, 1.5·2^52) - 1.5·2^52 rounds to an integer while |k| < 2^51
    r = fma(-k, q, h) + l      exact, for every intermediate is an integer below 2^53

k is off by at most 1/2 + |x|·2^-53, so |r| <= q·(1/2 + |x|·2^-53) <= q.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
_DOUBLE = ir.DoubleType()
_WORD = ir.IntType(64)
_INDEX = ir.IntType(32)
VECTOR = ir.VectorType(_DOUBLE, LANES)
WORDS = ir.VectorType(_WORD, LANES)
#: Adding and subtracting this rounds a double of magnitude below 2^51 to the nearest integer.
MAGIC = 6755399441055744.0

#: Octets ahead of itself that a loop over rows asks for.
AHEAD = 512

#: Cache lines of each stream that one `fetch` asks for.
FETCH_LINES = 6

Value = Any
Emitter = Callable[..., Any]


def shuffle_mask(indices: list[int]) -> Value:
    return ir.Constant(ir.VectorType(_INDEX, len(indices)), indices)


class Lanes:
    """Writes arithmetic modulo one prime into a function under construction."""

    def __init__(self, builder: Any, q: Value, q_inverse: Value) -> None:
        self.builder = builder
        self.prime = q
        self.q = self.splat(q)
        self.q_inverse = self.splat(q_inverse)
        self.magic = ir.Constant(VECTOR, [MAGIC] * LANES)
        self.zero = ir.Constant(VECTOR, [0.0] * LANES)

    def splat(self, scalar: Value) -> Value:
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_INDEX, 0))
        return self.builder.shuffle_vector(first, undefined, shuffle_mask([0] * LANES))

    def pointer(self, address: Value, kind: Any) -> Value:
        return self.builder.inttoptr(address, kind.as_pointer())

    def offset(self, address: Value, octets: int) -> Value:
        return self.builder.add(address, ir.Constant(_WORD, octets)) if octets else address

    def load(self, address: Value, octets: int = 0, kind: Any = VECTOR) -> Value:
        pointer = self.pointer(self.offset(address, octets), kind)
        return self.builder.load(pointer, align=8 if kind is VECTOR else 1)

    def load_splat(self, address: Value, octets: int = 0) -> Value:
        return self.splat(self.builder.load(self.pointer(self.offset(address, octets), _DOUBLE)))

    def apart(self, address: Value, gap: Value, count: int) -> list[Value]:
        """Addresses that are `gap` octets apart."""
        return [self.builder.add(address, self.builder.mul(gap, gap.type(k))) for k in range(count)]

    def store(self, value: Value, address: Value, octets: int = 0) -> None:
        self.builder.store(value, self.pointer(self.offset(address, octets), value.type), align=8)

    def shuffle(self, a: Value, b: Value, indices: list[int]) -> Value:
        return self.builder.shuffle_vector(a, b, shuffle_mask(indices))

    def prefetch(self, address: Value, octets: int, locality: int, write: bool = False) -> None:
        """Ask for the cache line at address + octets, to `write` to it; locality 3 for the nearest cache, 2
        for the second.
        """
        octet, word = ir.IntType(8), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [octet.as_pointer(), word, word, word])
        suffix = "p0" if str(octet.as_pointer()) == "ptr" else "p0i8"  # LLVM before 15 names the pointee
        pointer = self.pointer(self.offset(address, octets), octet)
        function = self.function(kind, f"llvm.prefetch.{suffix}")
        self.builder.call(function, [pointer, word(int(write)), word(locality), word(1)])

    def look_ahead(self, reads: list[Value], writes: list[Value]) -> None:
        """Ask for what a loop over rows will read and write soon: a product of ciphertexts that lie in the
        second-level cache takes 25 µs in place of 32 (N = 8192, 4 primes).
        """
        for address in reads:
            self.prefetch(address, AHEAD, 3)
        for address in writes:
            self.prefetch(address, AHEAD, 3, write=True)

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.builder.fmul(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.builder.fsub(a, b)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        return self.builder.call(self.function(kind, "llvm.fma.v8f64"), [a, b, c])

    def function(self, kind: Value, name: str) -> Value:
        """A declared function of the module."""
        return cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]

    def negate(self, a: Value) -> Value:
        return self.builder.fneg(a)

    def quotient(self, x: Value) -> Value:
        """round(x / q), an integer in a double."""
        return self.sub(self.fma(x, self.q_inverse, self.magic), self.magic)

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
        negative = self.builder.fcmp_ordered("<", x, self.zero)
        return self.builder.select(negative, self.add(x, top), x)

    def signs(self, address: Value) -> Value:
        """The bits of the octet at `address`, one for each lane."""
        octet = self.builder.load(self.pointer(address, ir.IntType(8)))
        return self.builder.bitcast(octet, ir.VectorType(ir.IntType(1), LANES))

    def store_coefficients(
        self, values: list[Value], places: list[Value], top: Value, signs: Value, gap: Value
    ) -> None:
        """What an inverse transform leaves, from values in [-q, q): canonical, or centred if `top` is 0.

        signs: 0, or the address of an octet of signs for the first vector (for others gap/64 later). Where
        they are set, x - q is stored in place of every x but 0.
        """
        builder = self.builder
        signed = builder.icmp_signed("!=", signs, signs.type(0))
        with builder.if_else(builder.fcmp_ordered("==", top, top.type(0.0))) as (centred, canonical):
            with centred:
                for x, place in zip(values, places, strict=True):
                    self.store(self.reduce(x), place)
            with canonical:
                values = [self.lift(x, self.q) for x in values]
                with builder.if_else(signed) as (turned, plain):
                    with turned:
                        octets = self.apart(signs, builder.lshr(gap, gap.type(6)), len(values))
                        for x, place, s in zip(values, places, octets, strict=True):
                            some = builder.and_(self.signs(s), builder.fcmp_ordered(">", x, self.zero))
                            self.store(builder.select(some, self.sub(x, self.q), x), place)
                    with plain:
                        for x, place in zip(values, places, strict=True):
                            self.store(x, place)

    def load_packed(self, address: Value, width: int) -> Value:
        """Eight little-endian integers of `width` bytes each as 64-bit words; reads 64 octets."""
        octets = ir.VectorType(ir.IntType(8), 8 * LANES)
        zeros = ir.Constant(octets, [0] * (8 * LANES))
        places = [width * lane + k if k < width else 8 * LANES for lane in range(LANES) for k in range(8)]
        return self.builder.bitcast(self.shuffle(self.load(address, 0, octets), zeros, places), WORDS)

    def store_packed(self, words: Value, address: Value, width: int) -> None:
        """The inverse of `load_packed`; writes only 8·width octets."""
        octets = ir.VectorType(ir.IntType(8), 8 * LANES)
        places = [8 * lane + k for lane in range(LANES) for k in range(width)]
        data = self.builder.bitcast(words, octets)
        self.builder.store(self.shuffle(data, data, places), self._packed_pointer(address, width), align=1)

    def _packed_pointer(self, address: Value, width: int) -> Value:
        return self.pointer(address, ir.VectorType(ir.IntType(8), LANES * width))

    def load_words_as_double(self, words: Value) -> Value:
        """Integers below 2^52 as doubles, through the bit pattern of 2^52 + n."""
        exponent = ir.Constant(WORDS, [0x4330000000000000] * LANES)
        offset = ir.Constant(VECTOR, [4503599627370496.0] * LANES)
        return self.sub(self.builder.bitcast(self.builder.or_(words, exponent), VECTOR), offset)

    def double_as_words(self, x: Value) -> Value:
        """The inverse of `load_words_as_double`."""
        offset = ir.Constant(VECTOR, [4503599627370496.0] * LANES)
        mask = ir.Constant(WORDS, [0x000FFFFFFFFFFFFF] * LANES)
        return self.builder.and_(self.builder.bitcast(self.add(x, offset), WORDS), mask)


def lane_kernel(parameters: str, returns: bool = False) -> Callable[[Emitter], Any]:
    """An intrinsic from a function (lanes, *arguments) that writes LLVM code.

    `parameters` has one letter an argument: i an integer (an address, a length), d a double. The last two
    doubles are always q and 1/q; they reach the emitter as `lanes`, not as arguments. With `returns`, the
    emitter gives an int64.
    """
    kinds = [types.int64 if letter == "i" else types.float64 for letter in parameters]

    def decorate(emit: Emitter) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *rest, q, q_inverse = arguments
            result = emit(Lanes(builder, q, q_inverse), *rest)
            return context.get_dummy_value() if result is None else result

        signature = (types.int64 if returns else types.void)(*kinds)
        names = ", ".join(f"a{i}" for i in range(len(kinds)))
        scope: dict[str, Any] = {"result": (signature, codegen)}
        exec(f"def typing(typingctx, {names}):\n    return result", scope)  # intrinsic() counts parameters
        typing = scope["typing"]
        typing.__name__ = typing.__qualname__ = emit.__name__
        typing.__module__ = __name__
        return intrinsic(typing)

    return decorate


@lane_kernel("iidd")
def sweep(lanes: Lanes, source: Value, target: Value) -> None:
    """target = source, centred."""
    lanes.store(lanes.reduce(lanes.load(source)), target)


@lane_kernel("iidd")
def copy_lanes(lanes: Lanes, source: Value, target: Value) -> None:
    """target = source."""
    lanes.store(lanes.load(source), target)


@lane_kernel("iiidd")
def add_rows(lanes: Lanes, a: Value, b: Value, out: Value) -> None:
    """out = a + b of centred operands, centred."""
    lanes.look_ahead([a, b], [out])
    lanes.store(lanes.reduce(lanes.add(lanes.load(a), lanes.load(b))), out)


@lane_kernel("ididd")
def scale_row(lanes: Lanes, a: Value, w: Value, out: Value) -> None:
    """out = a·w mod q for a constant |w| <= q/2."""
    lanes.store(lanes.reduce(lanes.product(lanes.load(a), lanes.splat(w))), out)


@lane_kernel("idididd")
def combine_rows(lanes: Lanes, a: Value, u: Value, b: Value, w: Value, out: Value, unused: Value) -> None:
    """out = a·u + b·w mod q for constants |u|, |w| <= q/2; the sum stays below 1.2 q."""
    left = lanes.product(lanes.load(a), lanes.splat(u))
    right = lanes.product(lanes.load(b), lanes.splat(w))
    lanes.store(lanes.reduce(lanes.add(left, right)), out)


@lane_kernel("iiiidd")
def square_rows(lanes: Lanes, a: Value, a_step: Value, out: Value, out_step: Value) -> None:
    """(a0 + a1 s)^2, centred, for a centred pair a_step octets apart."""
    (first, second), places = lanes.apart(a, a_step, 2), lanes.apart(out, out_step, 3)
    lanes.look_ahead([first, second], places)
    a0, a1 = lanes.load(first), lanes.load(second)
    cross = lanes.product(a0, a1)
    products = lanes.product(a0, a0), lanes.add(cross, cross), lanes.product(a1, a1)
    for value, place in zip(products, places, strict=True):
        lanes.store(lanes.reduce(value), place)


@lane_kernel("iiiiidd")
def multiply_rows(lanes: Lanes, a: Value, b: Value, step: Value, out: Value, out_step: Value) -> None:
    """(a0 + a1 s)(b0 + b1 s), centred.

    The cross terms are (a0 + a1)(b0 + b1) - a0 b0 - a1 b1, below 2 q. Both factors are at most q + 2, and
    data primes below 2^48: the quotient is off by at most 1/2 + 2^-4, and the first product is below 0.6 q.
    """
    sources, places = [*lanes.apart(a, step, 2), *lanes.apart(b, step, 2)], lanes.apart(out, out_step, 3)
    lanes.look_ahead(sources, places)
    a0, a1, b0, b1 = (lanes.load(source) for source in sources)
    low, high = lanes.product(a0, b0), lanes.product(a1, b1)
    cross = lanes.product(lanes.add(a0, a1), lanes.add(b0, b1))
    cross = lanes.sub(lanes.sub(cross, low), high)
    for value, place in zip((low, cross, high), places, strict=True):
        lanes.store(lanes.reduce(value), place)


@lane_kernel("iiidd")
def product_rows(lanes: Lanes, a: Value, b: Value, out: Value) -> None:
    """out = a·b, centred."""
    lanes.look_ahead([a, b], [out])
    lanes.store(lanes.reduce(lanes.product(lanes.load(a), lanes.load(b))), out)


@lane_kernel("iididd")
def divide_rows(lanes: Lanes, a: Value, n: Value, w: Value, out: Value) -> None:
    """out = (a - n)·w mod q for centred a, n: |a - n| <= q + 2."""
    difference = lanes.sub(lanes.load(a), lanes.load(n))
    lanes.store(lanes.reduce(lanes.product(difference, lanes.splat(w))), out)


@lane_kernel("iidiidd")
def divide_add_rows(lanes: Lanes, a: Value, n: Value, w: Value, c: Value, out: Value) -> None:
    """out = c + (a - n)·w mod q for centred a, n, c."""
    difference = lanes.sub(lanes.load(a), lanes.load(n))
    product = lanes.product(difference, lanes.splat(w))
    lanes.store(lanes.reduce(lanes.add(product, lanes.load(c))), out)


@lane_kernel("iidididd")
def divide_twice_rows(lanes: Lanes, a: Value, n: Value, u: Value, c: Value, w: Value, out: Value) -> None:
    """out = (a·u + c - n)·w mod q for centred a, n, c; the bracket is below 1.6 q."""
    product = lanes.product(lanes.load(a), lanes.splat(u))
    difference = lanes.sub(lanes.add(product, lanes.load(c)), lanes.load(n))
    lanes.store(lanes.reduce(lanes.product(difference, lanes.splat(w))), out)


@lane_kernel("iidd")
def words_to_residues(lanes: Lanes, source: Value, target: Value) -> None:
    """Canonical unsigned 64-bit residues to centred doubles."""
    lanes.store(lanes.reduce(lanes.load_words_as_double(lanes.load(source, 0, WORDS))), target)


@lane_kernel("iiddd")
def residues_to_words(lanes: Lanes, source: Value, target: Value, top: Value) -> None:
    """Centred doubles to canonical unsigned 64-bit residues; `top` is q."""
    canonical = lanes.lift(lanes.reduce(lanes.load(source)), lanes.splat(top))
    lanes.store(lanes.double_as_words(canonical), target)


@lane_kernel("iidddd")
def correction_digits(lanes: Lanes, source: Value, target: Value, factor: Value, top: Value) -> None:
    """target = (source mod t)·factor mod t, canonical; here q is the plain modulus t, `top` again t."""
    product = lanes.product(lanes.reduce(lanes.load(source)), lanes.splat(factor))
    lanes.store(lanes.lift(lanes.reduce(product), lanes.splat(top)), target)


@lane_kernel("iididd")
def corrected_remainder(lanes: Lanes, r: Value, k: Value, dropped: Value, out: Value) -> None:
    """out = r + k·dropped mod q, centred, for |r|, |k| < 2^50 and the centred `dropped` prime."""
    product = lanes.product(lanes.load(k), lanes.splat(dropped))
    lanes.store(lanes.reduce(lanes.add(lanes.load(r), product)), out)


@lane_kernel("iidd")
def negate_where(lanes: Lanes, data: Value, signs: Value) -> None:
    """The negative of data in the lanes whose bits are set in the octet at `signs`, in place."""
    x = lanes.load(data)
    lanes.store(lanes.builder.select(lanes.signs(signs), lanes.negate(x), x), data)


def _lane_order(pattern: int) -> list[int]:
    """Where eight lanes come from: bitrev(g·bitrev(lane) + c mod 8), for pattern = 8·(g // 2) + c."""
    reverse = [0, 4, 2, 6, 1, 5, 3, 7]
    g, c = 2 * (pattern // 8) + 1, pattern % 8
    return [reverse[(g * reverse[lane] + c) % 8] for lane in range(LANES)]


LANE_ORDERS = [_lane_order(pattern) for pattern in range(32)]


def _block_mover(adding: bool) -> Any:
    @lane_kernel("iiiiidd")
    def move(lanes: Lanes, pattern: Value, source: Value, out: Value, moves: Value, count: Value) -> None:
        builder = lanes.builder
        done = builder.append_basic_block("done")
        choice = builder.switch(pattern, done)
        for number, order in enumerate(LANE_ORDERS):
            block = builder.append_basic_block(f"pattern{number}")
            choice.add_case(ir.Constant(_WORD, number), block)
            builder.position_at_end(block)
            with cgutils.for_range(builder, count) as loop:
                entry = builder.add(moves, builder.shl(loop.index, ir.Constant(_WORD, 4)))
                places = [
                    builder.load(lanes.pointer(lanes.offset(entry, octets), _WORD)) for octets in (0, 8)
                ]
                value = lanes.load(builder.add(source, places[0]))
                value = lanes.shuffle(value, value, order)
                target = builder.add(out, places[1])
                if adding:
                    value = lanes.reduce(lanes.add(lanes.load(target), value))
                lanes.store(value, target)
            builder.branch(done)
        builder.position_at_end(done)

    return move


#: `count` blocks of eight values, reordered within by LANE_ORDERS[pattern]. moves: the octet offsets of
#: each block, in the source and in the result.
move_blocks = _block_mover(adding=False)
#: The same, added to what the result holds, centred.
add_blocks = _block_mover(adding=True)


@lane_kernel("iiidd")
def fetch(lanes: Lanes, first: Value, second: Value, octets: Value) -> None:
    """Ask for six cache lines at `octets` of each of two streams, into the second-level cache."""
    for stream in (first, second):
        for line in range(FETCH_LINES):
            lanes.prefetch(lanes.builder.add(stream, octets), 64 * line, 2)
