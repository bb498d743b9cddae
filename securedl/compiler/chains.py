"""The smallest modulus chain of BGV in which the noise of a program fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice, permutations
from typing import TypeVar

from securedl.errors import CompileError
from securedl.he.bgv import bgv_parameters
from securedl.he.deep_noise import DeepNoiseEvaluator
from securedl.he.noise import NoiseError, NoiseEvaluator, Sizes
from securedl.he.params import MAX_MODULUS_BITS, MAX_PRIME_BITS, SPECIAL_BITS, Parameters, ntt_primes
from securedl.program.execute import Shown, execute
from securedl.program.products import has_products_behind_matrices
from securedl.program.program import Program

_Made = TypeVar("_Made")
#: Bits of primes above those of t with which a program is made: no chain is smaller.
START_ABOVE = 6
#: Bits of a prime above those of t from which the search starts, and the least.
MOST_ABOVE, LEAST_ABOVE = 24, 1
#: The largest prime beside which there is a special one.
LARGEST_PRIME_BITS = MAX_PRIME_BITS - SPECIAL_BITS


def noise_model(program: Program) -> type[NoiseEvaluator]:
    """Of its segments, or where a product comes behind a matrix that of deep ones."""
    return DeepNoiseEvaluator if has_products_behind_matrices(program) else NoiseEvaluator


def check_noise(program: Program, sizes: Sizes | None = None) -> float:
    """The least bits left anywhere in a program by its noise model.

    Args:
        sizes: other primes than the program's own.

    Raises:
        NoiseError: a value could not be decrypted.
    """
    evaluator = noise_model(program)(sizes or program.params)
    weights = [evaluator.fresh(shape.level, shape.size > 1) for shape in program.weight_shapes]
    query = [evaluator.fresh(program.query.level)] * program.query.tiles
    running, fresh = execute(program, evaluator, weights, query), None
    backs = [back for _, back in program.shown]
    try:
        while True:
            shown: Shown = running.send(fresh)
            back = backs[shown.index]
            fresh = None if back is None else [evaluator.fresh(back.level)] * back.tiles
    except StopIteration:
        return evaluator.left


def first_chain(ring: int, t: int, primes: int) -> Parameters:
    """Smaller than any chain that holds noise, to try a program on.

    Raises:
        CompileError: not even that fits the ring.
    """
    try:
        return bgv_parameters(ring, t, [t.bit_length() + START_ABOVE] * primes)
    except CompileError as error:
        raise _too_small(ring, t) from error


def _too_small(ring: int, t: int) -> CompileError:
    return CompileError(
        f"ring {ring} holds no primes in which the noise fits, for values of {t.bit_length()} bits: use a "
        "larger ring, or fewer bits for weights or refreshed values"
    )


def on_smallest_chain(
    ring: int,
    t: int,
    primes: int,
    attempt: Callable[[Parameters], _Made],
    program_of: Callable[[_Made], Program],
) -> _Made:
    """A program on the smallest chain that the noise model allows it.

    Args:
        primes: how many. attempt: makes it on a chain; the same steps for all with so many primes.

    Raises:
        CompileError: no chain of the ring holds the noise.
    """
    program = program_of(attempt(first_chain(ring, t, primes)))

    def fits(bits: Sequence[int]) -> bool:
        if not enough(ring, t, bits):
            return False
        sizes = Sizes(ring, t, [2.0**size for size in bits], 2.0 ** (max(bits) + SPECIAL_BITS))
        try:
            check_noise(program, sizes)
        except NoiseError:
            return False
        return True

    bits = smallest_chain(fits, t.bit_length(), primes)
    while bits is not None and chain_bits(bits) <= MAX_MODULUS_BITS[ring] and max(bits) <= LARGEST_PRIME_BITS:
        found = attempt(bgv_parameters(ring, t, bits))
        try:
            check_noise(program_of(found))
        except NoiseError as error:  # primes are a little less than powers of two
            bits[error.level] += 1
        else:
            return found
    raise _too_small(ring, t)


def chain_bits(bits: Sequence[int]) -> int:
    """Of all primes and the special one."""
    return sum(bits) + max(bits) + SPECIAL_BITS


def smallest_chain(fits: Callable[[Sequence[int]], bool], plain_bits: int, primes: int) -> list[int] | None:
    """Bits of each prime, the last to remain first; None where noise does not fit the largest ones.

    All shrink in turn, a bit at a time, as long as noise fits; then one grows by a bit where more can be
    spared for it. Of a cubic and a matrix it is the smallest of all chains; growing the prime of the level at
    which noise does not fit took 13 bits more.

    Args:
        fits: whether noise does. plain_bits: of t.
    """
    least = plain_bits + LEAST_ABOVE
    bits = [min(LARGEST_PRIME_BITS, plain_bits + MOST_ABOVE)] * primes
    if min(bits) < least or not fits(bits):
        return None
    shrinking = True
    while shrinking:
        shrinking = False
        for level in reversed(range(primes)):
            smaller = _moved(bits, {level: -1})
            if smaller[level] >= least and fits(smaller):
                bits, shrinking = smaller, True
    while (better := _traded(bits, fits, least)) is not None:
        bits = better
    return bits


def enough(ring: int, t: int, bits: Sequence[int]) -> bool:
    """Whether there are primes of these sizes above t, and one to spare."""
    return all(_above(ring, t, size, number + 1) for size, number in Counter(bits).items())


@lru_cache(maxsize=1024)
def _above(ring: int, t: int, size: int, number: int) -> bool:
    found = list(islice(ntt_primes(ring, size), number))
    return len(found) == number and min(found) > t


def _moved(bits: Sequence[int], by: dict[int, int]) -> list[int]:
    return [size + by.get(level, 0) for level, size in enumerate(bits)]


def _traded(bits: list[int], fits: Callable[[Sequence[int]], bool], least: int) -> list[int] | None:
    """A smaller chain next to this one."""
    levels = range(len(bits))
    trades = [{up: 1, down: -by} for up, down in permutations(levels, 2) for by in (2, 1)]
    trades += [{up: 1, one: -1, two: -1} for up, one, two in permutations(levels, 3) if one < two]
    for trade in trades:
        found = _moved(bits, trade)
        fair = (
            chain_bits(found) < chain_bits(bits) and max(found) <= LARGEST_PRIME_BITS and min(found) >= least
        )
        if fair and fits(found):
            return found
    return None
