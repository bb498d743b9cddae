"""Estimators as torch networks: equal to scikit-learn on its own data sets; the rest is refused by name."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets, decomposition, linear_model, neural_network, preprocessing, svm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline, make_pipeline
from torch import nn

import securedl
from securedl.errors import InputError

WINE = datasets.load_wine(return_X_y=True)
CANCER = datasets.load_breast_cancer(return_X_y=True)
DIABETES = datasets.load_diabetes(return_X_y=True)
DIGITS = datasets.load_digits(return_X_y=True)
SCALERS = (
    preprocessing.StandardScaler(),
    preprocessing.StandardScaler(with_mean=False),
    preprocessing.StandardScaler(with_std=False),
    preprocessing.StandardScaler(with_mean=False, with_std=False),
    preprocessing.MinMaxScaler(),
    preprocessing.MinMaxScaler((-2, 3), clip=True),
    preprocessing.MaxAbsScaler(),
    preprocessing.RobustScaler(),
    preprocessing.RobustScaler(with_centering=False),
    decomposition.PCA(3),
    decomposition.PCA(3, whiten=True),
)


def fitted(estimator, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a training that is cut short is enough
        return estimator.fit(*data)


def outputs(model: nn.Module, x) -> np.ndarray:
    with torch.no_grad():
        return model(torch.as_tensor(x, dtype=torch.float64)).numpy()


def equals(model: nn.Module, x, want) -> nn.Module:
    """The model, after comparing what it gives with what scikit-learn gives."""
    assert not model.training
    assert all(tensor.dtype == torch.float64 for tensor in model.state_dict().values())
    want = np.asarray(want).reshape(len(x), -1)
    np.testing.assert_allclose(outputs(model, x), want, rtol=1e-9, atol=1e-9 * np.abs(want).max())
    return model


def converted(estimator, data, method: str) -> nn.Module:
    fitted(estimator, data)
    want = getattr(estimator, method)(data[0])
    if method == "predict_proba" and want.shape[1] == 2:
        want = want[:, 1]
    return equals(securedl.from_sklearn(estimator), data[0], want)


def refused(estimator, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        securedl.from_sklearn(estimator)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("data", [CANCER, WINE, DIGITS])
@pytest.mark.parametrize(
    "make", [linear_model.LogisticRegression, linear_model.LogisticRegressionCV, LinearDiscriminantAnalysis]
)
def test_probabilities(make, data):
    slow = make is linear_model.LogisticRegressionCV
    estimator = make(Cs=2, cv=2, max_iter=20) if slow else make()
    model = converted(estimator, data, "predict_proba")
    classes = len(estimator.classes_)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Sigmoid if classes == 2 else nn.Softmax]
    values = outputs(model, data[0])
    labels = values.argmax(1) if classes > 2 else (values[:, 0] > 0.5).astype(int)
    np.testing.assert_array_equal(estimator.classes_[labels], estimator.predict(data[0]))


def test_classes_are_numbered_in_the_order_of_the_estimator():
    x, y = WINE
    names = np.array(["z", "a", "m"])[y]
    estimator = fitted(linear_model.LogisticRegression(), (x, names))
    labels = outputs(securedl.from_sklearn(estimator), x).argmax(1)
    np.testing.assert_array_equal(estimator.classes_[labels], estimator.predict(x))


@pytest.mark.parametrize(
    "estimator",
    [
        svm.LinearSVC(),
        linear_model.RidgeClassifier(),
        linear_model.RidgeClassifierCV(),
        linear_model.Perceptron(),
        linear_model.SGDClassifier(),
        linear_model.SGDClassifier(loss="modified_huber"),
    ],
    ids=str,
)
@pytest.mark.parametrize("data", [CANCER, WINE])
def test_margins(estimator, data):
    model = converted(make_pipeline(preprocessing.StandardScaler(), estimator), data, "decision_function")
    assert [type(layer).__name__ for layer in model] == ["Standardise", "Linear"]


def test_a_stochastic_classifier_with_probabilities():
    converted(linear_model.SGDClassifier(loss="log_loss", random_state=0), CANCER, "predict_proba")
    converted(linear_model.SGDClassifier(loss="log_loss", random_state=0), WINE, "decision_function")


@pytest.mark.parametrize(
    "name",
    [
        "ARDRegression",
        "BayesianRidge",
        "ElasticNet",
        "ElasticNetCV",
        "HuberRegressor",
        "Lars",
        "LarsCV",
        "Lasso",
        "LassoCV",
        "LassoLars",
        "LassoLarsCV",
        "LinearRegression",
        "Ridge",
        "RidgeCV",
        "SGDRegressor",
        "TheilSenRegressor",
    ],
)
def test_regressions(name):
    model = converted(getattr(linear_model, name)(), DIABETES, "predict")
    assert [type(layer) for layer in model] == [nn.Linear]


@pytest.mark.parametrize(
    "estimator",
    [svm.LinearSVR(), linear_model.LinearRegression(fit_intercept=False), linear_model.Ridge(positive=True)],
    ids=str,
)
def test_more_regressions(estimator):
    converted(estimator, DIABETES, "predict")


@pytest.mark.parametrize("estimator", [linear_model.LinearRegression(), linear_model.Ridge()], ids=str)
def test_several_values_at_once(estimator):
    x, y = DIABETES
    model = converted(estimator, (x, np.stack([y, 2 - y**2, x[:, 0]], 1)), "predict")
    assert model[0].out_features == 3


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 4)])
def test_perceptrons(activation, hidden):
    options = {"hidden_layer_sizes": hidden, "activation": activation, "max_iter": 8, "random_state": 0}
    scale = preprocessing.StandardScaler
    for data in (CANCER, WINE):
        estimator = make_pipeline(scale(), neural_network.MLPClassifier(**options))
        model = converted(estimator, data, "predict_proba")
        assert isinstance(model[-1], nn.Sigmoid if data is CANCER else nn.Softmax)
    regressor = neural_network.MLPRegressor(**options)
    model = converted(make_pipeline(scale(), regressor), DIABETES, "predict")
    assert isinstance(model[-1], nn.Linear)
    x, y = DIABETES
    converted(regressor, (x, np.stack([y, -y], 1)), "predict")


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
@pytest.mark.parametrize("data", [CANCER, DIGITS])
def test_scalers(scaler, data):
    model = equals(securedl.from_sklearn(scaler.fit(data[0])), data[0], scaler.transform(data[0]))
    beyond = data[0] * 3 - 50
    equals(model, beyond, scaler.transform(beyond))


def test_nested_pipelines():
    inner = Pipeline([("a", preprocessing.MinMaxScaler()), ("b", "passthrough"), ("c", None)])
    whole = Pipeline([("d", inner), ("e", decomposition.PCA(5)), ("f", linear_model.LogisticRegression())])
    model = converted(whole, WINE, "predict_proba")
    assert [type(m).__name__ for m in model] == ["Standardise", "Linear", "Linear", "Softmax"]


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from(range(len(SCALERS) - 2)), max_size=4),
    st.sampled_from(["identity", "logistic", "tanh", "relu"]),
    st.lists(st.integers(1, 6), max_size=2),
    st.integers(2, 5),
    st.integers(0, 1000),
)
def test_any_pipeline(scalers, activation, hidden, classes, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(3, 10, (60, 4)), rng.permutation(np.arange(60) % classes)
    last = neural_network.MLPClassifier(tuple(hidden), activation=activation, max_iter=2, random_state=seed)
    steps = [*(copy.deepcopy(SCALERS[i]) for i in scalers), last]
    converted(make_pipeline(*steps), (x, y), "predict_proba")


def test_sparse_coefficients():
    estimator = fitted(linear_model.SGDClassifier(penalty="l1"), WINE).sparsify()
    equals(securedl.from_sklearn(estimator), WINE[0], estimator.decision_function(WINE[0]))


def test_the_network_is_its_own():
    """Trained, copied and pickled without the estimator; made without a draw of torch's generator."""
    estimator = fitted(neural_network.MLPClassifier((4,), max_iter=3), WINE)
    state = torch.get_rng_state()
    model = securedl.from_sklearn(estimator)
    assert torch.equal(state, torch.get_rng_state())
    before = [weight.copy() for weight in estimator.coefs_]
    want = outputs(model, WINE[0])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(outputs(other, WINE[0]), want)
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(np.array_equal(a, b) for a, b in zip(before, estimator.coefs_, strict=True))


