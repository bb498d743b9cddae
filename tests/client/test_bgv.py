"""Exact inference: what comes back encrypted is, bit by bit, what Python's integers give."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.demo.data import HIDDEN, load_split, train_network
from securedl.errors import CompileError, InputError
from securedl.plan.plan import Plan, plan_from_bytes
from securedl.plan.quantised import Quantised

sys.path.insert(0, str(Path(__file__).parent))
from every_form import Server, X, network, served

pytestmark = pytest.mark.he

PLANS = {
    "squares": lambda: securedl.compile(network("relu", 2), X, scheme="bgv", batch=32),
    "cubics": lambda: securedl.compile(network("tanh", 3), X, scheme="bgv", batch=64, bits=(6, 6, 7)),
    "powers": lambda: securedl.compile(network("relu", 4), X, scheme="bgv", batch=16, bits=(5, 5, 5)),
    "one layer": lambda: securedl.compile(nn.Linear(6, 3).double(), X, scheme="bgv", batch=2),
    "every slot": lambda: securedl.compile(network("relu", 2), X, scheme="bgv", batch="throughput"),
    "plain weights": lambda: securedl.compile(
        network("tanh", 3), X, scheme="bgv", batch=32, bits=(6, 6, 7), weights="plain"
    ),
    "plain weights, powers": lambda: securedl.compile(
        network("relu", 4), X, scheme="bgv", batch=16, bits=(5, 5, 5), weights="plain"
    ),
}


@pytest.fixture(scope="module", params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    torch.manual_seed(0)
    return PLANS[request.param]()


def whole(values: Any) -> np.ndarray:
    """Python's integers, of doubles that are whole."""
    assert (np.asarray(values) == np.rint(values)).all()
    return np.vectorize(int, otypes=[object])(values)


