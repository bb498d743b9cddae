"""Every layer against torch itself in float64, and messages that name everything that is not supported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from securedl.errors import UnsupportedLayerError
from securedl.network.from_torch import import_torch
from securedl.network.graph import Affine, Polynomial
from securedl.network.polynomial import PolynomialActivation

seeds = st.integers(0, 10_000)


def matches(model: nn.Module, shape: tuple[int, ...], seed: int = 0):
    """The graph of `model`, after comparing it with torch on random samples."""
    model = model.double().eval()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    graph = import_torch(model, shape)
    with torch.no_grad():
        want = model(x).reshape(4, -1).numpy()
    np.testing.assert_allclose(graph(x.numpy()), want, rtol=1e-9, atol=1e-10 * max(1, np.abs(want).max()))
    return graph


def seeded(make, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def moved(norm: nn.Module, seed: int) -> nn.Module:
    """Batch norm with statistics and gains that are not the usual start."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in norm.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.uniform_(0.2, 2.0, generator=generator)
    return norm


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), seeds)
def test_linear(inputs, outputs, bias, seed):
    layer = seeded(lambda: nn.Linear(inputs, outputs, bias=bias), seed)
    graph = matches(layer, (inputs,), seed)
    assert graph.nodes[0].matrix.nnz == inputs * outputs


@settings(max_examples=50)
@given(st.data(), seeds)
def test_convolution_2d(data, seed):
    draw = data.draw
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups, kernel, stride, dilation = draw(st.integers(1, 3)), draw(pair), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [s + draw(st.integers(0, 4)) for s in spans]
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    layer = seeded(
        lambda: nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation, groups, bias=draw(st.booleans())
        ),
        seed,
    )
    matches(layer, (inputs, *size), seed)


@settings(max_examples=40)
@given(st.data(), seeds)
def test_convolution_1d(data, seed):
    draw = data.draw
    groups, kernel, stride = (draw(st.integers(1, 3)) for _ in range(3))
    dilation, padding = draw(st.integers(1, 2)), draw(st.integers(0, 2))
    length = dilation * (kernel - 1) + 1 + draw(st.integers(0, 5))
    layer = seeded(lambda: nn.Conv1d(groups * 2, groups, kernel, stride, padding, dilation, groups), seed)
    matches(layer, (groups * 2, length), seed)


@settings(max_examples=40)
@given(st.data())
def test_average_pooling(data):
    draw = data.draw
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    divisor = draw(st.none() | st.integers(1, 5))
    size = tuple(k + draw(st.integers(0, 4)) for k in kernel)
    matches(nn.AvgPool2d(kernel, stride, padding, divisor_override=divisor), (2, *size))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.AvgPool1d(2), (3, 7)),
        (nn.AvgPool1d(3, 1, 1), (2, 5)),
        (nn.AvgPool1d((4,), (2,)), (1, 9)),
        (nn.AvgPool2d(2), (1, 5, 4)),
        (nn.AdaptiveAvgPool2d(1), (3, 4, 5)),
        (nn.AdaptiveAvgPool2d((2, None)), (2, 4, 3)),
        (nn.AdaptiveAvgPool2d((4, 1)), (1, 8, 3)),
        (nn.AdaptiveAvgPool1d(3), (2, 6)),
        (nn.AdaptiveAvgPool1d(1), (2, 5)),
        (moved(nn.BatchNorm1d(3), 1), (3,)),
        (moved(nn.BatchNorm1d(3), 2), (3, 4)),
        (moved(nn.BatchNorm2d(2, eps=0.1), 3), (2, 3, 4)),
        (moved(nn.BatchNorm2d(2, affine=False), 4), (2, 3, 3)),
    ],
)
def test_pools_and_norms(layer, shape):
    graph = matches(layer, shape)
    assert all(isinstance(node, Affine) for node in graph.nodes)


@pytest.mark.parametrize("layer", [nn.Dropout(0.9), nn.Dropout2d(0.5), nn.Identity(), nn.Flatten()])
def test_layers_that_do_nothing(layer):
    model = nn.Sequential(nn.AvgPool2d(1), layer)
    assert len(matches(model, (2, 3, 3)).nodes) == 1


