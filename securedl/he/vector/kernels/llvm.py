"""Emitters as LLVM code: vectors of eight doubles or words.

Without AVX-512 the compiler splits the vectors, without FMA it calls libm's `fma`: slow but right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from securedl.he.vector.kernels.lanes import LANES, Body, Lanes, Value, Variable

_DOUBLE = ir.DoubleType()
_WORD = ir.IntType(64)
_OCTET = ir.IntType(8)
_INDEX = ir.IntType(32)
_DOUBLES = ir.VectorType(_DOUBLE, LANES)
_WORDS = ir.VectorType(_WORD, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)

#: A function (lanes, *arguments) that writes instructions.
Emit = Callable[..., Any]


def _has_ifma() -> bool:
    """Whether the processor that kernels are compiled for has the instructions of `words`."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return {"+avx512f", "+avx512dq", "+avx512vl", "+avx512ifma"} <= set(features)


#: Whether kernels may use arithmetic on 52-bit words; where not, its code is never emitted.
IFMA = _has_ifma()


class _Place(Variable):
    """A variable on the stack, which the compiler keeps in a register."""

    def __init__(self, builder: Any, value: Value) -> None:
        self._builder = builder
        self._at = cgutils.alloca_once_value(builder, value)  # type: ignore[no-untyped-call]

    def get(self) -> Value:
        return self._builder.load(self._at)

    def set(self, value: Value) -> None:
        self._builder.store(value, self._at)


