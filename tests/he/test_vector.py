"""The vector evaluator's other promises: shared work, threads, errors, memory, portability."""

from __future__ import annotations

import gc
import hashlib
import os
import stat
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from numba.core.sigutils import normalize_signature

from securedl.errors import CompileError, FormatError, InputError
from securedl.he.arithmetic import Group
from securedl.he.ckks import ckks_parameters
from securedl.he.params import Parameters, ntt_primes
from securedl.he.record import HEADER, Shape, pack
from securedl.he.roots import bit_reversal, minimal_root
from securedl.he.vector import VectorEvaluator, warm_up
from securedl.he.vector.correction import balance
from securedl.he.vector.kernels import cache
from securedl.he.vector.kernels.buffers import Buffers, address
from securedl.he.vector.kernels.cache import KEEP_SECONDS, forget_old, kernel_folder, source_hash
from securedl.he.vector.kernels.dot import group_length, key_group_length
from securedl.he.vector.kernels.lanes import ROUNDING
from securedl.he.vector.kernels.ntt_words import LARGEST_BITS, NEVER, OFTEN, TWICE
from securedl.he.vector.kernels.seed import expand

sys.path.insert(0, str(Path(__file__).parent))
from vector_oracle import KINDS, STEPS, Oracle, make_parameters, oracle, same  # found by path, not by package

pytestmark = pytest.mark.he

T = 65537
ROOT = Path(__file__).parents[2]


def chains() -> list[Oracle]:
    return [oracle("ckks", 8192, (46, 38, 38, 38), 50), oracle("bgv", 8192, (46, 38, 38, 38), 50, T)]