def test_training_mode_does_not_matter():
    model = nn.Sequential(moved(nn.BatchNorm1d(4), 5), nn.Dropout(0.9), nn.Linear(4, 2)).double()
    x = np.random.default_rng(0).normal(size=(3, 4))
    trained = import_torch(model.train(), (4,))(x)
    np.testing.assert_array_equal(trained, import_torch(model.eval(), (4,))(x))


@settings(max_examples=30)
@given(st.integers(1, 6), st.booleans(), st.integers(1, 3), seeds)
def test_polynomials(degree, own, positions, seed):
    random = np.random.default_rng(seed)
    channels = 3
    table = random.normal(size=(degree + 1, channels) if own else degree + 1)
    lo = random.uniform(-3, 0, channels if own else 1)
    domain = np.stack([lo, lo + random.uniform(0.5, 4, len(lo))], axis=1)
    layer = PolynomialActivation(table, domain)
    graph = matches(layer, (channels, positions), seed)
    assert isinstance(graph.nodes[0], Polynomial)
    assert graph.nodes[0].degree == degree


class Small(nn.Module):
    """A convolution, then whatever is asked, then a layer."""

    def __init__(self, middle, outputs: int = 16) -> None:
        super().__init__()
        self.conv, self.middle = nn.Conv2d(1, 4, 3), middle
        self.fc = nn.Linear(outputs, 3)

    def forward(self, x):
        return self.fc(self.middle(self.conv(x)))


@pytest.mark.parametrize(
    "flat",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.size(0), -1),
        lambda x: torch.flatten(x, 1),
        lambda x: torch.flatten(x, start_dim=1),
        lambda x: x.flatten(1),
        lambda x: x.flatten(start_dim=1, end_dim=-1),
        lambda x: (x * x).flatten(1),
        lambda x: (x**2).flatten(1),
        lambda x: torch.square(x).flatten(1),
        lambda x: torch.pow(x, 2).flatten(1),
        lambda x: torch.mul(x, x).flatten(1),
    ],
)
def test_functional_forms(flat):
    matches(seeded(lambda: Small(flat), 1), (1, 4, 4))


@pytest.mark.parametrize(
    ("flat", "named"),
    [
        (lambda x: x.view(x.size(1), -1), "view"),
        (lambda x: x.reshape(7, -1), "reshape"),
        (lambda x: x.view(-1, 16), "view"),
        (lambda x: x.flatten(), "flatten"),
        (lambda x: x.flatten(1, 2), "flatten"),
        (lambda x: torch.flatten(x), "flatten"),
        (lambda x: (x**3).flatten(1), "pow"),
        (lambda x: (2**x).flatten(1), "pow"),
        (lambda x: torch.pow(x, exponent=2).flatten(1), "pow"),
        (lambda x: torch.mul(x, other=x).flatten(1), "mul"),
        (lambda x: (x + x).flatten(1), "add"),
        (lambda x: (x * 2.0).flatten(1), "mul"),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), "permute"),
        (lambda x: functional.max_pool2d(x, 2).flatten(1), "pool"),
        (lambda x: functional.relu(x).flatten(1), "relu"),
    ],
)
def test_other_functional_forms_are_refused(flat, named):
    with pytest.raises(UnsupportedLayerError, match=named):
        import_torch(Small(flat), (1, 4, 4))


def test_a_row_of_everything():
    def make():
        square = PolynomialActivation(np.array([0.1, 0.5, 0.3]), (-2, 2))
        per_channel = PolynomialActivation(np.array([[0.1] * 4, [0.5, 0.4, 0.3, 0.2]]), (-1, 3))
        block = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), moved(nn.BatchNorm2d(4), 1), square)
        return nn.Sequential(
            block, nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, groups=2, stride=2, padding=1), per_channel,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(4, 3),
        )  # fmt: skip

    graph = matches(seeded(make, 2), (1, 8, 8))
    assert [n.name for n in graph.nodes] == ["0.0", "0.1", "0.2", "1", "2", "3", "4", "7"]


def test_a_module_used_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), PolynomialActivation(np.array([0, 0.5, 0.1]), (-1, 1))

        def forward(self, x):
            return self.act(self.fc(self.act(self.fc(x))))

    assert len(matches(seeded(Twice, 3), (4,)).nodes) == 4


