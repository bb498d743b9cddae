"""Small graphs: a trained digits network, and ones with a sparse pattern."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits

from securedl.network.graph import Affine, Graph, Polynomial


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
        layers = [torch.nn.Linear(a, b).double() for a, b in ((64, 32), (32, 32), (32, 10))]
    square = np.repeat([[0.2], [0.5], [0.1]], 32, 1)
    optimiser = torch.optim.Adam([p for layer in layers for p in layer.parameters()], 0.01)
    for _ in range(80):
        z = x
        for i, layer in enumerate(layers):
            z = layer(z)
            z = 0.1 * z * z + 0.5 * z + 0.2 if i < 2 else z
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(z, y)
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