class CodeLanes(Lanes):
    """Writes into a function under construction."""

    def __init__(self, builder: Any, q: Value, q_inverse: Value) -> None:
        self.builder = builder
        super().__init__(q, q_inverse)

    # --- scalars ---------------------------------------------------------------------------------

    def plus(self, a: Value, b: Value) -> Value:
        return self.builder.add(a, a.type(b) if isinstance(b, int) else b)

    def times(self, a: Value, factor: int) -> Value:
        return self.builder.mul(a, a.type(factor))

    def shifted(self, a: Value, bits: int) -> Value:
        return self.builder.lshr(a, a.type(bits))

    def masked(self, a: Value, mask: int) -> Value:
        return self.builder.and_(a, a.type(mask))

    def nonzero(self, a: Value) -> Value:
        if a.type == _DOUBLE:
            return self.builder.fcmp_ordered("!=", a, _DOUBLE(0.0))
        return self.builder.icmp_signed("!=", a, a.type(0))

    def integer(self, a: Value) -> Value:
        return self.builder.fptosi(a, _WORD)

    def load_integer(self, address: Value) -> Value:
        return self.builder.load(self._pointer(address, _WORD))

    def load_double(self, address: Value) -> Value:
        return self.builder.load(self._pointer(address, _DOUBLE))

    # --- control ---------------------------------------------------------------------------------

    def variable(self, value: Value) -> Variable:
        return _Place(self.builder, value)

    def when(self, condition: Value, then: Body, otherwise: Body | None = None) -> None:
        if otherwise is None:
            with self.builder.if_then(condition):
                then()
            return
        with self.builder.if_else(condition) as (yes, no):
            with yes:
                then()
            with no:
                otherwise()

    def choose(self, number: Value, cases: Mapping[int, Body]) -> None:
        builder = self.builder
        after = builder.append_basic_block("chosen")
        choice = builder.switch(number, after)
        for case, body in cases.items():
            block = builder.append_basic_block(f"case{case}")
            choice.add_case(number.type(case), block)
            builder.position_at_end(block)
            body()
            builder.branch(after)
        builder.position_at_end(after)

    def repeat(self, count: Value, body: Callable[[Value], None]) -> None:
        with cgutils.for_range(self.builder, count) as loop:
            body(loop.index)

    # --- memory ----------------------------------------------------------------------------------

    def _pointer(self, address: Value, kind: Any) -> Value:
        return self.builder.inttoptr(address, kind.as_pointer())

    def load(self, address: Value, octets: int = 0) -> Value:
        return self.builder.load(self._pointer(self.offset(address, octets), _DOUBLES), align=8)

    def load_words(self, address: Value, octets: int = 0) -> Value:
        return self.builder.load(self._pointer(self.offset(address, octets), _WORDS), align=8)

    def load_repeated(self, address: Value, octets: int, count: int) -> Value:
        pointer = self._pointer(self.offset(address, octets), ir.VectorType(_WORD, count))
        some = self.builder.load(pointer, align=8)
        return self.shuffle(some, some, [k % count for k in range(LANES)])

    def load_packed(self, address: Value, width: int, reach: bool = True) -> Value:
        octets = ir.VectorType(_OCTET, 8 * (LANES if reach else width))
        data = self.builder.load(self._pointer(address, octets), align=1)
        zeros = ir.Constant(octets, [0] * octets.count)
        order = [width * lane + k if k < width else octets.count for lane in range(LANES) for k in range(8)]
        return self.builder.bitcast(self.shuffle(data, zeros, order), _WORDS)

    def load_mask(self, address: Value) -> Value:
        return self.builder.bitcast(self.builder.load(self._pointer(address, _OCTET)), _MASK)

    def store(self, value: Value, address: Value, octets: int = 0) -> None:
        self.builder.store(value, self._pointer(self.offset(address, octets), value.type), align=8)

    def store_packed(self, words: Value, address: Value, width: int) -> None:
        data = self.builder.bitcast(words, ir.VectorType(_OCTET, 8 * LANES))
        order = [8 * lane + k for lane in range(LANES) for k in range(width)]
        pointer = self._pointer(address, ir.VectorType(_OCTET, LANES * width))
        self.builder.store(self.shuffle(data, data, order), pointer, align=1)

    def prefetch(self, address: Value, octets: int, locality: int, write: bool = False) -> None:
        kind = ir.FunctionType(ir.VoidType(), [_OCTET.as_pointer(), _INDEX, _INDEX, _INDEX])
        suffix = "p0" if str(_OCTET.as_pointer()) == "ptr" else "p0i8"  # LLVM before 15 names the pointee
        pointer = self._pointer(self.offset(address, octets), _OCTET)
        function = self._function(kind, f"llvm.prefetch.{suffix}")
        self.builder.call(function, [pointer, _INDEX(int(write)), _INDEX(locality), _INDEX(1)])

    # --- vectors of doubles ----------------------------------------------------------------------

    def doubles(self, value: float) -> Value:
        return ir.Constant(_DOUBLES, [value] * LANES)

    def splat(self, scalar: Value) -> Value:
        undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, _INDEX(0))
        return self.shuffle(first, undefined, [0] * LANES)

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.builder.fsub(a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.builder.fmul(a, b)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * 3)
        return self.builder.call(self._function(kind, "llvm.fma.v8f64"), [a, b, c])

    def negate(self, a: Value) -> Value:
        return self.builder.fneg(a)

    def less(self, a: Value, b: Value) -> Value:
        return self.builder.fcmp_ordered("<", a, b)

    def both(self, a: Value, b: Value) -> Value:
        return self.builder.and_(a, b)

    def select(self, mask: Value, a: Value, b: Value) -> Value:
        return self.builder.select(mask, a, b)

    def mask_integer(self, mask: Value) -> Value:
        return self.builder.zext(self.builder.bitcast(mask, _OCTET), _WORD)

    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        mask = ir.Constant(ir.VectorType(_INDEX, len(order)), list(order))
        return self.builder.shuffle_vector(a, b, mask)

    def permute(self, a: Value, order: Value) -> Value:
        kind = ir.FunctionType(_DOUBLES, [_DOUBLES, _WORDS])
        return self.builder.call(self._function(kind, "llvm.x86.avx512.permvar.df.512"), [a, order])

    # --- vectors of words ------------------------------------------------------------------------

    def words(self, values: int | Sequence[int]) -> Value:
        return ir.Constant(_WORDS, [values] * LANES if isinstance(values, int) else list(values))

    def word_add(self, a: Value, b: Value) -> Value:
        return self.builder.add(a, b)

    def word_sub(self, a: Value, b: Value) -> Value:
        return self.builder.sub(a, b)

    def word_and(self, a: Value, b: Value) -> Value:
        return self.builder.and_(a, b)

    def word_or(self, a: Value, b: Value) -> Value:
        return self.builder.or_(a, b)

    def word_xor(self, a: Value, b: Value) -> Value:
        return self.builder.xor(a, b)

    def shift_left(self, a: Value, bits: int) -> Value:
        return self.builder.shl(a, self.words(bits))

    def shift_right(self, a: Value, bits: int) -> Value:
        return self.builder.lshr(a, self.words(bits))

    def madd_low(self, c: Value, a: Value, b: Value) -> Value:
        return self._madd("l", c, a, b)

    def madd_high(self, c: Value, a: Value, b: Value) -> Value:
        return self._madd("h", c, a, b)

    def _madd(self, half: str, c: Value, a: Value, b: Value) -> Value:
        kind = ir.FunctionType(_WORDS, [_WORDS] * 3)
        function = self._function(kind, f"llvm.x86.avx512.vpmadd52{half}.uq.512")
        return self.builder.call(function, [c, a, b])

    def words_of(self, a: Value) -> Value:
        return self.builder.bitcast(a, _WORDS)

    def doubles_of(self, a: Value) -> Value:
        return self.builder.bitcast(a, _DOUBLES)

    def _function(self, kind: Value, name: str) -> Value:
        """A declared function of the module."""
        return cgutils.get_or_insert_function(self.builder.module, kind, name)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Emitter:
    """An emitter and what kernels call.

    Attributes:
        emit: the function (lanes, *arguments).
        intrinsic: stands for its code in kernels; takes q and 1/q last.
        ifma: whether it works on words, and its code is written only where `IFMA` is true.
    """

    emit: Emit
    intrinsic: Any
    ifma: bool