def error(o: Oracle, values: np.ndarray, expected: np.ndarray) -> float:
    if o.params.scheme == "bgv":
        return float(np.count_nonzero(values != expected))
    return float(np.sqrt(np.mean((values - expected) ** 2)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("o", chains(), ids=lambda o: o.params.scheme)
def test_shared_work_decrypts_as_well_as_seal(o: Oracle, threads: int) -> None:
    """Hoisted rotations and summed rotations: at most 1.5 times SEAL's error; no error in BGV.

    The errors of all rotations are taken together (at most 1.14 times in 188 sets of keys): a few slots hold
    most of the error, and for one rotation alone the ratio passes 1.5 with one set of keys in a hundred.
    """
    rng = np.random.default_rng(7)
    bgv = o.params.scheme == "bgv"
    values = rng.integers(0, T, 8192) if bgv else rng.uniform(-1, 1, 4096)
    record = o.encrypt(values, 1.0 if bgv else 2.0**38)
    vector, reference = o.vector(threads), o.reference
    mine, theirs = vector.load(record), reference.load(record)

    def turned(step: int) -> np.ndarray:
        halves = values.reshape(2, -1) if bgv else values[None]
        return np.roll(halves, -step, axis=1).ravel()

    rotated, exact = vector.rotate(mine, [0, *STEPS]), reference.rotate(theirs, [0, *STEPS])
    errors = [
        [
            error(o, o.decrypt(vector.dump(a)), turned(step)),
            error(o, o.decrypt(reference.dump(b)), turned(step)),
        ]
        for step, a, b in zip([0, *STEPS], rotated, exact, strict=True)
    ]
    found, wanted = np.linalg.norm(errors, axis=0)
    assert found <= 1.5 * wanted
    total = vector.rotate_sum([mine] * (len(STEPS) + 1), [0, *STEPS])
    expected = np.sum([turned(step) for step in (0, *STEPS)], axis=0)
    whole = reduce(reference.add, exact)
    expected = expected % T if bgv else expected
    ours = error(o, o.decrypt(vector.dump(total)), expected)
    assert ours <= 1.5 * error(o, o.decrypt(reference.dump(whole)), expected)


def large() -> Oracle:
    """One key switch of this chain is enough work for several threads; nobody keeps its keys."""
    return Oracle(make_parameters("ckks", 16384, (46, 36, 36, 36, 36, 36), 48), (1, 2, 3, 5, 8, 64))


@pytest.mark.parametrize("chain", ["ckks-8192", "bgv-8192", "ckks-16384"])
def test_threads_change_no_residue(chain: str) -> None:
    rng = np.random.default_rng(8)
    o = large() if chain == "ckks-16384" else chains()[chain == "bgv-8192"]
    level = len(o.params.primes) - 1
    records = [o.record(rng, 2, level) for _ in range(6)]
    cubic = o.record(rng, 3, level)

    def results(vector: VectorEvaluator) -> list[bytes]:
        xs = [vector.load(record) for record in records]
        handles = [
            vector.dot(xs[:3], xs[3:]),
            vector.relinearise(vector.load(cubic)),
            vector.rescale(xs[0]),
            *vector.rotate(xs[1], [1, 2, 3]),
            *vector.rotate(xs[1], [5]),
            *vector.rotate(xs[2], [1, 2, 3, 64]),
            vector.rotate_sum(xs, [1, 2, 3, 5, 8, 64]),
            vector.rotate_sum(xs[:4], [1, 0, 3, 0]),
            vector.giant_steps(
                [Group(xs[:3], xs[3:], 1), Group(xs[:3], xs[1:4], 0), Group(xs[1:3], xs[:2], 5)]
            ),
        ]
        if o.params.scheme == "ckks":
            handles.append(vector.relinearise_rescale(vector.load(cubic)))
        return [vector.dump(handle).residues.tobytes() for handle in handles]

    expected = results(o.vector(1))
    for threads in (2, 3):
        shared = o.vector(threads)
        assert results(shared) == expected
        with ThreadPoolExecutor(4) as pool:
            assert all(found == expected for found in pool.map(results, [shared] * 8))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("o", chains(), ids=lambda o: o.params.scheme)
def test_giant_steps_equal_single_operations(o: Oracle, threads: int) -> None:
    rng = np.random.default_rng(11)
    exact = o.vector(threads, exact=True)
    xs = [exact.load(o.record(rng, 2, 3)) for _ in range(3)]
    records = [[o.record(rng, 2, 3) for _ in range(3)] for _ in range(3)]
    steps = (0, 2, 8)
    for make in (exact.load, exact.load_weight):
        ws = [[make(record) for record in some] for some in records]
        whole = exact.giant_steps([Group(xs, some, step) for some, step in zip(ws, steps, strict=True)])
        parts = []
        for some, step in zip(ws, steps, strict=True):
            part = exact.rescale(exact.relinearise(exact.dot(xs, some)))
            parts += exact.rotate(part, [step])
        assert same(exact, whole, exact.dump(reduce(exact.add, parts)))
        for mine, some in zip(exact.dots(xs, ws), ws, strict=True):
            assert same(exact, mine, exact.dump(exact.dot(xs, some)))
    plain = [exact.load(o.record(rng, 1, 3)) for _ in range(3)]
    mixed = exact.giant_steps([Group(xs, ws[0], 2), Group(xs, plain, 0)])
    (turned,) = exact.rotate(exact.rescale(exact.relinearise(exact.dot(xs, ws[0]))), [2])
    assert same(exact, mixed, exact.dump(exact.add(turned, exact.rescale(exact.dot(xs, plain)))))


@pytest.mark.parametrize("threads", [1, 2])
def test_giant_steps_decrypt_as_well_as_seal(threads: int) -> None:
    o = chains()[0]
    rng = np.random.default_rng(13)
    vector, reference = o.vector(threads), o.reference
    values = rng.uniform(-1, 1, (4, 4096))
    records = [o.encrypt(v, 2.0**38) for v in values]
    mine, theirs = [vector.load(r) for r in records], [reference.load(r) for r in records]
    steps = (0, 1, 5, 64)
    expected, parts = np.zeros(4096), []
    for step in steps:
        expected += np.roll(values[0] * values[2] + values[1] * values[3], -step)
        part = reference.rescale(reference.relinearise(reference.dot(theirs[:2], theirs[2:])))
        parts += reference.rotate(part, [step])
    found = vector.giant_steps([Group(mine[:2], mine[2:], step) for step in steps])
    ours = error(o, o.decrypt(vector.dump(found)), expected)
    assert ours <= 1.5 * error(o, o.decrypt(reference.dump(reduce(reference.add, parts))), expected)
    different = vector.giant_steps([Group(mine[:2], mine[2:], 1), Group(mine[1:3], mine[:2], 0)])
    expected = np.roll(values[0] * values[2] + values[1] * values[3], -1)
    expected += values[1] * values[0] + values[2] * values[1]
    assert error(o, o.decrypt(vector.dump(different)), expected) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [(20, 27, 32), (33, 40), (41, 48)])
def test_packed_weights_change_no_residue(bits: tuple[int, ...], kind: str) -> None:
    """Every width from three to six bytes; only the special prime can need seven."""
    o = oracle("ckks", 8192, bits, max(bits) + 2)
    rng = np.random.default_rng(12)
    vector = o.vector()
    level = len(bits) - 1
    xs = [vector.load(o.record(rng, 2, level, kind)) for _ in range(3)] * 6
    for size in (2, 1):
        record = o.record(rng, size, level, kind)
        weight, packed = vector.load(record), vector.load_weight(record)
        wire = vector.load_packed(pack(o.params, record), record.shape)
        expected = vector.dump(vector.dot(xs, [weight] * 18))
        assert same(vector, packed, record)
        assert same(vector, wire, record)
        assert same(vector, vector.dot(xs, [packed] * 18), expected)
        assert same(vector, vector.dot(xs, [wire, packed] * 9), expected)
        assert same(vector, vector.dot(xs, [weight, packed] * 9), expected)
        assert same(vector, vector.add(xs[0], packed), vector.dump(vector.add(xs[0], weight)))
    cubic = o.record(rng, 3, level, kind)
    expected = vector.dump(vector.relinearise_rescale(vector.load(cubic)))
    assert same(vector, vector.relinearise_rescale(vector.load_weight(cubic)), expected)


def test_packed_wire_records_are_checked() -> None:
    o = chains()[0]
    vector = VectorEvaluator(o.params)
    seeded = o.encrypt(np.arange(4) / 4, 2.0**38)
    data = pack(o.params, seeded)
    assert same(vector, vector.load_packed(data, seeded.shape), o.reference.dump(o.reference.load(seeded)))
    large = bytearray(data)
    large[HEADER.size : HEADER.size + 6] = b"\xff" * 6
    wrong = [data[:-1], bytes(large), b"X" + data[1:], data[:23] + b"\x01" + data[24:]]
    for some in wrong:
        with pytest.raises(FormatError):
            vector.load_packed(some, seeded.shape)
    with pytest.raises(FormatError):
        vector.load_packed(data, Shape(3, 2, 2.0**37, True))


def test_arguments_are_never_changed() -> None:
    o = chains()[0]
    vector = o.vector()
    rng = np.random.default_rng(9)
    a, c = vector.load(o.record(rng, 2, 3)), vector.load(o.record(rng, 3, 3))
    before = [vector.dump(h).residues.copy() for h in (a, c)]
    vector.add(a, c), vector.multiply(a, a), vector.relinearise(c), vector.rescale(c)
    vector.rotate(a, [1, 2]), vector.rotate_sum([a, a], [1, 2]), vector.mod_switch(a, 1)
    after = [vector.dump(h).residues for h in (a, c)]
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


def test_a_record_survives_load_and_dump() -> None:
    o = chains()[0]
    vector = o.vector()
    for kind in ("random", "largest", "zero", "one", "middle"):
        record = o.record(np.random.default_rng(1), 3, 2, kind)
        assert same(vector, vector.load(record), record)


def test_misuse_is_refused() -> None:
    o = chains()[0]
    rng = np.random.default_rng(2)
    vector = o.vector()
    top, low = vector.load(o.record(rng, 2, 3)), vector.load(o.record(rng, 2, 0))
    three, plain = vector.load(o.record(rng, 3, 3)), vector.load(o.record(rng, 1, 3))
    second = vector.load(o.record(rng, 2, 2))
    rescaled = vector.mod_switch(vector.rescale(top), 0)
    bare = VectorEvaluator(o.params)
    for call in (
        lambda: vector.add(top, low),
        lambda: vector.add(low, rescaled),
        lambda: vector.load_key(o.relinearisation[:-1], None),
        lambda: vector.dot([], []),
        lambda: vector.dot([top], [top, top]),
        lambda: vector.dot([three], [top]),
        lambda: vector.dot([top], [low]),
        lambda: vector.rescale(low),
        lambda: vector.mod_switch(low, 1),
        lambda: vector.rotate(top, [7]),
        lambda: vector.rotate(three, [1]),
        lambda: vector.rotate_sum([top], [1, 2]),
        lambda: vector.dots([top, top], [[top, top], [plain, plain]]),
        lambda: vector.dots([top, top], [[top, plain]]),
        lambda: vector.relinearise(plain),
        lambda: vector.multiply_rescale(top, second),
        lambda: vector.multiply_rescale(top, plain),
        lambda: vector.multiply_rescale(low, low),
        lambda: bare.multiply_rescale(top, top),
        lambda: vector.giant_steps([]),
        lambda: vector.giant_steps([Group([], [], 1)]),
        lambda: vector.giant_steps([Group([top], [top, top], 1)]),
        lambda: vector.giant_steps([Group([top], [top], 7), Group([top], [top], 1)]),
        lambda: vector.giant_steps([Group([low], [low], 1), Group([low], [low], 0)]),
        lambda: vector.giant_steps([Group([top], [top], 1), Group([second], [second], 0)]),
        lambda: bare.giant_steps([Group([top], [top], 0)]),
        lambda: bare.relinearise(three),
        lambda: VectorEvaluator(o.params, threads=0),
    ):
        with pytest.raises(InputError):
            call()
    primes = o.params.primes
    with pytest.raises(CompileError):
        VectorEvaluator(Parameters("bgv", 8192, primes, o.params.special, primes[1] - 1))


def test_seed_expansion_known_answer() -> None:
    """Digest of what SEAL 4.1.1 expands from the seed 0, 1, ..., 63 (checked by loading it with SEAL)."""
    primes = tuple(next(ntt_primes(8192, bits)) for bits in (48, 36, 20))
    words = expand(bytes(range(64)), primes, 8192)
    assert (words < np.array(primes, dtype=np.uint64)[:, None]).all()
    assert hashlib.sha256(words.tobytes()).hexdigest() == KNOWN_SEED_DIGEST


KNOWN_SEED_DIGEST = "2974b9b5252c707d6e8d6700b3201fc726a537b84d902ffbc1e9b3d7286a82e9"


def test_root_is_the_smallest() -> None:
    prime = next(ntt_primes(4096, 30))
    root = minimal_root(prime, 4096)
    assert pow(root, 4096, prime) == prime - 1
    assert root == min(pow(root, k, prime) for k in range(1, 8192, 2))
    assert bit_reversal(3).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize("t", [17, 257, 40961, T])
def test_balanced_factors_agree(t: int) -> None:
    rng = np.random.default_rng(t)
    for _ in range(50):
        first, second = (int(x) for x in rng.integers(1, t, 2))
        common, u, v = balance(first, second, t)
        assert u * first % t == v * second % t == common


def test_group_lengths_keep_their_bounds() -> None:
    for bits in range(20, 51):
        terms = group_length(bits)
        assert terms * 2 ** (2 * bits - 1) <= 2 ** (51 + bits)  # a centred residue times a canonical one
        assert terms * 2 ** (bits - 1) + 2 ** (bits - 1) < 2**53
        terms = key_group_length(bits)
        assert terms * 2 ** (2 * bits - 2) <= 2 ** (51 + bits)  # two centred residues
        assert terms * 2 ** (bits - 1) + 2 ** (bits - 1) < 2**53
    assert ROUNDING == 1.5 * 2.0**52


@pytest.mark.parametrize("ring", [4096, 8192, 16384, 32768])
def test_words_keep_their_bounds(ring: int) -> None:
    """The table in `ntt_words_forward`: distances from B, in exact integers, for extreme primes."""
    levels = ring.bit_length() - 1
    passes = [levels - 4 - (closing := {12: 5, 13: 5, 14: 6, 15: 7}[levels]), 4, closing]
    for bits in range(20, 50):
        how = next(number for number, largest in LARGEST_BITS.items() if bits <= largest)
        for q in ((1 << bits - 1) + 1, (1 << bits) - 1):
            centre = (1 << 51) // q * q
            distance = 1 << 49  # of inputs
            reduced = distance if how == NEVER else q  # of X; Y may be as far as the inputs are
            assert distance <= centre
            for number, depth in enumerate(passes):
                inside = depth - 3 if number == 2 else None
                for level in range(depth):
                    twice = how == TWICE and (number, level) in ((0, 0), (1, 3))
                    often = how == OFTEN or (how == TWICE and number == 2 and ring == 32768)
                    often = often and (
                        level == inside or (level % 2 == 0 and (inside is None or level < inside))
                    )
                    x = reduced if often or twice else distance
                    distance = x + q
                    assert distance <= centre
                    assert centre + distance <= 1 << 52


def test_memory_is_reused_only_when_free() -> None:
    buffers = Buffers()
    a = buffers.take(2048).array(2, 1024)
    view, place = a[1], address(a)
    del a
    gc.collect()
    assert buffers.take(2048).at != place  # the view still holds it
    del view
    gc.collect()
    assert buffers.take(2048).at % 64 == 0
    assert buffers.take(15).array(3, 5).shape == (3, 5)


IMPORTS = """
import sys
import securedl.he.vector
heavy = ("tenseal", "torch", "zstandard", "securedl.he.seal")  # Numba itself imports scipy
found = [name for name in heavy if name in sys.modules]
assert not found, found
"""


def run(code: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, **environment}, timeout=250
    )


