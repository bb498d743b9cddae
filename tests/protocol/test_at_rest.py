"""Packed weights in a file: the same residues, made once, and never believed when damaged."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
from protocol_fakes import FakeOwner, random_record, small_program

from protocol import Store
from protocol.cache import ModelCache
from protocol.models import LoadedModel, load_model
from protocol.store import Limits
from securedl.errors import QuotaError, ServerError
from securedl.he.ckks import ckks_parameters
from securedl.he.params import Parameters
from securedl.he.record import Shape, pack
from securedl.he.vector import Handle, VectorEvaluator, at_rest
from securedl.he.vector.at_rest import MappedWeights
from securedl.he.vector.backend import VectorBackend
from securedl.he.weights import HeldWeights, mappable

BGV_MODULUS = 65537


class Packing:
    """Packed handles of random weights, and which were asked for."""

    def __init__(self, params: Parameters, shapes: list[Shape]) -> None:
        rng = np.random.default_rng(0)
        self.evaluator = VectorEvaluator(params)
        if params.scheme == "bgv":
            shapes = [replace(shape, correction=3 + k) for k, shape in enumerate(shapes)]
        self.data = [pack(params, random_record(params, shape, rng)) for shape in shapes]
        self.shapes = shapes
        self.asked: list[int] = []

    def __call__(self, index: int):
        self.asked.append(index)
        return self.evaluator.load_packed(self.data[index], self.shapes[index])

    def same(self, index: int, handle) -> bool:
        """Every field and residue."""
        found = self.evaluator.dump(handle)
        due = self.evaluator.dump(self.evaluator.load_packed(self.data[index], self.shapes[index]))
        same = (found.shape, found.correction) == (due.shape, due.correction)
        return same and bool((found.residues == due.residues).all())


@pytest.fixture(params=["encrypted", "plain", "bgv", "plain bgv"])
def stored(request, tmp_path: Path):
    """A model on disk and its weights; `bgv` stands for the parameters alone."""
    program = small_program(encrypted="plain" not in request.param)
    model = Store(tmp_path).create("local", bytes(16), program)
    if "bgv" in request.param:
        known = model.program.params
        params = Parameters("bgv", known.ring, known.primes, known.special, BGV_MODULUS)
        object.__setattr__(model.program, "params", params)
    return model, Packing(model.program.params, model.table.shapes)


def at_rest_of(model, packing: Packing, load=None) -> MappedWeights:
    """The weights that `packing`, or `load`, makes, in the model's folder."""
    return MappedWeights(
        model.folder, model.model_id, packing.evaluator.params, packing.shapes, load or packing
    )


def packed_file(model, suffix: str) -> Path:
    (path,) = model.folder.glob(f"packed-*{suffix}")
    return path


def test_the_map_holds_what_the_evaluator_loads(stored) -> None:
    model, packing = stored
    weights = at_rest_of(model, packing)
    for index in range(len(packing.shapes)):
        handle = weights[index]
        assert handle.packed
        assert packing.same(index, handle)
    assert packing.asked == list(range(len(packing.shapes)))


def test_a_restart_loads_nothing_again(stored) -> None:
    model, packing = stored
    for index in range(len(packing.shapes)):
        at_rest_of(model, packing)[index]
    packing.asked.clear()
    again = at_rest_of(model, packing)
    handles = [again[index] for index in range(len(packing.shapes))]
    del again  # handles keep the map
    assert all(packing.same(index, handle) for index, handle in enumerate(handles))
    assert packing.asked == []


def test_products_from_the_map_are_the_same(stored) -> None:
    model, packing = stored
    evaluator, shape = packing.evaluator, packing.shapes[0]
    rng = np.random.default_rng(1)
    xs = [evaluator.load(random_record(evaluator.params, Shape(shape.level, 2, 1.0), rng)) for _ in range(4)]
    weights = at_rest_of(model, packing)
    found = evaluator.dump(evaluator.dot(xs, [weights[k] for k in range(4)]))
    due = evaluator.dump(evaluator.dot(xs, [packing(k) for k in range(4)]))
    assert found.shape == due.shape
    np.testing.assert_array_equal(found.residues, due.residues)


