"""Whole predictions in one process: encrypted equals clear, and what a dishonest server achieves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import securedl
from polyapprox import least_squares
from securedl.client.batch import Batch
from securedl.client.inference import Inference
from securedl.client.keys import Keys
from securedl.client.ledger import KEY_TERM, Ledger
from securedl.client.probes import ProbeCheck
from securedl.errors import FormatError, InputError, ProtocolError
from securedl.he.record import Shape, pack, unpack, unpack_key
from securedl.he.seal import SealEvaluator
from securedl.network.polynomial import PolynomialActivation
from securedl.program.drive import drive
from securedl.program.execute import execute
from securedl.verify.check import Check, Finding, Segment

pytestmark = pytest.mark.he

FEATURES = 6
X = np.random.default_rng(0).normal(size=(200, FEATURES))
QUERIES = np.random.default_rng(1).uniform(-1, 1, size=(20, FEATURES))


def network(name: str, degree: int, seed: int = 0) -> nn.Module:
    """6-8-8-3 with the least-squares fit of an activation on [-3, 3]."""
    fit = least_squares(name, degree, (-3.0, 3.0))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(FEATURES, 8),
            PolynomialActivation.of([fit], name),
            nn.Linear(8, 8),
            PolynomialActivation.of([fit], name),
            nn.Linear(8, 3),
        ).double()


@dataclass
class Server:
    """What a server holds: keys and weights. `tamper(index, tiles)` changes what it sends back."""

    owner: securedl.Owner
    evaluator: SealEvaluator = field(init=False)
    weights: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        program, owner = self.owner.program, self.owner
        params = program.params
        self.evaluator = SealEvaluator(params)
        relinearisation = unpack_key(params, owner.key(None)) if program.relinearises else []
        self.evaluator.set_keys(
            relinearisation, {s: unpack_key(params, owner.key(s)) for s in program.rotations}
        )
        self.weights = [
            self.evaluator.load(unpack(params, data, shape))
            for data, shape in zip(owner.weights(), program.weight_shapes, strict=True)
        ]

    def load(self, data: list[bytes], port) -> list[Any]:
        params, shape = self.owner.program.params, Shape(port.level, 2, port.scale, True)
        return [self.evaluator.load(unpack(params, tile, shape)) for tile in data]

    def dump(self, tiles: list[Any]) -> list[bytes]:
        return [pack(self.owner.program.params, self.evaluator.dump(tile)) for tile in tiles]

    def serve(self, batch, tamper=lambda index, tiles: tiles, weights=None) -> list[list[bytes]]:
        """Answer one batch; what the client sent at each refresh. index: of the refresh, or "answer"."""
        program = self.owner.program
        sent = []

        def refresh(request):
            sent.append(batch.refresh(request.index, self.dump(tamper(request.index, request.tiles))))
            batch.settle()
            return self.load(sent[-1], program.refreshes[request.index][1])

        query = self.load(batch.query(), program.query)
        answer = drive(execute(program, self.evaluator, weights or self.weights, query), refresh)
        batch.finish(self.dump(tamper("answer", answer)))
        return sent


def deployed(model, batch: int = 32, **options) -> Server:
    return Server(securedl.Owner(securedl.compile(model, X, batch=batch, **options)))


def ask(server: Server, x=QUERIES, probes=8, **options):
    """Whatever earlier tests found."""
    return server.owner.ask(x, probes, after_alarm="continue", **options)


def checked(server: Server, probes: int, check: type[Check]) -> Inference:
    """A call with one more check."""
    owner = server.owner
    return Inference(
        owner.keys, owner.verification, QUERIES, probes, [lambda lanes: check()],
        after_alarm="continue",
    )  # fmt: skip


def predict(server: Server, x=QUERIES, probes=8, verify="every", **options):
    inference = ask(server, x, probes, verify=verify)
    for batch in inference.batches:
        server.serve(batch, **options)
    return inference.answer({}, {})


@pytest.fixture(scope="module")
def server():
    """Degree-2 ReLU at N = 4096: every level ends in a refresh, four of them."""
    return deployed(network("relu", 2), ring=4096)


@pytest.fixture(scope="module")
def deep():
    """The same at N = 16384, without any refresh."""
    return deployed(network("relu", 2), ring=16384, refreshes=0)


@pytest.mark.parametrize(
    ("name", "degree", "options"),
    [
        ("sigmoid", 2, {}),
        ("tanh", 2, {}),
        ("tanh", 3, {"ring": 8192}),
        ("relu", 3, {"ring": 8192, "batch": 1024}),
        ("relu", 4, {"ring": 8192, "batch": 512}),
        ("relu", 2, {"ring": 8192, "weights": "plain"}),
    ],
)
def test_encrypted_is_clear(name, degree, options):
    model = network(name, degree)
    server = deployed(model, **options)
    answer = predict(server)
    with torch.no_grad():
        want = model(torch.tensor(QUERIES)).numpy()
        size = np.ptp(model(torch.tensor(X)).numpy())
    assert answer.logits.shape == (20, 3)
    assert np.abs(answer.logits - want).max() < 2**-10 * size
    np.testing.assert_allclose(server.owner.plan.graph(QUERIES), want, atol=1e-6 * size)
    clear = np.sort(want, axis=1)
    sure = clear[:, -1] - clear[:, -2] > 2**-9 * size
    np.testing.assert_array_equal(answer.labels[sure], want.argmax(1)[sure])
    assert answer.report.passed
    assert answer.report.probes >= 8


class TestHonest:
    def test_refreshes_change_nothing(self, server, deep):
        assert len(server.owner.program.refreshes) == 4
        assert not deep.owner.program.refreshes
        size = np.ptp(server.owner.plan.graph(X))
        for one in (server, deep):
            answer = predict(one)
            assert np.abs(answer.logits - one.owner.plan.graph(QUERIES)).max() < 2**-10 * size
            assert answer.report.passed
            assert answer.report.worst_ratio <= 1
            assert not answer.report.alarms

    def test_several_batches(self, server):
        x = np.random.default_rng(2).uniform(-1, 1, (40, FEATURES))
        inference = ask(server, x, 8)
        assert len(inference.batches) == 2
        for batch in inference.batches:
            server.serve(batch)
        answer = inference.answer({"a": 1.0}, {"b": 2})
        np.testing.assert_allclose(answer.logits, server.owner.plan.graph(x), atol=1e-3)
        assert answer.report.probes == 24, "free lanes hold probes"
        assert answer.report.checkpoints == 24 * 4
        assert (answer.timings, answer.traffic) == ({"a": 1.0}, {"b": 2})

    def test_without_probes(self, server):
        answer = predict(server, probes=0)
        np.testing.assert_allclose(answer.logits, server.owner.plan.graph(QUERIES), atol=1e-3)
        assert answer.report.probes == 0
        assert answer.report.passed
        assert set(answer.report.detection.values()) == {1 - 1e-6}
        assert predict(server, probes=0, verify="probes").report.detection == {}

    def test_one_sample(self, server):
        answer = predict(server, QUERIES[:1], probes=1)
        np.testing.assert_allclose(answer.logits, server.owner.plan.graph(QUERIES[:1]), atol=1e-3)

    def test_torch_samples(self, server):
        answer = predict(server, torch.tensor(QUERIES))
        np.testing.assert_allclose(answer.logits, server.owner.plan.graph(QUERIES), atol=1e-3)

    def test_the_ledger_counts(self, server):
        before = server.owner.verification.ledger.checked
        report = predict(server, probes=4).report
        assert server.owner.verification.ledger.checked == before + report.probes


class Sent:
    """Decrypts what the client sent, as only a test can."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __call__(self, tiles: list[bytes], index: int) -> np.ndarray:
        port = self.server.owner.program.refreshes[index][1]
        shape = Shape(port.level, 2, port.scale, True)
        return np.array([self.server.owner.keys.decrypt(tile, shape) for tile in tiles])


