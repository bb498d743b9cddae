"""Whole numbers without a refresh: joined from several channels, answers are those of Python's integers."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from torch import nn

import protocol
import securedl
from securedl.client.inference import AnswerPart
from securedl.client.joined import JoinedInference, worst_of
from securedl.client.modular import ModularProjections, least_combinations
from securedl.demo.processes import running, serve_command
from securedl.errors import AlarmError, CompileError, InputError
from securedl.network.outputs import Output
from securedl.plan.congruent import Congruent
from securedl.plan.layouts import in_rows
from securedl.plan.plan import Plan, plan_from_bytes
from securedl.program.steps import Matvec
from securedl.verify.report import Blind, Report

sys.path.insert(0, str(Path(__file__).parent))
from every_form import Server, X, network

BITS = (6, 6, 7)


def through(model: nn.Module, bits: tuple[int, int, int] = BITS, samples: int = 32, **options) -> Plan:
    """A plan without refreshes."""
    return securedl.compile(model, X, scheme="bgv", refreshes=0, bits=bits, batch=samples, **options)


PLANS = {
    "squares": lambda: through(network("relu", 2)),
    "squares, plain weights": lambda: through(network("relu", 2), weights="plain"),
    "cubics": lambda: through(network("tanh", 3)),
    "powers": lambda: through(network("relu", 4), (5, 5, 5), samples=16),
    "one layer": lambda: through(nn.Linear(6, 3).double(), samples=2),
}


class Square(nn.Module):
    """A product at the end of a network."""

    def forward(self, x):
        return x * x


@pytest.mark.parametrize("options", [{"refreshes": 0, "bits": BITS}, {}], ids=["channels", "refreshes"])
def test_what_is_shown_comes_from_a_matrix(options) -> None:
    """So says the measurement of unused noise, which looks at no other end (tests/he/test_noise.py)."""
    model = nn.Sequential(nn.Linear(6, 5), Square(), nn.Linear(5, 4), Square()).double()
    for program in securedl.compile(model, X, scheme="bgv", **options).signature.channels:
        made = {step.out: step for step in program.steps}
        shown = [made[step.reads()[0]] for step in program.steps if step.shows]
        assert all(isinstance(step, Matvec) for step in [*shown, made[program.output]])


@pytest.fixture(scope="module")
def squares() -> Plan:
    return PLANS["squares"]()


def whole(values: np.ndarray) -> np.ndarray:
    """Python's integers, of doubles that are whole and may be larger than 2^53."""
    assert (values == np.rint(values)).all()
    return np.vectorize(int, otypes=[object])(values)


def by_integers(plan: Plan, flat: np.ndarray) -> list[np.ndarray]:
    """All pre-activations of samples [samples, features]."""
    network, found = plan.network, list[np.ndarray]()
    assert isinstance(network, Congruent)
    client = network.client
    u = np.rint((flat - network.input_offset) / network.input_scale * client.input_factor)
    reads = [whole(np.clip(u, -client.input_limit, client.input_limit))]
    for layer in network.layers:
        terms = [read @ whole(m.toarray()).T for m, read in zip(layer.matrices, reads, strict=True)]
        found.append(v := sum(terms) + whole(layer.bias))
        if layer.form.name == "cubic":
            reads = [v * (v * v + whole(layer.form.constant))]
        else:
            reads = [v**p for p in ([2] if layer.form.name == "square" else range(1, layer.form.degree + 1))]
    return found


def logits(plan: Plan, answers: np.ndarray) -> np.ndarray:
    """Of whole numbers, in the network's own units."""
    return answers.astype(float) * plan.signature.output_scale + plan.signature.output_offset