def test_imports_nothing_secret_or_heavy() -> None:
    run(IMPORTS)


PORTABLE = """
import hashlib, numpy as np
from securedl.he.params import Parameters
from securedl.he.record import Record, Shape
from securedl.he.vector import VectorEvaluator, stages
params = Parameters("ckks", 4096, {primes}, {special})
rng = np.random.default_rng(0)
q = np.array(params.primes, dtype=np.uint64)[None, :, None]
full = np.array((*params.primes, params.special), dtype=np.uint64)[None, :, None]
stages._SHARED_VALUES = 0
vector = VectorEvaluator(params, {threads})
def draw(size, q, level):
    return Record(Shape(level, size, 1.0), rng.integers(0, q, (size, q.shape[1], 4096), dtype=np.uint64))
top = len(params.primes) - 1
key = [draw(2, full, top + 1) for _ in params.primes]
vector.set_keys(key, {{3: key, 5: key}})
a, c = vector.load(draw(2, q, top)), vector.load(draw(3, q, top))
digest = hashlib.sha256()
groups = [([a, a], [a, a], step) for step in (3, 5, 0)]
for h in (vector.dot([a, a], [a, a]), vector.relinearise(c), vector.rescale(c), *vector.rotate(a, [3]),
          *vector.rotate(a, [3, 5]), vector.rotate_sum([a, a, a], [3, 5, 0]), vector.relinearise_rescale(c),
          vector.giant_steps(groups)):
    digest.update(vector.dump(h).residues.tobytes())
print(digest.hexdigest())
"""


ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,+bmi,+bmi2"},
)


