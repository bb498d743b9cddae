"""Ranges: plans are precise whatever units inputs, neurons and outputs have, and wherever data are constant.

The oracle is the network itself in float64; errors are in parts of each output's own range.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import securedl
from securedl.compiler.compile import compile_graph
from securedl.compiler.forms import LONGEST_ROW, normalise
from securedl.compiler.precision import CHECKED, check_precision
from securedl.errors import CompileError
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.plan.plan import Plan, plan_from_bytes

RELU = [0.47, 0.5, 0.117]  # on [-4, 4]
INPUTS, HIDDEN, OUTPUTS = 6, 8, 3
CLOSE = 1e-5


def network(
    columns=1.0, neurons=1.0, rows=1.0, offsets=0.0, coefficients=RELU, seed: int = 0, amplified: bool = True
) -> Graph:
    """6-8-3; the input's columns, neurons (amplified again by the next layer) and outputs in any units."""
    random = np.random.default_rng(seed)
    columns, neurons, rows = (
        np.broadcast_to(np.asarray(unit, dtype=float), size)
        for unit, size in ((columns, INPUTS), (neurons, HIDDEN), (rows, OUTPUTS))
    )
    first = random.normal(size=(HIDDEN, INPUTS)) * neurons[:, None] / columns / np.sqrt(INPUTS)
    second = random.normal(size=(OUTPUTS, HIDDEN)) * rows[:, None] / np.sqrt(HIDDEN)
    table = np.array([[c / (n**k if amplified else 1) for n in neurons] for k, c in enumerate(coefficients)])
    return Graph(
        (INPUTS,),
        (
            Affine(sparse.csr_matrix(first), random.normal(size=HIDDEN) * neurons * 0.1, "first"),
            Polynomial(table, "act"),
            Affine(sparse.csr_matrix(second), np.broadcast_to(offsets, OUTPUTS).astype(float), "second"),
        ),
    )


def compiled(graph: Graph, x: np.ndarray, batch: int = 16) -> Plan:
    return compile_graph(graph, x, batch, True, securedl.Link(), 8192, None)


def error(plan: Plan, graph: Graph, x: np.ndarray, calibration: np.ndarray) -> float:
    """Largest, in parts of each output's range on the calibration data."""
    return float((np.abs(plan.simulate(x) - graph(x)) / np.ptp(graph(calibration), axis=0)).max())


units = st.lists(st.floats(-6, 6), min_size=8, max_size=8).map(lambda powers: 10.0 ** np.array(powers))


@settings(max_examples=15)
@given(units, st.integers(0, 100))
def test_columns_in_any_units(columns, seed):
    scale = columns[:INPUTS]
    graph, x = (
        network(columns=scale, seed=seed),
        np.random.default_rng(seed).normal(size=(120, INPUTS)) * scale,
    )
    assert error(compiled(graph, x), graph, x[:50], x) < CLOSE


@settings(max_examples=15)
@given(units, st.floats(-6, 6), st.integers(0, 100))
def test_outputs_in_any_units_with_any_offset(rows, offset, seed):
    rows = rows[:OUTPUTS]
    graph = network(rows=rows, offsets=rows * 10.0**offset, seed=seed)
    x = np.random.default_rng(seed).normal(size=(120, INPUTS))
    assert error(compiled(graph, x), graph, x[:50], x) < CLOSE


@settings(max_examples=15)
@given(units, st.sampled_from([RELU, [0.1, 0.4, 0.2, 0.1], [0.1, 0.5, 0.2, 0.05, 0.02]]), st.integers(0, 100))
def test_neurons_in_any_units(neurons, coefficients, seed):
    graph = network(neurons=neurons, coefficients=coefficients, seed=seed)
    x = np.random.default_rng(seed).normal(size=(120, INPUTS))
    assert error(compiled(graph, x), graph, x[:50], x) < 10 * CLOSE


@pytest.mark.parametrize("tiny", [0.0, 1e-12, 1e-5, 1e-2])
def test_neurons_that_hardly_matter_leave_the_form_alone(tiny):
    graph = network(neurons=[1, 1, 1, 1, 1, tiny, tiny, tiny], amplified=False)
    x = np.random.default_rng(0).normal(size=(120, INPUTS))
    plan = compiled(graph, x)
    assert plan.network.layers[0].form.name == "square"
    assert error(plan, graph, x[:50], x) < CLOSE


