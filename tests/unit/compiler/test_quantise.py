"""Networks of whole numbers: bounds that hold and are reached, what follows from them, and one by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from securedl.compiler.quantise import (
    CLIP_MARGIN,
    LEAST_BITS,
    MOST_BITS,
    Fineness,
    Widths,
    check_fineness,
    labels_kept,
    quantise,
    quantise_through,
)
from securedl.errors import CompileError, InputError
from securedl.network.outputs import Output
from securedl.plan.forms import NONE, Cubic, Form, Powers, Square
from securedl.plan.normalised import Layer, Normalised
from securedl.plan.quantised import Quantised, Requantised, rounded

SIZES = 5, 6, 4
FORMS = {"square": Square(2), "cubic": Cubic(3, np.full(6, 0.7)), "powers": Powers(4)}


def layer(matrices, bias, form: Form, name: str = "layer") -> Layer:
    return Layer(name, tuple(sparse.csr_matrix(one) for one in matrices), np.array(bias, float), form)


def network(form: Form, seed: int = 0, positive: bool = False) -> Normalised:
    """5-6-4, weights and values of about 1."""
    random = np.random.default_rng(seed)

    def matrix(rows, columns):
        found = random.normal(size=(rows, columns)) / columns
        return np.abs(found) if positive else found

    inputs, hidden, outputs = SIZES
    first = layer([matrix(hidden, inputs)], random.normal(size=hidden) / 3, form, "first")
    second = [matrix(outputs, hidden) for _ in range(form.registers)]
    last = layer(second, random.normal(size=outputs) / 3, NONE, "last")
    if positive:
        last = replace(last, bias=np.abs(last.bias))
    ends = np.full(inputs, 2.0), np.full(inputs, 0.5), np.full(outputs, 3.0), np.full(outputs, -1.0)
    return Normalised(*ends[:2], (first, last), *ends[2:])


def whole(values: np.ndarray) -> np.ndarray:
    """Python's integers."""
    assert (values == np.rint(values)).all()
    return values.astype(np.int64).astype(object)


def answers(layer: Layer, reads: list[np.ndarray]) -> np.ndarray:
    """Python's integers [samples, out] of what it reads."""
    parts = (read @ whole(matrix.toarray()).T for matrix, read in zip(layer.matrices, reads, strict=True))
    return sum(parts) + whole(layer.bias)


def polynomial(form: Form, u: np.ndarray) -> list[np.ndarray]:
    """What it says, in Python's integers."""
    match form.name:
        case "square":
            return [u * u]
        case "cubic":
            return [u * u * u + u * whole(form.constant)]
        case "powers":
            return [u**k for k in range(1, form.degree + 1)]
    return [u]


widths = st.builds(Widths, *[st.integers(LEAST_BITS, 9)] * 3)


@given(seed=st.integers(0, 10**6), form=st.sampled_from(sorted(FORMS)), bits=widths)
def test_bounds_hold(seed, form, bits):
    """Whatever is sent, and at the corners of the box most of all."""
    try:
        found = quantise(network(FORMS[form], seed), bits)
    except CompileError:
        assert form != "square"  # higher powers of 9 bits may take more than 33
        return
    random, (first, last) = np.random.default_rng(seed), found.layers
    most, limit = found.client.input_limit, found.client.limit
    sent = [
        random.integers(-most, most, (20, SIZES[0]), endpoint=True),
        random.choice([-most, most], (20, 5)),
    ]
    back = [random.integers(-limit, limit, (20, 6), endpoint=True), random.choice([-limit, limit], (20, 6))]
    for x, u in zip(sent, back, strict=True):
        assert (abs(answers(first, [x.astype(object)])) <= whole(found.bounds[0])).all()
        assert (abs(answers(last, polynomial(first.form, u.astype(object)))) <= whole(found.bounds[1])).all()


