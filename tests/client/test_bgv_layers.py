"""Whole numbers in coefficients, activations by the client: original ≈ script of whole numbers = simulated =
encrypted, and what goes back is what sums over integers give.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import securedl
from securedl.client.modular import ModularProjections, least_combinations
from securedl.compiler.chains import check_noise
from securedl.errors import CompileError, InputError
from securedl.network.geometry import Geometry
from securedl.plan.plan import Plan, plan_from_bytes
from securedl.plan.rounds import Layerwise
from securedl.plan.served import ServedLinear

sys.path.insert(0, str(Path(__file__).parent))
from every_form import Server, small_mlp
from every_network import NETWORKS, built, original

pytestmark = [pytest.mark.he, pytest.mark.filterwarnings("ignore:Using padding='same'")]

#: Of the client's own operations, whose last bits depend on how many samples there are.
ULPS = 1e-12
#: One of each kind.
FEW = (
    "mlp, batch", "conv 3x3, batch", "conv 7x7, stride 2", "conv dilated", "depthwise, two maps", "conv same",
    "max pooling", "residual, projection", "attention", "norms around",
)  # fmt: skip


@functools.cache
def planned(name: str, bits: tuple[int, int, int] | None = None) -> Plan:
    model, x, batch = built(name)
    return securedl.compile(model, x, scheme="bgv", activations="client", batch=batch, bits=bits)


def layers(plan: Plan) -> Iterator[tuple[ServedLinear, np.ndarray]]:
    network = plan.network
    assert isinstance(network, Layerwise)
    for served, kernel in zip(network.rounds.served, network.kernels, strict=True):
        assert isinstance(served, ServedLinear)
        yield served, kernel


def logits(plan: Plan, flat: np.ndarray) -> np.ndarray:
    network = plan.network
    assert isinstance(network, Layerwise)
    return network(flat)


def by_integers(geometry: Geometry, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Of images [samples, channels, rows, columns], whole numbers: a sum of integers, tap by tap."""
    assert (x == np.rint(x)).all()
    assert (kernel == np.rint(kernel)).all()
    _, rows, columns = geometry.output
    y, z = geometry.rows, geometry.columns
    around = np.pad(x, ((0, 0), (0, 0), (y.padding,) * 2, (z.padding,) * 2)).astype(np.int64)
    found = np.zeros((len(x), *geometry.output), np.int64)
    each, read = geometry.maps // geometry.groups, kernel.shape[1]
    for m in range(geometry.maps):
        first = m // each * read
        for c in range(read):
            for a in range(kernel.shape[2]):
                for b in range(kernel.shape[3]):
                    down, across = a * y.dilation, b * z.dilation
                    part = around[:, first + c, down:, across:][:, :: y.stride, :: z.stride]
                    found[:, m] += part[:, :rows, :columns] * int(kernel[m, c, a, b])
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_original_integers_simulated_encrypted(name: str) -> None:
    model, x, batch = built(name)
    plan, few = planned(name), x[: 2 * batch + 1]
    flat = few.reshape(len(few), -1)
    output = plan.signature.output
    exact = output.head(output.shaped(logits(plan, flat)))
    wanted = original(model, x)
    ranges = np.maximum(np.ptp(wanted, axis=0), np.ptp(wanted, axis=0).max() / 8)
    if output.head.kind:  # of probabilities, which move by a quarter of what logits do at most
        assert np.abs(exact - wanted[: len(few)]).max() < 0.15
    else:
        assert (np.abs(exact - wanted[: len(few)]) <= 1.001 * plan.signature.error * ranges).all()
    for (served, kernel), exchange in zip(layers(plan), plan.network.exchanges(flat, ()), strict=True):
        geometry, images = served.layer.geometry, exchange.sent.reshape(-1, *served.layer.geometry.image)
        received = by_integers(geometry, images, kernel).reshape(exchange.received.shape)
        np.testing.assert_array_equal(exchange.received, received)
        assert np.abs(exchange.sent).max() <= served.whole
        assert (np.abs(received).max() <= served.ranges.bounds(kernel).max()).all()
    (run, *_) = plan.simulate_batches(plan.batches(flat), None)
    for found, exchange in zip(run.received, plan.network.exchanges(flat[:batch], ()), strict=True):
        np.testing.assert_array_equal(found, exchange.received)
    np.testing.assert_allclose(plan.simulate(few), exact, rtol=ULPS, atol=ULPS)
    answer = Server(securedl.Owner(plan, ahead=0)).answer(few, probes=2 if batch > 2 else 0)
    np.testing.assert_allclose(answer.logits.reshape(len(few), -1), logits(plan, flat), rtol=ULPS, atol=ULPS)
    assert answer.report.passed  # every value at every checkpoint is what it should be
    assert answer.report.checked == len(few)
    assert check_noise(plan.program) > 0


