"""Every emitter on two machines of the tests: one computes and must give SEAL's residues, one proves bounds.

The vector evaluator runs on them as it is, kernels and all (`interpreter`). Operations are few, but each
emitter is in one of them; one that none reaches fails `test_every_emitter_runs_on_both`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from securedl.he.arithmetic import merge_step
from securedl.he.params import Parameters, ntt_primes
from securedl.he.record import Record, Shape, pack
from securedl.he.roots import bit_reversal, minimal_root
from securedl.he.vector import VectorEvaluator
from securedl.he.vector.engine import Engine
from securedl.he.vector.kernels import (
    lanes,
    llvm,
    ntt_doubles,
    ntt_words_forward,
    ntt_words_inverse,
    words,
)
from securedl.he.vector.kernels.lanes import LOW_BITS
from securedl.he.vector.kernels.ntt_words import NEVER, RADIX_OCTETS
from securedl.he.vector.kernels.padding import PAD, block_octets, padded, padded_octets
from securedl.he.vector.kernels.words import HEADER_OCTETS

sys.path.insert(0, str(Path(__file__).parent))
from bound_lanes import BoundMachine, Doubles
from exact_lanes import ExactMachine, fused
from interpreter import Machine, RefusedError, emitter_name, interpreted
from vector_oracle import Oracle, oracle  # found by path, not by package

pytestmark = pytest.mark.he

T = 65537
#: Scheme, sizes of a chain's primes at ring 4096, whether the processor has arithmetic on words, and which
#: operations: as few as reach every emitter, or all of them.
FEW = [
    (
        "ckks",
        (28, 25),
        49,
        True,
        (
            "dot packed",
            "dot packed plain",
            "relinearise and rescale",
            "rescale",
            "rotate",
        ),
    ),
    (
        "ckks",
        (25, 24),
        50,
        False,
        (
            "relinearise and rescale",
            "dot packed",
            "dot packed plain",
            "dot",
            "dot plain",
            "merge",
            "merged products",
        ),
    ),
    (
        "bgv",
        (33,),
        37,
        False,
        (
            "add of two corrections",
            "add of two sizes",
            "square",
            "multiply plain",
            "rotate",
        ),
    ),
    ("bgv", (33,), 37, True, ("sum of rotations", "multiply", "unpack", "merge", "merged products")),
]
ALL = [
    ("ckks", (28, 25), 49, True, ()),
    ("ckks", (48,), 50, True, ()),
    ("ckks", (48,), 50, False, ()),
    ("bgv", (33, 31), 37, True, ()),
    ("bgv", (33, 31), 37, False, ()),
    ("bgv", (46,), 50, False, ()),
]
CHAINS = [*FEW, *(pytest.param(*chain, marks=pytest.mark.slow) for chain in ALL)]
RINGS = (4096, 8192, 16384, 32768)
Operation = Callable[[Any], Any]

#: Emitters that each machine ran.
COMPUTED: set[str] = set()
PROVED: set[str] = set()


@dataclass
class Case:
    """One chain with SEAL's oracle, and the names of what is asked of an evaluator, or none for all.

    `ends`: every residue is 0 or q - 1, by turns, so that eight have the least interval that always holds.
    """

    o: Oracle
    names: tuple[str, ...]
    ends: bool = False

    def record(self, size: int, seed: int, correction: int = 1) -> Record:
        top = len(self.o.params.primes) - 1
        if not self.ends:
            rng = np.random.default_rng(seed)
            return self.o.record(rng, size, top, "mixed" if seed % 2 else "random", correction)
        primes = np.array(self.o.params.primes, dtype=np.uint64)[:, None]
        residues = (primes - np.uint64(1)) * (np.arange(4096, dtype=np.uint64) % np.uint64(2))
        return Record(Shape(top, size, 1.0, correction=correction), np.stack([residues] * size))

    def operations(self) -> list[tuple[str, Operation]]:
        """What SEAL does too; each takes an evaluator."""
        return [(name, do) for name, do in self._operations() if not self.names or name in self.names]

    def shared(self) -> list[tuple[str, Operation]]:
        """What the vector evaluator alone computes so."""
        a, b = self.record(2, 1), self.record(2, 2)
        name = "sum of rotations"

        def do(e: Any) -> Any:
            return e.rotate_sum([e.load(a), e.load(b), e.load(b)], [3, 3, 0])

        return [(name, do)] if not self.names or name in self.names else []

    def _operations(self) -> Iterator[tuple[str, Operation]]:
        bgv, top = self.o.params.scheme == "bgv", len(self.o.params.primes) - 1
        a, b, c, p = (self.record(size, seed) for size, seed in ((2, 1), (2, 2), (3, 3), (1, 5)))
        other = self.record(2, 7, correction=7 if bgv else 1)

        def weight(e: Any, record: Record) -> Any:
            return e.load_weight(record) if isinstance(e, VectorEvaluator) else e.load(record)

        def wire(e: Any, record: Record) -> Any:
            if isinstance(e, VectorEvaluator):
                return e.load_packed(pack(self.o.params, record), record.shape)
            return e.load(record)

        yield "add", lambda e: e.add(e.load(a), e.load(b))
        yield "add of two corrections", lambda e: e.add(e.load(a), e.load(other))
        yield "add of two sizes", lambda e: e.add(e.load(a), e.load(c))
        yield "multiply", lambda e: e.multiply(e.load(a), e.load(b))
        yield "square", lambda e: e.square(e.load(a))
        yield "multiply plain", lambda e: e.multiply(e.load(a), e.load(p))
        yield "dot", lambda e: e.dot([e.load(a)] * 5, [e.load(a)] * 5)
        yield "dot plain", lambda e: e.dot([e.load(a)], [e.load(p)])
        yield "dot packed", lambda e: e.dot([e.load(a)] * 9, [weight(e, a)] * 9)
        yield "dot packed plain", lambda e: e.dot([e.load(a)], [wire(e, p)])
        yield "unpack", lambda e: e.add(weight(e, a), e.load(b))
        yield "relinearise", lambda e: e.relinearise(e.load(c))
        yield "rotate", lambda e: e.rotate(e.load(a), [3])[0]
        yield "merge", lambda e: e.merge([e.load(a), e.load(b)], 2)
        yield (
            "merged products",  # in place
            lambda e: e.merged_products(
                [([e.load(a)], [e.load(b)]), ([e.load(b), e.load(a)], [e.load(b), e.load(b)])], 2
            )[0],
        )
        if top:
            yield "rescale", lambda e: e.mod_switch(e.load(a), 0) if bgv else e.rescale(e.load(a))
            yield (
                "relinearise and rescale",
                lambda e: (
                    (lambda r: e.mod_switch(r, 0) if bgv else e.rescale(r))(e.relinearise(e.load(c)))
                    if not isinstance(e, VectorEvaluator)
                    else e.relinearise_rescale(e.load(c))
                ),
            )

    def vector(self) -> VectorEvaluator:
        """With the rotation keys that are needed: keys take the longest to load."""
        evaluator = VectorEvaluator(self.o.params)
        steps = (
            [3, merge_step(4096, 2)]
            if not self.names or {"merge", "merged products"} & {*self.names}
            else [3]
        )
        evaluator.set_keys(self.o.relinearisation, {step: self.o.rotations[step] for step in steps})
        return evaluator


def case(
    scheme: str, bits: tuple[int, ...], special: int, names: tuple[str, ...], ends: bool = False
) -> Case:
    return Case(oracle(scheme, 4096, bits, special, T if scheme == "bgv" else 0), names, ends)


def differing(found: Case, ifma: bool, seen: set[str]) -> list[str]:
    """Names of the operations whose residues are not SEAL's, or the compiled kernels' where SEAL has none."""
    reference, compiled = found.o.reference, found.vector()
    expected = {name: reference.dump(do(reference)) for name, do in found.operations()}
    expected |= {name: compiled.dump(do(compiled)) for name, do in found.shared()}
    with interpreted(ExactMachine(ifma), seen):
        vector = found.vector()
        got = {name: vector.dump(do(vector)) for name, do in (*found.operations(), *found.shared())}
    assert expected
    return [
        name
        for name, record in expected.items()
        if got[name].correction != record.correction
        or got[name].residues.tobytes() != record.residues.tobytes()
    ]


def prove(found: Case, ifma: bool, seen: set[str]) -> None:
    """Raises RefusedError if an operation may lose something, or leaves a residue that is not centred."""
    machine = BoundMachine(ifma)
    row = 8 * 4096
    with interpreted(machine, seen):
        vector = found.vector()
        for name, do in (*found.operations(), *found.shared()):
            out = do(vector)
            for k in range(out.size * (out.level + 1)):
                q = found.o.params.primes[k % (out.level + 1)]
                for at in range(out.at + row * k, out.at + row * (k + 1), 64):
                    if machine.memory.stored[at][1].size > q // 2 + 1:
                        raise RefusedError(f"{name} leaves {machine.memory.stored[at][1]} modulo {q}")
            vector.dump(out)


# --- whole operations ------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "bits", "special", "ifma", "names"), CHAINS)
def test_computed_residues_are_seals(
    scheme: str, bits: tuple[int, ...], special: int, ifma: bool, names: tuple[str, ...]
) -> None:
    assert differing(case(scheme, bits, special, names), ifma, COMPUTED) == []


@pytest.mark.parametrize(("scheme", "bits", "special", "ifma", "names"), CHAINS)
def test_no_residues_can_break_a_bound(
    scheme: str, bits: tuple[int, ...], special: int, ifma: bool, names: tuple[str, ...]
) -> None:
    prove(case(scheme, bits, special, names, ends=True), ifma, PROVED)


# --- transforms of every ring ----------------------------------------------------------------------


class Transforms:
    """Transforms modulo one prime by a machine, between a padded row and a plain one."""

    def __init__(self, machine: Machine, ring: int, prime: int) -> None:
        small = next(ntt_primes(ring, 20))
        self.engine = Engine(Parameters("ckks", ring, (small,), prime), 1)
        self.ring, self.prime = ring, prime
        self.how = int(self.engine.chain.methods[1])
        self.tables = int(self.engine.chain.ahead[1]), int(self.engine.chain.back[1])
        self.padded = np.full(padded_octets(ring) // 8, np.nan)
        self.plain = np.full(ring, np.nan)
        self.at = machine.memory.register(self.padded), machine.memory.register(self.plain)

    def forward(self) -> None:
        """The padded row to the plain one."""
        self.engine.forward(*self.at, 1)

    def inverse(self) -> None:
        """The plain row to the padded one."""
        self.engine.inverse(self.at[1], self.at[0], 1)

    def coefficients(self) -> NDArray[Any]:
        """The padded row without its padding."""
        values = block_octets(self.ring) // 8
        return self.padded.reshape(-1, values + PAD // 8)[:, :values].ravel()

    def root(self, index: int) -> int:
        """Of value `index` in SEAL's order."""
        psi = minimal_root(self.prime, self.ring)
        return pow(psi, 2 * int(bit_reversal(self.ring.bit_length() - 1)[index]) + 1, self.prime)

    def disagree(self, coefficients: NDArray[Any], values: NDArray[Any], indices: Iterable[int]) -> list[int]:
        """Where values are not those of the polynomial at SEAL's roots, by Horner's rule on integers."""
        found = []
        for index in indices:
            root, value = self.root(index), 0
            for c in reversed(coefficients.tolist()):
                value = (value * root + int(c)) % self.prime
            if (value - int(values[index])) % self.prime:
                found.append(index)
        return found