@pytest.mark.parametrize("form", FORMS)
def test_bounds_are_reached(form):
    """The first layer's by what has the signs of a row's weights; the second's, whose weights have one sign,
    by the largest values.
    """
    found = quantise(network(FORMS[form], positive=True), Widths(8, 8, 5))
    first, last = found.layers
    for row in range(SIZES[1]):
        signs = np.sign(whole(first.matrices[0].toarray())[row]) * (1 if first.bias[row] >= 0 else -1)
        value = answers(first, [signs[None] * found.client.input_limit])[0, row]
        assert abs(value) == found.bounds[0][row]
    top = np.full((1, SIZES[1]), found.client.limit, object)
    assert (answers(last, polynomial(first.form, top))[0] == whole(found.bounds[1])).all()


@pytest.mark.parametrize("form", ["square", "cubic"])
def test_bounds_with_signs(form):
    """As if each value could have any sign, which a square has not; by the definition."""
    found = quantise(network(FORMS[form]), Widths(7, 6, 5))
    last, limit = found.layers[1], found.client.limit
    constant = whole(found.layers[0].form.constant) if form == "cubic" else 0
    reach = limit**2 if form == "square" else limit * (limit**2 + abs(constant))
    rows = abs(whole(last.matrices[0].toarray())) * reach
    assert (rows.sum(axis=1) + abs(whole(last.bias)) == whole(found.bounds[1])).all()
    if form == "cubic":  # whose values do have both
        for row in range(SIZES[2]):
            signs = np.sign(whole(last.matrices[0].toarray())[row]) * (1 if last.bias[row] >= 0 else -1)
            value = answers(last, polynomial(found.layers[0].form, signs[None] * limit))[0, row]
            assert abs(value) == found.bounds[1][row]


def test_a_bound_that_no_modulus_reaches_names_the_layer_and_its_bits():
    with pytest.raises(CompileError, match=r"layer 'last' needs (\d+) bits for its values") as refused:
        quantise(network(Cubic(3, np.full(6, 0.7))), Widths(8, 12, 12))
    assert "33 at most: use fewer bits" in str(refused.value)
    bits = int(str(refused.value).split("needs ")[1].split()[0])
    assert 33 < bits <= 12 + 3 * 11 + 4
    first = layer([np.ones((2, 1 << 13))], [0, 0], Square(2), "first")
    ends = np.ones(1 << 13), np.zeros(1 << 13), np.ones(2), np.zeros(2)
    wide = Normalised(*ends[:2], (first, layer([np.ones((2, 2))], [0, 0], NONE)), *ends[2:])
    with pytest.raises(CompileError, match=r"layer 'first' needs 36 bits"):  # 1 + 13 + 11 + 11
        quantise(wide, Widths(12, 12, 3))


def test_entries_fill_their_bits():
    """Every row its own, and the last layer together; they are whole, as the biases are."""
    found = quantise(network(Square(2)), Widths(8, 6, 8))
    first, last = (abs(whole(one.matrices[0].toarray())) for one in found.layers)
    assert (first.max(axis=1) == 31).all()
    assert last.max() == 31
    assert len({*last.max(axis=1)}) > 1
    assert len({*found.output_scale.tolist()}) == 1
    assert (found.client.input_limit, found.client.limit) == (127, 127)
    for one in found.layers:
        whole(one.bias)


@pytest.mark.parametrize("form", FORMS)
def test_many_bits_lose_little(form):
    """The oracle is the network itself."""
    exact = network(FORMS[form])
    bits = {"powers": Widths(12, 9, 6), "cubic": Widths(12, 11, 7)}.get(form, Widths(12, 11, 11))
    found = quantise(exact, bits)
    x = 0.5 + 2 * np.random.default_rng(1).uniform(-1, 1, (200, SIZES[0]))
    pre, _ = exact.stages(x)
    wanted = pre[-1] * exact.output_scale + exact.output_offset
    error = np.abs(found(x) - wanted).max() / np.ptp(wanted)
    assert 0 < error < (0.1 if bits.values < 11 else 0.005)