def by_integers(plan: Plan, flat: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """All pre-activations, and logits, of samples [samples, features]."""
    network = plan.network
    assert isinstance(network, Quantised)
    client, received = network.client, list[np.ndarray]()
    u = np.clip(
        np.rint((flat - network.input_offset) / network.input_scale * client.input_factor),
        -client.input_limit, client.input_limit,
    )  # fmt: skip
    reads = [whole(u)]
    for k, layer in enumerate(network.layers):
        terms = [read @ whole(m.toarray()).T for m, read in zip(layer.matrices, reads, strict=True)]
        received.append(sum(terms) + whole(layer.bias))
        if k + 1 == len(network.layers):
            break
        v = received[-1].astype(float) * client.factors[k]
        u = whole(np.clip(np.rint(v), -client.limit, client.limit))
        form = layer.form
        if form.name == "cubic":
            reads = [u * (u * u + whole(form.constant))]
        elif form.name == "square":
            reads = [u * u]
        else:
            assert form.name == "powers"
            reads = [u**p for p in range(1, form.degree + 1)]
    return received, received[-1].astype(float) * network.output_scale + network.output_offset


def samples(plan: Plan, count: int) -> np.ndarray:
    """Half of them anywhere in the box, at corners too."""
    random = np.random.default_rng(0)
    low, high = plan.signature.box
    box = random.uniform(low, high, (count // 2, len(low)))
    box[::4] = np.where(random.integers(0, 2, box[::4].shape), low, high)
    return np.concatenate([plan.samples[: count - len(box)], box])


def test_integers_simulated_encrypted(plan: Plan) -> None:
    flat = samples(plan, min(2 * plan.batch + 3, 100))
    received, logits = by_integers(plan, flat)
    for found, wanted in zip(plan.expected(flat)[1:], received, strict=True):
        np.testing.assert_array_equal(found, wanted.astype(float))
    np.testing.assert_array_equal(plan.simulate(flat), logits)
    (run, *_) = plan.simulate_batches(plan.batches(flat), None)
    for found, wanted in zip(run.received, received, strict=True):
        most = min(len(wanted), plan.batch)
        np.testing.assert_array_equal(found[:most], wanted[:most].astype(float))
    answer = served(securedl.Owner(plan, ahead=0), flat, probes=4 if plan.batch > 2 else 0)
    assert answer.report.passed
    np.testing.assert_array_equal(answer.logits, logits)


def test_bounds_hold_and_the_modulus_is_above_them(plan: Plan) -> None:
    network = plan.network
    assert isinstance(network, Quantised)
    received, _ = by_integers(plan, samples(plan, 200))
    t = plan.program.params.plain_modulus
    for values, bound in zip(received, network.bounds, strict=True):
        assert (np.abs(values.astype(float)).max(axis=0) <= bound).all()
        assert 2 * bound.max() < t


def test_saved_and_loaded(plan: Plan) -> None:
    again = plan_from_bytes(plan.to_bytes())
    assert again.to_bytes() == plan.to_bytes()
    flat = samples(plan, 8)
    np.testing.assert_array_equal(again.simulate(flat), plan.simulate(flat))


@pytest.mark.parametrize("evaluator", ["vector", pytest.param("seal", marks=pytest.mark.slow)])
def test_one_unit_is_noticed(plan: Plan, evaluator: str) -> None:
    """Anywhere, in any lane; and nothing else is an alarm."""
    owner, random = securedl.Owner(plan, ahead=0), np.random.default_rng(1)
    server = Server(owner, evaluator)
    for point in range(1, len(plan.signature.checkpoints)):
        for unit in (0.0, 1.0):
            layout = plan.signature.checkpoints[point].sent
            assert layout is not None
            values = np.zeros(layout.shape)
            values[random.integers(layout.shape[0]), random.integers(layout.shape[1])] = unit
            changed = slots(plan, point, values)
            (batch, *_) = owner.ask(samples(plan, 3), probes=0, after_alarm="continue").batches
            server.serve(
                batch, lambda at, tile, point=point, changed=changed: changed[tile] if at == point else None
            )
            assert bool(batch.alarms) == bool(unit), (point, unit, batch.alarms)


def slots(plan: Plan, point: int, values: np.ndarray) -> np.ndarray:
    """Those that add to values [batch, features] that are received at a point."""
    from securedl.plan.layouts import in_rows

    layout = plan.signature.checkpoints[point].sent
    assert layout is not None
    return in_rows(layout.pack(values), plan.program.rows, plan.batch)


def test_what_is_out_of_range_is_refused_or_clipped() -> None:
    plan = PLANS["squares"]()
    far = plan.samples[:4].copy()
    far[2, 1] = 100 * plan.signature.input_scale[1]
    with pytest.raises(InputError, match=r"1 sample\(s\) would overflow under encryption: x\[2\]"):
        plan.checked(far)
    owner = securedl.Owner(plan, ahead=0)
    answer = served(owner, far, probes=0, outliers="clip")
    assert answer.report.passed
    assert answer.report.clipped == (2,)
    assert served(owner, far, probes=0, outliers="skip").report.skipped == (2,)


def test_the_report_speaks_of_whole_numbers() -> None:
    plan = PLANS["squares"]()
    text = served(securedl.Owner(plan, ahead=0), plan.samples[:5], probes=0).report.summary()
    assert (
        "all 5 answers recomputed, every value at 3 checkpoints\n  compared exactly: no wrong value" in text
    )
    assert "tolerance" not in text
    assert "whole numbers: inputs -127 to 127, refreshed values -127 to 127" in plan.summary()
    assert "without them too" in plan.summary()


@pytest.mark.parametrize("data", HIDDEN)
def test_tables(data: str) -> None:
    """Every test sample, at every checkpoint; and what quantising costs."""
    torch.set_num_threads(1)
    split = load_split(data)
    model = train_network(split, HIDDEN[data])
    squares = securedl.approximate(model, split.x_train, split.y_train, degree=2, epochs=20, progress=False)
    plan = securedl.compile(squares, split.x_train, scheme="bgv", batch=128)
    flat = np.asarray(split.x_test, dtype=float).reshape(len(split.x_test), -1)
    flat = plan.signature.clipped(flat)
    received, logits = by_integers(plan, flat)
    owner = securedl.Owner(plan, ahead=0)
    answer = served(owner, flat.reshape(len(flat), *plan.input_shape), probes=0)
    assert answer.report.passed
    np.testing.assert_array_equal(answer.logits, logits)
    same = (logits.argmax(axis=1) == plan.reference(flat).argmax(axis=1)).mean()
    assert same >= 0.97
    assert len(received) == len(HIDDEN[data]) + 1


def test_what_there_is_not() -> None:
    model = network("relu", 2)
    with pytest.raises(InputError, match="with scheme 'bgv' refreshes are 0 or one before"):
        securedl.compile(model, X, scheme="bgv", refreshes=1)
    with pytest.raises(InputError, match="bits are three whole numbers from 3 to 12"):
        securedl.compile(model, X, scheme="bgv", bits=(8, 8, 40))
    with pytest.raises(CompileError, match=r"layer '.*' needs \d+ bits for its values, and a plain modulus"):
        securedl.compile(model, X, scheme="bgv", bits=(12, 12, 12))
    with pytest.raises(CompileError, match="more than limit_gb=1e-06"):
        securedl.compile(model, X, scheme="bgv", limit_gb=1e-6)
    with pytest.raises(CompileError, match="ring 4096"):
        securedl.compile(model, X, scheme="bgv", ring=4096)


def test_an_accuracy_takes_the_fewest_bits() -> None:
    """One bit less has other labels, by the integers."""
    split = load_split("wine")
    model = train_network(split, HIDDEN["wine"])
    squares = securedl.approximate(model, split.x_train, split.y_train, degree=2, epochs=10, progress=False)

    def labels(plan: Plan) -> Any:
        return by_integers(plan, np.asarray(split.x_train, dtype=float))[1].argmax(axis=1)

    for who in ("client", "server"):
        plan = securedl.compile(squares, split.x_train, scheme="bgv", accuracy=1.0, activations=who)
        assert plan.program.params.plain_modulus < 1 << 24
        if who == "server":
            assert isinstance(plan.network, Quantised)
            bits = plan.network.client.input_limit.bit_length() + 1
            fewer = securedl.compile(squares, split.x_train, scheme="bgv", bits=(bits - 1,) * 3)
            wanted = plan.reference(plan.signature.flat(split.x_train)).argmax(axis=1)
            assert (labels(plan) == wanted).all()
            assert (labels(fewer) != wanted).any()
    with pytest.raises(CompileError, match=r"accuracy=1 cannot be had: the best .* agree"):
        securedl.compile(network("relu", 2), X, scheme="bgv", accuracy=1, task="regression")
    with pytest.raises(InputError, match="use them with scheme='bgv'"):
        securedl.compile(network("relu", 2), X, bits=(8, 8, 8))
