"""Least squares against exact integrals, scipy's quadrature and numpy's fits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial, chebyshev, legendre
from scipy.integrate import quad
from scipy.linalg import lstsq

import polyapprox
from polyapprox import Activation, FitError, least_squares


def test_relu_by_hand():
    """relu = (x + |x|)/2, and |x| projects on span(1, x²) of [-1, 1] as 3/16 + 15/16 x²."""
    fit = least_squares("relu", 2, (-1, 1))
    np.testing.assert_allclose(fit.power(), [3 / 32, 1 / 2, 15 / 32], atol=1e-14)
    # |f - p| on [0, 1]: 3/32 at 0, 19/480 at its inner extremum 8/15, 1/16 at 1.
    assert fit.max_error == pytest.approx(3 / 32, rel=1e-9)
    assert fit.certified
    # Of f only |x|/2 counts: mean square 1/12, of its projection 1/4 + 5/16 P_2: 1/16 + 5/256.
    assert fit.rms_error == pytest.approx((1 / 768) ** 0.5, rel=1e-10)


def test_square_root_by_hand():
    """sqrt on [0, 1], degree 1: solve the 2 x 2 normal equations: 4/15 + 4/5 x."""
    fit = least_squares(np.sqrt, 1, (0, 1))
    np.testing.assert_allclose(fit.power(), [4 / 15, 4 / 5], atol=1e-7)
    assert fit.max_error == pytest.approx(4 / 15, rel=1e-6)
    assert not fit.certified


@pytest.mark.parametrize("name", polyapprox.ACTIVATIONS)
@pytest.mark.parametrize("domain", [(-6.0, 6.0), (-2.0, 9.0), (1.0, 3.0)])
def test_uniform_weight_is_the_legendre_projection(name, domain):
    function = polyapprox.activation(name)
    lo, hi = domain
    mid, half = (lo + hi) / 2, (hi - lo) / 2
    expected = np.zeros(6)
    for k in range(6):
        basis = legendre.Legendre.basis(k)
        kink = [-mid / half] if lo < 0 < hi else None
        integral, _ = quad(lambda u, p=basis: float(function(mid + half * u)) * p(u), -1, 1, points=kink)
        expected[k] = (k + 0.5) * integral
    fit = least_squares(name, 5, domain)
    u = np.linspace(-1, 1, 50)
    np.testing.assert_allclose(fit(mid + half * u), legendre.legval(u, expected), atol=1e-7)


def test_chebyshev_weight_truncates_the_chebyshev_series():
    """|x| = 2/pi + 4/pi sum_k (-1)^(k+1) T_2k / (4k² - 1) (Rivlin, Chebyshev Polynomials, 3.2)."""
    k = np.arange(1, 4)
    expected = np.zeros(7)
    expected[0] = 2 / np.pi
    expected[2::2] = 4 / np.pi * (-1.0) ** (k + 1) / (4 * k**2 - 1)
    np.testing.assert_allclose(
        least_squares(np.abs, 6, (-1, 1), weight="chebyshev").coefficients, expected, atol=1e-13
    )
    smooth = least_squares("gelu", 6, (-3, 5), weight="chebyshev")
    series = chebyshev.chebinterpolate(lambda u: polyapprox.activation("gelu")(1 + 4 * u), 200)[:7]
    np.testing.assert_allclose(smooth.coefficients, series, atol=1e-13)


def test_gaussian_and_callable_weights():
    lo, hi = -4.0, 2.0
    named = least_squares("relu", 3, (lo, hi), weight="gaussian")
    own = least_squares("relu", 3, (lo, hi), weight=lambda x: 7 * np.exp(-((x + 1) ** 2) / 2))
    np.testing.assert_allclose(named.coefficients, own.coefficients, atol=1e-13)
    for k in range(4):  # the error is orthogonal to the basis under the weight
        integral, _ = quad(
            lambda x, k=k: np.exp(-((x + 1) ** 2) / 2) * (max(x, 0) - float(named(x))) * x**k,
            lo,
            hi,
            points=[0],
        )
        assert abs(integral) < 1e-8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 6), st.integers(0, 2**32 - 1), st.booleans())
def test_samples_match_numpy(degree, seed, weighted):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 2, size=(20, 5))
    weights = rng.uniform(0.1, 3, size=x.shape) if weighted else None
    fit = least_squares("silu", degree, samples=x, sample_weights=weights)
    flat = x.ravel()
    root = None if weights is None else np.sqrt(weights.ravel())
    values = polyapprox.activation("silu")(flat)
    expected = Polynomial.fit(flat, values, degree, w=root)
    np.testing.assert_allclose(fit(flat), expected(flat), atol=1e-9)
    assert fit.domain == (flat.min(), flat.max())
    error = values - expected(flat)
    assert fit.data_max_error == pytest.approx(np.abs(error).max(), abs=1e-9)
    mean = np.average(error**2, weights=None if weights is None else weights.ravel())
    assert fit.data_rms_error == pytest.approx(np.sqrt(mean), abs=1e-9)
    assert fit.data_max_error <= fit.max_error


@pytest.mark.parametrize("name", polyapprox.ACTIVATIONS)
@pytest.mark.parametrize("degree", [2, 7, 15])
def test_samples_match_numpys_chebyshev_fit_and_scipys_solver(name, degree):
    """Both on [-50, 50]: numpy gives our very coefficients, scipy's lstsq (LAPACK gelsd) the same values."""
    x = np.random.default_rng(degree).uniform(-50, 50, 3000)
    values = polyapprox.activation(name)(x)
    fit = least_squares(name, degree, (-50, 50), samples=x)
    theirs = chebyshev.Chebyshev.fit(x, values, degree, domain=[-50, 50])
    size = np.abs(values).max()
    np.testing.assert_allclose(fit.coefficients, theirs.coef, atol=1e-12 * size)
    solution, *_ = lstsq(legendre.legvander(x / 50, degree), values)
    np.testing.assert_allclose(fit(x), legendre.legval(x / 50, solution), atol=1e-12 * size)


