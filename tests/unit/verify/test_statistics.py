"""Detection and bounds against enumeration, scipy.stats and properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securedl.errors import InputError
from securedl.verify.statistics import (
    alterable,
    detection_by_fraction,
    detection_probability,
    poisson_limit,
    probes_needed,
    upper_bound_tampered,
    wilson_interval,
)


@given(st.integers(1, 300), st.integers(1, 30), st.sampled_from([0.0, 0.1]))
def test_one_more_than_can_be_altered_is_noticed(queries, probes, miss):
    probes = min(probes, queries)
    found = alterable(queries, probes, miss)
    assert detection_probability(queries, probes, found, miss) < 0.95 or found == 0
    assert found == queries or detection_probability(queries, probes, found + 1, miss) >= 0.95
    assert alterable(queries, 0) == queries


@pytest.mark.parametrize("miss", [0.0, 0.3, 1.0])
def test_detection_by_enumeration(miss):
    n = 7
    for k, f in itertools.product(range(n + 1), repeat=2):
        tampered = set(range(f))
        passed = [miss ** len(tampered & set(at)) for at in itertools.combinations(range(n), k)]
        assert detection_probability(n, k, f, miss) == pytest.approx(1 - np.mean(passed), abs=1e-12)


def stratified(batches, batch, probes, spread, miss):
    """Chance to notice with one uniform probe a batch and the others uniform over what remains."""
    lanes = [(b, i) for b in range(batches) for i in range(batch)]
    bad = {(b, i) for b in range(batches) for i in range(spread[b])}
    passed = []
    for first in itertools.product(range(batch), repeat=batches):
        forced = set(enumerate(first))
        free = [lane for lane in lanes if lane not in forced]
        passed += [
            miss ** len(bad & (forced | set(rest))) for rest in itertools.combinations(free, probes - batches)
        ]
    return 1 - np.mean(passed)


@pytest.mark.parametrize("miss", [0.0, 0.25, 0.7])
@pytest.mark.parametrize(("batches", "batch"), [(2, 2), (3, 2), (2, 3), (1, 5)])
def test_forced_is_a_lower_bound_for_any_spread(miss, batches, batch):
    n = batches * batch
    for probes in range(batches, n + 1):
        for f in range(n + 1):
            bound = detection_probability(n, probes, f, miss, forced=batches)
            real = min(
                stratified(batches, batch, probes, spread, miss)
                for spread in itertools.product(range(batch + 1), repeat=batches)
                if sum(spread) == f
            )
            assert bound <= real + 1e-12
            if f % batches == 0 and miss == 0.0:  # spread evenly, the bound is met
                assert bound == pytest.approx(real, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_detection_grows_with_probes_and_tampering(data):
    n = data.draw(st.integers(1, 300))
    k, f = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    miss = data.draw(st.floats(0, 1))
    found = detection_probability(n, k, f, miss)
    assert 0 <= found <= 1
    assert found == pytest.approx(detection_probability(n, f, k, miss), abs=1e-9)
    if k < n:
        assert detection_probability(n, k + 1, f, miss) >= found - 1e-9
    if f < n:
        assert detection_probability(n, k, f + 1, miss) >= found - 1e-9
    if k > 0:
        forced = data.draw(st.integers(1, k))
        assert 0 <= detection_probability(n, k, f, miss, forced=forced) <= 1


@pytest.mark.parametrize("miss", [0.0, 0.4])
@pytest.mark.parametrize("fraction", [0.004, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("samples", [1, 2, 7, 100, 1000])
def test_probes_needed_are_the_fewest(samples, fraction, miss):
    def noticed(probes):
        answers = samples + probes
        tampered = max(1, int(np.ceil(round(fraction * answers, 9))))
        hits = np.arange(probes + 1)
        return 1 - np.sum(stats.hypergeom.pmf(hits, answers, tampered, probes) * miss**hits)

    for confidence in (0.5, 0.95):
        found = probes_needed(samples, fraction, confidence, miss)
        assert noticed(found) >= confidence - 1e-9
        assert found == 1 or noticed(found - 1) < confidence + 1e-9
        fewer = np.unique(np.linspace(0, found - 1, 9, dtype=int))
        assert all(noticed(probes) < confidence + 1e-9 for probes in fewer)


def test_probes_needed_by_hand():
    """All of 10 answers show on one probe. One of two, a sample and a probe, does so in half of the cases."""
    assert probes_needed(10, 1.0) == 1
    assert probes_needed(1, 0.5, 0.5) == 1
    assert probes_needed(1000, 0.05) == 57
    assert detection_probability(1057, 57, 53) >= 0.95 > detection_probability(1056, 56, 53)


def test_detection_by_hand():
    assert detection_probability(100, 10, 1) == pytest.approx(0.1)
    assert detection_probability(10, 10, 1) == 1.0
    assert detection_probability(0, 0, 0) == 0.0
    assert detection_probability(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-9)
    found = detection_by_fraction(100, 10, (0.01, 0.07, 1.0))
    assert list(found) == [0.01, 0.07, 1.0]
    assert found[1.0] == 1.0
    assert found[0.07] == pytest.approx(1 - stats.hypergeom.pmf(0, 100, 10, 7))
    assert detection_by_fraction(0, 0, (0.5,)) == {0.5: 0.0}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.999))
def test_upper_bound_is_clopper_pearson(checked, data, confidence):
    detected = data.draw(st.integers(0, checked))
    bound = upper_bound_tampered(checked, detected, confidence)
    oracle = stats.binomtest(detected, checked, alternative="less").proportion_ci(confidence, "exact")
    assert bound == pytest.approx(oracle.high, rel=1e-9)
    if detected < checked:  # its definition: at the bound, so few detections have chance 1 - confidence
        assert stats.binom.cdf(detected, checked, bound) == pytest.approx(1 - confidence, rel=1e-6)


def test_upper_bound_by_hand():
    assert upper_bound_tampered(0) == 1.0
    assert upper_bound_tampered(59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert upper_bound_tampered(5, 5) == 1.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.data(), st.floats(0.5, 0.999))
def test_wilson_is_scipys(trials, data, confidence):
    successes = data.draw(st.integers(0, trials))
    oracle = stats.binomtest(successes, trials).proportion_ci(confidence, "wilson")
    np.testing.assert_allclose(
        wilson_interval(successes, trials, confidence), (oracle.low, oracle.high), atol=1e-12
    )


def test_poisson_limit():
    """Mean 4: P(X <= 9) = 0.99187, P(X <= 8) = 0.97864 (tables)."""
    assert poisson_limit(4.0) == 9
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: detection_probability(5, 6, 1),
        lambda: detection_probability(5, 1, 6),
        lambda: detection_probability(5, 1, 1, 1.5),
        lambda: detection_probability(5, 1, 1, forced=2),
        lambda: detection_by_fraction(5, 1, (2.0,)),
        lambda: upper_bound_tampered(1, 2),
        lambda: upper_bound_tampered(1, 0, 1.0),
        lambda: wilson_interval(-1, 2),
        lambda: probes_needed(0, 0.5),
        lambda: probes_needed(5, 0.0),
        lambda: probes_needed(5, 0.5, 1.0),
        lambda: probes_needed(5, 0.5, 0.9, miss=1.0),
    ],
)
def test_impossible_counts_are_refused(call):
    with pytest.raises(InputError):
        call()
