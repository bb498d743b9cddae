"""The compiler's plans, simulated: equal to the network, inside [-1, 1], with exact scales and levels."""

from __future__ import annotations

import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch import nn

import securedl
from polyapprox import least_squares
from securedl.compiler.compile import compile_graph
from securedl.compiler.forms import normalise
from securedl.compiler.fuse import fuse
from securedl.compiler.layout import lay_out
from securedl.compiler.levels import operations, place_refreshes
from securedl.compiler.lower import lower
from securedl.errors import CompileError, InputError, UnsupportedLayerError
from securedl.he.ckks import ckks_parameters
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.network.polynomial import PolynomialActivation
from securedl.plan.signature import Link
from securedl.program.steps import Matvec, Multiply, Refresh

WIDTH = 12


def affine(random, outputs: int, inputs: int) -> Affine:
    matrix = sparse.csr_matrix(random.normal(size=(outputs, inputs)) / math.sqrt(inputs))
    return Affine(matrix, random.normal(size=outputs) * 0.3, "fc")


def network(coefficients, layers: int = 2, seed: int = 0, degree_scale: float = 1.0) -> Graph:
    """Dense layers of 12 features with one polynomial [degree + 1] or [degree + 1, 12] between them."""
    random = np.random.default_rng(seed)
    table = np.asarray(coefficients, dtype=float) * degree_scale
    table = np.broadcast_to(table.reshape(len(table), -1), (len(table), WIDTH)).copy()
    nodes: list = []
    for _ in range(layers):
        nodes += [affine(random, WIDTH, WIDTH), Polynomial(table, "act")]
    return Graph((WIDTH,), (*nodes, affine(random, 3, WIDTH)))


def inputs(seed: int = 0, count: int = 300):
    return np.random.default_rng(seed + 1).normal(size=(count, WIDTH))


def compiled(graph: Graph, x, batch=32, ring=None, refreshes=None, encrypted: bool = True):
    return compile_graph(graph, x, batch, encrypted, Link(), ring, refreshes)


def fit(name: str, degree: int, reach: float = 4.0) -> np.ndarray:
    return least_squares(name, degree, (-reach, reach)).power()


