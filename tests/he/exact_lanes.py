"""Lanes that compute: doubles as IEEE 754 has them, words modulo 2^64, on any processor."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from interpreter import Memory
from numpy.typing import NDArray

from securedl.he.vector.kernels import words
from securedl.he.vector.kernels.lanes import LANES, LOW_BITS, Body, Lanes, Value, Variable


class Holder(Variable):
    def __init__(self, value: Value) -> None:
        self.value = value

    def get(self) -> Value:
        return self.value

    def set(self, value: Value) -> None:
        self.value = value


#: a·b + c rounded once, as C has it.
fused: Callable[[float, float, float], float] = ctypes.CDLL(ctypes.util.find_library("m")).fma
fused.argtypes, fused.restype = (ctypes.c_double,) * 3, ctypes.c_double  # type: ignore[attr-defined]


class ScalarLanes(Lanes):
    """Scalars, branches and loops, which every machine of the tests does in Python."""

    memory: Memory

    def plus(self, a: int, b: int) -> int:
        return a + b

    def times(self, a: int, factor: int) -> int:
        return a * factor

    def shifted(self, a: int, bits: int) -> int:
        return a >> bits

    def masked(self, a: int, mask: int) -> int:
        return a & mask

    def nonzero(self, a: float) -> bool:
        return a != 0

    def integer(self, a: float) -> int:
        assert a.is_integer()
        return int(a)

    def load_integer(self, address: int) -> int:
        return int(np.frombuffer(self.memory.read(address, 8), np.int64)[0])

    def load_double(self, address: int) -> float:
        return float(np.frombuffer(self.memory.read(address, 8), np.float64)[0])

    def variable(self, value: Value) -> Variable:
        return Holder(value)

    def when(self, condition: bool, then: Body, otherwise: Body | None = None) -> None:
        if condition:
            then()
        elif otherwise is not None:
            otherwise()

    def choose(self, number: int, cases: Mapping[int, Body]) -> None:
        if number in cases:
            cases[number]()

    def repeat(self, count: int, body: Callable[[Value], None]) -> None:
        for index in range(count):
            body(index)

    def prefetch(self, address: int, octets: int, locality: int, write: bool = False) -> None:
        """Nothing: it may ask for what is not there."""


class ExactLanes(ScalarLanes):
    """Eight doubles are float64 [8], eight words uint64 [8], a mask is bool [8]."""

    def __init__(self, memory: Memory, q: float, q_inverse: float) -> None:
        self.memory = memory
        super().__init__(q, q_inverse)

    def load(self, address: int, octets: int = 0) -> NDArray[Any]:
        return np.frombuffer(self.memory.read(address + octets, 64), np.float64)

    def load_words(self, address: int, octets: int = 0) -> NDArray[Any]:
        return np.frombuffer(self.memory.read(address + octets, 64), np.uint64)

    def load_repeated(self, address: int, octets: int, count: int) -> NDArray[Any]:
        return np.resize(np.frombuffer(self.memory.read(address + octets, 8 * count), np.uint64), LANES)

    def load_packed(self, address: int, width: int, reach: bool = True) -> NDArray[Any]:
        data = self.memory.read(address, 64 if reach else 8 * width)
        return np.array(
            [int.from_bytes(data[width * k : width * (k + 1)], "little") for k in range(LANES)], np.uint64
        )

    def load_mask(self, address: int) -> NDArray[Any]:
        (octet,) = self.memory.read(address, 1)
        return np.array([octet >> k & 1 for k in range(LANES)], bool)

    def store(self, value: NDArray[Any], address: int, octets: int = 0) -> None:
        assert value.shape == (LANES,)
        self.memory.write(address + octets, value.tobytes())

    def store_packed(self, words: NDArray[Any], address: int, width: int) -> None:
        low = (int(word) % 256**width for word in words)
        self.memory.write(address, b"".join(word.to_bytes(width, "little") for word in low))

    def doubles(self, value: float) -> NDArray[Any]:
        return np.full(LANES, value)

    def splat(self, scalar: float) -> NDArray[Any]:
        if isinstance(scalar, int):
            return np.full(LANES, scalar % 2**64, np.uint64)
        return np.full(LANES, scalar)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def sub(self, a: Any, b: Any) -> Any:
        return a - b

    def mul(self, a: Any, b: Any) -> Any:
        return a * b

    def fma(self, a: Any, b: Any, c: Any) -> NDArray[Any]:
        return np.array([*map(fused, a.tolist(), b.tolist(), c.tolist())])

    def negate(self, a: Any) -> Any:
        return -a

    def less(self, a: Any, b: Any) -> Any:
        return a < b

    def both(self, a: Any, b: Any) -> Any:
        return a & b

    def select(self, mask: Any, a: Any, b: Any) -> NDArray[Any]:
        return np.where(mask, a, b)

    def mask_integer(self, mask: NDArray[Any]) -> int:
        return int(np.packbits(mask, bitorder="little")[0])

    def shuffle(self, a: Any, b: Any, order: Sequence[int]) -> NDArray[Any]:
        return np.concatenate([a, b])[list(order)]

    def permute(self, a: Any, order: NDArray[Any]) -> Any:
        return a[order.astype(np.int64) % LANES]

    def words(self, values: int | Sequence[int]) -> NDArray[Any]:
        return np.array([values] * LANES if isinstance(values, int) else list(values), np.uint64)

    def word_add(self, a: Any, b: Any) -> Any:
        return a + b

    def word_sub(self, a: Any, b: Any) -> Any:
        return a - b

    def word_and(self, a: Any, b: Any) -> Any:
        return a & b

    def word_or(self, a: Any, b: Any) -> Any:
        return a | b

    def word_xor(self, a: Any, b: Any) -> Any:
        return a ^ b

    def shift_left(self, a: Any, bits: int) -> Any:
        return a << np.uint64(bits)

    def shift_right(self, a: Any, bits: int) -> Any:
        return a >> np.uint64(bits)

    def _products(self, a: Any, b: Any) -> list[int]:
        return [(x & LOW_BITS) * (y & LOW_BITS) for x, y in zip(a.tolist(), b.tolist(), strict=True)]

    def madd_low(self, c: Any, a: Any, b: Any) -> Any:
        return c + np.array([product & LOW_BITS for product in self._products(a, b)], np.uint64)

    def madd_high(self, c: Any, a: Any, b: Any) -> Any:
        return c + np.array([product >> 52 for product in self._products(a, b)], np.uint64)

    def words_of(self, a: NDArray[Any]) -> NDArray[Any]:
        return a.view(np.uint64)

    def doubles_of(self, a: NDArray[Any]) -> NDArray[Any]:
        return a.view(np.float64)


class ExactMachine:
    """See `interpreter.Machine`."""

    words = words.Words

    def __init__(self, ifma: bool) -> None:
        self.memory = Memory()
        self.ifma = ifma
        self._lanes: dict[float, Lanes] = {}

    def lanes(self, q: float, q_inverse: float) -> Lanes:
        if q not in self._lanes:
            self._lanes[q] = ExactLanes(self.memory, q, q_inverse)
        return self._lanes[q]
