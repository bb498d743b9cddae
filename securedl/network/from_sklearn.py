"""Estimators of scikit-learn as torch modules: linear models, multi-layer perceptrons, scalers, pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from securedl.arguments import kind
from securedl.errors import InputError
from securedl.network.given import Known

_Array = NDArray[np.float64]
_Converter = Callable[[Any], list[nn.Module]]

_ACTIVATIONS: dict[str, Callable[[], list[nn.Module]]] = {
    "identity": lambda: [],
    "logistic": lambda: [nn.Sigmoid()],
    "tanh": lambda: [nn.Tanh()],
    "relu": lambda: [nn.ReLU()],
    "softmax": lambda: [nn.Softmax(1)],
}


class Standardise(nn.Module):
    """(x - shift) / scale, feature by feature; both are buffers, which no training moves.

    Args:
        shift: [features]. scale: [features], without zeros.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: _Array, scale: _Array) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """x: [samples, features] to the same shape."""
        return (x - self.shift) / self.scale

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"features={self.scale.numel()}"


class FromEstimator(nn.Sequential):
    """Layers of an estimator.

    Attributes:
        known: that it is a regression, and the names of its features where it was fitted on a table.
    """

    known: Known


def from_sklearn(estimator: Any) -> nn.Sequential:
    """A fitted estimator of scikit-learn as a torch network, for `approximate` and `compile`.

    Linear models, multi-layer perceptrons, scalers, PCA, and pipelines of them. The network has float64
    weights of its own, takes samples [samples, features], and gives [samples, outputs]:

    - of a regressor, what `predict` gives;
    - of a classifier with `predict_proba`, the probabilities (of two classes, that of the second): its last
      module is nn.Sigmoid or nn.Softmax;
    - of another classifier, what `decision_function` gives; so too of SGDClassifier, but for two classes and
      the loss "log_loss".

    A label is the number of the class in the estimator's `classes_`. Of an estimator that was fitted on a
    table the names of the columns are kept: later tables may have them in any order.

    Raises:
        InputError: not fitted, or an estimator that is no such network; the message says which are.
    """
    model = FromEstimator(*_modules(estimator))
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    numbers = hasattr(estimator, "predict") and not hasattr(estimator, "classes_")
    model.known = Known("regression" if numbers else None, tuple(names))
    for parameter in [*model.parameters(), *model.buffers()]:
        if not torch.isfinite(parameter).all():
            raise InputError(
                f"the {type(estimator).__name__} has NaN or infinite coefficients: fit it again on data "
                "that are whole"
            )
    return model.eval()


def _modules(estimator: Any) -> list[nn.Module]:
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise InputError(f"from_sklearn takes an estimator, got {kind(estimator)}: make one of it and fit it")
    if type(estimator).__module__.split(".")[0] != "sklearn":
        raise InputError(f"from_sklearn takes an estimator of scikit-learn, got {kind(estimator)}")
    if hasattr(estimator, "best_estimator_"):
        raise InputError(f"from_sklearn takes what a {name} has found: give its best_estimator_")
    converter = _CONVERTERS.get(name)
    if converter is None:
        raise InputError(
            f"from_sklearn cannot convert a {name}: it is no chain of sums and activations. Fit one of "
            f"{', '.join(sorted(_CONVERTERS))}"
        )
    try:
        return converter(estimator)
    except AttributeError as error:
        raise InputError(f"the {name} is not fitted: call its fit first ({error})") from error


def _array(values: Any) -> _Array:
    dense = values.toarray() if hasattr(values, "toarray") else values
    try:
        return np.asarray(dense, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"coefficients must be real numbers: {error}") from error


def _linear(weight: _Array, bias: _Array) -> nn.Linear:
    """A layer without the random start of torch, which would move the generator. weight: [out, in]."""
    if weight.ndim != 2 or bias.size not in (1, len(weight)) or not weight.size:
        raise InputError(
            f"coefficients of shape {list(weight.shape)} with {bias.size} intercepts fit no layer"
        )
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, device="meta")
    layer.weight = nn.Parameter(torch.tensor(weight))
    layer.bias = nn.Parameter(torch.tensor(np.broadcast_to(bias.ravel(), outputs)))
    return layer


def _affine(estimator: Any) -> list[nn.Module]:
    """Margins of a classifier, values of a regressor."""
    _one_label(estimator)
    return [_linear(np.atleast_2d(_array(estimator.coef_)), _array(estimator.intercept_))]


def _one_label(estimator: Any) -> None:
    binarizer = getattr(estimator, "_label_binarizer", None)
    if str(getattr(binarizer, "y_type_", "")).startswith("multilabel"):
        raise InputError(
            f"the {type(estimator).__name__} gives a sample several labels, and answers have one: fit an "
            "estimator for each label"
        )


