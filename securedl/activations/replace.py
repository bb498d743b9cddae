"""Replace activations by polynomials fitted on what they see, then fine-tune."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from securedl.activations.options import check_options
from securedl.activations.report import Accuracy, ApproximationReport, Replacement
from securedl.activations.sites import PART, activation_sites, device_of, replace_activation, replace_pools
from securedl.activations.tune import Lessons, Recipe, bar, tune
from securedl.errors import InputError
from securedl.network.from_torch import trace
from securedl.network.given import check_given
from securedl.network.graph import samples_of
from securedl.network.polynomial import PolynomialActivation


class PolynomialNetwork(fx.GraphModule):
    """What `approximate` returns: a network without activations other than polynomials.

    Attributes:
        report: what was replaced and how well. Copies of the module, pickled ones too, keep it.
    """

    report: ApproximationReport

    @property
    def replacements(self) -> tuple[Replacement, ...]:
        """One Replacement for each activation, in order."""
        return self.report.replacements

    def __deepcopy__(self, memo: dict[int, Any]) -> PolynomialNetwork:
        copied = cast(PolynomialNetwork, super().__deepcopy__(memo))  # fx keeps its own attributes only
        copied.report = self.report
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, arguments = super().__reduce__()[:2]  # which would make an fx.GraphModule
        return _rebuilt, (rebuild, arguments, self.report)


def _rebuilt(
    rebuild: Callable[..., fx.GraphModule], arguments: tuple[Any, ...], report: ApproximationReport
) -> PolynomialNetwork:
    module = rebuild(*arguments)
    network = PolynomialNetwork(module, module.graph, type(module).__name__)
    network.report = report
    return network


def approximate(
    model: nn.Module,
    x_train: Any,
    y_train: Any = None,
    *,
    degree: int = 2,
    bound: float | None = None,
    per_channel: bool = False,
    quantile: float = 0.001,
    epochs: int | None = None,
    layer_by_layer: bool = False,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    trainable: bool = True,
    range_penalty: float = 100.0,
    distillation: float = 0.5,
    temperature: float = 2.0,
    validation: tuple[Any, Any] | None = None,
    progress: bool | None = None,
    seed: int = 0,
) -> PolynomialNetwork:
    """A copy of the model whose activations are polynomials; max-pooling modules become average pooling.

    Each polynomial is the least-squares fit on the pre-activations that the calibration data produce
    in the network replaced so far (SecureDL, section 4.1), with a light uniform grid beside them.

    Args:
        model: any network that torch.fx can trace. It is not changed.
        x_train: calibration samples [samples, ...].
        y_train: integer labels; if given, the copy is fine-tuned on them.
        degree: degree of every polynomial, or the highest one tried when `bound` is given.
        bound: largest error allowed on the calibration data's interval: the lowest degree within it is
            taken (SecureDL, Algorithm 1).
        per_channel: fit one polynomial, on its own interval, for each channel (axis 1).
        quantile: share of the calibration values that an interval may leave out at either end, so that a
            few outliers do not spoil the fit for all others; 0 keeps every value inside.
        epochs: of fine-tuning in all; 20 by default when labels are given.
        layer_by_layer: replace one activation at a time and tune after each, for an equal share of the
            epochs (the last ones get what does not divide), instead of all at once.
        learning_rate, batch_size: of Adam; the rate falls to zero along a cosine.
        trainable: whether fine-tuning may move the polynomials' coefficients too.
        range_penalty: weight of Σ over layers of mean max(|u| - 1, 0)², where u is the pre-activation
            scaled to [-1, 1] on its interval: keeps values where the polynomials were fitted. On the CNN
            of tests/system/test_mnist_cnn.py it costs no accuracy and a tenth as many values are outside.
        distillation: 0 learns from labels, 1 from the original's logits alone, between from both.
        temperature: of the logits when distilling.
        validation: (x, y) whose accuracy the report also gives. Nothing is chosen by it: the returned
            network is always the one of the last epoch.
        progress: show a bar on standard error; by default on a terminal only.
        seed: of the fine-tuning's shuffles. Equal seeds give equal models.

    Returns:
        The new module, in evaluation mode; `print(poly.report)` tells what became of each activation.

    Raises:
        InputError: bad samples, labels or options, or an error bound that no degree reaches.
        UnsupportedLayerError: control flow that depends on data, or max pooling that no average pooling
            resembles.
    """
    check_given(model, x_train, "approximate")
    recipe = Recipe(learning_rate, batch_size, range_penalty, distillation, temperature)
    check_options(recipe, degree=degree, bound=bound, quantile=quantile, epochs=epochs, seed=seed)
    epochs = (20 if y_train is not None else 0) if epochs is None else epochs
    if epochs and y_train is None and distillation < 1:
        raise InputError(
            f"fine-tuning for {epochs} epochs needs labels: pass y_train, or distillation=1 to learn from "
            "the original's logits alone"
        )
    traced = trace(copy.deepcopy(model)).eval()
    x = _samples(x_train, traced, "x_train")
    teacher = _outputs(traced, x, "x_train")
    if epochs:
        _check_logits(teacher, "fine-tuning")
    y = None if y_train is None else _labels(y_train, teacher, "y_train")
    scores = [_Scores("x_train", x, y)] if y is not None else []
    if validation is not None:
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise InputError(f"validation must be a pair (x, y), got {type(validation).__name__}")
        x_held = _samples(validation[0], traced, "validation x")
        logits = _outputs(traced, x_held, "validation x")
        scores.append(_Scores("validation", x_held, _labels(validation[1], logits, "validation y")))
    for score in scores:
        score.take(traced)

    pools = replace_pools(traced)
    sites = activation_sites(traced)
    lessons = Lessons(x, y, teacher)
    generator = torch.Generator().manual_seed(seed)
    found: dict[nn.Module, Replacement] = {}
    stages = [[site] for site in sites] if layer_by_layer and epochs and sites else [sites]
    with bar(epochs, progress) as tick:
        for number, stage in enumerate(stages):
            for site in stage:
                module, row = replace_activation(
                    traced, site, x, degree, bound, per_channel, quantile, trainable
                )
                found[module] = row
            traced.recompile()
            if len(stages) == 1:
                for score in scores:
                    score.take(traced)
            share = epochs // len(stages) + (number >= len(stages) - epochs % len(stages))
            tune(traced, lessons, recipe, share, generator, tick)
    for score in scores:
        score.take(traced)
    return _finished(traced, found, pools, epochs, x, teacher, scores)


def _samples(x: Any, traced: fx.GraphModule, what: str) -> Tensor:
    """Samples in the network's type."""
    found = torch.as_tensor(samples_of(x, what=what))
    return found.to(next((p.dtype for p in traced.parameters()), torch.float32))