def by_hand() -> Quantised:
    """4 bits everywhere: up to 7, and 14/3 of it without the margin."""
    first = layer([[[1, -0.4], [0.25, 0.1]]], [0.5, -1], Square(2), "first")
    last = layer([[[2, -0.8]]], [0.3], NONE, "last")
    ends = np.ones(2), np.zeros(2), np.array([10.0]), np.array([5.0])
    return quantise(Normalised(*ends[:2], (first, last), *ends[2:]), Widths(4, 4, 4))


def test_a_network_by_hand():
    found = by_hand()
    first, last = found.layers
    assert first.matrices[0].toarray().tolist() == [[7, -3], [7, 3]]  # 7 · (1, -0.4), 7 · (1, 0.4)
    assert first.bias.tolist() == [16, -131]  # 7 · 14/3 · 0.5 = 16.33, -28 · 14/3 = -130.67
    assert last.matrices[0].toarray().tolist() == [[7, -3]]
    assert last.bias.tolist() == [23]  # 7/2 · (14/3)² · 0.3 = 22.87
    assert [bound.tolist() for bound in found.bounds] == [[86, 201], [513]]
    np.testing.assert_allclose(found.client.factors[0], [1 / 7, 1 / 28])
    np.testing.assert_allclose(found.output_scale, 10 / (3.5 * (14 / 3) ** 2))
    x = np.array([[1.0, -0.5]])
    one, two = found.exchanges(x, ())
    assert one.sent.tolist() == [[5, -2]]  # 4.67, -2.33
    assert one.received.tolist() == [[57, -102]]
    assert two.sent.tolist() == [[7, -4]]  # 8.14 is clipped, -3.64
    assert two.received.tolist() == [[318]]
    np.testing.assert_allclose(found(x), [318 * found.output_scale + 5])


def test_halves_are_rounded_to_even():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 99.0, -99.0, 0.49])
    assert rounded(values, 1.0, 7).tolist() == [0, 2, 2, 0, -2, -2, 7, -7, 0]
    client = Requantised(2.0, 5, (np.array([0.5, 0.25]),), 3)
    assert client.query(np.array([[0.25, 0.75, 9.0]])).tolist() == [[0, 2, 5]]
    assert client.back(0, np.array([[3.0, 6.0], [99.0, -99.0]])).tolist() == [[2, 2], [3, -3]]
    talk = client.converse(np.array([[1.0, 2.0]]))
    assert next(talk).tolist() == [[2, 4]]
    assert talk.send(np.array([[5.0, 5.0]])).tolist() == [[2, 1]]
    with pytest.raises(StopIteration) as end:
        talk.send(np.array([[8.0]]))
    assert end.value.value.tolist() == [[8]]


def test_widths():
    assert check_fineness([8, 6, 12], None).widths == (Widths(8, 6, 12),)
    assert check_fineness(None, None).widths[0] == Widths(8, 8, 8)
    assert CLIP_MARGIN == 1.5
    for wrong in (
        (8, 8),
        (8, 8, 8, 8),
        (2, 8, 8),
        (8, 13, 8),
        (8, 8, 0),
        (8.0, 8, 8),
        (True, 8, 8),
        ("8", 8, 8),
    ):
        with pytest.raises(InputError, match=f"three whole numbers from {LEAST_BITS} to {MOST_BITS}"):
            check_fineness(wrong, None)