def scaled(server: Server, at, factor: float):
    """Multiply everything at one checkpoint, by lying about the scale."""

    def tamper(index, tiles):
        if index != at:
            return tiles
        found = []
        for tile in tiles:
            total = tile
            for _ in range(int(factor) - 1):
                total = server.evaluator.add(total, tile)
            found.append(total)
        return found

    return tamper


class TestDishonest:
    @pytest.mark.parametrize("at", [0, 2, "answer"])
    def test_a_wrong_value_is_seen(self, server, at):
        answer = predict(server, tamper=scaled(server, at, 3))
        assert not answer.report.passed
        assert answer.report.worst_ratio > 1
        assert "probe(s) differ" in answer.report.alarms[0]
        place = "answer of batch 1" if at == "answer" else f"refresh {at + 1} of batch 1"
        assert place in answer.report.alarms[0]

    def test_after_an_alarm_the_server_gets_zeros(self, server):
        """Nothing is raised, the bytes look as always, and the verdict stays with the client."""
        inference = ask(server, QUERIES, 8)
        (batch,) = inference.batches
        sent = server.serve(batch, scaled(server, 1, 3))
        read = Sent(server)
        assert np.abs(read(sent[0], 0)).max() > 0.01
        for index in (1, 2, 3):
            assert np.abs(read(sent[index], index)).max() < 1e-3
        honest = server.serve(ask(server, QUERIES, 8).batches[0])
        assert [[len(tile) for tile in tiles] for tiles in sent] == [
            [len(t) for t in tiles] for tiles in honest
        ]
        answer = inference.answer({}, {})
        assert not answer.report.passed

    def test_a_value_out_of_range_is_an_alarm_without_probes(self, server):
        inference = ask(server, QUERIES, 0)
        (batch,) = inference.batches
        sent = server.serve(batch, scaled(server, 0, 60))
        assert "out of range" in batch.alarms[0]
        assert np.abs(Sent(server)(sent[0], 0)).max() < 1e-3
        assert not inference.answer({}, {}).report.passed

    def test_probes_are_refilled_at_refreshes(self, server):
        inference = ask(server, QUERIES[:2], 8)
        (batch,) = inference.batches
        probes = batch.checks[0]
        before = probes.lanes.copy()
        server.serve(batch)
        lanes = before >= 0
        assert (probes.lanes[~lanes] == before[~lanes]).all()
        assert (probes.lanes[lanes] != before[lanes]).any()
        assert batch.compared("probes") == (lanes.sum() * 4, lanes.sum())

    def test_another_check_is_heard_and_counts_no_probes(self, server):
        class Suspicious(Check):
            name = "suspicious"

            def segment(self, segment: Segment) -> Finding:
                return Finding(compared=len(segment.received), worst=2.0, alarms=("hm",))

        inference = checked(server, 8, Suspicious)
        (batch,) = inference.batches
        server.serve(batch)
        report = inference.answer({}, {}).report
        # All that comes after the first alarm is made of zeros, and is not counted.
        assert report.checkpoints == (batch.checks[0].lanes >= 0).sum()
        assert report.probes == 0
        assert report.alarms == ("hm",)
        assert report.worst_ratio >= 2.0
        assert batch.compared("suspicious") == (len(batch.checks[0].lanes), 0)

    @pytest.mark.parametrize("worst", [np.nan, np.inf, 7.0, ValueError("values")])
    def test_no_check_passes_by_what_it_forgets(self, server, worst):
        """No number, a ratio above 1 without a word, and an exception: alarms, and zeros from then on."""

        class Careless(Check):
            name = "careless"

            def segment(self, segment: Segment) -> Finding:
                with pytest.raises(ValueError, match="read-only"):
                    segment.received[:] = 0.125
                if isinstance(worst, Exception):
                    raise worst
                return Finding(compared=1, worst=worst)

        inference = checked(server, 0, Careless)
        (batch,) = inference.batches
        sent = server.serve(batch)
        assert np.abs(Sent(server)(sent[0], 0)).max() < 1e-3
        report = inference.answer({}, {}).report
        assert not report.passed
        assert report.worst_ratio > 1

    def test_two_checks_of_one_name_are_refused(self, server):
        owner = server.owner
        known = owner.verification
        posing = [lambda lanes: ProbeCheck(known.probes, known.tolerances, lanes)]
        with pytest.raises(InputError, match="checks need a name each"):
            Inference(owner.keys, owner.verification, QUERIES, 8, posing, after_alarm="continue")

    def test_a_batch_needs_no_check(self, server):
        owner = server.owner
        signature = owner.plan.signature
        values = np.zeros((owner.plan.batch, owner.plan.graph.features))
        batch = Batch(owner.keys, signature, values, 0, ())
        server.serve(batch)
        assert batch.answer is not None
        assert (batch.worst, batch.alarms) == (0.0, [])

    def test_swapped_weights_are_seen(self, deep):
        shapes, swapped = deep.owner.program.weight_shapes, list(deep.weights)
        k = next(k for k, pair in enumerate(pairwise(shapes)) if pair[0] == pair[1])
        swapped[k : k + 2] = swapped[k + 1], swapped[k]
        assert not predict(deep, weights=swapped).report.passed

    def test_an_old_answer_is_seen(self, deep):
        old: list[Any] = []
        predict(deep, tamper=lambda index, tiles: old.append(tiles) or tiles)
        assert not predict(deep, tamper=lambda index, tiles: old[0]).report.passed

    def test_an_alarmed_call_counts(self, server):
        before = server.owner.verification.ledger.alarmed
        report = predict(server, tamper=scaled(server, "answer", 2)).report
        assert server.owner.verification.ledger.alarmed == before + report.probes


