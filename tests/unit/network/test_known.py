"""What is known of a network beside its layers: the task, and the order of a table's columns."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.neural_network import MLPRegressor
from torch import nn

import securedl
from securedl.errors import InputError

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.normal(size=(100, 4)) * [1, 10, 0.1, 5], columns=list("abcd"))
TURNED = TABLE[list("dbca")]
Y = TABLE.to_numpy() @ np.array([1.0, -2.0, 3.0, 0.5])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def test_columns_in_another_order_are_put_right_from_the_first_call_on():
    poly = securedl.approximate(network(), TABLE)
    assert poly.known.columns == tuple("abcd")
    plan = securedl.compile(poly, TURNED, batch=4)
    with torch.no_grad():
        want = poly(torch.tensor(TABLE[:8].to_numpy()).float()).numpy()
    for table in (TABLE, TURNED, TABLE[list("cdab")], TABLE.to_numpy()):
        found = plan.simulate(table[:8], noise_seed=None)
        assert np.abs(found - want).max() < 1e-5 * np.ptp(want)


def test_columns_of_validation_too():
    y = RNG.integers(0, 3, 100)
    reports = [
        securedl.approximate(network(), TABLE, y, epochs=1, validation=(table, y)).report
        for table in (TABLE, TURNED)
    ]
    assert reports[0].validation == reports[1].validation


@pytest.mark.parametrize("change", [copy.deepcopy, lambda poly: pickle.loads(pickle.dumps(poly))])
def test_copies_know_it(change):
    poly = securedl.approximate(network(), TABLE, task="multilabel")
    assert change(poly).known == poly.known
    assert securedl.compile(change(poly), TURNED, batch=4).task == "multilabel"


def test_a_missing_column_is_named():
    poly = securedl.approximate(network(), TABLE)
    with pytest.raises(InputError, match="x_train lacks the column\\(s\\) 'b'"):
        securedl.compile(poly, TABLE[list("acd")])


@pytest.mark.parametrize("values", [pd.array([1, None] * 50, dtype="Int64"), [1.0, np.inf] * 50])
def test_a_column_with_gaps_is_named(values):
    table = TABLE.assign(b=values)
    with pytest.raises(
        InputError, match="the column 'b' of x_train has NaN or infinite values, first in row 1"
    ):
        securedl.compile(network(), table)


@pytest.mark.parametrize(
    ("estimator", "task"),
    [
        (LinearRegression(), "regression"),
        (MLPRegressor(hidden_layer_sizes=(4,), max_iter=20), "regression"),
        (LogisticRegression(), "binary"),
        (RidgeClassifier(), "binary"),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_an_estimator_tells_its_task_and_the_columns_it_was_fitted_on(estimator, task):
    estimator.fit(TABLE, Y if task == "regression" else (Y > 0).astype(int))
    model = securedl.from_sklearn(estimator)
    assert model.known.columns == tuple("abcd")
    plan = securedl.compile(securedl.approximate(model, TURNED), TURNED, batch=4)
    assert plan.task == task
    if isinstance(estimator, LinearRegression):
        want = estimator.predict(TABLE[:8])
        assert np.abs(plan.simulate(TURNED[:8]).ravel() - want).max() < 1e-3 * np.ptp(want)
