"""Samples that would overflow: each is treated by itself, by an exact test, and the rest is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import securedl
from securedl.client.probes import Verification
from securedl.compiler.compile import compile_graph
from securedl.errors import InputError
from securedl.network.graph import Affine, Graph, Polynomial
from securedl.plan.normalised import Normalised
from securedl.plan.outliers import AT_ONCE, listed, overflowing
from securedl.plan.plan import Plan

FEATURES = 5
X = np.random.default_rng(0).normal(size=(80, FEATURES))


def made() -> Plan:
    random = np.random.default_rng(1)

    def layer(outputs: int, inputs: int) -> Affine:
        return Affine(sparse.csr_matrix(random.normal(size=(outputs, inputs))), random.normal(size=outputs))

    square = Polynomial(np.tile([[0.1], [0.3], [0.2]], 4))
    graph = Graph((FEATURES,), (layer(4, FEATURES), square, layer(3, 4)))
    return compile_graph(graph, X, 16, True, securedl.Link(), 8192, None)


PLAN = made()
LIMIT = PLAN.program.scheme.value_limit
samples = st.lists(st.sampled_from([0.1, 1.0, 2.0, 3.0, 5.0, 8.0, 1e3, 1e9]), min_size=1, max_size=20)


def given_samples(sizes: list[float]) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(len(sizes), FEATURES)) * np.array(sizes)[:, None]


def overflow(x: np.ndarray) -> np.ndarray:
    """By definition: some value that is encrypted is above the limit."""
    assert isinstance(PLAN.network, Normalised)
    pre, reads = PLAN.network.stages(x)
    return (
        np.max([np.abs(v).max(axis=1) for v in (*pre, *(r for group in reads for r in group))], axis=0)
        > LIMIT
    )


@settings(max_examples=40)
@given(samples)
def test_skip_replaces_exactly_what_overflows(sizes):
    x = given_samples(sizes)
    found, want = PLAN.screened(x, "skip"), overflow(x)
    np.testing.assert_array_equal(found.skipped, np.flatnonzero(want))
    np.testing.assert_array_equal(found.samples[~want], x[~want])
    assert len(found.clipped) == 0
    assert found.samples.shape == x.shape
    assert not overflow(found.samples).any()
    assert all(any((row == sample).all() for sample in PLAN.samples) for row in found.samples[want])


@settings(max_examples=40)
@given(samples)
def test_clip_moves_what_overflows_and_nothing_else(sizes):
    x = given_samples(sizes)
    found, want = PLAN.screened(x, "clip"), overflow(x)
    np.testing.assert_array_equal(np.sort([*found.clipped, *found.skipped]), np.flatnonzero(want))
    np.testing.assert_array_equal(found.samples[~want], x[~want])
    assert not overflow(found.samples).any()
    np.testing.assert_array_equal(
        found.samples[found.clipped], np.clip(x, *PLAN.signature.box)[found.clipped]
    )


@settings(max_examples=20)
@given(samples)
def test_raise_names_what_overflows(sizes):
    x = given_samples(sizes)
    bad = np.flatnonzero(overflow(x))
    if len(bad):
        with pytest.raises(InputError, match=rf"^{len(bad)} sample\(s\).*here\[{bad[0]}\]"):
            PLAN.checked(x, "here")
    else:
        np.testing.assert_array_equal(PLAN.checked(x), x)


def test_many_samples_are_evaluated_in_parts():
    x = given_samples([1.0, 1e6] * AT_ONCE)
    np.testing.assert_array_equal(overflowing(PLAN.network, x, LIMIT), np.tile([False, True], AT_ONCE))


class TestSimulate:
    x = given_samples([1.0] * 40)
    x[7] *= 1e6

    def test_one_outlier_does_not_cost_the_others_their_answers(self):
        with pytest.warns(UserWarning, match=r"1 sample\(s\) would overflow .* left out: NaN: x\[7\]$"):
            found = PLAN.simulate(self.x)
        rest = np.delete(np.arange(40), 7)
        want = PLAN.graph(self.x[rest])
        assert np.isnan(found[7]).all()
        assert np.abs(found[rest] - want).max() < 1e-3 * np.ptp(want)

    def test_clip(self):
        with pytest.warns(UserWarning, match=r"are clipped: x\[7\]$"):
            found = PLAN.simulate(self.x, outliers="clip")
        want = PLAN.graph(PLAN.screened(self.x, "clip").samples)
        assert np.abs(found - want).max() < 1e-3 * np.ptp(want)

    def test_raise(self):
        with pytest.raises(InputError, match=r"x\[7\]"):
            PLAN.simulate(self.x, outliers="raise")

    def test_the_choice_is_checked(self):
        with pytest.raises(InputError, match="outliers must be"):
            PLAN.simulate(self.x, outliers="ignore")


def test_a_long_list_is_cut():
    assert listed(np.array([1, 4])) == "x[1], x[4]"
    assert listed(np.arange(9), "q") == "q[0], q[1], q[2], q[3], q[4] and 4 more"


class TestNeutral:
    """What fills lanes without a sample never overflows: one lane that does spoils all others."""

    def test_zeros_where_they_do_not_overflow(self):
        np.testing.assert_array_equal(PLAN.neutral, np.zeros(FEATURES))

    def test_a_calibration_sample_where_zeros_would(self):
        random = np.random.default_rng(1)
        first = sparse.csr_matrix(random.normal(size=(4, FEATURES)))
        x = 2000 + X
        square = Polynomial(np.tile([[0.1], [0.3], [0.2]], 4))
        last = Affine(sparse.csr_matrix(random.normal(size=(3, 4))), np.zeros(3))
        graph = Graph((FEATURES,), (Affine(first, -first @ np.full(FEATURES, 2000.0)), square, last))
        plan = compile_graph(graph, x, 16, True, securedl.Link(), 8192, None)
        assert not overflowing(plan.network, plan.neutral[None], LIMIT).any()
        np.testing.assert_array_equal(plan.neutral, x[0])
        assert np.abs(plan.simulate(x[:3]) - graph(x[:3])).max() < 2**-10 * np.ptp(graph(x))
        probes = Verification(plan).probes.fingerprint
        assert not overflowing(plan.network, probes.samples, LIMIT).any()