@settings(max_examples=15)
@given(
    st.sets(st.integers(1, INPUTS - 1), min_size=1, max_size=4),
    st.sampled_from([0.0, 1e-17, 1e-6]),
    st.floats(-6, 6),
    st.integers(0, 100),
)
def test_a_feature_without_data_lights_up(dead, dust, unit, seed):
    """It moves the layer as the live ones do: no overflow, no loss; the units of column 0 do not matter."""
    random = np.random.default_rng(seed)
    columns = np.array([10.0**unit] + [1.0] * (INPUTS - 1))
    graph, x = network(columns=columns, seed=seed), random.normal(size=(120, INPUTS)) * columns
    x[:, sorted(dead)] *= dust
    plan = compiled(graph, x)
    assert error(plan, graph, x[:20], x) < CLOSE
    lit = x[:20].copy()
    lit[:, sorted(dead)] = random.choice([0.0, 1.0], (20, len(dead)))
    size = np.maximum(np.ptp(graph(x), axis=0), np.ptp(graph(lit), axis=0))
    assert (np.abs(plan.simulate(lit, outliers="raise") - graph(lit)) / size).max() < CLOSE


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_few_samples_leave_room_for_others(samples):
    """A range is never only what one or two samples happen to have."""
    graph, x = network(), np.random.default_rng(0).normal(size=(60, INPUTS))
    plan = compiled(graph, x[:samples])
    near = x[:1] + 0.02 * x
    assert np.abs(plan.simulate(near) - graph(near)).max() < 1e-3 * np.ptp(graph(x))


@pytest.mark.parametrize("value", [0.0, 2.0, -1e6])
def test_constant_outputs(value):
    graph = network(rows=0.0, offsets=value)
    x = np.random.default_rng(0).normal(size=(80, INPUTS))
    np.testing.assert_allclose(compiled(graph, x).simulate(x), np.full((80, OUTPUTS), value), atol=1e-5)


def test_one_constant_output_beside_others():
    graph = network(rows=[1.0, 0.0, 1.0], offsets=[0.0, 7.0, 0.0])
    x = np.random.default_rng(0).normal(size=(80, INPUTS))
    assert np.abs(compiled(graph, x).simulate(x) - graph(x)).max() < CLOSE * np.ptp(graph(x)[:, 0])


def test_no_row_is_longer_than_it_may_be():
    graph = network(neurons=10.0 ** np.arange(-4, 4), columns=10.0 ** np.arange(INPUTS))
    for samples in (1, 3, 200):
        x = np.random.default_rng(0).normal(size=(samples, INPUTS))
        for layer in normalise(graph, x).layers:
            squares = sum(np.asarray(m.multiply(m).sum(axis=1)).ravel() for m in layer.matrices)
            assert np.sqrt(squares).max() <= LONGEST_ROW * (1 + 1e-9)


def test_offset_and_scale_are_kept_in_the_file():
    graph = network(offsets=2000.0)
    x = np.random.default_rng(0).normal(size=(80, INPUTS))
    plan = compiled(graph, x)
    found = plan_from_bytes(plan.to_bytes())
    np.testing.assert_array_equal(found.signature.output_offset, plan.signature.output_offset)
    np.testing.assert_array_equal(found.network.output_offset, plan.signature.output_offset)
    np.testing.assert_array_equal(found.simulate(x), plan.simulate(x))
    values = plan.expected(x)[-1]
    assert np.abs(values).max() <= 1 + 1e-9
    np.testing.assert_allclose(plan.signature.outputs(values), graph(x), rtol=1e-12)


class TestPrecision:
    @pytest.mark.parametrize("batch", [1, 16, 128])
    def test_many_samples_are_checked_whatever_the_batch(self, batch, monkeypatch):
        graph, x = network(), np.random.default_rng(0).normal(size=(300, INPUTS))
        plan = compiled(graph, x, batch)
        seen: list[int] = []
        simulate = Plan.simulate_talks

        def counted(self, talks, noise_seed):
            seen.append(batch * len(talks))
            return simulate(self, talks, noise_seed)

        monkeypatch.setattr(Plan, "simulate_talks", counted)
        check_precision(plan, x)
        assert seen == [max(batch, CHECKED)]

    def test_each_output_is_held_to_its_own_range(self, monkeypatch):
        """An error in the output of small units is seen beside one in large units."""
        graph, x = network(rows=[1.0, 1e6, 1.0]), np.random.default_rng(0).normal(size=(80, INPUTS))
        plan = compiled(graph, x)
        simulate = Plan.simulate_talks

        def spoilt(self, talks, noise_seed):
            seen = simulate(self, talks, noise_seed)
            seen[1].logits[3, 2] += 0.01 * self.signature.output_scale[2]
            return seen

        monkeypatch.setattr(Plan, "simulate_talks", spoilt)
        with pytest.raises(CompileError, match=r"of output 2 is more than 2\^-10 of its range"):
            check_precision(plan, x)
