"""Evaluations in Ray actors: the same answers, whatever becomes of an actor, and no work for nobody."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import protocol_fakes
import pytest
from operating import eventually
from protocol_fakes import FakeBackend, FakeEvaluator, FakeOwner, predict, random_record

from protocol import Client, Server
from protocol.executor import Evaluation, Gone, Here
from protocol.ray_cluster import RayCluster
from protocol.ray_executor import RayExecutor
from protocol.ray_pool import LostActorError
from protocol.store import Store
from securedl.demo.processes import running, serve_command
from securedl.errors import InputError, ProtocolError, ServerError
from securedl.he.vector.backend import VectorBackend

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for all tests: it takes seconds to start."""
    cluster = RayCluster(None, 1)
    cluster.ray.cloudpickle.register_pickle_by_value(protocol_fakes)  # actors cannot import it
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def network():
    """Owner and samples [40, 16] of a network with three refreshes."""
    torch, securedl = pytest.importorskip("torch"), pytest.importorskip("securedl")
    torch.manual_seed(0)
    sizes = [16, 12, 10, 8, 3]
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    net = torch.nn.Sequential(*[m for layer in layers for m in (layer, torch.nn.ReLU())][:-1])
    x = np.random.default_rng(0).uniform(-1, 1, (40, 16)).astype(np.float32)
    plan = securedl.compile(net, x, activations="client")
    assert len(plan.program.shown) == 3
    with torch.no_grad():
        return securedl.Owner(plan), x, net(torch.tensor(x)).numpy()


@pytest.fixture(scope="module")
def stored(network, tmp_path_factory):
    """A store with its encrypted model, and that model."""
    store = Store(tmp_path_factory.mktemp("ray") / "store")
    owner, _, _ = network
    with Server(store, "127.0.0.1:0") as server, Client(server.address, owner) as client:
        client.upload()
    model = store.find("local", owner.channels[0].model_id)
    assert model is not None
    return store, model


@pytest.fixture(scope="module")
def executor(stored):
    """Two actors of that store, and others where they were killed."""
    made = RayExecutor(2)
    made.start(stored[0], VectorBackend(), 1, None)
    yield made
    made.stop()


def pids(executor: RayExecutor) -> list[int]:
    """Of its actors, all of which live then."""
    pool, found = executor.pool, list[int]()
    while len(found) < len(pool.each()):
        slot = pool.each()[len(found)]
        try:
            found.append(pool.result(slot, slot.actor.ready.remote()))
        except LostActorError:
            pool.lost(slot)
    return found


def kill(executor: RayExecutor, evaluation) -> int:
    """The actor of an evaluation; its number."""
    number = evaluation._slot.number
    os.kill(pids(executor)[number], signal.SIGKILL)
    return number


def figures(executor: RayExecutor) -> list[tuple[int, int, int]]:
    """Models, bytes and evaluations of its actors."""
    pool = executor.pool
    return [pool.result(slot, slot.actor.figures.remote()) for slot in pool.each()]


def inputs(program, seed: int):
    """What a client could send: tiles for each step, of random residues."""
    rng = np.random.default_rng(seed)
    ports = (program.query, *(up for _, up in program.shown))
    return [
        None if port is None else [random_record(program.params, port.fresh, rng) for _ in range(port.tiles)]
        for port in ports
    ]


def run(evaluation: Evaluation, sent, between=lambda number: None):
    """Residues of all that it gives. between: called before each step, with its number."""
    found = []
    for number, tiles in enumerate(sent):
        between(number)
        found.append([record.residues.copy() for record in evaluation.step(tiles)])
    evaluation.close()
    return found