def _logistic(estimator: Any) -> list[nn.Module]:
    """With probabilities: one logit for two classes, else one for each."""
    layers = _affine(estimator)
    classes = len(estimator.classes_)
    way = getattr(estimator, "multi_class", "auto")  # until scikit-learn 1.8
    one_against_rest = way == "ovr" or getattr(estimator, "solver", "") == "liblinear"
    if (classes > 2 and one_against_rest) or (classes == 2 and way == "multinomial"):
        raise InputError(
            f"the {type(estimator).__name__} of {classes} classes has multi_class={way!r} and solver="
            f"{estimator.solver!r}, whose probabilities are no softmax of its margins: fit it with "
            'solver="lbfgs" and without multi_class'
        )
    return [*layers, nn.Sigmoid() if classes == 2 else nn.Softmax(1)]


def _stochastic(estimator: Any) -> list[nn.Module]:
    layers = _affine(estimator)
    probable = estimator.loss == "log_loss" and len(estimator.classes_) == 2
    return [*layers, nn.Sigmoid()] if probable else layers


def _perceptron(estimator: Any) -> list[nn.Module]:
    _one_label(estimator)
    biases = estimator.intercepts_
    layers: list[nn.Module] = []
    for number, weight in enumerate(estimator.coefs_):
        last = number == len(biases) - 1
        name = estimator.out_activation_ if last else estimator.activation
        if name not in _ACTIVATIONS:
            raise InputError(
                f"the {type(estimator).__name__} has the activation {name!r}: "
                f"use one of {', '.join(_ACTIVATIONS)}"
            )
        layers += [_linear(_array(weight).T, _array(biases[number])), *_ACTIVATIONS[name]()]
    return layers


def _standard(estimator: Any) -> list[nn.Module]:
    """A mean is kept without with_mean too; no scale is None."""
    return _standardise(estimator.mean_ if estimator.with_mean else None, estimator.scale_)


def _robust(estimator: Any) -> list[nn.Module]:
    return _standardise(estimator.center_, estimator.scale_)


def _standardise(shift: Any, scale: Any) -> list[nn.Module]:
    """Either may be None, where it was left out."""
    if shift is None and scale is None:
        return []
    shift = np.zeros_like(scale) if shift is None else _array(shift)
    return [Standardise(shift, np.ones_like(shift) if scale is None else _array(scale))]


def _min_max(estimator: Any) -> list[nn.Module]:
    scale = _array(estimator.scale_)
    layers: list[nn.Module] = [Standardise(-_array(estimator.min_) / scale, 1 / scale)]
    low, high = estimator.feature_range
    return [*layers, nn.Hardtanh(float(low), float(high))] if estimator.clip else layers


def _max_abs(estimator: Any) -> list[nn.Module]:
    scale = _array(estimator.scale_)
    layers: list[nn.Module] = [Standardise(np.zeros_like(scale), scale)]
    return [*layers, nn.Hardtanh()] if getattr(estimator, "clip", False) else layers


def _principal(estimator: Any) -> list[nn.Module]:
    weight = _array(estimator.components_)
    if estimator.whiten:
        spread = np.sqrt(_array(estimator.explained_variance_))
        weight = weight / np.maximum(spread, np.finfo(np.float64).eps)[:, None]
    return [_linear(weight, -weight @ _array(estimator.mean_))]


def _pipeline(estimator: Any) -> list[nn.Module]:
    steps = [step for _, step in estimator.steps if step is not None and step != "passthrough"]
    return [module for step in steps for module in _modules(step)]


_LINEAR = (
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV",
    "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LinearRegression", "LinearSVC", "LinearSVR",
    "PassiveAggressiveClassifier", "PassiveAggressiveRegressor", "Perceptron", "Ridge", "RidgeCV",
    "RidgeClassifier", "RidgeClassifierCV", "SGDRegressor", "TheilSenRegressor",
)  # fmt: skip
#: By the name of the class itself; a class derived from it may compute something else.
_CONVERTERS: dict[str, _Converter] = {
    **dict.fromkeys(_LINEAR, _affine),
    "LinearDiscriminantAnalysis": _logistic,
    "LogisticRegression": _logistic,
    "LogisticRegressionCV": _logistic,
    "MLPClassifier": _perceptron,
    "MLPRegressor": _perceptron,
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "PCA": _principal,
    "Pipeline": _pipeline,
    "RobustScaler": _robust,
    "SGDClassifier": _stochastic,
    "StandardScaler": _standard,
}