@pytest.mark.parametrize("place", [0, 70, -100])
def test_damage_is_repaired(stored, place: int) -> None:
    model, packing = stored
    weights = at_rest_of(model, packing)
    assert packing.same(0, weights[0])
    assert packing.same(1, weights[1])
    start, length = weights._starts[1], weights._lengths[1]
    with open(packed_file(model, ".bin"), "r+b") as file:
        file.seek(start + place % length)
        octet = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([octet[0] ^ 1]))
    packing.asked.clear()
    again = at_rest_of(model, packing)
    assert packing.same(0, again[0])
    assert packing.same(1, again[1])
    assert packing.asked == [1]
    assert packing.same(1, at_rest_of(model, packing)[1])
    assert packing.asked == [1]


@pytest.mark.parametrize("suffix", [".bin", ".journal"])
@pytest.mark.parametrize("left", [0, 100])
def test_a_cut_off_file_is_made_again(stored, suffix: str, left: int) -> None:
    model, packing = stored
    for index in range(6):
        at_rest_of(model, packing)[index]
    os.truncate(packed_file(model, suffix), left)
    again = at_rest_of(model, packing)
    assert all(packing.same(index, again[index]) for index in range(6))


def test_another_version_makes_its_own(stored, monkeypatch) -> None:
    """While the old version's server still works."""
    model, packing = stored
    old = at_rest_of(model, packing)
    handle = old[0]
    monkeypatch.setattr(at_rest, "kernels", lambda: "another")
    new = at_rest_of(model, packing)
    assert packed_file(model, ".bin").name == "packed-another.bin"
    assert packing.same(0, new[0])
    assert packing.asked == [0, 0]
    assert packing.same(0, handle)
    assert packing.same(1, old[1])


def test_a_weight_that_two_want_is_loaded_once(stored) -> None:
    """The other waits, and `busy` tells it that it could do something else."""
    model, packing = stored
    started, finish = threading.Event(), threading.Event()

    def slowly(index: int):
        started.set()
        assert finish.wait(20)
        return packing(index)

    weights = at_rest_of(model, packing, slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(weights.__getitem__, 0)
        assert started.wait(20)
        assert weights.busy(0)
        assert not weights.busy(1)
        second = pool.submit(weights.__getitem__, 0)
        finish.set()
        assert packing.same(0, first.result(20))
        assert packing.same(0, second.result(20))
    assert packing.asked == [0]
    assert not weights.busy(0)


def test_a_failure_frees_the_weight(stored) -> None:
    model, packing = stored
    failures = [ServerError("damaged")]

    def once(index: int):
        if failures:
            raise failures.pop()
        return packing(index)

    weights = at_rest_of(model, packing, once)
    with pytest.raises(ServerError, match="damaged"):
        weights[0]
    assert packing.same(0, weights[0])


def test_the_version_is_the_one_that_runs(monkeypatch) -> None:
    """New sources under a running server do not make it name its files after them."""
    running = at_rest.kernels()
    assert len(running) == 16
    monkeypatch.setattr("securedl.he.vector.kernels.cache.source_hash", lambda: "newer")
    monkeypatch.setattr(at_rest, "source_hash", lambda: "newer")
    assert at_rest.kernels() == running
    monkeypatch.setattr(at_rest, "kernel_folder", lambda: None)
    assert at_rest.kernels() == "newer"


def test_primes_that_are_not_packed() -> None:
    params = ckks_parameters(4096, 1)
    assert mappable(params)
    assert not mappable(Parameters("ckks", params.ring, (params.primes[1], 40961), params.special))


def complete(tmp_path: Path, owner: FakeOwner, limits: Limits | None = None):
    """A model with all its blobs."""
    model = Store(tmp_path, limits).create("local", owner.model_id, owner.program)
    with model.writer() as writer:
        for number in range(len(model.table)):
            keys = model.table.keys
            data = owner.key(keys[number]) if number < len(keys) else owner.weight(number - len(keys))
            writer.write(number, data)
    return model


def test_a_disk_without_room_leaves_weights_in_memory(tmp_path: Path, monkeypatch, caplog) -> None:
    model = complete(tmp_path, FakeOwner())

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(at_rest.os, "posix_fallocate", refuse)
    with caplog.at_level(logging.WARNING):
        loaded = load_model(model, VectorBackend(), 1, 1 << 30)
    assert "weights stay in memory: their file cannot be made: No space left on device" in caplog.text
    assert loaded.weights[0].packed
    assert loaded.cost == sum(model.table.expanded())


def test_what_does_not_fit_is_not_read_beforehand(tmp_path: Path, monkeypatch) -> None:
    model = complete(tmp_path, FakeOwner())
    monkeypatch.setattr("securedl.he.vector.backend.mappable", lambda _: False)
    keys, weights = model.table.expanded()
    loaded = load_model(model, VectorBackend(), 1, keys + weights // 2)
    assert isinstance(loaded.weights, HeldWeights)
    asked: list[int] = []
    read = loaded.weights._load

    def note(index: int) -> Handle:
        asked.append(index)
        return read(index)

    monkeypatch.setattr(loaded.weights, "_load", note)
    loaded.weights.warm(lambda: True)
    assert 0 < len(asked) < len(model.table.shapes)
    assert asked == list(loaded.weights._handles)


def test_a_model_is_made_once_however_many_ask(tmp_path: Path) -> None:
    """Also after a failure, while others wait for the same one; nothing is kept of what is done."""
    cache, made, together = ModelCache[LoadedModel](1 << 30), [], threading.Semaphore(1)
    loaded = load_model(complete(tmp_path, FakeOwner()), VectorBackend(), 1, 1 << 30)

    def make():
        assert together.acquire(blocking=False), "two at a time"
        time.sleep(0.01)
        made.append(1)
        together.release()
        if len(made) % 3:
            raise ServerError("not yet")
        return loaded

    def ask(_: int) -> bool:
        try:
            return cache.get(("client", bytes(16)), make) is loaded
        except ServerError:
            return False

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(40)))
    assert (len(made), found.count(False)) == (3, 2)
    assert not cache._loading