def test_an_accuracy_takes_the_fewest_bits():
    fine = check_fineness(None, 0.99)
    assert (fine.widths[0], fine.widths[-1], fine.accuracy) == (Widths(3, 3, 3), Widths(12, 12, 12), 0.99)
    with pytest.raises(InputError, match="bits or accuracy"):
        check_fineness((8, 8, 8), 0.9)
    for wrong in (1.5, -0.1, np.nan, "0.9", True):
        with pytest.raises(InputError, match="accuracy"):
            check_fineness(None, wrong)
    output, wanted = Output((3,), "classes"), np.eye(3)[[0, 1, 2, 0]]
    wrong = wanted + np.eye(3)[[0, 1, 2, 1]] * 2  # the last one's label is another
    tried = []

    def attempt(widths):
        tried.append(widths.weights)
        if widths.weights > 9:
            raise CompileError("no plain modulus")
        Fineness(accuracy=0.8).check(output, wrong if widths.weights < 6 else wanted, wanted)
        return widths

    assert fine.first(attempt) == Widths(6, 6, 6)
    assert tried == [3, 4, 5, 6]
    assert labels_kept(output, wrong, wanted) == 0.75
    with pytest.raises(CompileError, match=r"accuracy=0.8 cannot be had: .* on 75.00 % of the calibration"):
        replace(fine, widths=fine.widths[:3]).first(attempt)
    with pytest.raises(CompileError, match="no plain modulus"):
        replace(fine, widths=fine.widths[-1:]).first(attempt)
    regression = Output((1,), "regression")
    values = np.arange(11.0)[:, None]
    assert labels_kept(regression, values + 0.5, values) == pytest.approx(0.95)


@given(seed=st.integers(0, 10**6), form=st.sampled_from(sorted(FORMS)), bits=widths)
def test_bounds_without_a_refresh_hold(seed, form, bits):
    """At corners of the box too; Python's integers are the oracle."""
    found = quantise_through(network(FORMS[form], seed), bits)
    random, most = np.random.default_rng(seed), found.client.input_limit
    u = random.integers(-most, most, (40, SIZES[0]), endpoint=True)
    u[::2] = np.where(random.integers(0, 2, u[::2].shape), most, -most)
    first, last = found.layers
    pre = exactly(first, [u.astype(object)])
    received = exactly(last, polynomial_of_any(first.form, pre))
    for values, bound in zip((pre, received), found.bounds, strict=True):
        assert (abs(values).max(axis=0) <= [int(one) for one in bound]).all()


def exactly(layer: Layer, reads: list[np.ndarray]) -> np.ndarray:
    """Python's integers [samples, out] of what it reads; its weights may be larger than 2^63."""
    parts = (read @ any_whole(matrix.toarray()).T for matrix, read in zip(layer.matrices, reads, strict=True))
    return sum(parts) + any_whole(layer.bias)


def any_whole(values: np.ndarray) -> np.ndarray:
    """Python's integers, of doubles of any size."""
    assert (values == np.rint(values)).all()
    return np.vectorize(int, otypes=[object])(values)


def polynomial_of_any(form: Form, u: np.ndarray) -> list[np.ndarray]:
    """As `polynomial`, with any constant."""
    return [u * (u * u + any_whole(form.constant))] if form.name == "cubic" else polynomial(form, u)


@pytest.mark.parametrize("form", FORMS)
def test_many_bits_lose_little_without_a_refresh(form):
    """Logits within a thousandth of their range."""
    primes = (8404993, 8519681, 9830401, 1032193, 65537, 786433, 7340033, 8257537)
    found = replace(quantise_through(network(FORMS[form]), Widths(12, 12, 12)), primes=primes)
    x = np.random.default_rng(1).uniform(-1.5, 2.5, (100, SIZES[0]))
    network_ = network(FORMS[form])
    pre, _ = network_.stages(x)
    exact = pre[-1] * network_.output_scale + network_.output_offset
    assert np.abs(found(x) - exact).max() < 1e-3 * np.ptp(exact)
    first, last = found.layers
    assert abs(first.matrices[0]).max() == (1 << 11) - 1
    assert abs(last.matrices[-1]).max() <= (1 << 11) - 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("t", [257, 65537, 8589852673])
def test_residues_of_a_polynomial(form, t):
    """Of anything modulo t."""
    v = np.random.default_rng(t).integers(0, t, (50, 6))
    shape = replace(FORMS[form], constant=np.rint(FORMS[form].constant * 2.0**70))
    found = shape.residues(v, t)
    for one, wanted in zip(found, polynomial_of_any(shape, v.astype(object)), strict=True):
        assert one.tolist() == (wanted % t).tolist()
