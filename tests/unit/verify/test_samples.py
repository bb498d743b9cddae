"""Samples without a search: the box, the data, and images transformed."""

import numpy as np
import pytest

from securedl.errors import InputError
from securedl.verify.samples import natural_samples, transformed_samples, uniform_samples

#: A grey ramp with a bright corner, [2 images, 1 channel, 12, 12] in [0, 1].
IMAGES = np.tile(np.linspace(0.2, 0.6, 12), (2, 1, 12, 1))
IMAGES[:, :, :3, :3] = 1.0


def test_natural_samples_differ_until_they_run_out():
    x = np.arange(30.0).reshape(5, 2, 3) / 10
    assert len(np.unique(natural_samples(x, 5, seed=0), axis=0)) == 5
    assert natural_samples(x, 12, seed=0).shape == (12, 2, 3)
    assert natural_samples(x, 0, seed=0).shape == (0, 2, 3)
    np.testing.assert_array_equal(natural_samples(x, 4, seed=1), natural_samples(x, 4, seed=1))


def test_uniform_samples_fill_the_box():
    low, high = np.arange(6.0).reshape(2, 3) - 3.0, np.arange(6.0).reshape(2, 3)
    x = uniform_samples((2, 3), 4000, low=low, high=high, seed=0)
    assert x.shape == (4000, 2, 3)
    share = (x - low) / (high - low)
    assert share.min() >= 0.0
    assert share.max() <= 1.0
    np.testing.assert_allclose(share.mean(0), 0.5, atol=6 * np.sqrt(1 / 12 / 4000))
    np.testing.assert_allclose(share.var(0), 1 / 12, atol=0.01)


@pytest.mark.parametrize("how", ["noise", "rotation", "distortion"])
def test_transforms_keep_shape_and_box_and_move_something(how):
    found = transformed_samples(IMAGES, how, low=0.0, high=1.0, seed=0)
    assert found.shape == IMAGES.shape
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    assert (np.abs(found - IMAGES).reshape(2, -1).max(1) > 0.05).all()
    assert np.abs(found[0] - found[1]).max() > 0.01  # each has a draw of its own
    np.testing.assert_array_equal(found, transformed_samples(IMAGES, how, low=0.0, high=1.0, seed=0))


def test_noise_has_the_deviation_asked_for():
    flat = np.full((1, 100, 100), 5.0)
    found = transformed_samples(flat, "noise", low=0.0, high=10.0, seed=0, strength=0.05)
    assert np.std(found - flat) == pytest.approx(0.5, rel=0.03)


def test_rotation_turns_about_the_middle():
    """A bright pixel keeps its distance from the middle, and the angle is within what was allowed."""
    image = np.zeros((40, 31, 31))
    image[:, 15, 25] = 1.0
    found = transformed_samples(image, "rotation", low=0.0, high=1.0, seed=0, strength=40.0)
    for turned in found:
        row, column = (np.average(axis, weights=turned) - 15.0 for axis in np.indices((31, 31)))
        assert np.hypot(row, column) == pytest.approx(10.0, abs=0.6)
        assert abs(np.degrees(np.arctan2(row, column))) < 43.0


def test_distortion_moves_pixels_by_what_was_asked():
    """Of an image whose values are the columns' numbers, the change is how far each pixel moved."""
    ramp = np.tile(np.arange(40.0), (60, 40, 1))
    found = transformed_samples(ramp, "distortion", low=0.0, high=40.0, seed=0, strength=1.5)
    inner = (found - ramp)[:, 6:-6, 6:-6]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(1.5, rel=0.1)
    assert np.abs(np.diff(inner, axis=2)).max() < 1.5  # smooth


@pytest.mark.parametrize(
    ("shape", "low", "high"),
    [((6,), 1, -1), ((6,), [0, 0], 1), ((6,), -np.inf, 1), ((2, 3), np.zeros(6), 1)],
)
def test_a_wrong_box_is_refused(shape, low, high):
    with pytest.raises(InputError, match="box"):
        uniform_samples(shape, 2, low=low, high=high, seed=0)


def test_wrong_transforms_are_refused():
    with pytest.raises(InputError, match="expected one of"):
        transformed_samples(IMAGES, "blur", low=0, high=1, seed=0)
    with pytest.raises(InputError, match="images"):
        transformed_samples(np.zeros((2, 5)), "noise", low=0, high=1, seed=0)
    with pytest.raises(InputError, match="NaN"):
        natural_samples(np.full((2, 5), np.nan), 1, seed=0)
