"""The vector evaluator against SEAL: every residue equal, in more than 2,800 comparisons."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tenseal.sealapi as seal

from securedl.he.params import ntt_primes
from securedl.he.record import Record, Shape
from securedl.he.seal import save_stream
from securedl.he.vector import VectorEvaluator

sys.path.insert(0, str(Path(__file__).parent))
from vector_oracle import KINDS, Oracle, make_parameters, oracle, same  # found by path, not by package

pytestmark = pytest.mark.he

T = 65537
#: At every level at least. Over 17 levels of small rings, 6 kinds of residues and 2 schemes that alone is
#: 2,856 comparisons of all residues.
COMPARISONS = 14
#: Steps of the rotations that are compared.
COMPARED = (1, 2, 3, 1000)
SMALL = [  # data primes and special prime at ring 4096, at most 106 bits
    ((28, 25, 20), 32),
    ((26, 24, 22), 30),
    ((40, 20), 44),
    ((35, 31), 38),
    ((48,), 50),
    ((33, 32), 37),
    ((45,), 49),
    ((21, 23, 27), 31),
]
LARGE = [
    (8192, (46, 40, 37, 36), 50),
    (8192, (48, 46, 47), 50),
    (16384, (48, 47, 45, 40, 38, 36, 33, 30, 25), 50),  # nine digits: more than one group of terms
    (16384, (47, 40, 40, 40, 40, 40, 40, 40, 40), 49),  # the same on 52-bit words modulo the special prime
    (16384, (48, 48, 48, 48), 50),
    (32768, (48, 33, 41), 50),
]


def correction(o: Oracle, rng: np.random.Generator) -> int:
    return int(rng.integers(1, T)) if o.params.plain_modulus else 1


def compare_level(o: Oracle, vector: VectorEvaluator, level: int, kind: str, rng: np.random.Generator) -> int:
    """Compare every primitive of an exact evaluator at one level; returns the number of comparisons."""
    reference = o.reference
    bgv = o.params.scheme == "bgv"
    one = correction(o, rng)
    records = {
        "a": o.record(rng, 2, level, kind, one),
        "b": o.record(rng, 2, level, "random", one),
        "c": o.record(rng, 3, level, kind, one),
        "d": o.record(rng, 2, level, "mixed", correction(o, rng)),
        "p": o.record(rng, 1, level, "random" if kind == "zero" else kind, correction(o, rng)),
        "r": o.record(rng, 1, level, "random", correction(o, rng)),
    }
    v = {name: vector.load(record) for name, record in records.items()}
    s = {name: reference.load(record) for name, record in records.items()}
    pairs = [
        (vector.add(v["a"], v["b"]), reference.add(s["a"], s["b"])),
        (vector.add(v["a"], v["c"]), reference.add(s["a"], s["c"])),
        (vector.add(v["a"], v["d"]), reference.add(s["a"], s["d"])),
        (vector.multiply(v["a"], v["d"]), reference.multiply(s["a"], s["d"])),
        (vector.square(v["a"]), reference.square(s["a"])),
        (vector.multiply(v["a"], v["p"]), reference.multiply(s["a"], s["p"])),
        (
            vector.dot([v["a"], v["b"], v["b"]], [v["b"], v["a"], v["b"]]),
            reference.dot([s["a"], s["b"], s["b"]], [s["b"], s["a"], s["b"]]),
        ),
        (
            vector.dot([v["a"], v["b"]], [v["p"], v["p"]]),
            reference.dot([s["a"], s["b"]], [s["p"], s["p"]]),
        ),
        (
            vector.dot([v["a"], v["d"]], [v["p"], v["r"]]),
            reference.dot([s["a"], s["d"]], [s["p"], s["r"]]),
        ),
        (vector.relinearise(v["c"]), reference.relinearise(s["c"])),
        (vector.rotate(v["a"], [1])[0], reference.rotate(s["a"], [1])[0]),
        (vector.rotate(v["a"], [1000])[0], reference.rotate(s["a"], [1000])[0]),
        *zip(vector.rotate(v["a"], [2, 0, 3]), reference.rotate(s["a"], [2, 0, 3]), strict=True),
        (
            vector.rotate_sum([v["a"], v["b"], v["b"]], [3, 0, 2]),
            reference.add(
                reference.add(reference.rotate(s["a"], [3])[0], reference.rotate(s["b"], [2])[0]), s["b"]
            ),
        ),
    ]
    if level:
        down = level - 1
        for name in ("a", "c"):
            lower = reference.mod_switch(s[name], down) if bgv else reference.rescale(s[name])
            pairs.append((vector.rescale(v[name]), lower))
        product = reference.relinearise(s["c"])
        lower = reference.mod_switch(product, down) if bgv else reference.rescale(product)
        pairs.append((vector.relinearise_rescale(v["c"]), lower))
        for name in ("a", "b"):
            found = vector.multiply_rescale(v["a"], v[name])
            product = reference.relinearise(reference.multiply(s["a"], s[name]))
            pairs.append((found, reference.mod_switch(product, down) if bgv else reference.rescale(product)))
        pairs.append((vector.mod_switch(v["a"], 0), reference.mod_switch(s["a"], 0)))
    if not bgv and kind != "zero":
        pairs.append((vector.add(v["a"], v["p"]), reference.add(s["a"], s["p"])))
    for number, (mine, theirs) in enumerate(pairs):
        assert same(vector, mine, reference.dump(theirs)), f"comparison {number}, level {level}"
    return len(pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["ckks", "bgv"])
@pytest.mark.parametrize(("bits", "special"), SMALL)
def test_every_residue_equals_seal(bits: tuple[int, ...], special: int, scheme: str, kind: str) -> None:
    o = oracle(scheme, 4096, bits, special, T if scheme == "bgv" else 0)
    rng, vector = np.random.default_rng(special + len(kind)), o.vector(exact=True)
    for level in reversed(range(len(bits))):
        assert compare_level(o, vector, level, kind, rng) >= COMPARISONS


@pytest.mark.parametrize(
    ("scheme", "ring", "bits", "special"),
    [
        *(("ckks", *chain) for chain in LARGE),
        *(pytest.param("bgv", *one, marks=[pytest.mark.slow] * (one[0] == 16384)) for one in LARGE),
    ],
)
def test_every_residue_equals_seal_at_larger_rings(
    ring: int, bits: tuple[int, ...], special: int, scheme: str
) -> None:
    """Each chain's keys take hundreds of megabytes: they are made here, and kept by nobody."""
    o = Oracle(make_parameters(scheme, ring, bits, special, T if scheme == "bgv" else 0), COMPARED)
    rng, vector = np.random.default_rng(ring), o.vector(exact=True)
    for level, kind in ((len(bits) - 1, "mixed"), (len(bits) - 1, "largest"), (1, "random")):
        assert compare_level(o, vector, level, kind, rng) >= COMPARISONS