def test_published_sigmoid():
    """Least squares of the sigmoid on [-8, 8] in x/8, as published for encrypted logistic regression.

    Kim, Song, Wang, Xia and Jiang, JMIR Med. Inform. 6(2):e19, 2018: degree 3 to its last digit. Their
    degree 7 is of a grid of points, as its distance from the integral's shows.
    """
    scale = 8.0 ** np.arange(8)
    cubic = least_squares("sigmoid", 3, (-8, 8)).power() * scale[:4]
    np.testing.assert_allclose(cubic, [0.5, 1.20096, 0, -0.81562], atol=5.1e-6)
    seventh = least_squares("sigmoid", 7, (-8, 8)).power() * scale
    np.testing.assert_allclose(
        seventh, [0.5, 1.73496, 0, -4.19407, 0, 5.43402, 0, -2.50739], rtol=1e-3, atol=1e-12
    )


def test_many_samples_in_blocks():
    """More samples than one block of the QR: the same as numpy's fit of all at once."""
    x = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    fit = least_squares("relu", 4, samples=x)
    flat = x.astype(np.float64)
    expected = Polynomial.fit(flat, np.maximum(flat, 0), 4)
    np.testing.assert_allclose(fit(flat), expected(flat), atol=1e-11)


def test_dense_samples_approach_the_continuous_fit():
    x = (np.arange(400_000) + 0.5) / 400_000 * 7 - 3
    sampled = least_squares("tanh", 3, (-3, 4), samples=x)
    np.testing.assert_allclose(
        sampled.coefficients, least_squares("tanh", 3, (-3, 4)).coefficients, atol=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.floats(-20, 20), st.floats(0.1, 40))
def test_polynomials_are_reproduced(power, lo, width):
    poly = Polynomial(power)
    fit = least_squares(lambda x: poly(x), len(power) - 1, (lo, lo + width))
    x = np.linspace(lo, lo + width, 40)
    size = np.abs(power) @ (max(abs(lo), abs(lo + width)) ** np.arange(len(power)))
    np.testing.assert_allclose(fit(x), poly(x), atol=1e-11 * (1 + size))