@pytest.mark.parametrize("name", FEW)
def test_finer_numbers_are_nearer(name: str) -> None:
    """Whatever offsets, padding, strides and groups do to them."""
    coarse, fine = planned(name), planned(name, (11, 11, 11))
    assert fine.signature.error < max(coarse.signature.error / 3, 2**-8)
    assert fine.program.params.plain_modulus > 2 * fine.network.largest


@pytest.mark.parametrize("evaluator", ["vector", "seal"])
@pytest.mark.parametrize("how", ["recomputed", "projected"])
def test_one_unit_is_noticed(evaluator: str, how: str) -> None:
    """Anywhere that a value stands; and nothing else is an alarm."""
    name, random = "residual, widened", np.random.default_rng(1)
    plan, x = planned(name), built(name)[1][:2]
    owner = securedl.Owner(plan, ahead=0)
    if how == "projected":
        t = plan.program.params.plain_modulus
        owner.verification.combined = ModularProjections(plan.network, t, plan.samples[0])
    server = Server(owner, evaluator)
    for point in range(1, len(plan.signature.checkpoints)):
        for unit in (0.0, 1.0, -1.0):
            layout = plan.signature.checkpoints[point].sent
            assert layout is not None
            values = np.zeros(layout.shape)
            values[tuple(random.integers(values.shape))] = unit
            changed = layout.pack(values)
            inference = owner.ask(x, probes=0, after_alarm="continue")
            (batch,) = inference.batches
            server.serve(
                batch, lambda at, tile, point=point, changed=changed: changed[tile] if at == point else None
            )
            assert bool(batch.alarms) == bool(unit), (point, unit, batch.alarms)
            report = inference.answer({}, {}).report
            assert report.how == how
            assert report.passed != bool(unit)


def test_what_is_between_values_is_nobodys() -> None:
    """A coefficient that no value stands in may be anything."""
    plan, x = planned("max pooling"), built("max pooling")[1][:1]
    owner = securedl.Owner(plan, ahead=0)
    layout = plan.signature.checkpoints[1].sent
    assert layout is not None
    free = layout.pack(np.ones(layout.shape)) == 0
    assert free.any()
    answer = Server(owner).answer(x, lambda at, tile: 7.0 * free[tile] if at == 1 else None, probes=0)
    assert answer.report.passed
    np.testing.assert_allclose(answer.logits, logits(plan, x.reshape(1, -1)), rtol=ULPS)


@pytest.mark.parametrize("name", ["residual, projection", "attention, batch", "mlp"])
def test_combinations_are_those_of_the_weights(name: str) -> None:
    """r·y = (Wᵀr)·x modulo t, in Python's integers."""
    plan, x = planned(name), built(name)[1][:5].reshape(5, -1)
    t = plan.program.params.plain_modulus
    projections = ModularProjections(plan.network, t, plan.samples[0])
    assert projections.combinations == least_combinations(t)
    for drawn, exchange in zip(projections.drawn(), plan.network.exchanges(x, ()), strict=True):
        assert not drawn.errors(exchange.sent, exchange.received).any()
        wrong = exchange.received.copy()
        wrong[2, -1] += 1
        assert drawn.errors(exchange.sent, wrong).any(axis=1).tolist() == [False, False, True, False, False]
        size = exchange.received.shape[1]
        rows, columns = (drawn.factors[0, part].tolist() for part in (slice(size), slice(size, None)))
        for u, y in zip(exchange.sent[:2], exchange.received[:2], strict=True):
            total = sum(r * int(v) for r, v in zip(rows, y, strict=True))
            total += sum(c * int(v) for c, v in zip(columns, u, strict=True))
            assert (total - int(drawn.offset[0])) % t == 0