@pytest.mark.parametrize("kind", ["largest", "middle", "mixed"])
@pytest.mark.parametrize(("ring", "bits", "special"), [(4096, (48,), 50), (8192, (48, 46, 47), 50)])
def test_sixteen_equal_extreme_terms(ring: int, bits: tuple[int, ...], special: int, kind: str) -> None:
    o = oracle("ckks", ring, bits, special)
    rng = np.random.default_rng(3)
    vector, reference = o.vector(), o.reference
    level = len(bits) - 1
    record, plain = o.record(rng, 2, level, kind), o.record(rng, 1, level, kind)
    for count in (16, 17, 33):
        for weight in (record, plain):
            mine = vector.dot([vector.load(record)] * count, [vector.load(weight)] * count)
            theirs = reference.dot([reference.load(record)] * count, [reference.load(weight)] * count)
            assert same(vector, mine, reference.dump(theirs))


@pytest.mark.parametrize("t", [65537, 40961, next(q for q in ntt_primes(4096, 25))])
def test_bgv_adds_a_plaintext_under_any_correction_factor(t: int) -> None:
    """Whatever its own is: SEAL's plaintexts have none."""
    o = oracle("bgv", 4096, (32, 30), 36, t)
    rng = np.random.default_rng(5)
    vector, reference = o.vector(), o.reference
    evaluator = seal.Evaluator(o.seal.context)
    for level in (1, 0):
        for factor in (1, t - 1, int(rng.integers(2, t))):
            plain = seal.Plaintext()
            values = rng.integers(0, t, 4096)
            seal.BatchEncoder(o.seal.context).encode(values.tolist(), plain)
            ciphertext = o.record(rng, 2, level, "random", factor)
            expected = seal.Ciphertext()
            evaluator.add_plain(o.seal.ciphertext(ciphertext), plain, expected)
            wanted = o.seal.ciphertext_record(save_stream(expected))
            for own in (1, factor, int(rng.integers(2, t))):
                times, lifted = seal.Plaintext(), seal.Plaintext()
                seal.BatchEncoder(o.seal.context).encode([int(v) * own % t for v in values], times)
                evaluator.transform_to_ntt(times, o.seal.parms_ids[level], lifted)
                stored = o.seal.plaintext_record(lifted, level).residues
                operand = Record(Shape(level, 1, 1.0, correction=own), stored)
                mine = vector.add(vector.load(ciphertext), vector.load(operand))
                assert same(vector, mine, wanted)
                theirs = reference.add(reference.load(ciphertext), reference.load(operand))
                assert same(vector, mine, reference.dump(theirs))
    assert reference.params == o.params


def test_seeded_ciphertexts_expand_as_in_seal() -> None:
    for scheme, bits in (("ckks", (46, 40, 37, 36)), ("bgv", (48, 46, 47))):
        o = oracle(scheme, 8192, bits, 50, T if scheme == "bgv" else 0)
        vector = VectorEvaluator(o.params)
        for _ in range(5):
            values = np.arange(8) if scheme == "bgv" else np.arange(8) / 8
            record = o.encrypt(values, 1.0 if scheme == "bgv" else 2.0**30)
            assert record.seed is not None
            assert same(vector, vector.load(record), o.reference.dump(o.reference.load(record)))