@contextmanager
def transforms(machine: Machine, ring: int, bits: int, seen: set[str]) -> Iterator[Transforms]:
    """Modulo the largest prime of so many bits; meanwhile kernels and emitters are plain functions."""
    with interpreted(machine, seen):
        yield Transforms(machine, ring, next(ntt_primes(ring, bits)))


def transform(ring: int, bits: int, ifma: bool, seen: set[str]) -> list[int]:
    """There and back on the machine that computes: indices of wrong values, and of wrong coefficients."""
    rng = np.random.default_rng(bits)
    with transforms(ExactMachine(ifma), ring, bits, seen) as t:
        given = rng.integers(-(2**49), 2**49, ring)
        t.padded[:] = padded(given.astype(np.float64))
        t.forward()
        wrong = t.disagree(given, t.plain, [0, 1, ring // 2 + 3, ring - 1])
        t.inverse()
        return [*wrong, *np.flatnonzero((t.coefficients() - given) % t.prime)]


@pytest.mark.parametrize("ring", RINGS[:2])
@pytest.mark.parametrize(("bits", "ifma"), [(46, True), (48, True), (49, True), (50, False)])
def test_transforms_are_evaluations(ring: int, bits: int, ifma: bool) -> None:
    assert transform(ring, bits, ifma, COMPUTED) == []


@pytest.mark.parametrize(("ring", "depth"), [(16384, 3), (32768, 4)])
@pytest.mark.parametrize(("bits", "ifma"), [(46, True), (49, True), (50, False)])
def test_blocks_of_large_transforms_are_evaluations(ring: int, depth: int, bits: int, ifma: bool) -> None:
    """128 values of a closing pass, in blocks that are polynomials each; and back, times their length."""
    rng, size, part = np.random.default_rng(bits), 8 << depth, 5
    machine = ExactMachine(ifma)
    with transforms(machine, ring, bits, COMPUTED) as t:
        q, base = float(t.prime), 128 * part
        given = rng.integers(-(t.prime // 2), t.prime // 2, 128)
        given[-1] = -(t.prime // 2)
        data = t.plain[base : base + 128]
        at = t.at[1] + 8 * base
        ahead, back = t.tables
        if ifma:
            centre = (1 << 51) // t.prime * t.prime
            data[:] = given + float(2**52 + centre)  # the bits of 2^52 and a word
            ntt_words_forward.close_words(at, part, ahead, ring, q, 1 / q, t.how)
            data[:] = (data.view(np.int64) & LOW_BITS) - centre
            opening = {(3, False): "opening64", (3, True): "opening64_often"}.get(
                (depth, t.how != NEVER), "opening128_often" if t.how != NEVER else "opening128"
            )
            mirrored = HEADER_OCTETS + RADIX_OCTETS * 17 + 2048 * (ring // 128 - 1 - part)
            kernel, constants = getattr(ntt_words_inverse, opening), [back + mirrored, back]
        else:
            tables = 128 + 128 * 16 + 1664 * part
            data[:] = given
            closing = ntt_doubles._closing64 if depth == 3 else ntt_doubles._closing128
            closing(at, ahead + tables, q, 1 / q)
            kernel, constants = (
                ntt_doubles._opening64 if depth == 3 else ntt_doubles._opening128,
                [back + tables],
            )
        for first in range(0, 128, size):
            found = np.concatenate([np.zeros(base + first), data[first : first + size]])
            assert (
                t.disagree(given[first : first + size], found, [base + first, base + first + size - 1]) == []
            )
        data[:] = (data + t.prime // 2) % t.prime - t.prime // 2
        out = np.zeros(128)
        kernel(at, machine.memory.register(out), *constants, q, 1 / q)
        back_again = out.view(np.int64) & LOW_BITS if ifma else out.astype(np.int64)
        assert not ((back_again - given * size) % t.prime).any()


def prove_transform(ring: int, bits: int, ifma: bool, seen: set[str]) -> None:
    """There and back on the machine that proves, of integers up to 2^49; raises RefusedError."""
    machine = BoundMachine(ifma)
    with transforms(machine, ring, bits, seen) as t:
        for at in range(t.at[0], t.at[0] + padded_octets(ring), 64):
            machine.memory.stored[at] = 64, Doubles(-(2**49), 2**49)
        t.forward()
        t.inverse()
        for name, start, octets, most in (
            ("values", t.at[1], 8 * ring, t.prime // 2 + 1),
            ("coefficients", t.at[0], block_octets(ring), t.prime // 2),
        ):
            for at in range(start, start + octets, 64):
                if machine.memory.stored[at][1].size > most:
                    raise RefusedError(f"{name} {machine.memory.stored[at][1]} modulo {t.prime}")


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(
    ("bits", "ifma"),
    [
        *((bits, True) for bits in (46, 48, 49)),
        (50, False),
        *(pytest.param(bits, True, marks=pytest.mark.slow) for bits in (24, 47, 50)),
        *(pytest.param(bits, False, marks=pytest.mark.slow) for bits in (24, 48, 49)),
    ],
)
def test_no_values_can_break_a_transforms_bound(ring: int, bits: int, ifma: bool) -> None:
    prove_transform(ring, bits, ifma, PROVED)


# --- every emitter, and none that is wrong ---------------------------------------------------------


def test_the_machine_rounds_once() -> None:
    """Python rounds integers, and quotients of integers, correctly."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-(2**53), 2**53, (2, 1000)).astype(np.float64)
    for b in (rng.integers(-(2**53), 2**53, 1000).astype(np.float64), rng.normal(size=1000) / 2**50):
        for x, y, z in zip(whole[0].tolist(), b.tolist(), whole[1].tolist(), strict=True):
            over, under = y.as_integer_ratio()
            assert fused(x, y, z) == (int(x) * over + int(z) * under) / under


def test_every_emitter_runs_on_both() -> None:
    """The tests before this one run them all: an emitter that is new needs an operation that reaches it."""
    names = {emitter_name(emitter) for emitter in llvm.EMITTERS}
    if COMPUTED and PROVED:  # else only some tests were asked for
        assert names - COMPUTED == set()
        assert names - PROVED == set()


def forgetful_product(self: lanes.Lanes, x: Any, w: Any) -> Any:
    high = self.mul(x, w)
    return self.fma(self.negate(self.quotient(high)), self.q, high)


def crossed_pair(self: Any, x: Any, y: Any, w: Any, quotient: Any) -> Any:
    total = self.words.product_less(y, w, quotient, x)
    return self.words.sub(self.words.add(x, x), total), total


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "bits", "ifma"),
    [
        (lanes.Lanes, "product", forgetful_product, 50, False),
        (ntt_doubles, "_QUARTERS", ntt_doubles._HALVES, 50, False),
        (ntt_words_forward._Forward, "pair", crossed_pair, 46, True),
        (ntt_words_inverse, "_HALVES_BACK", ntt_words_inverse._QUARTERS_BACK, 49, True),
        (ntt_words_inverse, "LAST", words.SHRINK, 46, True),
    ],
)
def test_the_machine_that_computes_sees_wrong_emitters(
    owner: Any, name: str, wrong: Any, bits: int, ifma: bool
) -> None:
    with patch.object(owner, name, wrong):
        assert transform(4096, bits, ifma, set()) != []


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "bits", "ifma"),
    [
        (ntt_doubles._Inverse, "LIMIT", 8.0, 50, False),
        (ntt_doubles, "sweep", lambda *arguments: None, 50, False),
        (ntt_words_forward._Forward, "reduce", lambda self, x, which: None, 49, True),
        (ntt_words_inverse._Inverse, "shrink", lambda self, index, most: None, 46, True),
        (ntt_words_inverse._Inverse, "PRODUCT", 1, 49, True),
    ],
)
def test_the_machine_that_proves_refuses_wrong_emitters(
    owner: Any, name: str, wrong: Any, bits: int, ifma: bool
) -> None:
    with patch.object(owner, name, wrong), pytest.raises(RefusedError):
        prove_transform(4096, bits, ifma, set())


@pytest.mark.parametrize(("q", "fits"), [(2**50 - 8191, True), (2**50 - 1, False)])
def test_inverses_of_fifty_bits_need_what_primes_are(q: int, fits: bool) -> None:
    """Sums reach 4.0000 q: 2^52 is more than that only because a prime is 1 modulo 8192."""
    machine = BoundMachine(False)
    data, twiddles = np.full((16, 8), np.nan), np.full(16, float(q // 2))
    with interpreted(machine, set()):
        at, table = machine.memory.register(data), machine.memory.register(twiddles)
        for k in range(16):
            machine.memory.stored[at + 64 * k] = 64, Doubles(-(q // 2) - 1, q // 2 + 1)
        if fits:
            ntt_doubles._inverse16(at, 64, table, float(q), 1.0 / q)
        else:
            with pytest.raises(RefusedError):
                ntt_doubles._inverse16(at, 64, table, float(q), 1.0 / q)