def test_zero_weights_stay_in_the_pattern():
    layer = nn.Conv2d(2, 3, 3, padding=1)
    full = import_torch(layer, (2, 5, 5)).nodes[0].matrix
    with torch.no_grad():
        layer.weight[:, 0] = 0.0
        layer.weight[1] = 0.0
    pruned = import_torch(layer, (2, 5, 5)).nodes[0].matrix
    np.testing.assert_array_equal(full.indices, pruned.indices)
    np.testing.assert_array_equal(full.indptr, pruned.indptr)
    assert np.count_nonzero(pruned.data == 0) > len(pruned.data) / 2


def test_every_unsupported_layer_is_listed_with_its_path():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.act = nn.LayerNorm(8), nn.Hardtanh()

        def forward(self, x):
            return torch.cumsum(self.act(self.norm(x)), 1)

    model = nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), Inner(), nn.Sequential(nn.MaxPool1d(2), nn.GRU(8, 8)), nn.Softmax(1)
    )
    model[3] = model[3][0]  # a recurrent layer gives a pair, which no layer in a row takes
    with pytest.raises(UnsupportedLayerError) as caught:
        import_torch(model, (8,))
    message = str(caught.value)
    assert message.startswith("6 layer(s) of Sequential")
    for line in (
        "1: ReLU is not a polynomial yet: call securedl.approximate first",
        "2.norm: LayerNorm is not supported",
        "2.act: Hardtanh is not supported",
        "cumsum (cumsum): cumsum is not supported",
        "3: MaxPool1d: use average pooling",
        "4: Softmax: leave it out",
    ):
        assert line in message
    assert "Conv2d" in message, "supported layers are named"


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Linear(3, 2), (4,), r"\[3\], got \[4\]"),
        (nn.Linear(3, 2), (2, 3), "flatten first"),
        (nn.Conv2d(3, 1, 3), (1, 5, 5), r"\[3, height, width\], got \[1, 5, 5\]"),
        (nn.Conv2d(1, 1, 3), (25,), "height, width"),
        (nn.Conv1d(1, 1, 3), (2, 5), r"\[1, length\]"),
        (nn.Conv2d(1, 1, 6), (1, 5, 5), "larger than its input"),
        (nn.Conv2d(1, 1, 3, padding="same"), (1, 5, 5), "padding 'same'"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), (1, 5, 5), "reflect"),
        (nn.AvgPool2d(2, ceil_mode=True), (1, 5, 5), "ceil_mode"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), (1, 5, 5), "not counted"),
        (nn.AvgPool1d(9), (1, 5), "larger"),
        (nn.AdaptiveAvgPool2d(2), (1, 5, 4), "does not divide"),
        (nn.BatchNorm1d(3), (4,), "3 channels"),
        (nn.BatchNorm1d(3, track_running_stats=False), (3,), "running statistics"),
        (nn.Flatten(0), (3,), "all axes"),
        (PolynomialActivation(np.zeros((2, 3)), (-1, 1)), (4,), "3 polynomials for 4 channels"),
        (nn.MaxPool2d(2), (1, 4, 4), "average pooling"),
        (nn.Sigmoid(), (3,), "approximate first"),
        (nn.LeakyReLU(), (3,), "not supported"),
    ],
)
def test_what_is_refused(model, shape, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        import_torch(model, shape)


class Free(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self, x)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x


@pytest.mark.parametrize(
    "model",
    [
        Free(lambda m, x: m.a(x) + m.b(x)),
        Free(lambda m, x: x + m.a(x)),
        Free(lambda m, x: m.a(x) * m.b(x)),
        Free(lambda m, x: (m.a(x), m.b(x))[0]),
        Free(lambda m, x: torch.cat([m.a(x), x], 1)),
        Free(lambda m, x: (m.a(x), m.b(x))),
        TwoInputs(),
    ],
)
def test_branches_are_refused(model):
    with pytest.raises(UnsupportedLayerError, match=r"branch|layers in a row|one input"):
        import_torch(model, (4,))


def test_control_flow_on_data_is_refused():
    model = Free(lambda m, x: m.a(x) if x.sum() > 0 else m.b(x))
    with pytest.raises(UnsupportedLayerError, match="cannot trace Free"):
        import_torch(model, (4,))