CASES = {
    "square": ([0.0, 0.0, 1.0], "square"),
    "degree-2 relu": (fit("relu", 2), "square"),
    "degree-2 off centre": ([0.2, 0.5, 0.1], "square"),
    "degree-2 negative": ([0.2, 0.5, -0.1], "square"),
    "degree-2 sigmoid": (fit("sigmoid", 2), "none"),
    "degree-2 tanh": (fit("tanh", 2), "none"),
    "a2 of 1e-17": ([0.5, 0.25, 1e-17], "none"),
    "shift of 650": ([0.1, 1.3, 1e-3], "powers"),
    "shift of 5e5": ([0.1, 1.0, 1e-6], "powers"),
    "degree-3 tanh": (fit("tanh", 3, 2.0), None),
    "degree-3 sigmoid": (fit("sigmoid", 3, 8.0), None),
    "degree-3 relu": (fit("relu", 3), None),
    "degree-3 general": ([0.1, 0.4, 0.2, 0.1], "cubic"),
    "degree-3 nearly straight": ([0.1, 1.0, 0.0, 1e-4], "powers"),
    "degree-4 relu": (fit("relu", 4), "powers"),
    "degree-4": ([0.1, 0.5, 0.2, 0.05, 0.02], "powers"),
    "degree-5 tanh": (fit("tanh", 5), "powers"),
    "degree-5": ([0.1, 0.5, 0.2, 0.05, 0.02, -0.01], "powers"),
    "a different one in each feature": (
        np.random.default_rng(3).uniform(0.2, 0.5, (3, WIDTH)), "square",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request):
    coefficients, form = CASES[request.param]
    graph, x = network(coefficients), inputs()
    return graph, x, compiled(graph, x), form


def test_simulation_without_noise_is_the_network(case):
    graph, x, plan, _ = case
    want = graph(x[:70])
    found = plan.simulate(x[:70], noise_seed=None)
    assert np.abs(found - want).max() <= 1e-9 * np.ptp(want)


def test_simulation_with_noise_is_close(case):
    graph, x, plan, _ = case
    want = graph(x[:70])
    error = np.abs(plan.simulate(x[:70], noise_seed=3) - want).max()
    assert 0 < error < 2**-10 * np.ptp(graph(x))


def test_every_encrypted_value_is_in_range(case):
    _, x, plan, _ = case
    pre, reads = plan.network.stages(x)
    for value in (*pre, *(v for group in reads for v in group)):
        assert np.abs(value).max() <= 1 + 1e-9
    for layer, value in zip(plan.network.layers, pre, strict=True):
        for constant in layer.form.constants:
            assert np.abs(value**2 + constant).max() <= 1 + 1e-9
            assert np.abs(constant).max() <= 1
    for values in plan.expected(x):
        assert np.abs(values).max() <= 1 + 1e-9


def test_the_form_is_the_cheapest_that_is_precise(case):
    graph, _, plan, form = case
    forms = [layer.form.name for layer in plan.network.layers]
    if form == "none":
        assert forms == ["none"], "straight activations melt into one affine map"
    else:
        assert forms[-1] == "none"
        assert len(forms) == 3
        assert form is None or set(forms[:-1]) == {form}
    assert plan.classes == 3
    assert plan.input_shape == (WIDTH,)
    assert len(plan.graph.nodes) <= len(graph.nodes)


def test_the_summary_says_what_it_is(case):
    _, _, plan, _ = case
    text = plan.summary()
    for layer in plan.network.layers:
        assert layer.form.name == "none" or f"{layer.form.name} (degree {layer.form.degree})" in text
    assert "security 128 bits" in text
    assert f"refreshes: {len(plan.program.refreshes)}" in text


@pytest.mark.parametrize("batch", [1, 2, 33, 2048])
@pytest.mark.parametrize("encrypted", [True, False])
def test_batches_and_plain_weights(batch, encrypted):
    graph, x = network([0.2, 0.5, 0.1]), inputs()
    plan = compiled(graph, x, batch, ring=8192, encrypted=encrypted)
    assert plan.batch == {1: 1, 2: 2, 33: 64, 2048: 2048}[batch]
    assert plan.program.encrypted is encrypted
    found = plan.simulate(x[:5], noise_seed=None)
    np.testing.assert_allclose(found, graph(x[:5]), atol=1e-9 * np.ptp(graph(x)))


@pytest.mark.parametrize("coefficients", [[0.2, 0.5, 0.1], [0.1, 0.4, 0.2, 0.1], [0.1, 0.5, 0.2, 0.05, 0.02]])
def test_every_number_of_refreshes(coefficients):
    graph, x = network(coefficients), inputs()
    seen = []
    places = 4 if len(coefficients) < 5 else 2  # after powers several registers are alive
    with pytest.raises(
        CompileError, match=rf"exactly {places + 1} refreshes fits \(there are {places} places"
    ):
        compiled(graph, x, ring=16384, refreshes=places + 1)
    for count in range(places + 1):
        plan = compiled(graph, x, ring=16384, refreshes=count)
        refreshes = [s for s in plan.program.steps if isinstance(s, Refresh)]
        assert len(refreshes) == len(plan.program.refreshes) == count
        assert len(plan.signature.checkpoints) == count + 2
        np.testing.assert_allclose(plan.simulate(x[:5], None), graph(x[:5]), atol=1e-9 * np.ptp(graph(x)))
        seen.append(plan.program.params.levels)
    assert seen == sorted(seen, reverse=True), "more refreshes need fewer levels"


@pytest.mark.parametrize("ring", [8192, 16384, 32768])
def test_a_forced_ring_is_taken(ring):
    plan = compiled(network([0.2, 0.5, 0.1]), inputs(), ring=ring)
    assert plan.program.params.ring == ring


def test_ring_4096_refreshes_after_every_level():
    plan = compiled(network([0.2, 0.5, 0.1]), inputs(), ring=4096)
    assert plan.program.params.levels == 1
    assert len(plan.program.refreshes) == 4
    assert [p.value for p in plan.signature.checkpoints] == [0, 1, 2, 3, 4, 5]
    assert [p.name for p in plan.signature.checkpoints][:3] == ["affine 1", "activation 1", "affine 2"]
    assert [p.sent is None for p in plan.signature.checkpoints] == [True, *[False] * 5]
    assert [p.back is None for p in plan.signature.checkpoints] == [*[False] * 5, True]


def test_too_deep_says_what_was_needed():
    with pytest.raises(CompileError, match=r"needs 5 levels; ring 8192 offers at most \d+ at a time"):
        compiled(network([0.2, 0.5, 0.1]), inputs(), ring=8192, refreshes=0)
    with pytest.raises(CompileError, match="exactly 9 refreshes"):
        compiled(network([0.2, 0.5, 0.1]), inputs(), ring=8192, refreshes=9)
    with pytest.raises(CompileError, match=r"ring 4096 cannot hold 2 levels|ring 4096 offers at most 1"):
        compiled(network(fit("tanh", 3)), inputs(), ring=4096)


def test_a_network_that_overflows_is_refused():
    with pytest.raises(CompileError, match="overflows on its calibration data"):
        compiled(network([0.0, 0.0, 1e200], layers=3), inputs())


def test_too_many_samples_for_the_ring():
    with pytest.raises(CompileError, match="4096 slots of ring 8192"):
        compiled(network([0.0, 0.0, 1.0]), inputs(), batch=5000, ring=8192)


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([2, 3, 4, 5, 1]), min_size=1, max_size=6),
    st.sampled_from([8192, 16384, 32768]),
    st.none() | st.integers(0, 5),
    st.booleans(),
    st.integers(0, 1000),
)
def test_scales_and_levels_are_exact(degrees, ring, refreshes, taps, seed):
    """Every product lands on its scale to 1 part in 10^12, and every segment ends at level 0."""
    random = np.random.default_rng(seed)
    nodes: list = []
    for degree in degrees:
        table = random.uniform(0.1, 0.5, (degree + 1, 4)) / 2.0 ** np.arange(degree + 1)[:, None]
        nodes += [affine(random, 4, 4), Polynomial(table)]
    graph = Graph((4,), (*nodes, affine(random, 2, 4)))
    x = random.uniform(-1, 1, (30, 4))
    normal = normalise(fuse(graph, x), x)
    layouts = lay_out(normal, 8, ring // 16, True)
    depth = sum(op.levels for op in operations(normal))
    for levels in range(1, depth + 1):
        try:
            params = ckks_parameters(ring, levels)
        except CompileError:
            break
        found = place_refreshes(params, normal, layouts, True, Link(), refreshes, taps=taps)
        if found is not None:
            break
    else:
        found = None
    if found is None:
        return
    program, points, _ = lower(params, normal, found, True)
    ports = program.ports()
    for step in program.steps:
        if isinstance(step, Matvec):
            for source, weight_scale in zip(step.sources, step.weight_scales, strict=True):
                got = ports[source].scale * weight_scale / params.primes[step.level]
                assert math.isclose(got, step.scale, rel_tol=1e-12)
            if len(step.sources) == 1:  # not after powers: squares and cubics land on the common scale
                assert math.isclose(ports[step.sources[0]].scale, program.query.scale, rel_tol=1e-9)
        if isinstance(step, Multiply):
            got = ports[step.left].scale * ports[step.right].scale / params.primes[step.level]
            assert math.isclose(got, step.scale, rel_tol=1e-12)
    assert [point.back is None for point in points[1:-1]] == [back is None for _, back in program.shown]
    bare = lower(params, normal, replace(found, taps=False), True)[0]
    assert not bare.taps
    assert program.taps == [replace(port, level=0) for port in bare.hidden] * taps
    assert (program.hidden == []) or not taps
    delta = program.query.scale
    assert math.isclose(program.answer.scale, delta, rel_tol=1e-9)
    for step in program.steps:
        if isinstance(step, Refresh):
            assert ports[step.source].level == 0, "a level was left unused"
    assert ports[program.output].level == 0
    assert refreshes is None or len(program.refreshes) == refreshes
    # Nothing is larger than the modulus left for it: 2^6 of headroom at the last prime.
    for port in ports.values():
        assert port.scale * 2**6 <= math.prod(params.primes[: port.level + 1])


class TestFromTorch:
    """compile itself."""

    @staticmethod
    def model() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            act = PolynomialActivation(np.array([0.3, 0.5, 0.2]), (-3, 3))
            return nn.Sequential(nn.Linear(6, 8), act, nn.Linear(8, 2))

    x = np.random.default_rng(0).normal(size=(100, 6))

    def test_it_is_the_model(self):
        model = self.model()
        plan = securedl.compile(model, self.x, batch=8)
        with torch.no_grad():
            want = model(torch.tensor(self.x, dtype=torch.float32)).numpy()
        np.testing.assert_allclose(plan.simulate(self.x, None), want, atol=1e-5)
        np.testing.assert_allclose(plan.simulate(torch.tensor(self.x), None), want, atol=1e-5)

    @pytest.mark.parametrize("good", [True, False])
    def test_it_is_captured_once(self, good, monkeypatch):
        """For all kinds of plans that are tried, as many as there are where one cannot be captured."""
        calls, real = [], torch.export.export

        def counted(*args, **kwargs):
            calls.append(args)
            return real(*args, **kwargs)

        monkeypatch.setattr(torch.export, "export", counted)
        if good:
            plan = securedl.compile(self.model(), self.x, batch=8)
            assert plan.runners_up
        else:
            with pytest.raises(UnsupportedLayerError, match="does not run on samples"):
                securedl.compile(self.model(), self.x[:, :5], batch=8)
        assert len(calls) == 1

    def test_the_model_is_left_alone(self):
        model = self.model().train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        securedl.compile(model, self.x)
        assert model.training
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_equal_calls_give_equal_plans(self):
        first, second = (securedl.compile(self.model(), self.x) for _ in range(2))
        assert first.program == second.program
        assert first.to_bytes() == second.to_bytes()

    @pytest.mark.parametrize(
        ("batch", "samples"), [("latency", 1), ("throughput", 4096), (1, 1), (3, 4), (4096, 4096)]
    )
    def test_names_of_batches(self, batch, samples):
        plan = securedl.compile(self.model(), self.x, batch=batch, ring=8192)
        assert plan.batch == samples
        assert plan.program.width == 4096 // samples

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch": 0}, "batch"), ({"batch": "fast"}, "'latency' or 'throughput'"),
            ({"batch": True}, "batch"),
            ({"batch": 2.0}, "batch"), ({"scheme": "bfv"}, "scheme"), ({"weights": "secret"}, "weights"),
            ({"ring": 2048}, "ring"), ({"ring": "8192"}, "ring"), ({"refreshes": -1}, "refreshes"),
            ({"refreshes": 1.0}, "refreshes"), ({"x_train": np.zeros((0, 6))}, "at least one"),
            ({"x_train": np.full((3, 6), np.inf)}, "infinite"),
        ],
    )  # fmt: skip
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(InputError, match=message):
            securedl.compile(self.model(), **{"x_train": self.x, **arguments})

    def test_whole_numbers(self):
        plan = securedl.compile(self.model(), self.x, scheme="bgv", batch=5)
        assert (plan.program.params.scheme, plan.batch) == ("bgv", 8)
        assert len(plan.program.refreshes) == 1

    def test_who_checks(self):
        """Without weights: by taps where trips are dear, and what they cost is told beforehand."""
        link = securedl.Link(rtt_ms=10_000, mbit_s=1000)
        plain, tapped = (
            securedl.compile(self.model(), self.x, link=link, checked_by=by) for by in ("owner", "client")
        )
        assert (len(plain.program.taps), len(tapped.program.taps)) == (0, len(plain.program.hidden))
        assert all(tapped.network.projectable(tapped.signature.checkpoints))
        assert "without them too" in tapped.summary()
        (line,) = [line for line in plain.runners_up if "taps (checked_by='client')" in line]
        assert not any("taps" in line for line in tapped.runners_up)
        assert plain.program.params == tapped.program.params
        assert f"{tapped.signature.cost.total_ms / tapped.batch:.0f} ms a sample" in line
        with pytest.raises(InputError, match="checked_by must be one of 'owner', 'client', got 'me'"):
            securedl.compile(self.model(), self.x, checked_by="me")

    def test_refreshes_in_place_of_taps(self):
        """The more bytes cost beside trips, the fewer taps."""
        for mbit, taps in ((5000.0, True), (1.0, False)):
            near = securedl.Link(rtt_ms=0.1 if not taps else 1000, mbit_s=mbit)
            plan = securedl.compile(self.model(), self.x, batch=64, link=near, checked_by="client")
            assert all(plan.network.projectable(plan.signature.checkpoints))
            assert bool(plan.program.taps) == taps

    def test_a_slow_link_avoids_refreshes(self):
        slow = securedl.compile(self.model(), self.x, link=securedl.Link(rtt_ms=10_000, mbit_s=1000))
        assert not slow.program.refreshes

    def test_constant_and_dead_inputs(self):
        x = self.x.copy()
        x[:, 2], x[:, 4] = 0.0, 3.0
        model = self.model()
        plan = securedl.compile(model, x)
        with torch.no_grad():
            want = model(torch.tensor(x, dtype=torch.float32)).numpy()
        np.testing.assert_allclose(plan.simulate(x), want, atol=2**-10 * np.ptp(want))