def _outputs(traced: fx.GraphModule, x: Tensor, what: str) -> Tensor:
    """What the network gives for x, on the CPU."""
    device = device_of(traced)
    with torch.no_grad():
        try:
            # The interpreter, not a call: torch prints its own message when a generated module fails.
            run = fx.Interpreter(traced).run
            found = [run(part.to(device)) for part in torch.split(x, PART)]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"the network does not take {what} of shape {list(x.shape)}: {reason}; give samples "
                "[samples, ...] as the network's first layer expects them"
            ) from error
    if not isinstance(found[0], Tensor):
        raise InputError(f"the network must give one tensor, not a {type(found[0]).__name__}")
    return torch.cat([part.cpu() for part in found])


def _check_logits(logits: Tensor, what: str) -> None:
    if logits.ndim != 2:
        raise InputError(
            f"{what} needs a network that gives logits [samples, classes], not {list(logits.shape)}"
        )


def _labels(y: Any, logits: Tensor, what: str) -> Tensor:
    _check_logits(logits, what)
    found = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    samples, classes = len(logits), logits.shape[-1]
    if found.shape != (samples,) or not np.issubdtype(found.dtype, np.integer) or found.min() < 0:
        raise InputError(
            f"{what} must be {samples} class numbers (integers from 0), got {found.dtype} {list(found.shape)}"
        )
    if found.max() >= classes:
        raise InputError(
            f"{what} holds class {found.max()}, but the network has the classes 0 to {classes - 1}"
        )
    return torch.as_tensor(found.astype(np.int64))


class _Scores:
    """Accuracy on one set, taken at each stage."""

    def __init__(self, what: str, x: Tensor, y: Tensor) -> None:
        self.what, self.x, self.y = what, x, y
        self.taken: list[float] = []

    def take(self, traced: fx.GraphModule) -> None:
        labels = _outputs(traced, self.x, self.what).argmax(1)
        self.taken.append(float((labels == self.y).double().mean()))

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy(self.taken[0], self.taken[1] if len(self.taken) == 3 else None, self.taken[-1])


def _finished(
    traced: fx.GraphModule,
    found: dict[nn.Module, Replacement],
    pools: tuple[str, ...],
    epochs: int,
    x: Tensor,
    teacher: Tensor,
    scores: Sequence[_Scores],
) -> PolynomialNetwork:
    """The module that is returned, its report measured on the calibration data."""
    network = PolynomialNetwork(traced, traced.graph, type(traced).__name__).eval()
    logits, ranges = _ranges(network, x)
    by_name = {score.what: score.accuracy for score in scores}
    network.report = ApproximationReport(
        tuple(
            replace(row, outside=ranges[module][0], observed=ranges[module][1])
            for module, row in found.items()
        ),
        pools,
        epochs,
        float((logits.argmax(-1) == teacher.argmax(-1)).double().mean()),
        by_name.get("x_train"),
        by_name.get("validation"),
    )
    return network


def _ranges(
    network: nn.Module, x: Tensor
) -> tuple[Tensor, dict[nn.Module, tuple[float, tuple[float, float]]]]:
    """Logits, and for each polynomial the share of values outside and the smallest and largest."""
    counts: dict[nn.Module, list[float]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, PolynomialActivation)
        values = inputs[0]
        outside = int((module.normalised(values).abs() > 1).sum())
        extremes = float(values.min()), float(values.max())
        old = counts.get(module, [0, 0, *extremes])
        counts[module] = [
            old[0] + outside, old[1] + values.numel(), min(old[2], extremes[0]), max(old[3], extremes[1])
        ]  # fmt: skip

    polynomials = [m for m in network.modules() if isinstance(m, PolynomialActivation)]
    hooks = [m.register_forward_pre_hook(record) for m in polynomials]
    device = device_of(network)
    with torch.no_grad():
        logits = torch.cat([network(part.to(device)).cpu() for part in torch.split(x, PART)])
    for hook in hooks:
        hook.remove()
    return logits, {m: (c[0] / c[1], (c[2], c[3])) for m, c in counts.items()}
