"""Every layer against torch itself in float64, and messages that name everything that is not supported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import securedl
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
    found = import_torch(model, shape)
    with torch.no_grad():
        want = model(x).numpy()
    assert want.shape[1:] == found.output_shape
    answers = found.head(found.graph(x.numpy()).reshape(want.shape))
    np.testing.assert_allclose(answers, want, rtol=1e-9, atol=1e-10 * max(1, np.abs(want).max()))
    return found.graph


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
    trained = import_torch(model.train(), (4,)).graph(x)
    assert all(module.training for module in model.modules())
    np.testing.assert_array_equal(trained, import_torch(model.eval(), (4,)).graph(x))


@settings(max_examples=15)
@given(st.integers(1, 6), st.booleans(), st.integers(1, 3), seeds)
def test_polynomials(degree, own, positions, seed):
    random = np.random.default_rng(seed)
    channels = 3
    table = random.normal(size=(degree + 1, channels) if own else degree + 1)
    lo = random.uniform(-3, 0, channels if own else 1)
    domain = np.stack([lo, lo + random.uniform(0.5, 4, len(lo))], axis=1)
    layer = PolynomialActivation(table, domain)
    graph = matches(layer, (channels, positions), seed)
    assert type(graph.nodes[0]) is (Polynomial if degree > 1 else Affine)
    assert degree == 1 or graph.nodes[0].degree == degree


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
    "middle",
    [
        lambda x: x.view(-1, 16),
        lambda x: x.flatten(1, 2).flatten(1),
        lambda x: (x**3).flatten(1),
        lambda x: torch.pow(x, exponent=2).flatten(1),
        lambda x: torch.mul(x, other=x).flatten(1),
        lambda x: (x + x).flatten(1),
        lambda x: (2.0 * x / 3 - 1).flatten(1),
        lambda x: (1 - x).neg().flatten(1),
        lambda x: x.permute(0, 2, 3, 1).flatten(1),
        lambda x: x.transpose(2, 3).contiguous().view(x.shape[0], -1),
        lambda x: (0.117 * x**2 + 0.5 * x + 0.375).flatten(1),
        lambda x: (x * x * x - x).flatten(1),
        lambda x: torch.addcmul(x, x, x, value=0.5).flatten(1),
        lambda x: functional.pad(x, (1, 0, 0, 1), value=2.0)[:, :, 1:, :2].flatten(1),
        lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular")[..., :2, :2].flatten(1),
        lambda x: torch.cat([x[:, 2:], x[:, :2]], 1).flatten(1),
        lambda x: torch.stack(x.chunk(4, 1), 1).flatten(1),
        lambda x: torch.cat([x[:, 0], x[:, 1], x[:, 2], x[:, 3]], 1).flatten(1),
        lambda x: x.flip(1).roll(1, 2).flatten(1),
        lambda x: (x + x.flip(1)).flatten(1),
        lambda x: (x - x.mean((2, 3), keepdim=True)).flatten(1),
        lambda x: (x.sum(1, keepdim=True) + x).flatten(1),
        lambda x: x.masked_fill(torch.tensor([[True, False], [False, True]]), 0.5).flatten(1),
        lambda x: torch.where(torch.tensor([True, False]), x, 2 * x).flatten(1),
        lambda x: x.expand(-1, -1, 2, 2).repeat(1, 1, 1, 1).flatten(1),
        lambda x: functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2).flatten(1),
        lambda x: functional.interpolate(x, size=(2, 2), mode="bilinear").flatten(1),
        lambda x: (x @ torch.eye(2, dtype=x.dtype)).flatten(1),
        lambda x: (torch.ones(2, 2, dtype=x.dtype) @ x).flatten(1),
        lambda x: torch.einsum("bchw,cd->bdhw", x, torch.ones(4, 4, dtype=x.dtype)).flatten(1),
        lambda x: torch.einsum("bcij,bckj->bcik", x, x).flatten(1),
        lambda x: torch.einsum("bcij,bdij->bdc", x, 2 * x.flip(1) + 1).flatten(1),
        lambda x: (x * 2 + torch.einsum("bchw,bdhw->b", x, x + 1).reshape(-1, 1, 1, 1)).flatten(1),
        lambda x: torch.lerp(x, x.flip(1) ** 2, 0.75).flatten(1),
        lambda x: torch.lerp(x, x.flip(2), torch.linspace(0, 1, 2, dtype=x.dtype)).flatten(1),
        lambda x: (x + x.var((2, 3), keepdim=True)).flatten(1),
        lambda x: (x - x.var(1, unbiased=False)[:, None]).flatten(1),
        lambda x: (x * x.var((2, 3), correction=0.5, keepdim=True)).flatten(1),
        lambda x: functional.unfold(x, 2, padding=1)[:, :, 4].contiguous().view(x.shape[0], -1),
        lambda x: functional.dropout(x, 0.5, training=False).flatten(1),
        lambda x: x.cumsum(1).flatten(1),
        lambda x: x.clone().mul_(2).add_(1).flatten(1),
    ],
)
def test_other_functional_forms(middle):
    matches(seeded(lambda: Small(middle), 1), (1, 4, 4))


@pytest.mark.parametrize(
    ("flat", "named"),
    [
        (lambda x: x.view(x.size(1), -1), "samples"),
        (lambda x: x.view(7, -1), r"shape '\[7, -1\]' is invalid"),
        (lambda x: (2**x).flatten(1), "pow"),
        (lambda x: functional.max_pool2d(x, 1).flatten(1), "max_pool2d: use average pooling"),
        (lambda x: functional.relu(x).flatten(1), "relu is not a polynomial yet: call securedl.approximate"),
        (lambda x: torch.einsum("bcii,bcij->bcij", x, x).flatten(1), "einsum .*name each axis once"),
        (lambda x: (x - x.std(1, keepdim=True)).flatten(1), "no polynomial of low degree"),
        (
            lambda x: torch.maximum(x, x.flip(1)).flatten(1),
            r"cannot be encrypted:\n  maximum: a comparison of values that depend on the sample",
        ),
        (lambda x: (x / (1 + x * x)).flatten(1), "a division by a value"),
        (lambda x: torch.softmax(x.flatten(1), 1), "Softmax inside a network"),
        (lambda x: functional.dropout(x).flatten(1), "always active: pass training=self.training"),
        (lambda x: (x + torch.rand(2, 2)).flatten(1), "other values at each call"),
        (lambda x: (x - x.mean(0)).flatten(1), "across samples"),
        (lambda x: x.flip(0).flatten(1), "mixes samples"),
        (lambda x: (x / torch.zeros(2, dtype=x.dtype)).flatten(1), "is not finite"),
        (lambda x: x.long().double().flatten(1), "a cast to torch.int64"),
    ],
)
def test_functional_forms_that_are_refused(flat, named):
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
    assert [n.name for n in graph.nodes] == ["0.0", "0.2", "0.2", "1", "2", "4", "7"]


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
    full = import_torch(layer, (2, 5, 5)).graph.nodes[0].matrix
    with torch.no_grad():
        layer.weight[:, 0] = 0.0
        layer.weight[1] = 0.0
    pruned = import_torch(layer, (2, 5, 5)).graph.nodes[0].matrix
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
        nn.Linear(8, 8), nn.ReLU(), Inner(), nn.Sequential(nn.MaxPool1d(2)), nn.Linear(4, 2)
    )
    with pytest.raises(UnsupportedLayerError) as caught:
        import_torch(model, (8,))
    message = str(caught.value)
    assert message.startswith("4 operation(s) of Sequential cannot be encrypted:\n")
    for line in (
        "1: relu is not a polynomial yet: call securedl.approximate first",
        "2.norm: layer_norm: normalises by each sample's own mean and variance",
        "2.act: hardtanh is not a polynomial yet",
        "3.0: max_pool1d: use average pooling (securedl.approximate replaces it)",
        "(test_from_torch.py:",
    ):
        assert line in message


def test_recurrent_layers_are_refused():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.rnn(x)[0][:, -1])

    with pytest.raises(UnsupportedLayerError, match="rnn: lstm: a recurrent layer"):
        import_torch(Net(), (5, 3))


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (nn.Linear(3, 2), (4,), r"Linear does not run on samples of shape \[4\]"),
        (nn.Conv2d(3, 1, 3), (1, 5, 5), r"does not run on samples of shape \[1, 5, 5\]"),
        (nn.Conv2d(1, 1, 3), (25,), r"does not run on samples of shape \[25\]"),
        (nn.Conv2d(1, 1, 6), (1, 5, 5), "does not run"),
        (nn.AvgPool1d(9), (1, 5), "does not run"),
        (nn.BatchNorm1d(3), (4,), "does not run"),
        (nn.BatchNorm1d(3, track_running_stats=False), (3,), "running statistics"),
        (nn.Flatten(0), (3,), "the first axis of what the network gives must be the samples"),
        (PolynomialActivation(np.zeros((2, 3)), (-1, 1)), (4,), "3 polynomials for 4 channels"),
        (nn.MaxPool2d(2), (1, 4, 4), "average pooling"),
        (nn.Sequential(nn.Sigmoid(), nn.Linear(3, 1)), (3,), "approximate first"),
        (nn.LeakyReLU(), (3,), "leaky_relu is not a polynomial yet: call securedl.approximate first"),
        (nn.Softmax(0), (3,), "across samples"),
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
        Free(lambda m, x: m.b((x + m.a(x)) ** 2) + x),
        Free(lambda m, x: torch.cat([m.a(x), x, torch.ones_like(x)], 1)),
        Free(lambda m, x: torch.stack([m.a(x), m.b(x)], 2)),
        Free(lambda m, x: m.a(x) ** 2 + m.b(m.a(x) ** 2) ** 2),
        Free(lambda m, x: [m.a(x), m.b(x)][0]),
        Free(lambda m, x: m.a(x) * m.b(x)),
        Free(lambda m, x: m.a(x) * x.flip(1) + x),
        Free(lambda m, x: m.a(x) ** 2 * m.b(x) * x),
        Free(lambda m, x: m.a(x)[:, :1] * m.b(x)),
        Free(lambda m, x: m.a(x)[:, 0] * m.b(x)[:, 0]),
        Free(lambda m, x: x.addcmul(m.a(x), m.b(x), value=0.3)),
        Free(lambda m, x: (m.a(x) * m.b(x)).sum(1)),
        Free(lambda m, x: m.a(x).view(-1, 2, 2) @ m.b(x).view(-1, 2, 2)),
        Free(lambda m, x: torch.bmm(m.a(x)[:, :, None], x[:, None]).flatten(1)),
        Free(lambda m, x: torch.matmul(m.a(x).view(-1, 1, 2, 2), x.view(-1, 2, 2, 1)).flatten(1)),
        Free(lambda m, x: functional.bilinear(m.a(x), x, torch.arange(32.0).view(2, 4, 4).double())),
    ],
)
def test_branches(model):
    matches(model, (4,))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x):
        gates = self.excite(self.squeeze(x.mean((2, 3))) ** 2) ** 2
        return x * gates[:, :, None, None]


def test_gates():
    matches(SqueezeExcite(), (3, 4, 4))


class Attention(nn.Module):
    """Without a softmax, as in linear transformers."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        return (q @ k.transpose(1, 2) / 5 @ v).mean(1)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.a(x).view(len(x), -1),
        lambda m, x: m.a(x).reshape(int(x.shape[0]), 2, 2).flatten(1),
        lambda m, x: m.a(x) + torch.ones(len(x), 4).double(),
        lambda m, x: m.a(x).reshape(len(x) * 2, 2).reshape(len(x), 4),
        lambda m, x: torch.cat([m.a(x), x.new_zeros(len(x), 1)], 1),
    ],
)
def test_numbers_of_samples_that_export_takes_for_constants(function):
    matches(Free(function), (4,))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: torch.stack([m.a(row) for row in x]), "fixes the number of samples, or runs over them"),
        (lambda m, x: m.a(x)[len(x) - 1 :], "fixes the number of samples"),
        (lambda m, x: m.a(x) + torch.arange(len(x))[:, None], "mixes samples, or depends on how many"),
        (lambda m, x: m.a(x.view(3, -1)), "does not run on samples"),
    ],
)
def test_numbers_of_samples_that_are_refused(function, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        import_torch(Free(function).double(), (4,))


def test_linear_attention():
    matches(Attention(), (5, 3))


def test_glu_is_a_product_with_a_sigmoid():
    model = Free(lambda m, x: functional.glu(m.a(x)))
    x = torch.randn(100, 4)
    poly = securedl.approximate(model, x)
    assert [found.function for found in poly.replacements] == ["sigmoid"]
    matches(poly, (4,))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Free(lambda m, x: torch.kron(m.a(x), m.b(x))), "kron of 2 values"),
        (Free(lambda m, x: m.a(x) @ x.T @ x), "samples"),
        (Free(lambda m, x: (m.a(x), m.b(x))), "gives 2 results"),
        (TwoInputs(), "TwoInputs does not run on samples"),
    ],
)
def test_branches_that_are_refused(model, message):
    with pytest.raises(UnsupportedLayerError, match=message):
        import_torch(model, (4,))


def test_control_flow_on_data_is_refused():
    model = Free(lambda m, x: m.a(x) if x.sum() > 0 else m.b(x))
    with pytest.raises(
        UnsupportedLayerError, match=r"Free decides by the values of its data \(test_from_torch.py:\d+: "
    ):
        import_torch(model, (4,))
