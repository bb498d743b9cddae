"""Forms of output, by hand, and over an axis of tamperings."""

import numpy as np
import pytest

from securedl.errors import InputError
from securedl.verify.outputs import LOGITS, OUTPUTS, differing


def logits_of(*rows):
    """Logits whose softmax has these rows."""
    return np.log(np.array(rows))


EXPECTED = logits_of([0.62, 0.21, 0.10, 0.04, 0.02, 0.01])
FOUND = {
    "the same, shifted": EXPECTED + 3.0,
    "a probability by 0.001": logits_of([0.621, 0.209, 0.10, 0.04, 0.02, 0.01]),
    "the winner's by 0.01": logits_of([0.61, 0.22, 0.10, 0.04, 0.02, 0.01]),
    "another's by 0.01": logits_of([0.62, 0.20, 0.11, 0.04, 0.02, 0.01]),
    "another's by 0.05": logits_of([0.62, 0.16, 0.15, 0.04, 0.02, 0.01]),
    "second and third exchanged": logits_of([0.62, 0.10, 0.21, 0.04, 0.02, 0.01]),
    "fifth and sixth exchanged": logits_of([0.62, 0.21, 0.10, 0.04, 0.01, 0.02]),
    "first and second exchanged": logits_of([0.21, 0.62, 0.10, 0.04, 0.02, 0.01]),
}
SEEN = {
    "the same, shifted": set(),
    "a probability by 0.001": set(),
    "the winner's by 0.01": {"top-1-p-dec2", "p-dec-2"},
    "another's by 0.01": {"p-dec-2"},
    "another's by 0.05": {"p-dec-1", "p-dec-2"},
    "second and third exchanged": {"top-3", "top-5", "p-dec-1", "p-dec-2"},
    "fifth and sixth exchanged": {"top-5", "p-dec-2"},
    "first and second exchanged": set(OUTPUTS),
}


@pytest.mark.parametrize("change", FOUND)
def test_what_each_output_shows(change):
    shown = {name for name in OUTPUTS if differing(name, EXPECTED, FOUND[change]).any()}
    assert shown == SEEN[change]


@pytest.mark.parametrize("name", [*OUTPUTS, LOGITS])
def test_an_axis_of_tamperings(name):
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(9, 7))
    found = expected + 0.1 * rng.normal(size=(4, 3, 9, 7))
    together = differing(name, expected, found, tolerance=0.2)
    assert together.shape == (4, 3, 9)
    assert together.any()
    if name != "p-dec-2":
        assert not together.all()
    for i in range(4):
        for j in range(3):
            one = [differing(name, expected[[s]], found[i, j, [s]], tolerance=0.2)[0] for s in range(9)]
            np.testing.assert_array_equal(together[i, j], one)


def test_logits_within_a_tolerance_of_each_sample():
    expected, found = np.zeros((4, 2)), np.array([[0.0, 0.1], [0.1, 0.0], [-0.3, 0.0], [0.0, np.nan]])
    assert differing(LOGITS, expected, found, tolerance=0.2).tolist() == [False, False, True, True]
    assert differing(LOGITS, expected, found, tolerance=[0.2, 0.05, 0.5, 1]).tolist() == [
        False,
        True,
        False,
        True,
    ]
    assert differing(LOGITS, expected, expected).tolist() == [False] * 4


def test_one_logit_is_a_sigmoid():
    assert differing("top-1", [[0.1], [0.1]], [[-0.1], [0.2]]).tolist() == [True, False]
    assert differing("p-dec-1", [[0.0]], [[1.0]]).tolist() == [True]


def test_wrong_input_is_refused():
    with pytest.raises(InputError, match="expected one of top-1"):
        differing("top-2", EXPECTED, EXPECTED)
    with pytest.raises(InputError, match="samples, classes"):
        differing("top-1", EXPECTED, EXPECTED[:, :3])
