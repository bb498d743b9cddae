"""Placement: every promise as a property, and uniform places."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securedl.errors import InputError
from securedl.verify.placement import EMPTY, Probes, place


@settings(max_examples=200, deadline=None)
@given(
    samples=st.integers(0, 70),
    batch=st.integers(1, 16),
    count=st.integers(0, 20),
    fill=st.booleans(),
    fingerprint=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_promises(samples, batch, count, fill, fingerprint, seed):
    found = place(samples, batch, Probes(count, fill), fingerprint, random.Random(seed))
    data, probe = found.data, found.probe
    assert data.shape == probe.shape
    assert data.size == 0 or data.shape[1] == batch
    assert not ((data != EMPTY) & (probe != EMPTY)).any()
    np.testing.assert_array_equal(np.sort(data[data != EMPTY]), np.arange(samples))
    assert found.probes >= count
    if count and batch > 1:
        assert (probe != EMPTY).any(axis=1).all()
        assert found.forced == len(probe)
    if fill:
        assert ((data != EMPTY) | (probe != EMPTY)).all()
    used = np.bincount(probe[probe != EMPTY], minlength=fingerprint)
    assert len(used) == fingerprint
    assert used.max() - used.min() <= 1
    fewer = len(data) - 1  # one batch less could not hold them
    least = max(count, fewer if count and batch > 1 else 0)
    assert len(data) == 0 or fewer < 0 or fewer * batch < samples + least
    if not fill:
        assert found.probes == max(count, found.forced)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 70), st.integers(2, 16), st.integers(1, 40), st.booleans(), st.integers(0, 2**32))
def test_each_batch_holds_one_like_data(samples, batch, count, fill, seed):
    """At every place alike, whatever the others are."""
    natural = [3, 5, 11]
    found = place(samples, batch, Probes(count, fill), 12, random.Random(seed), natural)
    assert np.isin(found.probe, natural).any(axis=1).all()
    used = np.bincount(found.probe[found.probe != EMPTY], minlength=12)
    others = np.delete(used, natural)
    assert others.max() - others.min() <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 5), st.booleans(), st.integers(0, 2**32))
def test_assembled_and_collected(samples, batch, count, fill, seed):
    found = place(samples, batch, Probes(count, fill), 4, random.Random(seed))
    data = np.arange(samples * 3.0).reshape(samples, 3)
    marks = -1.0 - np.arange(12.0).reshape(4, 3)
    lanes = found.assemble(data, marks)
    np.testing.assert_array_equal(found.collect(lanes), data)
    which, rows = found.probed(lanes)
    np.testing.assert_array_equal(rows, marks[which])
    assert not lanes[(found.data == EMPTY) & (found.probe == EMPTY)].any()


@pytest.mark.parametrize(
    ("samples", "batch", "probes"),
    [(9, 4, Probes(5)), (9, 4, Probes(3, fill=False)), (8, 1, Probes(4)), (10, 8, Probes(0))],
)
def test_lanes_are_equally_likely(samples, batch, probes):
    """4,000 placements at a fixed seed; chi-square over lanes, counts within one draw are correlated
    negatively, so the statistic is below its usual size and the test cautious."""
    rng, draws = random.Random(7), 4000
    hits = sum(np.asarray(place(samples, batch, probes, 50, rng).probe != EMPTY) for _ in range(draws))
    share = hits.sum() / hits.size
    spread = share * (1 - share / draws)
    assert ((hits - share) ** 2 / spread).sum() < stats.chi2.ppf(0.999, hits.size)


def test_each_fingerprint_sample_is_equally_likely():
    rng = random.Random(8)
    drawn = np.concatenate([place(5, 4, Probes(3), 6, rng).probe.ravel() for _ in range(2000)])
    assert stats.chisquare(np.bincount(drawn[drawn != EMPTY], minlength=6)).pvalue > 1e-3


def test_by_hand():
    assert place(63, 64, Probes(1), 5).data.shape == (1, 64)
    assert place(64, 64, Probes(1), 5).data.shape == (2, 64)
    assert place(3, 1, Probes(2), 5).data.shape == (5, 1)
    assert place(0, 4, Probes(3), 5).probes == 4
    assert place(0, 4, Probes(0), 0).data.shape == (0, 4)
    assert place(3, 4, Probes(0), 0).probes == 0
    places = {tuple(place(30, 32, Probes(2), 5).probe.ravel()) for _ in range(5)}
    assert len(places) > 1  # the operating system's randomness, not a fixed seed


@pytest.mark.parametrize(
    "call",
    [
        lambda: Probes(-1),
        lambda: place(3, 0, Probes(1), 5),
        lambda: place(-1, 2, Probes(1), 5),
        lambda: place(3, 2, Probes(1), 0),
    ],
)
def test_impossible_requests(call):
    with pytest.raises(InputError):
        call()
