"""Servers that tamper with the weights they keep are noticed; honest ones raise no alarm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from securedl.demo.dishonest import MOVES, DishonestBackend, Tampered
from securedl.errors import InputError
from securedl.he.record import Shape
from securedl.he.vector.backend import VectorBackend

pytestmark = pytest.mark.he

SEEDS = range(20)
LANES = 32
#: Of the 32 lanes of a batch, those with samples; all others hold probes.
SAMPLES = 8


@pytest.fixture(scope="module")
def net(network):
    """The network whose weights are tampered with."""
    return network()


@pytest.fixture(scope="module")
def owner(net, folder, local):
    """An owner whose model is on the store, uploaded once."""
    owner = net.owner(ring=8192, refreshes=2)
    with local(folder, owner) as client:
        client.upload()
    owner.verification.prepare()
    return owner


def test_what_stands_in_place_of_a_diagonal() -> None:
    """Another of its layer, or one with at least its primes of another; a model with one alone has none."""
    level = {0: 3, 1: 1, 2: 1}
    honest: Any = SimpleNamespace(shapes=[Shape(level[k], 2, 1.0) for k in level])
    for seed in range(9):
        partner = Tampered(honest, [range(1), range(1, 3)], "swap", seed)._partner
        assert partner in ({1: 2}, {2: 1})
        assert Tampered(honest, [range(1), range(1, 2)], "swap", seed)._partner == {1: 0}
    with pytest.raises(InputError, match="without two diagonals"):
        Tampered(honest, [range(1)], "swap", 0)
    assert Tampered(honest, [range(1)], "drop", 0)._partner == {0: 0}


@pytest.mark.parametrize("attack", MOVES)
def test_every_attack_is_noticed(net, owner, folder, local, attack: str) -> None:
    missed = []
    for seed in SEEDS:
        backend = DishonestBackend(VectorBackend(), attack, seed)
        with local(folder, owner, f"{attack}{seed}", evaluator=backend) as client:
            report = client.predict(net.x[:SAMPLES], after_alarm="continue").report
        if report.passed or not report.alarms or report.worst_ratio <= 1:
            missed.append((seed, report.worst_ratio))
    assert not missed


def test_nothing_of_a_move_reaches_the_store(net, owner, folder, local) -> None:
    """Its weights live in memory; the name it gives is the honest one's. What it counts is no model's."""

    def files() -> dict[str, bytes]:
        paths = (p for p in (folder / "store").rglob("*") if p.is_file())
        return {str(p): p.read_bytes() for p in paths if not p.name.startswith("usage.sqlite")}

    before = files()
    backend = DishonestBackend(VectorBackend(), "noise", 0)
    with local(folder, owner, "quiet", evaluator=backend) as client:
        assert client.describe()["evaluator"] == "vector"
        client.predict(net.x[:SAMPLES], after_alarm="continue")
    assert files() == before


def test_an_unknown_move() -> None:
    with pytest.raises(InputError, match="attack 'bribe' is unknown: use one of noise, drop, swap"):
        DishonestBackend(VectorBackend(), "bribe", 0)


def test_an_honest_server_after_dishonest_ones(net, owner, folder, local) -> None:
    """Nothing of the attacks stays on the store: 40 batches, each full of probes, without an alarm."""
    batches = 40
    with local(folder, owner, "honest") as client:
        answer = client.predict(
            net.x[: batches * SAMPLES // 2].repeat(2, axis=0),
            batches * (LANES - SAMPLES),
            after_alarm="continue",
        )
    assert answer.report.passed, answer.report.summary()
    assert answer.report.worst_ratio <= 1
    assert answer.report.probes == batches * (LANES - SAMPLES)
    assert answer.report.checkpoints == 2 * answer.report.probes
    assert net.close(net.x[:160].repeat(2, axis=0), answer.logits)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_no_false_alarm_with_any_key(network, folder, local, seed: int) -> None:
    """Five networks with keys of their own, 40 batches each."""
    batches, net = 40, network(seed=seed + 1, activation=("relu", "tanh", "sigmoid")[seed % 3])
    owner = net.owner(ring=8192)
    with local(folder, owner, f"key{seed}") as client:
        client.upload()
        answer = client.predict(net.x, batches * LANES - len(net.x))
    assert answer.report.passed, answer.report.summary()
    assert answer.report.probes == batches * LANES - len(net.x)