def test_it_can_be_exported_for_any_number_of_samples():
    model = converted(make_pipeline(*SCALERS[:5], linear_model.LogisticRegression()), WINE, "predict_proba")
    x = torch.as_tensor(WINE[0])
    program = torch.export.export(model, (x[:3],), dynamic_shapes=({0: torch.export.Dim("samples")},))
    torch.testing.assert_close(program.module()(x), model(x))


class TestRefusals:
    @pytest.mark.parametrize(
        "estimator",
        [
            linear_model.LogisticRegression(),
            linear_model.SGDClassifier(),
            neural_network.MLPRegressor(),
            preprocessing.StandardScaler(),
            preprocessing.MinMaxScaler(),
            decomposition.PCA(),
            make_pipeline(linear_model.Ridge()),
        ],
        ids=str,
    )
    def test_what_is_not_fitted(self, estimator):
        name = type(estimator[0] if isinstance(estimator, Pipeline) else estimator).__name__
        refused(estimator, f"the {name} is not fitted: call its fit first")

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("ensemble", "RandomForestClassifier"),
            ("ensemble", "HistGradientBoostingRegressor"),
            ("tree", "DecisionTreeClassifier"),
            ("svm", "SVC"),
            ("neighbors", "KNeighborsClassifier"),
            ("naive_bayes", "GaussianNB"),
            ("linear_model", "PoissonRegressor"),
            ("preprocessing", "Normalizer"),
        ],
    )
    def test_other_estimators(self, module, name):
        given = getattr(importlib.import_module(f"sklearn.{module}"), name)()
        refused(given, f"cannot convert a {name}", "Fit one of", "LogisticRegression, ", "MLPClassifier")
        refused(make_pipeline(preprocessing.StandardScaler().fit(WINE[0]), given), f"convert a {name}")

    def test_a_search(self):
        from sklearn.model_selection import GridSearchCV

        search = GridSearchCV(linear_model.Ridge(), {"alpha": [0.1, 1]}).fit(*DIABETES)
        refused(search, "GridSearchCV", "give its best_estimator_")

    def test_what_is_no_estimator(self):
        refused(None, "takes an estimator of scikit-learn, got None")
        refused(nn.Linear(2, 3), "got a Linear")
        refused("model.pkl", "got a str")
        refused(linear_model.Ridge, "got the class Ridge: make one of it and fit it")

        class Mine(linear_model.Ridge):
            """May compute something else."""

        refused(Mine().fit(*DIABETES), "got a Mine")

    def test_several_labels_a_sample(self):
        x, y = WINE
        labels = np.stack([y == 0, y < 2], 1).astype(int)
        for estimator in (neural_network.MLPClassifier((3,), max_iter=2), linear_model.RidgeClassifier()):
            refused(fitted(estimator, (x, labels)), "several labels")

    def test_one_against_rest(self):
        """Which scikit-learn before 1.8 could still fit."""
        for change in ({"multi_class": "ovr"}, {"solver": "liblinear"}):
            estimator = fitted(linear_model.LogisticRegression(), WINE)
            vars(estimator).update(change)
            refused(estimator, "of 3 classes", 'fit it with solver="lbfgs"')
        estimator = fitted(linear_model.LogisticRegression(), CANCER)
        estimator.multi_class = "multinomial"
        refused(estimator, "of 2 classes")

    def test_an_activation_that_is_not_there(self):
        estimator = neural_network.MLPRegressor(hidden_layer_sizes=(3,), max_iter=2)
        estimator = fitted(estimator, DIABETES)
        estimator.out_activation_ = "exp"  # with loss="poisson", where scikit-learn has it
        refused(estimator, "has the activation 'exp'")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"coef_": np.full((3, 13), np.nan)}, "NaN or infinite coefficients: fit it again"),
            ({"intercept_": np.full(3, np.inf)}, "NaN or infinite coefficients"),
            ({"intercept_": np.zeros(2)}, "shape [3, 13] with 2 intercepts"),
            ({"coef_": np.zeros((3, 13, 1))}, "shape [3, 13, 1]"),
            ({"coef_": np.zeros((0, 13))}, "shape [0, 13]"),
            ({"coef_": np.full((3, 13), None)}, "NaN or infinite"),
            ({"coef_": [["a"]]}, "must be real numbers"),
        ],
        ids=str,
    )
    def test_coefficients_that_are_none(self, change, words):
        estimator = fitted(linear_model.LogisticRegression(), WINE)
        vars(estimator).update(change)
        refused(estimator, words)
