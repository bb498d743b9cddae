"""One altered answer is noticed, whichever it is, and an honest server is not accused: on real sockets."""

from __future__ import annotations

import numpy as np
import pytest

import protocol
import securedl
from bench.detection.answers import Push, Pushing, answered, detected, smallest
from securedl.demo.data import HIDDEN, load_split, train_network

pytestmark = pytest.mark.he


@pytest.fixture(scope="module")
def wine():
    split = load_split("wine")
    model = train_network(split, HIDDEN["wine"])
    return split, model, securedl.approximate(
        model, split.x_train, split.y_train, degree=2, epochs=5, progress=False
    )  # fmt: skip


def plan_of(wine, activations: str, batch: int) -> securedl.Plan:
    split, model, squares = wine
    network = squares if activations == "server" else model
    return securedl.compile(network, split.x_train, batch=batch, activations=activations)


@pytest.mark.parametrize(
    ("activations", "batch"),
    [
        ("server", 64),
        ("client", 1),
        pytest.param("server", 1, marks=pytest.mark.slow),
        pytest.param("client", 64, marks=pytest.mark.slow),
    ],
)
def test_the_smallest_push_that_changes_a_label_is_noticed(wine, activations, batch):
    found = detected("wine", plan_of(wine, activations, batch), wine[0].x_test, runs=12, honest=64, keys=1)
    assert (found.noticed, found.alarms) == (12, 0), str(found)
    assert found.combined == found.claimed
    assert max(found.worst, found.worst_combined) < 0.9


def test_such_a_push_does_change_the_label(wine, tmp_path):
    """What the server adds is what was meant: nothing looks, and the label is another."""
    plan, x = plan_of(wine, "server", 64), np.resize(wine[0].x_test, (64, wine[0].x_test.shape[1]))
    owner, executor = securedl.Owner(plan), Pushing(plan)
    batch, random = plan.checked(x), np.random.default_rng(0)
    honest = answered(plan, batch).argmax(axis=1)
    address = f"unix:{tmp_path}/server"
    server = protocol.Server(tmp_path / "store", address, executor=executor)
    with server, protocol.Client(address, owner) as client:
        client.upload()
        np.testing.assert_array_equal(client.predict(x, probes=0).labels, honest)
        changed, lane = False, 0
        while not changed and lane < 32:
            # Samples stand in another order in each query: whose label it is, nobody can tell.
            push = smallest(plan, batch, lane, random)
            executor.push = Push(push.point, lane, push.feature, 20.0 * np.sign(push.amount))
            labels = client.predict(x, probes=0, verify="none", after_alarm="continue").labels
            changed, lane = not np.array_equal(labels, honest), lane + 1
        assert changed