def test_saved_and_loaded(tmp_path: Path) -> None:
    x, plan = built("residual, projection")[1], planned("residual, projection")
    again = plan_from_bytes(plan.to_bytes())
    assert again.to_bytes() == plan.to_bytes()
    assert again.summary() == plan.summary()
    np.testing.assert_array_equal(again.simulate(x[:3]), plan.simulate(x[:3]))
    owner = securedl.Owner(plan, ahead=0)
    owner.verification.prepare()
    owner.save(tmp_path / "owner", passphrase="p")
    owner = securedl.Owner.load(tmp_path / "owner", passphrase="p")
    assert Server(owner).answer(x[:1]).report.passed


def test_the_summary_says_so() -> None:
    text = planned("max pooling").summary()
    assert text.startswith("BGV, ring 4096, primes [")
    assert "level 1" in text
    assert "whole numbers: -127 to 127 are sent, results below 2^" in text
    assert "the client rounds and clips" in text
    assert "error of quantising: at most" in text
    assert "without them too" in text


def test_what_is_out_of_range_is_refused_or_clipped() -> None:
    x = np.random.default_rng(0).normal(size=(200, 6))
    plan = securedl.compile(small_mlp(), x, scheme="bgv", activations="client")
    far = x[:4].copy()
    far[2, 1] = 100
    with pytest.raises(InputError, match=r"1 sample\(s\) would overflow under encryption: x\[2\]"):
        plan.checked(far)
    low, high = plan.signature.box
    assert (low <= x.min(axis=0)).all()
    assert (high >= x.max(axis=0)).all()
    server = Server(securedl.Owner(plan, ahead=0))
    answer = server.answer(far, probes=0, outliers="clip")
    assert answer.report.passed
    assert answer.report.clipped == (2,)
    np.testing.assert_allclose(answer.logits[2], logits(plan, np.clip(far, low, high))[2], rtol=ULPS)
    assert server.answer(far, probes=0, outliers="skip").report.skipped == (2,)


def test_widths_that_nothing_holds() -> None:
    model, x = nn.Linear(4000, 3), np.random.default_rng(0).normal(size=(40, 4000))
    options: dict[str, Any] = {"scheme": "bgv", "activations": "client"}
    with pytest.raises(CompileError, match=r"layer '.*' needs 3\d bits for its values, and a plain modulus"):
        securedl.compile(model, x, bits=(12, 12, 12), **options)
    with pytest.raises(CompileError, match=r"ring 4096 holds no primes in which the noise fits"):
        securedl.compile(model, x, bits=(10, 10, 10), ring=4096, **options)
    plan = securedl.compile(model, x, bits=(10, 10, 10), **options)
    assert plan.program.params.ring == 8192
    with pytest.raises(InputError, match="refreshes cannot be chosen"):
        securedl.compile(model, x, refreshes=2, **options)


@pytest.mark.parametrize("name", ["residual, widened", "mlp, batch"])
def test_plain_weights(name: str) -> None:
    model, x, batch = built(name)
    plan = securedl.compile(
        model, x, scheme="bgv", activations="client", batch=batch, weights="plain", ring=4096
    )
    assert not plan.program.encrypted
    assert not plan.program.relinearises
    owner, few = securedl.Owner(plan, ahead=0), x[:batch]
    answer = Server(owner).answer(few, probes=0)
    assert answer.report.passed
    found = answer.logits.reshape(batch, -1)
    np.testing.assert_allclose(found, logits(plan, few.reshape(batch, -1)), rtol=ULPS, atol=ULPS)