@pytest.fixture(scope="module")
def plan():
    return compiled(network([0.1, 0.5, 0.2, 0.05, 0.02]), inputs(), ring=16384, refreshes=1)


class TestSaving:
    def test_round_trip(self, plan, tmp_path):
        path = tmp_path / "plan"
        plan.save(path)
        found = securedl.load_plan(path)
        assert found.program == plan.program
        assert found.signature.checkpoints == plan.signature.checkpoints
        assert found.signature.cost == plan.signature.cost
        assert found.summary() == plan.summary()
        assert found.to_bytes() == plan.to_bytes()
        x = inputs(7, 20)
        np.testing.assert_array_equal(found.simulate(x), plan.simulate(x))
        np.testing.assert_array_equal(found.graph(x), plan.graph(x))
        assert path.stat().st_mode & 0o077 == 0, "it holds the weights"
        assert [p.name for p in tmp_path.iterdir()] == ["plan"]

    @pytest.mark.parametrize("form", ["square", "degree-3 tanh", "shift of 650", "degree-2 tanh"])
    def test_every_form(self, form, tmp_path):
        graph, x = network(CASES[form][0]), inputs()
        made = compiled(graph, x)
        made.save(tmp_path / "plan")
        found = securedl.load_plan(tmp_path / "plan")
        np.testing.assert_array_equal(found.simulate(x[:3]), made.simulate(x[:3]))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(InputError, match="No such file"):
            securedl.load_plan(tmp_path / "none")
        with pytest.raises(InputError, match="cannot read"):
            securedl.load_plan(tmp_path)

    def test_an_unwritable_place(self, plan, tmp_path):
        with pytest.raises(InputError, match="cannot write"):
            plan.save(tmp_path / "missing" / "plan")
        (tmp_path / "folder").mkdir()
        with pytest.raises(InputError, match="cannot write"):
            plan.save(tmp_path / "folder")
        assert [p.name for p in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize("keep", [0, 1, 30, 0.3, 0.9, -1])
    def test_truncated(self, plan, tmp_path, keep):
        data = plan.to_bytes()
        path = tmp_path / "plan"
        path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
        with pytest.raises(InputError, match="plan"):
            securedl.load_plan(path)

    @pytest.mark.parametrize(
        "data", [b"not a plan at all", b"PK\x03\x04" + b"\0" * 100, b"\x93NUMPY\x01\x00"]
    )
    def test_something_else(self, tmp_path, data):
        (tmp_path / "plan").write_bytes(data)
        with pytest.raises(InputError, match="not a plan"):
            securedl.load_plan(tmp_path / "plan")

    def test_another_archive(self, tmp_path):
        np.savez(tmp_path / "plan.npz", meta=np.array("{}"))
        with pytest.raises(InputError, match="not a plan"):
            securedl.load_plan(tmp_path / "plan.npz")

    def test_a_pickle_is_never_opened(self, tmp_path):
        np.savez(tmp_path / "plan.npz", meta=np.array([{}], dtype=object))
        with pytest.raises(InputError, match="not a plan"):
            securedl.load_plan(tmp_path / "plan.npz")

    @settings(max_examples=60)
    @given(st.data())
    def test_a_changed_byte_is_noticed_or_harmless(self, plan, data):
        """The archive carries checksums of its arrays; what they do not cover is the archive's index."""
        good = bytearray(plan.to_bytes())
        offset = data.draw(st.integers(0, len(good) - 1))
        good[offset] ^= data.draw(st.integers(1, 255))
        from securedl.plan.plan import plan_from_bytes

        try:
            found = plan_from_bytes(bytes(good))
        except InputError:
            return
        assert found.program == plan.program
        np.testing.assert_array_equal(found.network.layers[0].bias, plan.network.layers[0].bias)

    def test_missing_member(self, plan, tmp_path):
        (tmp_path / "plan").write_bytes(plan.to_bytes())
        with (
            zipfile.ZipFile(tmp_path / "plan") as old,
            zipfile.ZipFile(tmp_path / "less", "w") as new,
        ):
            for name in old.namelist():
                if name != "network.layer1.bias.npy":
                    new.writestr(name, old.read(name))
        with pytest.raises(InputError, match="not a plan"):
            securedl.load_plan(tmp_path / "less")


class TestRanges:
    def test_calibration_data_are_always_accepted(self, plan):
        np.testing.assert_array_equal(plan.checked(inputs()), inputs())

    def test_queries_that_would_overflow_are_refused(self, plan):
        x = inputs(0, 4)
        x[2] *= 1e4
        with pytest.raises(InputError, match=r"1 sample\(s\) would overflow.*x\[2\]"):
            plan.simulate(x, outliers="raise")

    @pytest.mark.parametrize("bad", [np.zeros((2, 5)), np.zeros(WIDTH), np.full((1, WIDTH), np.nan)])
    def test_bad_queries(self, plan, bad):
        with pytest.raises(InputError):
            plan.checked(bad)