@pytest.mark.parametrize("name", polyapprox.ACTIVATIONS)
def test_degree_15_on_a_wide_domain_is_stable(name):
    """Oracle: the Legendre projection by a 500-point Gauss rule each side, evaluated in its own basis."""
    points, weights = legendre.leggauss(500)
    u = np.concatenate([(points - 1) / 2, (points + 1) / 2])
    w = np.concatenate([weights, weights]) / 2
    values = polyapprox.activation(name)(50 * u)
    table = legendre.legvander(u, 15)
    projection = (np.arange(16) + 0.5) * (table.T @ (w * values))
    fit = least_squares(name, 15, (-50, 50))
    np.testing.assert_allclose(fit(50 * u), table @ projection, atol=1e-10 * (1 + np.abs(values).max()))
    np.testing.assert_allclose(
        Polynomial(fit.scaled_power())(u), fit(50 * u), atol=1e-9 * (1 + np.abs(values).max())
    )


def test_higher_degree_never_has_a_larger_square_error():
    errors = [least_squares("gelu", degree, (-4, 6)).rms_error for degree in range(12)]
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(errors))


def test_usual_interval_is_the_default_domain():
    assert least_squares("sigmoid", 3).domain == polyapprox.activation("sigmoid").interval


def test_own_activation_with_a_kink():
    """A kink away from 0, named in the Activation: quadrature splits there, the bound is proved."""
    hinge = Activation(
        "hinge", lambda x: np.maximum(x - 1, 0), (0, 2), kinks=(1.0,), second_derivative=(0.0, 0.0)
    )
    fit = least_squares(hinge, 2)
    np.testing.assert_allclose(fit(np.array([-1, 0, 1]) + 1), Polynomial([3 / 32, 0.5, 15 / 32])([-1, 0, 1]))
    assert fit.certified
    assert fit.max_error == pytest.approx(3 / 32)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("relu", -1), {}, "degree is -1; expected a whole number from 0 to 64"),
        (("relu", 2.5), {}, "degree is 2.5"),
        (("relu", True), {}, "degree is True"),
        (("relu", 2, (3, 1)), {}, "the lower first"),
        (("relu", 2, (0, float("inf"))), {}, "two finite numbers"),
        (("relu", 2, (1, 2, 3)), {}, r"expected two numbers \(lo, hi\)"),
        (("relu", 2, (1, 1 + 1e-12)), {}, "too narrow"),
        ((np.exp, 2), {}, "exp has no usual interval"),
        (("relu", 2), {"weight": "hann"}, "weight is 'hann'; expected one of uniform, chebyshev, gaussian"),
        (("relu", 2), {"weight": lambda x: x}, "must be finite, non-negative"),
        (("relu", 2), {"samples": []}, "samples is empty"),
        (("relu", 2), {"samples": [1, np.nan, 2]}, "1 of 3 samples are NaN or infinite"),
        (("relu", 2), {"samples": [4, 4]}, "every sample is 4"),
        (("relu", 2), {"samples": [1, 2, 2]}, "2 distinct points of positive weight do not determine"),
        (("relu", 2, (0, 1)), {"samples": [0.5, 3]}, r"1 of 2 samples lie outside .* widen it to \(0.5, 3\)"),
        (("relu", 2), {"sample_weights": [1]}, "sample_weights were given without samples"),
        (("relu", 0), {"samples": [1, 2], "sample_weights": [1]}, "1 values for 2 points"),
        (("relu", 0), {"samples": [1, 2], "sample_weights": [0, 0]}, "somewhere positive"),
        (("relu", 0), {"samples": [1, 2], "weight": "gaussian"}, "with samples use sample_weights"),
    ],
)
def test_mistakes_are_explained(arguments, options, message):
    with pytest.raises(FitError, match=message):
        least_squares(*arguments, **options)