def test_a_model_that_is_removed_while_it_is_made_is_not_kept(tmp_path: Path) -> None:
    """Else its keys stayed in memory, and another plan under the same id were refused."""
    loaded = load_model(complete(tmp_path, FakeOwner()), VectorBackend(), 1, 1 << 30)
    cache, made, key = ModelCache[LoadedModel](1 << 30), [], ("client", bytes(16))

    def make():
        made.append(1)
        if len(made) == 1:
            cache.discard(key)
        return loaded

    assert [cache.get(key, make) is loaded for _ in range(3)] == [True] * 3
    assert len(made) == 2
    cache.discard(key)
    assert cache.get(key, make) is loaded
    assert len(made) == 3
    assert not cache._stale


def test_only_keys_count_as_memory(tmp_path: Path) -> None:
    model = complete(tmp_path, FakeOwner())
    loaded = load_model(model, VectorBackend(), 1, 1 << 30)
    loaded.weights.warm(lambda: True)
    assert loaded.cost == model.table.expanded()[0]
    assert packed_file(model, ".bin").stat().st_size > model.table.sizes()["weights.bin"]


def test_a_client_s_share_has_room_for_packed_weights(tmp_path: Path) -> None:
    """They count before they are there, so that what is accepted also runs."""
    owner = FakeOwner()
    model = complete(tmp_path, owner)
    load_model(model, VectorBackend(), 1, 1 << 30).weights.warm(lambda: True)
    size = sum(p.stat().st_size for p in model.folder.iterdir() if p.name != "figures")
    assert model.figures.disk == size
    other = FakeOwner(1)
    need = 2 * size
    with pytest.raises(QuotaError):
        Store(tmp_path, Limits(max_bytes=need - 1)).create("local", other.model_id, other.program)
    Store(tmp_path, Limits(max_bytes=need)).create("local", other.model_id, other.program)


def test_a_dropped_model_gives_its_memory_back_without_a_garbage_collection(tmp_path: Path) -> None:
    loaded = load_model(complete(tmp_path, FakeOwner()), VectorBackend(), 1, 1 << 30)
    loaded.weights.warm(lambda: True)
    assert isinstance(loaded.weights, HeldWeights)
    assert isinstance(loaded.weights._load, MethodType)
    mapped = weakref.ref(loaded.weights._load.__self__)
    assert isinstance(mapped(), MappedWeights)
    parts: list[weakref.ref[Any]] = [weakref.ref(loaded.weights), mapped, weakref.ref(loaded.evaluator)]
    gc.collect()
    gc.disable()
    try:
        del loaded
        assert [part() for part in parts] == [None] * 3
    finally:
        gc.enable()
