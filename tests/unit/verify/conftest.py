"""Small graphs: a trained digits network, and ones with a sparse pattern."""

import copy

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits
from torch import nn

from securedl.network.graph import Affine, Graph, Polynomial
from securedl.network.polynomial import PolynomialActivation


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """What is small is slower with more, most of all where other programs have the processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits():
    """Images in [-1, 1] [1797, 64] and labels."""
    data = load_digits()
    return data.data / 8.0 - 1.0, data.target


@pytest.fixture(scope="session")
def network(digits):
    """64-32-32-10 with quadratic activations, trained on the digits at a fixed seed."""
    x, y = (torch.tensor(part) for part in digits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(a, b).double() for a, b in ((64, 32), (32, 32), (32, 10))]
    square = np.repeat([[0.2], [0.5], [0.1]], 32, 1)
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], 0.01)
    for _ in range(80):
        z = x
        for i, layer in enumerate(layers):
            z = layer(z)
            z = 0.1 * z * z + 0.5 * z + 0.2 if i < 2 else z
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(z, y)
        loss.backward()
        optimiser.step()
    affines = [
        Affine(sparse.csr_matrix(layer.weight.detach().numpy()), layer.bias.detach().numpy().copy())
        for layer in layers
    ]
    return Graph((64,), (affines[0], Polynomial(square), affines[1], Polynomial(square), affines[2]))


def _sparse_layer(rng, outputs, inputs, density):
    """Stored zeros among the entries, as a convolution with zero weights has."""
    matrix = sparse.random_array((outputs, inputs), density=density, rng=rng, format="csr")
    matrix = sparse.csr_matrix(matrix)
    matrix.data[:] = rng.normal(size=matrix.nnz)
    matrix.data[: matrix.nnz // 10] = 0.0
    return Affine(matrix, rng.normal(size=outputs))


@pytest.fixture
def small():
    """6-5-4-3: sparse patterns, a cubic and a quadratic with coefficients of their own for each feature."""
    rng = np.random.default_rng(3)
    return Graph(
        (2, 3),
        (
            _sparse_layer(rng, 5, 6, 0.5),
            Polynomial(rng.normal(size=(4, 5)) / 4),
            _sparse_layer(rng, 4, 5, 0.6),
            Polynomial(rng.normal(size=(3, 4)) / 4),
            Affine(sparse.csr_matrix(rng.normal(size=(3, 4))), rng.normal(size=3)),
        ),
    )


@pytest.fixture
def images_network():
    """Two convolutions and two dense layers for images 2 x 7 x 7, in training mode and single precision."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, groups=2, bias=False), nn.Tanh(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4),
        )  # fmt: skip


def _squares():
    return PolynomialActivation(np.array([0.3, 0.8, 0.2]), (-3.0, 3.0), name="square")


class _Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        y = torch.relu(self.first(x))
        y = torch.relu_(self.inner(y)) + y
        return self.last(y.mean((2, 3)))


NETWORKS = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (6,)),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Sigmoid(), nn.Linear(5, 4)), (6,)),
    "polynomial": (lambda: nn.Sequential(nn.Linear(6, 5), _squares(), nn.Linear(5, 4)), (6,)),
    "perceptron": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), (3, 4)),
    "positions": (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(10, 4)), (2, 3)),
    "small kernel, many places": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)),
        (1, 10, 10),
    ),
    "large kernel, few places": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
        (3, 5, 5),
    ),
    "strides, dilation, padding": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), padding_mode="circular"),
            nn.ELU(), nn.Conv2d(4, 4, 3, padding="same", groups=2), nn.Flatten(), nn.Linear(4 * 3 * 4, 3),
        ),
        (2, 6, 6),
    ),
    "one axis": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)),
        (2, 8),
    ),
    "batch norm, dropout": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(27, 3),
        ),
        (1, 5, 5),
    ),
    "residual": (_Residual, (2, 4, 4)),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def made(request):
    build, shape = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build(), np.random.default_rng(0).normal(size=(4, *shape))


def _jacobians(model, x, of=torch.softmax):
    """∂f/∂(every weight and bias of dense layers and convolutions), [samples, classes, weights], float64."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    names = [
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
        for part, _ in module.named_parameters(recurse=False)
    ]
    weights = {name: model.get_parameter(name).detach() for name in names}

    def outputs(values, one):
        return of(torch.func.functional_call(model, values, one[None])[0], 0)

    found = [torch.func.jacrev(outputs)(weights, one) for one in torch.tensor(x)]
    return [{name: part.flatten(1) for name, part in one.items()} for one in found]


@pytest.fixture
def jacobians():
    """The oracle: a function of a module, samples, and what its outputs f are of its logits."""
    return _jacobians