class TestProtocol:
    """Structural violations are errors, which the server may see."""

    @pytest.fixture
    def started(self, server):
        """A batch, and what an honest server sends at the first refresh."""
        (batch,) = ask(server, QUERIES, 8).batches
        program = server.owner.program
        running = execute(
            program, server.evaluator, server.weights, server.load(batch.query(), program.query)
        )
        return batch, server.dump(next(running).tiles)

    @pytest.mark.parametrize("index", [1, 3])
    def test_out_of_order(self, started, index):
        batch, tiles = started
        with pytest.raises(ProtocolError, match="out of order"):
            batch.refresh(index, tiles)

    def test_twice(self, started):
        batch, tiles = started
        batch.refresh(0, tiles)
        with pytest.raises(ProtocolError, match="out of order"):
            batch.refresh(0, tiles)

    def test_too_many(self, started):
        batch, tiles = started
        with pytest.raises(ProtocolError, match="refresh 4 was asked for, the program has none there"):
            batch.refresh(4, tiles)

    def test_an_early_answer(self, started):
        batch, tiles = started
        with pytest.raises(ProtocolError, match="out of order"):
            batch.finish(tiles)

    @pytest.mark.parametrize("count", [0, 2])
    def test_wrong_number_of_tiles(self, started, count):
        batch, tiles = started
        with pytest.raises(ProtocolError, match=f"needs 1 ciphertexts, got {count}"):
            batch.refresh(0, tiles * count)

    def test_after_the_answer(self, server):
        (batch,) = ask(server, QUERIES, 8).batches
        kept: list[Any] = []
        server.serve(batch, lambda index, tiles: kept.append(tiles) or tiles)
        last = server.dump(kept[-1])
        with pytest.raises(ProtocolError, match="out of order"):
            batch.finish(last)
        with pytest.raises(ProtocolError, match=r"out of order|program has"):
            batch.refresh(3, last)

    def test_damaged_bytes(self, started):
        batch, (tile,) = started
        for bad in (b"", tile[:-1], bytes(len(tile)), tile[:20] + b"\x01" + tile[21:]):
            with pytest.raises(FormatError):
                batch.refresh(0, [bad])

    def test_a_missing_answer(self, server):
        inference = ask(server, QUERIES, 8)
        with pytest.raises(ProtocolError, match="without an answer"):
            inference.answer({}, {})

    @pytest.mark.parametrize("index", [-1, -4])
    def test_a_negative_index(self, started, index):
        batch, tiles = started
        with pytest.raises(ProtocolError):
            batch.refresh(index, tiles)