def samples(plan: Plan, count: int) -> np.ndarray:
    """Half of them anywhere in the box, at corners too."""
    random = np.random.default_rng(0)
    low, high = plan.signature.box
    box = random.uniform(low, high, (count // 2, len(low)))
    box[::4] = np.where(random.integers(0, 2, box[::4].shape), low, high)
    return np.concatenate([plan.samples[: count - len(box)], box])


def centred(values: np.ndarray, t: int) -> np.ndarray:
    return np.array((values + t // 2) % t - t // 2, float)


class Servers:
    """One for each channel."""

    def __init__(self, owner: securedl.Owner, evaluator: str = "vector") -> None:
        self.owner = owner
        self.each = [Server(one, evaluator) for one in owner.channels]

    def answer(self, x: np.ndarray, change=None, **options):
        """change(channel, point, tile): slots that are added to what is sent, or None."""
        inference = self.owner.ask(x, after_alarm="continue", **options)
        lines = inference.again(inference.unanswered)
        for number, (server, batches) in enumerate(zip(self.each, lines, strict=True)):
            for batch in batches:
                server.serve(batch, change and (lambda *at, number=number: change(number, *at)))
        return inference, inference.answer({}, {})


@pytest.mark.parametrize("name", PLANS)
def test_integers_and_simulated(name: str) -> None:
    plan = PLANS[name]()
    flat = samples(plan, min(2 * plan.batch + 3, 60))
    wanted = by_integers(plan, flat)
    network = plan.network
    assert isinstance(network, Congruent)
    np.testing.assert_array_equal(plan.simulate(flat, None), logits(plan, wanted[-1]))
    np.testing.assert_array_equal(network(flat), logits(plan, wanted[-1]))
    for channel in plan.channels:
        t = channel.program.params.plain_modulus
        points = channel.signature.checkpoints
        received = channel.network.exchanges(flat, points)[-1].received
        np.testing.assert_array_equal(received, centred(wanted[-1], t))
    for values, bound in zip(wanted, network.bounds, strict=True):
        assert (np.abs(values).max(axis=0) <= whole(np.floor(bound))).all()
    assert 2 * int(network.bounds[-1].max()) + 1 < math.prod(network.primes)
    assert len({*network.primes}) == len(plan.channels)
    if name != "one layer":
        assert len(plan.channels) > 2
        assert max(abs(wanted[-1]).ravel()) > 1 << 53  # no double, and no residue, holds that


@pytest.mark.he
@pytest.mark.parametrize("evaluator", ["vector", pytest.param("seal", marks=pytest.mark.slow)])
def test_integers_and_encrypted(squares: Plan, evaluator: str) -> None:
    flat = samples(squares, 40)
    answer = Servers(securedl.Owner(squares, ahead=0), evaluator).answer(flat, probes=4)[1]
    assert answer.report.passed, answer.report
    assert (answer.report.checked, answer.report.points) == (40, 1)
    np.testing.assert_array_equal(answer.logits, logits(squares, by_integers(squares, flat)[-1]))


@pytest.mark.slow
@pytest.mark.he
@pytest.mark.parametrize("name", ["squares, plain weights", "cubics", "powers", "one layer"])
def test_integers_and_encrypted_in_other_forms(name: str) -> None:
    plan = PLANS[name]()
    flat = samples(plan, plan.batch)
    for _ in range(3):  # keys
        answer = Servers(securedl.Owner(plan, ahead=0)).answer(flat, probes=0)[1]
        assert answer.report.passed, answer.report
        np.testing.assert_array_equal(answer.logits, logits(plan, by_integers(plan, flat)[-1]))


def slots(plan: Plan, point: int, lane: int, feature: int) -> np.ndarray:
    """Those that add one to a value that is received at a point."""
    layout = plan.signature.checkpoints[point].sent
    assert layout is not None
    values = np.zeros(layout.shape)
    values[lane, feature] = 1.0
    return in_rows(layout.pack(values), plan.program.rows, plan.batch)


@pytest.mark.he
def test_one_unit_in_one_channel_is_noticed_by_that_channel(squares: Plan) -> None:
    owner = securedl.Owner(squares, ahead=0)
    servers, flat = Servers(owner), samples(squares, squares.batch)  # in every lane
    for number, channel in enumerate(squares.channels):
        added = slots(channel, 1, number, 1)
        inference, answer = servers.answer(
            flat, lambda at, _, tile, n=number, a=added: a[tile] if at == n else None, probes=0
        )
        alarmed = [bool(one.alarms) for one in inference.batches]
        assert alarmed == [at == number for at in range(len(alarmed))]
        assert not answer.report.passed
        (alarm,) = answer.report.alarms
        assert alarm.startswith(f"channel {number + 1}: 1 lane(s) differ")
        wrong = answer.logits != logits(squares, by_integers(squares, flat)[-1])
        assert wrong.sum() == 1
        assert wrong[:, 1].any()
        assert answer.report.checked == 0
        assert "FAILED, 1 alarm" in answer.report.summary()
    with pytest.raises(AlarmError, match="ended with an alarm"):
        owner.ask(flat)
    assert [one.verification.ledger.batches for one in owner.channels] == [3] * len(owner.channels)


@pytest.mark.slow
@pytest.mark.he
def test_projections_modulo_each_prime() -> None:
    """Of a plan that shows what each matrix gives: any unit is seen by the sums of its channel."""
    plan = through(network("relu", 2), samples=2, checked_by="client")
    owner = securedl.Owner(plan, ahead=0)
    assert "without them too" in plan.summary()
    for one in owner.channels:
        t, points = one.program.params.plain_modulus, one.plan.signature.checkpoints
        one.verification.combined = ModularProjections(one.plan.network, t, points=points)
    servers, flat = Servers(owner), samples(plan, 2)
    report = servers.answer(flat, probes=0)[1].report
    primes = [program.params.plain_modulus for program in plan.signature.channels]
    assert (report.passed, report.how, report.checked, report.points) == (True, "projected", 2, 3)
    assert report.blind is not None
    assert report.blind.chance == max(float(t) ** -least_combinations(t) for t in primes) < 2.0**-40
    for point in (1, 2, 3):
        added = slots(plan.channels[2], point, 0, 2)
        inference, answer = servers.answer(
            flat,
            lambda at, p, k, point=point, added=added: added[k] if (at, p) == (2, point) else None,
            probes=0,
        )
        assert [bool(one.alarms) for one in inference.batches] == [False, False, True]
        assert not answer.report.passed


@pytest.mark.parametrize("name", ["squares", "cubics", "powers"])
def test_sums_agree_with_any_honest_residues(name: str) -> None:
    """Behind a tap values are anything modulo t, and weights too. Python's integers are the oracle."""
    bits = (5, 5, 5) if name == "powers" else BITS
    model = {"squares": network("relu", 2), "cubics": network("tanh", 3), "powers": network("relu", 4)}[name]
    plan = through(model, bits, checked_by="client")
    channel = plan.channels[-1]
    t, points = channel.program.params.plain_modulus, channel.signature.checkpoints
    network_, flat = channel.network, samples(plan, 20)
    drawn = ModularProjections(network_, t, points=points).drawn()
    received = [centred(values, t) for values in by_integers(plan, flat)]
    exchanges = network_.exchanges(flat, points)
    for one, exchange, wanted in zip(drawn, exchanges, received, strict=True):
        np.testing.assert_array_equal(exchange.received, wanted)
        assert not one.errors(exchange.sent, wanted).any()
        assert one.errors(exchange.sent, wanted + 1).any(axis=1).all()


def test_without_taps_weights_are_needed(squares: Plan) -> None:
    channel = squares.channels[0]
    t, points = channel.program.params.plain_modulus, channel.signature.checkpoints
    with pytest.raises(InputError, match="without weights nothing can be tested at checkpoint 1"):
        ModularProjections(channel.network, t, points=points).drawn()


def test_answers_at_the_ends_of_the_range(squares: Plan) -> None:
    """Those of half of the product in magnitude, and none beyond."""
    primes = [program.params.plain_modulus for program in squares.signature.channels]
    end = math.prod(primes) // 2
    wanted = np.array([[end, -end, 0], [1, -1, end - 1], [end + 1, -end - 1, 3]], object)
    residues = [centred(wanted, t) for t in primes]
    residues[0][1, 2] = np.nan
    found = squares.signature.joined(residues)
    there = np.array([wanted[0], [0, 0, 0], [-end, end, 3]], object)
    np.testing.assert_array_equal(found[[0, 2]], logits(squares, there)[[0, 2]])
    assert np.isnan(found[1]).all()


def test_a_bound_that_is_added_up_is_no_smaller_than_the_exact_one(squares: Plan) -> None:
    network = squares.network
    assert isinstance(network, Congruent)
    sizes = [np.full(6, network.client.input_limit, object)]
    for layer, bound in zip(network.layers, network.bounds, strict=True):
        (matrix,) = layer.matrices
        exact = abs(whole(matrix.toarray())) @ sizes[0] + abs(whole(layer.bias))
        ratio = [int(one) / int(other) for one, other in zip(np.floor(bound), exact, strict=True)]
        assert min(ratio) >= 1
        assert max(ratio) < 1 + 1e-5
        sizes = [exact**2]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(
        CompileError, match=r"layer '4' needs 4\d\d bits for its values without a refresh, and ring 32768"
    ):
        through(network("relu", 4), (12, 12, 12))
    with pytest.raises(CompileError, match=r"layer '4' needs 6\d bits .* ring 8192 has no room .* 8 plain"):
        through(network("relu", 2), ring=8192)
    through(network("relu", 2), ring=16384, limit_gb=0.02)
    with pytest.raises(CompileError, match=r"of upload, more than limit_gb=0\.01"):  # of all three
        through(network("relu", 2), ring=16384, limit_gb=0.01)
    with pytest.raises(InputError, match="with scheme 'bgv' refreshes are 0 or one before"):
        securedl.compile(network("relu", 2), X, scheme="bgv", refreshes=2)


def test_files(squares: Plan, tmp_path: Path) -> None:
    again = plan_from_bytes(squares.to_bytes())
    assert again.to_bytes() == squares.to_bytes()
    flat = samples(squares, 8)
    np.testing.assert_array_equal(again.simulate(flat), squares.simulate(flat))
    network = squares.network
    assert isinstance(network, Congruent)
    for primes, message in (
        (network.primes[::-1], "its primes are others"),
        (network.primes[:2], "its primes are others"),
    ):
        with pytest.raises(InputError, match=message):
            plan_from_bytes(replace(squares, network=replace(network, primes=primes)).to_bytes())
    few = replace(squares.signature, channels=squares.signature.channels[:2])
    with pytest.raises(InputError, match="its primes do not hold the answers"):
        plan_from_bytes(
            replace(squares, signature=few, network=replace(network, primes=network.primes[:2])).to_bytes()
        )
    twice = replace(squares.signature, channels=squares.signature.channels[:1] * 3)
    with pytest.raises(InputError, match="its primes are others"):
        plan_from_bytes(
            replace(
                squares, signature=twice, network=replace(network, primes=network.primes[:1] * 3)
            ).to_bytes()
        )


def test_what_is_of_one_channel_is_refused_for_all(squares: Plan) -> None:
    with pytest.raises(
        InputError, match=r"this plan has 3 programs: take the program of one of plan\.channels"
    ):
        squares.program  # noqa: B018
    text = squares.summary()
    assert "channels: 3, each with a key, weights and a query of its own" in text
    assert "keys: 3 x 9 rotations and relinearisation" in text
    assert "refreshes: 0" in text
    assert "1 round trip" in text
    assert "whole numbers: inputs -31 to 31; answers modulo 3 primes of 2" in text


@pytest.mark.he
def test_through_a_server(squares: Plan, tmp_path: Path) -> None:
    """Uploaded, asked, saved, opened and asked again; outliers are left out."""
    owner, flat = securedl.Owner(squares), samples(squares, 40)
    wanted = logits(squares, by_integers(squares, flat)[-1])
    command = serve_command(tmp_path / "store", f"unix:{tmp_path}/s")
    with running(command, tmp_path / "log") as process:
        with protocol.Client(process.address, owner) as client:
            assert not client.status().known
            sent = client.upload()
            status = client.status()
            assert status.complete
            assert status.blobs == sent.blobs
            assert client.upload().blobs == 0
            answer = client.predict(flat)
            assert answer.report.passed
            np.testing.assert_array_equal(answer.logits, wanted)
            assert answer.traffic["refresh"] == answer.traffic["tap"] == 0
        owner.save(tmp_path / "owner", passphrase="a long one")
        again = securedl.Owner.load(tmp_path / "owner", passphrase="a long one")
        assert again.model_id == owner.model_id
        assert "3 channels" in repr(again)
        far = flat[:4].copy()
        far[1, 2] = 100 * squares.signature.input_scale[2]
        with protocol.Client(process.address, again) as client:
            answer = client.predict(far, outliers="skip", probes=0)
            assert answer.report.skipped == (1,)
            assert answer.labels is not None
            assert answer.labels[1] == -1
            np.testing.assert_array_equal(answer.logits[[0, 2, 3]], wanted[[0, 2, 3]])
            assert np.isnan(answer.logits[1]).all()
            assert client.remove()
            assert not client.status().known


def test_a_report_is_the_worst_channels() -> None:
    good = Report(
        True, 5, 0, 0.0, detection={0.1: 1.0}, bound=0.2, checked=9, points=3, blind=Blind(0.0, 1e-12, "a")
    )
    bad = Report(
        False, 4, 0, math.inf, ("one",), {0.1: 0.5}, 0.3, checked=7, points=3, blind=Blind(0.0, 1e-13, "b"),
        alterable=2,
    )  # fmt: skip
    found = worst_of([good, bad, good])
    assert (found.passed, found.probes, found.checked, found.alterable) == (False, 4, 7, 2)
    assert (found.alarms, found.worst_ratio, found.bound) == (("channel 2: one",), math.inf, 0.3)
    assert (found.detection, found.blind) == ({0.1: 0.5}, good.blind)
    assert worst_of([good, good]).passed
    assert worst_of([good, replace(good, blind=None)]).blind is None


def test_a_weight_of_one_channel_is_that_channels() -> None:
    """Each computes with residues of its own: changed modulo one prime, a network differs there only."""
    plan = through(network("relu", 2), (5, 5, 5))
    network_ = plan.network
    assert isinstance(network_, Congruent)
    first, *rest = network_.layers
    one = sparse.csr_matrix(first.matrices[0].toarray() + math.prod(network_.primes[1:]))
    changed = replace(network_, layers=(replace(first, matrices=(one,)), *rest))
    flat = samples(plan, 6)
    for number, channel in enumerate(plan.channels):
        points = channel.signature.checkpoints
        found = changed.modulo(network_.primes[number]).exchanges(flat, points)[-1].received
        same = (found == channel.network.exchanges(flat, points)[-1].received).all()
        assert same == (number > 0)


def test_a_part_has_the_alarms_of_all_batches_that_its_samples_came_in() -> None:
    """Samples stand in other batches of each channel: one is known only when the last of these has come, and
    is doubtful if any of them was.
    """
    batches = ([([0, 1], ()), ([2, 3], ())], [([1, 2], ("bad",)), ([0, 3], ())])

    class Channel:
        def __init__(self, number: int) -> None:
            self.rows = batches[number]

        def part(self, number: int) -> AnswerPart:
            samples, alarms = self.rows[number]
            return AnswerPart(np.array(samples), np.zeros((2, 1)), None, None, alarms)

    output = Output((1,), "regression")
    joins = SimpleNamespace(output=output, output_scale=np.ones(1), joined=lambda residues: sum(residues))
    plan: Any = SimpleNamespace(signature=joins)
    channels: list[Any] = [Channel(0), Channel(1)]
    whole = JoinedInference(plan, channels)
    first, second = whole.part(0), whole.part(1)
    assert (first.samples.tolist(), first.alarms) == ([1], ("bad",))
    assert (second.samples.tolist(), second.alarms) == ([0, 2, 3], ("bad",))
