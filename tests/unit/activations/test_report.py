"""The report: figures that can be recomputed, accuracies at each stage, a table of 80 columns."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from securedl.activations.report import Accuracy, ApproximationReport, Replacement
from securedl.network.polynomial import PolynomialActivation

CLASSES = 3


@pytest.fixture(scope="module")
def data():
    """Images whose class is their brightest row: learnable, with 100 samples held out."""
    x = torch.randn(400, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = x.sum(3)[:, 0].reshape(400, 3, 2).sum(2).argmax(1)
    return (x[:300], y[:300]), (x[300:], y[300:])


@pytest.fixture(scope="module")
def network(data):
    """Convolution, max pool, dense; trained a little."""
    (x, y), _ = data
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 12), nn.Tanh(),
            nn.Linear(12, CLASSES),
        )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def tuned(network, data):
    return securedl.approximate(network, *data[0], epochs=3, validation=data[1])


def accuracy(model, x, y) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def test_the_figures_of_a_layer_are_those_of_the_data(network, data):
    (x, _), _ = data
    poly = securedl.approximate(network, x, quantile=0.0)
    row = poly.report.replacements[0]
    with torch.no_grad():
        pre = network[0](x).double()
        gap = (poly.get_submodule("1")(pre) - torch.relu(pre)).numpy()
    assert row.max_error == pytest.approx(np.abs(gap).max(), rel=1e-6)
    assert row.rms_error == pytest.approx(np.sqrt(np.mean(gap**2)), rel=0.02)  # of a sample of them
    assert row.observed == pytest.approx((float(pre.min()), float(pre.max())))
    assert row.outside == 0.0
    assert (row.path, row.function, row.degree, row.channels) == ("1", "relu", 2, 1)
    assert [r.path for r in poly.replacements] == ["1", "5"]
    assert poly.report.pools == ("2",)
    assert poly.report.epochs == 0


def test_what_leaves_the_interval_is_counted(network, data):
    """A narrow interval on purpose: 10 % of the values are beyond either of its ends."""
    (x, _), _ = data
    row = securedl.approximate(network, x, quantile=0.2).replacements[0]
    with torch.no_grad():
        pre = network[0](x)
    outside = ((pre < row.interval[0]) | (pre > row.interval[1])).double().mean()
    assert row.outside == pytest.approx(float(outside), abs=1e-6)
    assert row.outside > 0.1


def test_accuracy_at_each_stage(network, data, tuned):
    untuned = securedl.approximate(network, data[0][0])
    for (x, y), found in zip(data, (tuned.report.train, tuned.report.validation), strict=True):
        want = Accuracy(*(accuracy(m, x, y) for m in (network, untuned, tuned)))
        assert found == want
    assert tuned.report.train.original > 0.9
    assert len({tuned.report.train.original, tuned.report.train.replaced, tuned.report.train.tuned}) > 1


def test_agreement_is_that_of_the_labels(network, data, tuned):
    (x, _), _ = data
    with torch.no_grad():
        same = (tuned(x).argmax(1) == network(x).argmax(1)).double().mean()
    assert tuned.report.agreement == float(same)


def test_without_labels_there_is_no_accuracy(network, data):
    report = securedl.approximate(network, data[0][0], validation=data[1]).report
    assert report.train is None
    assert report.validation.replaced == report.validation.tuned
    assert report.epochs == 0
    found = report.validation
    assert f"accuracy on validation: original {found.original:.2%}, replaced {found.replaced:.2%}\n" in str(
        report
    )


def test_validation_chooses_nothing(network, data, tuned):
    without = securedl.approximate(network, *data[0], epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), tuned.parameters(), strict=True))
    assert without.report.validation is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_it_stays_with_copies(tuned, data, copied):
    other = copied(tuned)
    assert other.report == tuned.report
    assert other.replacements == tuned.replacements
    x = data[0][0]
    with torch.no_grad():
        want = tuned(x)
        assert torch.equal(other(x), want)
        assert torch.equal(copied(other)(x), want)
        assert copied(other).report == tuned.report
        for p in other.parameters():
            p.zero_()
        assert torch.equal(tuned(x), want), "the copy shares no weights"


def test_it_is_plain_data(tuned):
    report = tuned.report
    assert json.loads(json.dumps(dataclasses.asdict(report)))["train"]["original"] == report.train.original
    assert hash(report) == hash(copy.deepcopy(report))
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.epochs = 7


def test_it_reads_as_a_table(tuned):
    text = str(tuned.report)
    assert max(map(len, text.splitlines())) <= 80
    train = tuned.report.train
    assert f"original {train.original:.2%}, replaced {train.replaced:.2%}, tuned {train.tuned:.2%}" in text
    assert "fine-tuned for 3 epochs" in text
    assert "accuracy on validation" in text
    assert "max pools made average pools: 2" in text
    rows = [line.split() for line in text.splitlines()]
    assert [r[:3] for r in rows[2:4]] == [["1", "relu", "2"], ["5", "tanh", "2"]]


def test_wide_figures_stay_in_eighty_columns():
    row = Replacement(
        "encoder.blocks.11.attention.output.activation", "softplus", 15, (-123456.7, 1.2e-12), 1.2345e-100,
        12345.6, 1.0, (-1e9, 1e9), 512,
    )  # fmt: skip
    report = ApproximationReport(
        (row,), tuple(f"block{i}.pool" for i in range(20)), 1000, 1.0, Accuracy(1, None, 1), Accuracy(1, 1, 1)
    )
    assert max(map(len, str(report).splitlines())) <= 80
    assert "…tput.activation" in str(report)
    assert "15*" in str(report)


def test_polynomials_that_were_there_stay(tuned, data):
    again = securedl.approximate(tuned, data[0][0])
    assert again.replacements == ()
    with torch.no_grad():
        assert torch.equal(again(data[0][0]), tuned(data[0][0]))
    assert sum(isinstance(m, PolynomialActivation) for m in again.modules()) == 2
