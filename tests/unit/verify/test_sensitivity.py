"""The ghost norm against Jacobians and finite differences."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from scipy import sparse

from securedl.errors import InputError
from securedl.network.graph import Affine, Graph, Polynomial, Sum
from securedl.verify import differentiable
from securedl.verify import sensitivity as module
from securedl.verify.sensitivity import Sensitivity


def jacobian_norm(graph, x):
    """log Σ_k ‖∂softmax_k/∂(stored entries, biases)‖² of one sample: ∂logits by torch.func.jacrev.

    Times the softmax Jacobian in 100 digits: torch's own loses every digit of 1 - f where f is near 1.
    """
    weights = {}
    for i, node in enumerate(graph.nodes):
        if isinstance(node, Affine):
            weights[f"{i}.data"] = torch.tensor(node.matrix.data)
            weights[f"{i}.bias"] = torch.tensor(node.bias)

    def outputs(values):
        a = torch.tensor(x)
        for i, node in enumerate(graph.nodes):
            if isinstance(node, Affine):
                rows, cols = (torch.tensor(part.astype(np.int64)) for part in node.matrix.nonzero_pattern)
                full = torch.zeros(node.matrix.shape, dtype=torch.float64)
                a = full.index_put((rows, cols), values[f"{i}.data"]) @ a + values[f"{i}.bias"]
            else:
                a = sum(torch.tensor(row) * a**k for k, row in enumerate(node.coefficients))
        if len(a) == 1:
            a = torch.cat([a, torch.zeros(1, dtype=torch.float64)])
        return a

    slopes = torch.func.jacrev(outputs)(weights)
    jacobian = exact_softmax_jacobian(outputs(weights).tolist())
    total = sum(((jacobian @ part.numpy()) ** 2).sum() for part in slopes.values())
    return float(np.log(total))


def exact_softmax_jacobian(logits):
    with localcontext() as context:
        context.prec = 100
        powers = [Decimal(z).exp() for z in logits]
        f = [power / sum(powers) for power in powers]
        return np.array([[float(a * ((i == j) - b)) for j, b in enumerate(f)] for i, a in enumerate(f)])


def torch_norm(graph, x):
    """The same through torch.softmax alone, with dense layers only."""
    weights = [(torch.tensor(n.matrix.toarray()), torch.tensor(n.bias)) for n in graph.nodes[::2]]

    def outputs(values):
        a = torch.tensor(x)
        for i, (w, b) in enumerate(values):
            a = w @ a + b
            if i < len(values) - 1:
                rows = graph.nodes[2 * i + 1].coefficients
                a = sum(torch.tensor(row) * a**k for k, row in enumerate(rows))
        return torch.softmax(a, 0)

    found = torch.func.jacrev(outputs)(weights)
    return float(torch.log(sum((w**2).sum() + (b**2).sum() for w, b in found)))


@pytest.fixture(autouse=True)
def _pattern(monkeypatch):
    """Rows and columns of stored entries, zeros too (`nonzero` leaves those out)."""

    def places(matrix):
        return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices

    monkeypatch.setattr(sparse.csr_matrix, "nonzero_pattern", property(places), raising=False)


@pytest.mark.parametrize("dense", [True, False])
def test_ghost_norm_is_the_jacobians(small, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(differentiable, "DENSE_ENTRIES", 0)
        monkeypatch.setattr(differentiable, "DENSE_SHARE", 2.0)
    x = np.random.default_rng(0).normal(size=(7, 6))
    found, _ = Sensitivity(small)(x)
    np.testing.assert_allclose(found, [jacobian_norm(small, row) for row in x], rtol=1e-10, atol=1e-10)


def test_ghost_norm_of_the_trained_network(network, digits):
    """Near the origin, where softmax is not saturated, torch alone is an oracle too."""
    x = digits[0][:5]
    found, _ = Sensitivity(network)(x)
    np.testing.assert_allclose(found, [jacobian_norm(network, row) for row in x], rtol=1e-10)
    found, _ = Sensitivity(network)(x / 10)
    np.testing.assert_allclose(found, [torch_norm(network, row) for row in x / 10], atol=1e-10)


@pytest.mark.parametrize("dense", [True, False])
def test_slope_by_finite_differences(small, dense, monkeypatch):
    if not dense:
        monkeypatch.setattr(differentiable, "DENSE_ENTRIES", 0)
        monkeypatch.setattr(differentiable, "DENSE_SHARE", 2.0)
    measure, step = Sensitivity(small), 1e-5
    x = np.random.default_rng(1).normal(size=6)
    _, slope = measure(x[None])
    shifted = np.concatenate([x + step * np.eye(6), x - step * np.eye(6)])
    high, low = np.split(measure(shifted)[0], 2)
    np.testing.assert_allclose(slope[0], (high - low) / (2 * step), rtol=1e-6, atol=1e-7)


def test_chunks_change_nothing(small, monkeypatch):
    x = np.random.default_rng(4).normal(size=(7, 6))
    whole = Sensitivity(small)(x)
    monkeypatch.setattr(module, "CHUNK", 2 * 3 * 6)
    parts = Sensitivity(small)
    assert parts._chunk((6,)) == 2
    for one, other in zip(whole, parts(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_one_logit_is_a_sigmoid(small):
    rng = np.random.default_rng(2)
    last = Affine(sparse.csr_matrix(rng.normal(size=(1, 4))), rng.normal(size=1))
    graph = Graph((6,), (*small.nodes[:-1], last))
    x = rng.normal(size=(4, 6))
    found, slope = Sensitivity(graph)(x)
    np.testing.assert_allclose(found, [jacobian_norm(graph, row) for row in x], atol=1e-10)
    assert np.isfinite(slope).all()
    assert slope.any()


def test_saturated_softmax_keeps_its_slope():
    """Logits ±2000: f(1-f) = e^-4000 is 0 in float64. By hand: S = 4 e^-8000 (x²+1), leading order."""
    graph = Graph((1,), (Affine(sparse.csr_matrix([[1.0], [-1.0]]), np.zeros(2)),))
    found, slope = Sensitivity(graph)(np.array([[2000.0]]))
    # Each of 2 x 2 entries of the Jacobian is ±e^-4000; δ² summed is 2 per output row, 4 in all.
    assert found[0] == pytest.approx(np.log(4) - 8000 + np.log(2000.0**2 + 1), rel=1e-12)
    assert slope[0, 0] == pytest.approx(-4 + 2 * 2000 / (2000**2 + 1), rel=1e-9)


def test_a_graph_without_weights_is_refused():
    with pytest.raises(InputError, match="without affine layers"):
        Sensitivity(Graph((2,), (Polynomial(np.ones((3, 2))),)))


def test_branches_by_finite_differences():
    """The slope of every weight of a residual network, one at a time, through numpy alone."""
    random = np.random.default_rng(4)

    def layer(outputs, inputs):
        # Small, so that softmax is far from its ends, where differences would have no digits.
        weights = sparse.csr_matrix(random.normal(size=(outputs, inputs)) / 3)
        return Affine(weights, random.normal(size=outputs) / 3)

    square = Polynomial(np.tile([[0.1], [0.3], [0.2]], 3))
    graph = Graph(
        (2,), (layer(3, 2), square, layer(3, 3), Sum(), layer(2, 3)), ((0,), (1,), (2,), (3, 1), (4,))
    )
    x = random.normal(size=(1, 2))

    def softmax():
        z = graph(x)[0]
        return np.exp(z - z.max()) / np.exp(z - z.max()).sum()

    total, step = 0.0, 1e-6
    for node in graph.nodes:
        for part in (node.matrix.data, node.bias) if isinstance(node, Affine) else ():
            for k in range(len(part)):
                kept = part[k]
                part[k] = kept + step
                above = softmax()
                part[k] = kept - step
                below = softmax()
                part[k] = kept
                total += (((above - below) / (2 * step)) ** 2).sum()
    found, _ = Sensitivity(graph)(x)
    np.testing.assert_allclose(found[0], np.log(total), atol=1e-7)