class TestRefusals:
    """Before anything is encrypted."""

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.full((2, FEATURES), np.nan), "NaN"),
            (np.full((2, FEATURES), np.inf), "infinite"),
            (np.full((2, FEATURES), 1e5), "overflow"),
            (np.zeros((2, FEATURES + 1)), r"\[samples, 6\]"),
            (np.zeros((0, FEATURES)), "at least one"),
            (np.zeros(FEATURES), "samples"),
            ("text", "numbers"),
        ],
    )
    def test_bad_samples(self, server, monkeypatch, x, message):
        monkeypatch.setattr(Keys, "encrypt", lambda *_: pytest.fail("something was encrypted"))
        with pytest.raises(InputError, match=message):
            ask(server, x)

    @pytest.mark.parametrize("outliers", ["Skip", "", None, True, 0])
    def test_bad_outliers(self, server, outliers):
        with pytest.raises(InputError, match="outliers must be 'raise', 'skip' or 'clip', got"):
            ask(server, QUERIES, outliers=outliers)

    @pytest.mark.parametrize("probes", [-1, True, 1.5, "8", None])
    def test_bad_probes(self, server, probes):
        with pytest.raises(InputError, match="probes"):
            ask(server, QUERIES, probes)


def test_units_of_columns_and_outputs_do_not_matter():
    """Columns 1e6 apart, one that is zero in the calibration data, and outputs of 1e6 ± 1 and 1e-3 ± 1e-3."""
    random = np.random.default_rng(3)
    units = np.array([1e3, 1.0, 1e-3, 1.0, 30.0, 1.0])
    x = random.normal(size=(200, FEATURES)) * units
    x[:, 3] = 0.0
    model = network("relu", 2)
    with torch.no_grad():
        model[0].weight /= torch.tensor(units)
        model[-1].weight *= torch.tensor([[1.0], [1e-3], [1.0]])
        model[-1].bias.copy_(torch.tensor([1e6, 1e-3, 0.0]))
    server = Server(securedl.Owner(securedl.compile(model, x, batch=32)))
    queries = x[:20].copy()
    queries[::2, 3] = 1.0
    answer = predict(server, queries)
    with torch.no_grad():
        want, size = model(torch.tensor(queries)).numpy(), np.ptp(model(torch.tensor(x)).numpy(), axis=0)
    assert (np.abs(answer.logits - want) / size).max() < 2**-10
    assert answer.report.passed


