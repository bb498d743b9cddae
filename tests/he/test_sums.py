"""Sums of products, group after group, on the machines of `test_emitters`; integers are the oracle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securedl.he.params import Parameters, ntt_primes
from securedl.he.vector.engine import Engine
from securedl.he.vector.kernels import dot, keysum
from securedl.he.vector.kernels.records import KeyTerms, Terms

sys.path.insert(0, str(Path(__file__).parent))
from bound_lanes import BoundMachine
from exact_lanes import ExactMachine
from interpreter import Machine, RefusedError, interpreted

pytestmark = pytest.mark.he

#: Positions that two vectors hold.
PLACES = 16
#: What sums, and whether it is given two polynomials of weights.
KINDS = (
    "key words",
    "words pair",
    "words plain",
    "packed pair",
    "packed plain",
    "doubles pair",
    "doubles plain",
)


def longest(kind: str, bits: int) -> int:
    """Terms of a group, as the engine asks for them; doubles of one polynomial are a key's."""
    if kind == "key words":
        return keysum.word_group_length(bits)
    return dot.key_group_length(bits) if kind == "doubles plain" else dot.group_length(bits)


def packed(values: Any, width: int) -> bytes:
    return b"".join(int(value).to_bytes(width, "little") for value in values)


def summed(machine: Machine, kind: str, bits: int, terms: int, length: int, ends: bool) -> tuple[Any, Any]:
    """The sums [polynomials, places] of a kernel, and what they are as integers; and the prime."""
    pair = not kind.endswith("plain")
    width = 8 if "doubles" in kind else -(-bits // 8)
    prime, small = next(ntt_primes(4096, bits)), next(ntt_primes(4096, 20))
    rng = np.random.default_rng(bits)
    xs = rng.integers(-(prime // 2), prime // 2 + 1, (terms, 2, PLACES))
    ws = rng.integers(0, prime, (terms, 2, PLACES))
    if kind == "key words":
        xs = rng.integers(0, 1 << 52, (terms, 1, PLACES))
    if ends:  # on words x + q is what counts
        xs[:] = (1 << 52) - 1 if kind == "key words" else prime // 2
        ws[:] = prime - 1
    if "doubles" in kind:
        ws -= prime // 2
    polynomials = 2 if kind == "key words" else 3 if pair else 2
    out = np.full((polynomials, PLACES), 12345.0)  # what nobody asks to keep
    expected = np.zeros((polynomials, PLACES), dtype=object)
    with interpreted(machine, set()):
        engine = Engine(Parameters("ckks", 4096, (small,), prime), 1)
        register = machine.memory.register
        to, table = register(out), int(engine.chain.ahead[1])
        x_data = np.ascontiguousarray(xs if kind == "key words" else xs.astype(np.float64))
        if kind == "key words":
            blob = b"".join(
                packed(ws[t, p, 8 * block : 8 * block + 8], width)
                for block in range(2)
                for t in range(terms)
                for p in range(2)
            )
        elif "doubles" in kind:
            blob = ws.astype(np.float64).tobytes()
        else:
            blob = b"".join(
                packed(ws[t, p, 8 * block : 8 * block + 8], width)
                for t in range(terms)
                for block in range(2)
                for p in range(2 if pair else 1)
            )
        w_data = np.frombuffer(blob + bytes(64), np.uint8).copy()
        x_at, w_at = register(x_data), register(w_data)
        x_rows = np.array([x_at + x_data[0].nbytes * t for t in range(terms)])
        w_step = len(blob) // terms
        w_rows = np.array([w_at + w_step * t for t in range(terms)])
        q = float(prime)
        if kind == "key words":
            for t in range(terms):
                expected += xs[t].astype(object) * ws[t].astype(object)
            row = KeyTerms(
                xs=register(x_rows), terms=terms, x_at=0, key=w_at, key_step=2 * width * 8 * terms,
                out=to, out_step=8 * PLACES, keep=0, width=width, table=table,
            )  # fmt: skip
            keysum.sum_words(row, length, 0, PLACES, 0, q, 1 / q)
            return out, expected % prime
        for t in range(terms):
            x, w = xs[t].astype(object), ws[t].astype(object)
            expected[0] += x[0] * w[0]
            expected[1] += x[1] * w[0] + (x[0] * w[1] if pair else 0)
            if pair:
                expected[2] += x[1] * w[1]
        some = Terms(
            xs=register(x_rows), ws=register(w_rows), terms=terms, x_at=0, w_at=0, x_step=8 * PLACES,
            w_step=8 * PLACES if "doubles" in kind else 8 * width, out=to, out_step=8 * PLACES, keep=0,
            width=width, start=dot.start_value(bits), table=table,
        )  # fmt: skip
        sums = dot.rows if "doubles" in kind else dot._packed_rows
        more = (1,) if "doubles" in kind else ()
        sums(pair, some, length, *more, 0, PLACES, q, 1 / q)
    return out, expected % prime


def sizes(kind: str) -> list[int]:
    """Of primes, one for each number of octets that a kernel may read."""
    if kind == "key words":
        return [24, 32, 40, 46, 48, 49]
    return [24, 33, 46, 49, 50] if "doubles" in kind else [24, 32, 40, 46, 48]


CASES = [(kind, bits) for kind in KINDS for bits in sizes(kind)]


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_sums_of_several_groups_are_integers(kind: str, bits: int, ends: bool) -> None:
    length = longest(kind, bits)
    machine = ExactMachine("words" in kind)
    got, expected = summed(machine, kind, bits, length + 3, length, ends)
    prime = next(ntt_primes(4096, bits))
    assert not ((got.astype(object) - expected) % prime).any()
    assert np.abs(got).max() <= prime // 2 + 1


@pytest.mark.parametrize(("kind", "bits"), CASES)
def test_groups_are_as_long_as_is_proved(kind: str, bits: int) -> None:
    length = longest(kind, bits)
    summed(BoundMachine("words" in kind), kind, bits, length + 3, length, True)


@pytest.mark.parametrize(
    ("kind", "bits", "times"),
    [
        ("key words", 49, 2),
        ("doubles plain", 50, 2),
        ("doubles pair", 50, 2),
        ("packed pair", 48, 4),
        ("packed plain", 48, 4),
    ],
)
def test_longer_groups_are_refused(kind: str, bits: int, times: int) -> None:
    """Groups of packed weights are half as long as they might be, for speed."""
    length = times * longest(kind, bits)
    with pytest.raises(RefusedError):
        summed(BoundMachine("words" in kind), kind, bits, length, length, True)