def same(one, other) -> bool:
    return all(
        len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def honest(stored, sent):
    model = Here().load(stored, VectorBackend(), 1, 1 << 30)
    return run(Here().begin(model, lambda: True), sent)


def test_the_same_residues(executor, stored) -> None:
    model = executor.load(stored[1], VectorBackend(), 1, 1 << 30)
    sent, other = inputs(model.program, 0), inputs(model.program, 1)
    evaluation = executor.begin(model, lambda: True)
    found = run(evaluation, sent)
    assert same(found, honest(stored[1], sent))
    assert not same(found, honest(stored[1], other))
    assert 0 < evaluation.away_s < 10


def test_two_queries_are_at_two_actors_and_one_where_its_model_is(executor, stored) -> None:
    model = executor.load(stored[1], VectorBackend(), 1, 1 << 30)
    sent = inputs(model.program, 0)
    assert all(models == 0 for models, _, _ in figures(executor)[1:])  # of all queries so far
    open_ones = [executor.begin(model, lambda: True) for _ in range(2)]
    for evaluation in open_ones:
        evaluation.step(sent[0])
    assert [running for _, _, running in figures(executor)] == [1, 1]
    assert [models for models, _, _ in figures(executor)] == [1, 1]
    for evaluation in open_ones:
        evaluation.close()
    eventually(lambda: [running for _, _, running in figures(executor)] == [0, 0])
    assert [slot.busy for slot in executor.pool.each()] == [0, 0]


@pytest.mark.parametrize("when", [1, 3])
def test_an_actor_killed_between_two_steps_costs_a_retry(executor, stored, when: int) -> None:
    model = executor.load(stored[1], VectorBackend(), 1, 1 << 30)
    sent, before = inputs(model.program, when), pids(executor)
    evaluation, killed = executor.begin(model, lambda: True), list[int]()

    def between(number: int) -> None:
        if number == when:
            killed.append(kill(executor, evaluation))

    assert same(run(evaluation, sent, between), honest(stored[1], sent))
    after = pids(executor)
    assert [number for number in range(2) if before[number] != after[number]] == killed


def test_an_actor_killed_in_a_step_costs_a_retry(executor, stored) -> None:
    """It is stopped before the step begins, so that it cannot end before it is killed."""
    model = executor.load(stored[1], VectorBackend(), 1, 1 << 30)
    sent, before = inputs(model.program, 0), pids(executor)
    other = executor.begin(model, lambda: True)
    evaluation = executor.begin(model, lambda: True)
    first = [record.residues.copy() for record in evaluation.step(sent[0])]
    other_first = [record.residues.copy() for record in other.step(sent[0])]
    assert same([first], [other_first])
    pid = before[evaluation._slot.number]
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    rest = [[record.residues.copy() for record in evaluation.step(tiles)] for tiles in sent[1:]]
    assert time.monotonic() - began > 0.4
    assert same([first, *rest], honest(stored[1], sent))
    assert len(evaluation._kept) == 0
    assert same([other_first, *run(other, sent[1:])], honest(stored[1], sent))
    evaluation.close()


@pytest.mark.slow
def test_a_query_that_kills_every_actor_is_given_up(executor, stored, monkeypatch) -> None:
    model = executor.load(stored[1], VectorBackend(), 1, 1 << 30)
    sent, _ = inputs(model.program, 0), pids(executor)
    take, killed = executor.pool.take, []

    def killing(key):
        slot = take(key)
        pid = executor.pool.result(slot, slot.actor.ready.remote())
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        return slot

    monkeypatch.setattr(executor.pool, "take", killing)
    evaluation = executor.begin(model, lambda: True)
    with pytest.raises(ServerError, match="3 Ray actors were lost"):
        evaluation.step(sent[0])
    evaluation.close()
    assert len(set(killed)) == 3
    monkeypatch.undo()
    assert same(run(executor.begin(model, lambda: True), sent), honest(stored[1], sent))


class Killing(RayExecutor):
    """One whose actors die: that of a query at its second step."""

    armed = False

    def begin(self, model, alive):
        evaluation = super().begin(model, alive)
        step, steps = evaluation.step, []

        def dying(tiles):
            steps.append(None)
            if len(steps) == 2 and self.armed:
                self.armed = False
                kill(self, evaluation)
            return step(tiles)

        evaluation.step = dying
        return evaluation


def test_a_client_notices_nothing(network, tmp_path, capfd) -> None:
    owner, x, logits = network
    executor = Killing(2)
    with Server(tmp_path / "store", "127.0.0.1:0", executor=executor) as server:
        with Client(server.address, owner) as client:
            client.upload()
            executor.armed = True
            answer = client.predict(x[:2], probes=1)
        assert answer.report.passed
        np.testing.assert_allclose(answer.logits, logits[:2], atol=1e-4)
        assert not executor.armed
    assert "raylet" not in "".join(capfd.readouterr())  # Ray's own words on killed processes


def test_fakes_with_a_tap(serve, network) -> None:
    server = serve(executor=RayExecutor(1))
    with Client(server.address, FakeOwner()) as client:
        client.upload()
        assert predict(client, 2).passed


def test_a_removed_model_is_served_no_more(serve) -> None:
    executor = RayExecutor(2)
    server, owner = serve(executor=executor), FakeOwner()
    with Client(server.address, owner) as client:
        client.upload()
        assert predict(client, 1).passed
        assert sum(models for models, _, _ in figures(executor)) == 2  # both were warmed
        model = server._loader._load(("local", owner.model_id))
        assert client.remove()
        eventually(lambda: sum(models for models, _, _ in figures(executor)) == 0)
        with pytest.raises(ProtocolError, match="no such model"):
            client.predict(1)
        sent = inputs(model.program, 0)
        with pytest.raises(ProtocolError, match="was removed"):
            executor.begin(model, lambda: True).step(sent[0])
        client.upload()  # under the same id, other files
        with pytest.raises(ProtocolError, match="was removed"):
            executor.begin(model, lambda: True).step(sent[0])
        assert predict(client, 1).passed


def test_nobody_waits_any_more(serve, tmp_path) -> None:
    """The work in the actor ends, long before it is done."""
    owner, executor = FakeOwner(), RayExecutor(1)
    with Client(serve().address, owner) as client:
        client.upload()
    stored = Store(tmp_path / "store").find("local", owner.model_id)
    assert stored is not None
    slow = FakeBackend(partial(FakeEvaluator, delay_s=1.0))
    executor.start(Store(tmp_path / "store"), slow, 1, None)
    try:
        model = executor.load(stored, slow, 1, 1 << 30)
        left = threading.Event()
        threading.Timer(0.5, left.set).start()
        evaluation = executor.begin(model, lambda: not left.is_set())
        began = time.monotonic()
        with pytest.raises(Gone):
            evaluation.step(inputs(model.program, 0)[0])
        assert time.monotonic() - began < 4  # of 8 s that the step takes
        evaluation.close()
        assert figures(executor)[0][2] == 0
        assert evaluation.away_s > 0
    finally:
        executor.stop()


def test_a_store_that_is_not_there_is_one_sentence(tmp_path) -> None:
    store = Store(tmp_path / "other")
    (tmp_path / "other" / "salt").unlink()
    executor = RayExecutor(1)
    with pytest.raises(InputError, match="mounted at the same path"):
        executor.start(store, VectorBackend(), 1, None)


def test_arguments() -> None:
    with pytest.raises(InputError, match="actors"):
        RayExecutor(0)
    with pytest.raises(InputError, match="head node"):
        RayCluster("unix:somewhere", 1)
    with pytest.raises(InputError, match="not been started"):
        _ = RayExecutor(1).pool


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_ray_is_loaded_only_when_it_is_asked_for(tmp_path) -> None:
    found = python(
        "import sys, protocol, securedl.cli, protocol.serve_command, protocol.ray_executor\n"
        f"with protocol.Server({str(tmp_path / 'store')!r}, '127.0.0.1:0'): pass\n"
        "assert 'protocol.server' in sys.modules\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'ray'])"
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_ray_is_missing(tmp_path) -> None:
    found = python(
        "import sys; sys.modules['ray'] = None; from securedl.cli import main; main()",
        "serve", "--executor", "ray", "--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"),
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.strip().endswith("securedl: the executor ray needs Ray: pip install '.[ray]'")
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--executor", "ray", "--workers", "2"), "leave --workers at 1"),
        (("--actors", "3"), "of --executor ray"),
        (("--ray-address", "127.0.0.1:1"), "of --executor ray"),
        (("--executor", "ray", "--ray-address", "ray://127.0.0.1:1"), "is no address: write HOST:PORT"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, words: str) -> None:
    code = "from securedl.cli import main; main()"
    found = python(code, "serve", "--listen", "127.0.0.1:0", "--store", str(tmp_path / "s"), *options)
    assert found.returncode == 1
    assert found.stderr.startswith("securedl: ")
    assert words in found.stderr
    assert found.stderr.count("\n") == 1


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path) -> None:
    code = "from securedl.cli import main; main()"
    options = ("--executor", "ray", "--ray-address", "127.0.0.1:1", "--quiet")
    found = python(code, "serve", "--listen", "127.0.0.1:0", "--store", str(tmp_path / "s"), *options)
    assert found.returncode == 1
    assert found.stderr == "securedl: no Ray cluster answers at 127.0.0.1:1: Connection refused\n"
    assert not (tmp_path / "s").exists()


def test_a_server_of_its_own(network, tmp_path, monkeypatch) -> None:
    """Told by the environment; nothing of it is left when it has been stopped, and its log is ours alone."""
    owner, x, _ = network
    monkeypatch.setenv("SECUREDL_SERVE_EXECUTOR", "ray")
    monkeypatch.setenv("SECUREDL_SERVE_ACTORS", "1")
    command = serve_command(tmp_path / "store", "127.0.0.1:0", "--log-format", "json")
    with running(command, tmp_path / "log") as server:
        with Client(server.address, owner) as client:
            client.upload()
            assert client.predict(x[:1]).report.passed
        events = [json.loads(line) for line in server.logged().splitlines()]
        (actor,) = [event for event in events if event["event"] == "actor"]
        assert os.getpriority(os.PRIO_PROCESS, actor["pid"]) == os.getpriority(os.PRIO_PROCESS, 0)
        assert server.popen.poll() is None
    assert server.popen.returncode == 0
    eventually(lambda: not Path(f"/proc/{actor['pid']}").exists())
    told = [json.loads(line)["event"] for line in server.logged().splitlines()]
    assert told[-2:] == ["draining", "stopped"]