def test_a_table_may_have_its_columns_in_any_order():
    names = list("abcdef")
    table = pd.DataFrame(X, columns=names)
    made = Server(securedl.Owner(securedl.compile(network("relu", 2), table, batch=32)))
    queries = pd.DataFrame(QUERIES, columns=names)
    answer = predict(made, queries[names[::-1]])
    want = made.owner.plan.graph(QUERIES)
    assert np.abs(answer.logits - want).max() < 2**-10 * np.ptp(want)
    with pytest.raises(InputError, match=r"lacks the column\(s\) 'a'"):
        made.owner.ask(queries[names[1:]])


class TestOutliers:
    """One sample far out of range among others, each treated by itself."""

    @staticmethod
    def queries(*which: int, size: float = 1e4) -> np.ndarray:
        x = QUERIES.copy()
        x[list(which)] *= size
        return x

    @staticmethod
    def answer(server: Server, x, outliers: str, probes: int = 8):
        inference = ask(server, x, probes, outliers=outliers)
        for batch in inference.batches:
            server.serve(batch)
        return inference.answer({}, {})

    def test_skip_answers_the_others(self, server):
        answer = self.answer(server, self.queries(3, 11), "skip")
        want = server.owner.plan.graph(QUERIES)
        rest = np.delete(np.arange(20), [3, 11])
        assert np.isnan(answer.logits[[3, 11]]).all()
        np.testing.assert_array_equal(answer.labels[[3, 11]], [-1, -1])
        assert np.abs(answer.logits - want)[rest].max() < 2**-10 * np.ptp(want)
        np.testing.assert_array_equal(answer.labels[rest], answer.logits[rest].argmax(1))
        assert answer.report.passed
        assert answer.report.skipped == (3, 11)
        assert answer.report.clipped == ()

    def test_clip_answers_all(self, server):
        x, plan = self.queries(3, 11), server.owner.plan
        answer = self.answer(server, x, "clip")
        clipped = x.copy()
        clipped[[3, 11]] = np.clip(x[[3, 11]], *plan.signature.box)
        want = plan.graph(clipped)
        assert np.abs(answer.logits - want).max() < 2**-10 * np.ptp(want)
        assert answer.report.clipped == (3, 11)
        assert answer.report.skipped == ()
        assert answer.report.passed

    @pytest.mark.parametrize("outliers", ["skip", "clip"])
    def test_nothing_is_changed_without_outliers(self, server, outliers):
        answer = self.answer(server, QUERIES, outliers)
        want = server.owner.plan.graph(QUERIES)
        assert np.abs(answer.logits - want).max() < 2**-10 * np.ptp(want)
        assert answer.report.skipped == answer.report.clipped == ()

    def test_all_may_be_skipped(self, server):
        answer = self.answer(server, self.queries(*range(20)), "skip")
        assert np.isnan(answer.logits).all()
        assert (answer.labels == -1).all()
        assert answer.report.passed

    @pytest.mark.parametrize("outliers", ["skip", "clip"])
    def test_the_server_sees_no_difference(self, server, outliers):
        """As many batches of as many octets, placed by the same draws, whatever the samples are."""

        def sent(x) -> list[list[int]]:
            inference = ask(server, x, 8, outliers=outliers)
            return [[len(tile) for tile in batch.query()] for batch in inference.batches]

        seen = sent(QUERIES)
        assert sent(self.queries(3)) == seen
        assert sent(self.queries(*range(20))) == seen

    @pytest.mark.parametrize("outliers", ["skip", "clip"])
    def test_every_sample_is_evaluated_whatever_it_is(self, server, monkeypatch, outliers):
        """The time before the first ciphertext is that of the same work."""
        from securedl.plan import outliers as module

        plan, seen, real = server.owner.plan, [], module.within_headroom

        def counted(network, x, limit):
            seen.append(len(x))
            return real(network, x, limit)

        monkeypatch.setattr(module, "within_headroom", counted)
        work = []
        for x in (QUERIES, self.queries(3), self.queries(*range(20))):
            seen.clear()
            plan.screened(x, outliers)
            work.append(tuple(seen))
        assert len(set(work)) == 1

    def test_a_refusal_names_the_samples(self, server):
        with pytest.raises(
            InputError, match=r"2 sample\(s\) would overflow.*x\[3\], x\[11\].*outliers='skip'"
        ):
            ask(server, self.queries(3, 11))


def test_a_key_serves_beyond_its_term_with_warnings():
    ledger = Ledger(batches=KEY_TERM - 2)
    for batches in (2, 1):
        with pytest.warns(UserWarning, match="more than 90 % of its term"):
            ledger.ask(batches)
    assert ledger.batches == KEY_TERM + 1


@pytest.mark.parametrize("weights", ["encrypted", "plain"])
def test_images_on_grids(weights):
    """Convolutions with padding, a stride and several channels, in slots; one sample a ciphertext."""
    first, second = (
        PolynomialActivation.of([least_squares("relu", 2, (-3.0, 3.0))], "relu") for _ in range(2)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1), first, nn.Conv2d(3, 4, 3), second, nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(16, 3),
        ).double()  # fmt: skip
    x = np.random.default_rng(2).uniform(-1, 1, (50, 2, 13, 13))
    plan = securedl.compile(net, x, batch=1, ring=8192, weights=weights)
    grids = [where.grid for place in plan.network.places for where in (place.source, place.target)]
    assert any(grid is not None for grid in grids)
    answer = predict(Server(securedl.Owner(plan)), x[:2], probes=0)
    np.testing.assert_allclose(answer.logits, net(torch.from_numpy(x[:2])).detach().numpy(), atol=1e-3)
