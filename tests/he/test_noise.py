"""The noise model of BGV against what SEAL measures: never less than it, and not much more."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import pytest

from securedl.compiler.chains import noise_model, on_smallest_chain
from securedl.he.bgv import bgv_parameters, plain_prime
from securedl.he.deep_noise import DeepNoiseEvaluator
from securedl.he.noise import NoiseError, NoiseEvaluator
from securedl.he.params import Parameters
from securedl.he.record import Shape
from securedl.program.program import Program
from securedl.program.steps import Matvec

sys.path.insert(0, str(Path(__file__).parent))
from exact_bench import MESSAGES, Bench, Measured, Watched, built, convolved

pytestmark = pytest.mark.he

#: What is left at the end of a segment on the smallest chain is at most so many bits.
GENEROUS = 8
#: Of a segment, by name: its parts; of its matrices diagonals, giant step, folds. Weights are ciphertexts,
#: but of those that are said to be plain.
SEGMENTS = {
    "affine": (("affine",), 16, 4, 0),
    "one product": (("affine",), 1, 1, 0),
    "folds": (("affine",), 8, 4, 3),
    "square, affine": (("square", "affine"), 16, 4, 0),
    "affine, square": (("affine", "square"), 16, 4, 0),
    "cubic, affine": (("cubic", "affine"), 16, 8, 1),
    "affine, square, affine": (("affine", "square", "affine"), 8, 4, 2),
    "plain affine": (("affine",), 16, 4, 0),
    "plain cubic, affine": (("cubic", "affine"), 16, 8, 1),
}
#: Programs without refreshes, the same way.
DEEP = {
    "squares": (("affine", "square", "affine", "square", "affine"), 8, 4, 1),
    "fourth powers": (("affine", "square", "square", "affine", "square", "square", "affine"), 8, 4, 1),
    "plain squares": (("affine", "square", "affine", "square", "affine"), 8, 4, 1),
}
SAMPLES, KEYS = 128, 20
#: The smallest chain of fourth powers for the model of segments: bits above those of t.
SMALL_CHAIN = (19, 19, 19, 20, 20, 19, 20, 4)


def modulus(ring: int, bits: int) -> int:
    """A plain modulus of so many bits, or the smallest one."""
    return plain_prime(ring, 1 << (bits - 1))


def check(seen: Iterable[Measured]) -> None:
    """What SEAL measures never exceeds the model, and something is left."""
    for one in seen:
        assert one.left > 0, one
        assert one.seen <= one.model, one


def one_by_one(params: Parameters, evaluator: str, kind: str, seed: int) -> None:
    """Each operation by itself, from the top level down."""
    bench = Bench(params, (64, 128, 192), seed)
    e, shape = Watched(bench, evaluator), Shape(params.levels, 2, 1.0, seeded=True)
    new = partial(e.given, shape=shape)
    x, y = (new(bench.message(kind)) for _ in range(2))
    turned = [x, *e.rotate(x, [64, 128, 192])]
    for xs in ([x], turned, 8 * turned):
        e.mod_switch(e.rescale(e.relinearise(e.dot(xs, [new(bench.message(kind)) for _ in xs]))), 0)
    for product in (e.square(x), e.square(turned[1]), e.multiply(turned[1], y), e.multiply(*turned[1:3])):
        e.fold(e.rescale(e.relinearise(product)), 64)
    e.mod_switch(e.add(turned[1], turned[2]), 0)
    plain = partial(e.given, shape=Shape(params.levels, 1, 1.0, correction=31337))
    for xs in ([x], [turned[1]], 8 * turned):
        product = e.dot(xs, [plain(bench.message(kind)) for _ in xs])
        e.fold(e.rescale(e.add(product, plain(bench.message(kind)))), 64)
    check(e.seen)


def program_on(params: Parameters, name: str) -> Program:
    """A segment, or a program without refreshes."""
    parts, diagonals, giant, folds = {**SEGMENTS, **DEEP}[name]
    return built(params, parts, SAMPLES, diagonals, giant, folds, not name.startswith("plain"))


@lru_cache
def smallest(name: str, ring: int, bits: int) -> Program:
    """On the chain that plans would have."""
    primes = 1 + sum({"affine": 1, "square": 1, "cubic": 2}[part] for part in {**SEGMENTS, **DEEP}[name][0])
    t = modulus(ring, bits)
    return on_smallest_chain(ring, t, primes, partial(program_on, name=name), lambda program: program)


def in_segments(name: str, ring: int, bits: int, evaluator: str, kind: str, seed: int) -> None:
    """A whole segment; its end is not much better than the model.

    Every program of a plan ends in a matrix. A product by itself is a square of the wave, 10 bits
    less with most keys than with one of 2^40.
    """
    program = smallest(name, ring, bits)
    e = Watched(Bench(program.params, program.rotations, seed), evaluator, noise_model(program))
    e.run(program, kind)
    check(e.seen)
    if isinstance(program.steps[-1], Matvec):
        assert e.seen[-1].left < e.seen[-1].modelled + GENEROUS, e.seen[-1]


@pytest.mark.parametrize(
    ("name", "evaluator"), [("squares", "seal"), ("fourth powers", "vector"), ("plain squares", "vector")]
)
def test_products_behind_matrices_make_no_more(name, evaluator):
    in_segments(name, 16384, 24, evaluator, "uniform", 0)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(KEYS))
def test_products_behind_matrices_with_many_keys(key):
    for name in DEEP:
        in_segments(name, 16384, 24, ("vector", "seal")[key % 2], "uniform", key)


@pytest.mark.slow
def test_the_model_of_segments_is_exceeded_there():
    """With most keys: that of one of eight is what the other model is for."""
    params = bgv_parameters(16384, modulus(16384, 24), [24 + more for more in SMALL_CHAIN])
    program = program_on(params, "fourth powers")
    assert noise_model(program) is DeepNoiseEvaluator
    runs = [Watched(Bench(params, program.rotations, key), "vector") for key in range(8)]
    for run in runs:
        run.run(program, "uniform")
    assert any(one.seen > one.model for run in runs for one in run.seen)


def room(ring: int, bits: int) -> Parameters:
    """A chain of two primes that holds a square of what was rotated."""
    above = {4096: 17, 8192: 20, 16384: 21}[ring]
    return bgv_parameters(ring, modulus(ring, bits), [bits + above, bits + above - 1])


@pytest.mark.parametrize(
    ("ring", "bits", "evaluator"), [(4096, 17, "vector"), (8192, 26, "seal"), (8192, 21, "vector")]
)
def test_no_operation_makes_more(ring, bits, evaluator):
    one_by_one(room(ring, bits), evaluator, "uniform", 0)


@pytest.mark.parametrize(
    ("name", "ring", "bits", "evaluator"),
    [
        ("affine", 4096, 20, "vector"),
        ("folds", 4096, 17, "seal"),
        ("square, affine", 8192, 30, "vector"),
        ("square, affine", 8192, 26, "seal"),
        ("affine, square", 8192, 17, "vector"),
        ("cubic, affine", 8192, 28, "vector"),
        ("affine, square, affine", 16384, 27, "vector"),
        ("plain affine", 4096, 17, "seal"),
        ("plain affine", 8192, 26, "vector"),
        ("plain cubic, affine", 8192, 27, "vector"),
    ],
)
def test_no_segment_makes_more(name, ring, bits, evaluator):
    in_segments(name, ring, bits, evaluator, "uniform", 0)


#: Of convolutions: tiles, answers, and into how many lanes these are merged; bits of the two primes above t.
CONVOLUTIONS = {"one": (1, 1, 1, (9, 8)), "merged": (4, 7, 8, (9, 9)), "wide": (16, 32, 32, (9, 11))}


def in_coefficients(name: str, ring: int, bits: int, evaluator: str, kind: str, seed: int) -> None:
    """A convolution; its end is not much better than the model."""
    inputs, answers, merge, above = CONVOLUTIONS[name]
    params = bgv_parameters(ring, modulus(ring, bits), [bits + more for more in above])
    program = convolved(params, inputs, answers, merge)
    e = Watched(Bench(params, program.rotations, seed), evaluator)
    e.run(program, kind)
    check(e.seen)
    assert e.seen[-1].left < e.seen[-1].modelled + GENEROUS, e.seen[-1]


@pytest.mark.parametrize(
    ("name", "ring", "bits", "evaluator", "kind"),
    [
        ("one", 4096, 20, "vector", "small"),
        ("merged", 4096, 22, "seal", "small"),
        ("wide", 8192, 25, "vector", "uniform"),
        ("wide", 4096, 22, "vector", "largest"),
    ],
)
def test_no_convolution_makes_more(name, ring, bits, evaluator, kind):
    in_coefficients(name, ring, bits, evaluator, kind, 0)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(KEYS))
def test_convolutions_of_many_keys(key):
    kind, evaluator = [*MESSAGES][key % len(MESSAGES)], ("vector", "seal")[key // len(MESSAGES) % 2]
    for name in CONVOLUTIONS:
        for ring, bits in (4096, 22), (8192, 27):
            in_coefficients(name, ring, bits, evaluator, kind, key)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(KEYS))
def test_of_many_keys(key):
    """Each with other messages, on one evaluator and the other in turn."""
    kind, evaluator = [*MESSAGES][key % len(MESSAGES)], ("vector", "seal")[key // len(MESSAGES) % 2]
    for ring, bits in [[(4096, 17), (8192, 26), (16384, 17)], [(8192, 17), (16384, 26)]][key % 2]:
        one_by_one(room(ring, bits), evaluator, kind, key)
        for name in SEGMENTS:
            if ring > 4096 or ("square" not in name and "cubic" not in name):
                in_segments(name, ring, bits, evaluator, kind, key)
    for name, ring, bits in ("square, affine", 8192, 30), ("affine, square", 16384, 28):
        in_segments(name, ring, bits, evaluator, kind, key)


def test_a_model_that_says_less_is_noticed():
    """Once the structured part is left out."""
    params = room(8192, 20)
    bench = Bench(params, (64,))
    e = bench.evaluator("vector")
    shape, model = Shape(1, 2, 1.0, seeded=True), NoiseEvaluator(params)
    x = bench.given(e, bench.message("uniform"), shape)
    (turned,), (said,) = e.rotate(x, [64]), model.rotate(model.fresh(1), [64])
    square, alone = e.square(turned), model.square(replace(said, structured=0.0))
    check([bench.measured(e.dump(square), model.square(said), "square")])
    with pytest.raises(AssertionError):
        check([bench.measured(e.dump(square), alone, "square")])


def test_noise_that_fits_no_more_is_refused():
    params = bgv_parameters(8192, modulus(8192, 20), [30, 30])
    model = NoiseEvaluator(params)
    product = model.square(model.fresh(1))
    assert 0 < model.left < 8
    with pytest.raises(NoiseError, match=r"takes 69\.\d of 59\.0 bits at level 1") as refused:
        model.square(model.rotate(model.fresh(1), [64])[0])
    assert refused.value.level == 1
    assert product.size == 3
