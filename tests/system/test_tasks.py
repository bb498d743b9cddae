"""Tasks other than classes, encrypted on a server: one logit, and numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import accuracy_score, mean_squared_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import securedl

Rows = NDArray[np.float32]


class Data(NamedTuple):
    """Rows for training and testing."""

    x: Rows
    x_test: Rows
    y: Rows
    y_test: Rows


def split(x: NDArray[Any], y: NDArray[Any]) -> Data:
    parts = train_test_split(x.astype(np.float32), y.astype(np.float32), test_size=0.3, random_state=0)
    return Data(*parts)


def breast_cancer() -> Data:
    """Its classes are 0 and 1; the network has one logit."""
    x, y = load_breast_cancer(return_X_y=True)
    data = split(x, y)
    scaler = StandardScaler().fit(data.x)
    return data._replace(x=scaler.transform(data.x), x_test=scaler.transform(data.x_test))


def diabetes() -> Data:
    """Progress after a year, 25 to 346."""
    x, y = load_diabetes(return_X_y=True)
    return split(x * 20, y[:, None])


def houses() -> Data:
    """Like the table of Californian houses: columns from 1 to 35,000, prices of 0.15 to 5 with a knee."""
    rng = np.random.default_rng(7)
    samples = 1200
    income = rng.lognormal(1.2, 0.45, samples)
    age, rooms = rng.integers(1, 53, samples), rng.lognormal(1.65, 0.3, samples)
    people = rng.lognormal(7.0, 0.7, samples)
    latitude, longitude = rng.uniform(32.5, 42, samples), rng.uniform(-124.3, -114.3, samples)
    x = np.column_stack([income, age, rooms, rooms / 5, people, people / 400, latitude, longitude])
    coast = np.tanh((longitude + 0.9 * latitude + 86) / 3)
    price = 0.55 * income + 0.01 * age - 0.8 * coast + rng.normal(0, 0.3, samples)
    return split(x, np.clip(price, 0.15, 5.0)[:, None])


class Scaled(nn.Module):
    """A regression as people write it: the model standardises its inputs and answers in the unit of y."""

    mean: Tensor
    spread: Tensor

    def __init__(self, data: Data, activation: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(data.x.mean(0)))
        self.register_buffer("spread", torch.tensor(data.x.std(0)))
        self.centre, self.scale = float(data.y.mean()), float(data.y.std())
        self.hidden, self.last = nn.Linear(data.x.shape[1], width), nn.Linear(width, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.spread
        return self.last(self.activation(self.hidden(x))) * self.scale + self.centre


def trained(model: nn.Module, data: Data, loss: Any, steps: int) -> nn.Module:
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(model(x).reshape(y.shape), y).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(autouse=True)
def seed() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def answers(model: nn.Module, x: Rows) -> NDArray[np.float64]:
    with torch.no_grad():
        return model.double()(torch.tensor(x, dtype=torch.float64)).numpy()


def loss(model: nn.Module, x: Rows, y: Rows) -> float:
    """Cross entropy of logits."""
    logits = torch.tensor(answers(model, x)).ravel()
    return float(nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(y).double()))


@pytest.mark.he
def test_breast_cancer_with_one_logit(local, folder) -> None:
    data = breast_cancer()
    body = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    trained(body, data, nn.functional.binary_cross_entropy_with_logits, 60)
    fitted = securedl.approximate(body, data.x)
    poly: Any = securedl.approximate(body, data.x, data.y, validation=(data.x_test, data.y_test))
    assert (fitted.report.task, poly.report.task) == ("binary", "binary")
    assert poly.report.train.original > 0.97
    for figures in (poly.report.train, poly.report.validation):
        assert figures.tuned > figures.replaced, "fine-tuning lowers the errors"
    assert loss(poly, data.x_test, data.y_test) < loss(fitted, data.x_test, data.y_test)

    logits = answers(poly, data.x_test)
    for end in (nn.Identity(), nn.Sigmoid()):
        model = nn.Sequential(*body, end).float()
        ended = securedl.approximate(model, data.x, data.y, validation=(data.x_test, data.y_test))
        assert ended.report.validation == poly.report.validation, "the client's sigmoid changes nothing"
        owner = securedl.Owner(securedl.compile(ended, data.x))
        with local(folder, owner, type(end).__name__) as client:
            client.upload()
            answer = client.predict(data.x_test)
        assert answer.report.passed
        np.testing.assert_allclose(answer.logits, logits, atol=2**-10 * np.ptp(logits))
        np.testing.assert_allclose(answer.probabilities, 1 / (1 + np.exp(-answer.logits)), atol=1e-12)
        np.testing.assert_array_equal(answer.labels, (answer.logits.ravel() > 0).astype(int))
        np.testing.assert_array_equal(answer.labels, (logits.ravel() > 0).astype(int))
        found = accuracy_score(data.y_test, answer.labels)
        assert found == pytest.approx(poly.report.validation.tuned, abs=1e-12)


@pytest.mark.he
@pytest.mark.parametrize("made", [diabetes, houses])
def test_numbers(local, folder, made: Any) -> None:
    data = made()
    model = trained(
        Scaled(data, nn.Tanh() if made is diabetes else nn.ReLU()), data, nn.functional.mse_loss, 200
    )
    poly: Any = securedl.approximate(model, data.x, data.y, validation=(data.x_test, data.y_test))
    report = poly.report
    assert report.task == "regression"
    for figures, x, y in ((report.train, data.x, data.y), (report.validation, data.x_test, data.y_test)):
        for found, rms, net in (
            (figures.original, figures.rms.original, model),
            (figures.tuned, figures.rms.tuned, poly),
        ):
            want = answers(net, x)
            assert found == pytest.approx(r2_score(y, want), abs=1e-5)
            assert rms == pytest.approx(np.sqrt(mean_squared_error(y, want)), rel=1e-5)
    assert report.train.original > 0.4
    assert report.train.rms.tuned < report.train.rms.replaced, "fine-tuning lowers the error"
    assert f"R² on validation: original {report.validation.original:.4f}" in str(report)
    assert f"rms error on validation: original {report.validation.rms.original:.4g}" in str(report)

    owner = securedl.Owner(securedl.compile(poly, data.x))
    with local(folder, owner, made.__name__) as client:
        client.upload()
        answer = client.predict(data.x_test)
    want = answers(poly, data.x_test)
    assert answer.report.passed
    assert answer.labels is None
    assert answer.logits.shape == want.shape
    np.testing.assert_allclose(answer.logits, want, atol=2**-10 * np.ptp(answers(poly, data.x)))
    assert r2_score(data.y_test, answer.logits) == pytest.approx(report.validation.tuned, abs=1e-3)
