"""The result type: three equal representations, derivatives, and a dict that keeps every bit."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Polynomial

import polyapprox
from polyapprox import Approximation, FitError

coefficients = st.lists(st.floats(-10, 10), min_size=1, max_size=9).map(tuple)
domains = st.tuples(st.floats(-5, 5), st.floats(0.5, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def make(series, domain):
    return Approximation(series, domain, max_error=0.5, rms_error=0.25)


@given(coefficients, domains)
def test_representations_agree(series, domain):
    fit = make(series, domain)
    x = np.linspace(*domain, 33)
    u = (x - fit.mid) / fit.half
    size = np.abs(series).sum() + 1
    assert fit.degree == len(series) - 1 == len(fit.power()) - 1 == len(fit.scaled_power()) - 1
    np.testing.assert_allclose(Polynomial(fit.scaled_power())(u), fit(x), atol=1e-12 * size)
    # The power basis in x cancels where the domain lies far from 0: condition (1 + |mid|/half)^degree.
    spread = (3 * (1 + (abs(fit.mid) + fit.half) / fit.half)) ** fit.degree
    np.testing.assert_allclose(Polynomial(fit.power())(x), fit(x), atol=1e-14 * size * spread)


@given(coefficients, domains)
def test_derivative_is_that_of_the_power_form(series, domain):
    fit = make(series, domain)
    x = np.linspace(*domain, 9).reshape(3, 3)
    expected = Polynomial(fit.scaled_power()).deriv()((x - fit.mid) / fit.half) / fit.half
    np.testing.assert_allclose(fit.derivative(x), expected, rtol=1e-9, atol=1e-8)
    assert fit.derivative(x).shape == (3, 3)


def test_calls_keep_the_shape():
    fit = make((1.0, 2.0), (-1.0, 1.0))
    assert fit(0.5) == 2.0
    assert fit(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert fit(np.zeros(4, dtype=np.float32)).dtype == np.float64


def test_known_power_coefficients():
    """T_2(u) = 2u² - 1 with u = x - 3 on [2, 4]: 2x² - 12x + 17."""
    np.testing.assert_allclose(make((0.0, 0.0, 1.0), (2.0, 4.0)).power(), [17, -12, 2], rtol=1e-14)


@given(coefficients, domains)
def test_dict_round_trip_through_json(series, domain):
    fit = make(series, domain)
    assert Approximation.from_dict(json.loads(json.dumps(fit.to_dict()))) == fit


def test_dict_of_a_real_fit():
    fit = polyapprox.least_squares("gelu", 4, samples=np.linspace(-2, 3, 50))
    again = Approximation.from_dict(json.loads(json.dumps(fit.to_dict())))
    assert again == fit
    assert hash(again) == hash(fit)
    assert again.function == "gelu"
    assert again.data_rms_error is not None


def test_bad_dicts_and_values_are_refused():
    with pytest.raises(FitError, match=r"missing \['rms_error'\], unknown \['colour'\]"):
        Approximation.from_dict({"coefficients": [1], "domain": [0, 1], "max_error": 0, "colour": 3})
    with pytest.raises(FitError, match="the lower first"):
        make((1.0,), (1.0, 1.0))
    with pytest.raises(FitError, match="one or more finite"):
        make((), (0.0, 1.0))
    with pytest.raises(FitError, match="one or more finite"):
        make((float("nan"),), (0.0, 1.0))