@pytest.mark.slow
def test_right_without_avx_and_fma() -> None:
    """The same residues on a processor with neither (FMA then comes from libm), and on one without IFMA."""
    params = oracle("ckks", 4096, (35, 31), 38).params
    code = PORTABLE.format(primes=params.primes, special=params.special, threads=2)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            cwd=ROOT,
            env={**os.environ, **extra},
            capture_output=True,
            timeout=280,
        ).stdout
        for extra in ENVIRONMENTS
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 65


def test_a_kernel_is_kept_under_one_key() -> None:
    """Whether a call compiled it, with the types of its arguments, or its written signature did."""
    for dispatcher, signature in cache._KERNELS:
        types, _ = normalize_signature(signature)
        keys = {
            dispatcher._cache._index_key(some, dispatcher.targetctx.codegen()) for some in (signature, types)
        }
        assert len(keys) == 1


def test_kernels_are_ready_after_warm_up() -> None:
    warm_up()
    run("from securedl.he.vector import compiled; assert compiled()")


def test_kernels_are_kept_where_something_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_folder.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr("securedl.he.vector.kernels.cache._usable", lambda folder: "somewhere" in str(folder))
    assert kernel_folder() == f"/somewhere/securedl/kernels-{source_hash()}"
    kernel_folder.cache_clear()
    monkeypatch.setattr("securedl.he.vector.kernels.cache._usable", lambda folder: False)
    assert kernel_folder() is None
    kernel_folder.cache_clear()