#: All of them, in the order of their definition.
EMITTERS: list[Emitter] = []


def lane_kernel(
    parameters: str | type[tuple[Any, ...]], returns: bool = False, ifma: bool = False
) -> Callable[[Emit], Any]:
    """An intrinsic from a function (lanes, *arguments) that writes instructions.

    `parameters` has one letter an argument: i an integer (an address, a length), d a double; or it is a
    NamedTuple of integers and floats, the one argument. The last two arguments of the intrinsic are always q
    and 1/q; they reach the emitter as `lanes`. With `returns`, the emitter gives an int64. With `ifma` it is
    left out where the processor has no arithmetic on words.
    """
    result = types.int64 if returns else types.void

    def decorate(emit: Emit) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            *rest, q, q_inverse = arguments
            if not isinstance(parameters, str):
                rest = [_record(context, builder, parameters, signature.args[0], rest[0])]
            found = None
            if IFMA or not ifma:
                found = emit(CodeLanes(builder, q, q_inverse), *rest)
            return context.get_dummy_value() if found is None else found

        def of_record(typingctx: Any, record: Any, q: Any, q_inverse: Any) -> Any:
            if getattr(record, "instance_class", None) is not parameters:
                return None
            return result(record, types.float64, types.float64), codegen

        typing = _typing(result, parameters, codegen) if isinstance(parameters, str) else of_record
        typing.__name__ = typing.__qualname__ = emit.__name__
        typing.__module__ = __name__
        made = intrinsic(typing)
        EMITTERS.append(Emitter(emit, made, ifma))
        return made

    return decorate


_KINDS = {"i": types.int64, "d": types.float64, "int": types.int64, "float": types.float64}


def _typing(result: Any, letters: str, codegen: Any) -> Any:
    signature = result(*(_KINDS[letter] for letter in letters))
    names = ", ".join(f"a{i}" for i in range(len(letters)))
    scope: dict[str, Any] = {"found": (signature, codegen)}
    exec(f"def typing(typingctx, {names}):\n    return found", scope)  # intrinsic() counts parameters
    return scope["typing"]


def _record(context: Any, builder: Any, cls: type[tuple[Any, ...]], kind: Any, value: Any) -> Any:
    """The record of values that a NamedTuple holds in a kernel, in the types of its fields."""
    fields = [_KINDS[field.__name__] for field in get_type_hints(cls).values()]
    values = cgutils.unpack_tuple(builder, value)  # type: ignore[no-untyped-call]
    some = zip(values, kind.types, fields, strict=True)
    return cls(*(context.cast(builder, *one) for one in some))