@pytest.mark.parametrize("wrong", ["folder", "entry", "mode", "link"])
def test_kernels_that_others_may_have_written_are_not_run(tmp_path, monkeypatch, caplog, wrong) -> None:
    """Their folder is passed over: another process's compiled code is this process's code."""
    (tmp_path / "package").mkdir()
    home = tmp_path / "package" / "cache.py"
    folder = home.parent / "__pycache__" / f"kernels-{source_hash()}"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "code").touch()
    kernel_folder.cache_clear()
    monkeypatch.setattr("securedl.he.vector.kernels.cache.__file__", str(home))
    monkeypatch.setattr("securedl.he.vector.kernels.cache.source_hash", lambda: folder.name[-16:])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert kernel_folder() == str(folder)
    if wrong == "mode":
        folder.chmod(0o770)
    elif wrong == "link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif os.geteuid() == 0:
        os.chown(folder if wrong == "folder" else folder / "code", 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    kernel_folder.cache_clear()
    found = kernel_folder()
    kernel_folder.cache_clear()
    assert "kernels are not kept in" in caplog.text
    if os.geteuid() != 12345:  # else the other folder is not this user's either
        assert found == str(tmp_path / "own" / "securedl" / folder.name)
        assert stat.S_IMODE(os.stat(found).st_mode) == 0o700


def test_kernels_of_older_sources_are_deleted_after_a_day(tmp_path: Path) -> None:
    now = time.time()
    ages = {"kernels-0": 0.0, "kernels-1": 0.5, "kernels-2": 1.5, "kernels-3": 1.5, "other": 9.0}
    for name, age in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "code").touch()
        for path in (tmp_path / name / "code", tmp_path / name):
            os.utime(path, (now, now - age * KEEP_SECONDS))
    (tmp_path / "kernels-3" / "more").touch()  # in use
    forget_old(tmp_path / "kernels-0")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "kernels-0",
        "kernels-1",
        "kernels-3",
        "other",
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_is_given_back_without_a_garbage_collection(threads: int) -> None:
    evaluator = VectorEvaluator(ckks_parameters(4096, 1), threads)
    known = weakref.ref(evaluator)
    gc.collect()
    gc.disable()
    try:
        del evaluator
        assert known() is None
    finally:
        gc.enable()


def test_an_evaluator_is_gone_when_nothing_refers_to_it():
    """Its memory is a model's; the collector may run much later."""
    o = oracle("ckks", 4096, (30,), 40)
    evaluator = VectorEvaluator(o.params)
    evaluator.set_keys(o.relinearisation, {3: o.rotations[3]})
    evaluator.dump(evaluator.rotate(evaluator.load(o.record(np.random.default_rng(0), 2, 0)), [3])[0])
    gone = [weakref.ref(evaluator), weakref.ref(evaluator._engine)]
    gc.disable()
    try:
        del evaluator
        assert [some() for some in gone] == [None, None]
    finally:
        gc.enable()
