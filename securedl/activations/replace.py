"""Replace activations by polynomials fitted on what they see, then fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from securedl.activations.options import check_options
from securedl.activations.report import Accuracy, ApproximationReport, Replacement, Stages
from securedl.activations.sites import PART, activation_sites, device_of, replace_activation, replace_pools
from securedl.activations.targets import agreement, as_targets, found_task, rms_error, score
from securedl.activations.tune import Lessons, Recipe, tune
from securedl.errors import InputError, UnsupportedLayerError
from securedl.network.capture import Captured, alike, capture, owned
from securedl.network.compare import check_captured
from securedl.network.ending import after_a_sigmoid, ending_of
from securedl.network.from_torch import check_importable
from securedl.network.given import Known, check_given, known_of
from securedl.network.graph import samples_of
from securedl.network.outputs import Head
from securedl.network.polynomial import PolynomialActivation
from securedl.progress import Progress, check_progress, stage


class PolynomialNetwork(Captured):
    """What `approximate` returns: a network without activations other than polynomials.

    Attributes:
        report: what was replaced and how well. known: the task, and the names of a table's columns. Copies of
            the module, pickled ones too, keep them.
    """

    report: ApproximationReport
    known: Known

    @property
    def replacements(self) -> tuple[Replacement, ...]:
        """One Replacement for each activation, in order."""
        return self.report.replacements

    def _kept(self) -> dict[str, Any]:
        return {**super()._kept(), "report": self.report, "known": self.known}


@torch.inference_mode(False)  # trains, and captures, whatever mode the caller is in
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
    progress: Progress = None,
    seed: int = 0,
    task: str | None = None,
) -> PolynomialNetwork:
    """A copy of the model whose activations are polynomials; max pooling becomes average pooling.

    Each polynomial is the least-squares fit on the pre-activations that the calibration data produce
    in the network replaced so far (SecureDL, section 4.1), with a light uniform grid beside them.

    Args:
        model: a network in whatever style, as `torch.export` takes it; its evaluation mode counts. It is not
            changed. A Softmax, LogSoftmax or Sigmoid at its end stays: the client applies it.
        x_train: calibration samples [samples, ...]. Of a table (a DataFrame) the names of the columns are
            kept: later tables may have them in any order.
        y_train: targets; if given, the copy is fine-tuned on them: class numbers [samples], also as a row of
            one 1 and zeros each; 0 and 1 [samples] for one logit or [samples, labels] for several; or numbers
            in the shape of the answers (regression).
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
        distillation: 0 learns from targets, 1 from the original's answers alone, between from both.
        temperature: of the logits when distilling labels.
        validation: (x, y) whose accuracy (R² for regression) the report also gives. Nothing is chosen by it:
            the returned network is always the one of the last epoch.
        progress: of the work, stage "approximate"; see `securedl.progress`.
        seed: of the fine-tuning's shuffles. Equal seeds give equal models.
        task: "classes", "binary", "multilabel" or "regression"; by default told by targets and answers. It
            decides what is learnt and reported, and `compile` takes it from here.

    Returns:
        The new module, in evaluation mode; `print(poly.report)` tells what became of each activation.

    Raises:
        InputError: bad samples, targets or options, an error bound that no degree reaches, or probabilities
            in place of logits.
        UnsupportedLayerError: what cannot be encrypted even so, each with its place and a remedy, before any
            work; max pooling that no average pooling resembles.
        CompileError: a network that does something else than what can be captured of it.
    """
    check_given(model, x_train, "approximate")
    check_progress(progress)
    recipe = Recipe(learning_rate, batch_size, range_penalty, distillation, temperature)
    check_options(
        recipe, degree=degree, bound=bound, quantile=quantile, epochs=epochs, seed=seed,
        per_channel=per_channel, layer_by_layer=layer_by_layer, trainable=trainable,
    )  # fmt: skip
    epochs, asked = (20 if y_train is not None else 0) if epochs is None else epochs, task is not None
    if epochs and y_train is None and distillation < 1:
        raise InputError(
            f"fine-tuning for {epochs} epochs needs labels: pass y_train, or distillation=1 to learn from "
            "the original's logits alone"
        )
    with stage("approximate", progress) as told:
        known = known_of(model)
        columns = known.columns_for(x_train, "x_train")
        x = torch.as_tensor(samples_of(x_train, what="x_train", columns=columns))
        try:
            traced = owned(capture(model, tuple(x.shape[1:])))
        except UnsupportedLayerError as error:
            raise _of_samples(error, x, "x_train") from error
        _check(alike(traced), tuple(x.shape[1:]))
        check_captured(model, traced, x.numpy())
        head, end = _without_head(traced)
        x = _typed(x, traced)
        teacher = _outputs(traced, x, "x_train")
        shape = tuple(teacher.shape[1:])
        task = found_task(task or known.task, y_train, shape, head)
        _check_signs(traced, task)
        y = None if y_train is None else as_targets(y_train, teacher, task, "y_train")
        scores = [_Scores("x_train", x, y, task)] if y is not None else []
        if validation is not None:
            if not isinstance(validation, tuple | list) or len(validation) != 2:
                raise InputError(f"validation must be a pair (x, y), got {type(validation).__name__}")
            x_held = _typed(
                torch.as_tensor(samples_of(validation[0], what="validation x", columns=columns)), traced
            )
            held = as_targets(validation[1], _outputs(traced, x_held, "validation x"), task, "validation y")
            scores.append(_Scores("validation", x_held, held, task))
        for one in scores:
            one.take(traced)

        pools = replace_pools(traced)
        sites = activation_sites(traced)
        lessons = Lessons(x, y, teacher, task if y is not None or asked else None)
        generator = torch.Generator().manual_seed(seed)
        found: dict[nn.Module, Replacement] = {}
        groups = [[site] for site in sites] if layer_by_layer and epochs and sites else [sites]
        told.count(0, len(sites) + epochs + 1)
        told.tick()
        for number, group in enumerate(groups):
            for site in group:
                module, row = replace_activation(
                    traced, site, x, degree, bound, per_channel, quantile, trainable
                )
                found[module] = row
                told.tick()
            traced.recompile()
            if len(groups) == 1:
                for one in scores:
                    one.take(traced)
            share = epochs // len(groups) + (number >= len(groups) - epochs % len(groups))
            tune(traced, lessons, recipe, share, generator, lambda loss: told.tick())
        for one in scores:
            one.take(traced)
        network = _finished(traced, found, pools, epochs, x, teacher, scores, task, end)
        network.known = Known(task, columns)
        return network


def _check(draft: Captured, shape: tuple[int, ...]) -> None:
    """Refuse what will not compile, before any work; `draft` may be changed."""
    replace_pools(draft)
    regions = {node for site in activation_sites(draft) for node in site.region}
    check_importable(draft, shape, regions.__contains__)


def _of_samples(error: UnsupportedLayerError, x: Tensor, what: str) -> Exception:
    """A network that does not run on these samples: their fault as likely as its own."""
    if "does not run on samples" not in str(error):
        return error
    return InputError(
        f"the network does not take {what} of shape {list(x.shape)}: {error}; give samples "
        "[samples, ...] as the network's first layer expects them"
    )


def _without_head(traced: Captured) -> tuple[Head, Callable[[Captured], None]]:
    """Take the Softmax or Sigmoid at its end off a network; the function puts it back."""
    ending = ending_of(traced)
    if not ending.nodes:
        return ending.head, lambda network: None
    node = ending.nodes[0]
    target, rest, kwargs = node.target, tuple(node.args[1:]), dict(node.kwargs)
    for one in ending.nodes:
        one.replace_all_uses_with(one.all_input_nodes[0])
        traced.graph.erase_node(one)
    traced.recompile()

    def put_back(network: Captured) -> None:
        (output,) = (n for n in network.graph.nodes if n.op == "output")
        with network.graph.inserting_before(output):
            new = network.graph.call_function(target, (output.args[0], *rest), kwargs)  # type: ignore[arg-type]
        output.args = (new,)
        network.recompile()

    return ending.head, put_back


def _check_signs(traced: Captured, task: str) -> None:
    """Refuse probabilities whose signs would be taken for labels."""
    found = after_a_sigmoid(traced) if task in ("binary", "multilabel") else ""
    if found:
        raise InputError(
            f"the network ends in {found}, so that its answers are no logits, whose signs tell the labels of "
            f"the task {task!r}: let it end in the Sigmoid, which the client applies, or in what comes "
            "before it; for numbers pass task='regression'"
        )


def _typed(x: Tensor, traced: Captured) -> Tensor:
    """Samples in the network's type."""
    return x.to(next((p.dtype for p in traced.parameters() if p.is_floating_point()), torch.float32))


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
    return torch.cat([part.cpu() for part in found])


class _Scores:
    """How well the network does on one set, taken at each stage."""

    def __init__(self, what: str, x: Tensor, y: Tensor, task: str) -> None:
        self.what, self.x, self.y, self.task = what, x, y, task
        self.taken: list[tuple[float, float]] = []

    def take(self, traced: Captured) -> None:
        found = _outputs(traced, self.x, self.what)
        rms = rms_error(found, self.y) if self.task == "regression" else 0.0
        self.taken.append((score(found, self.y, self.task), rms))

    @property
    def accuracy(self) -> Accuracy:
        first, *between, last = self.taken
        replaced = between[0] if between else (None, None)
        rms = Stages(first[1], replaced[1], last[1]) if self.task == "regression" else None
        return Accuracy(first[0], replaced[0], last[0], rms)


def _finished(
    traced: Captured,
    found: dict[nn.Module, Replacement],
    pools: tuple[str, ...],
    epochs: int,
    x: Tensor,
    teacher: Tensor,
    scores: Sequence[_Scores],
    task: str,
    put_back: Callable[[Captured], None],
) -> PolynomialNetwork:
    """The module that is returned, its report measured on the calibration data."""
    traced.graph.eliminate_dead_code()
    network = PolynomialNetwork(traced, traced.graph, type(traced).__name__).eval()
    network.origins, network.title, network.sample_shape = traced.origins, traced.title, traced.sample_shape
    logits, ranges = _ranges(network, x)
    for module, (share, _) in ranges.items():
        assert isinstance(module, PolynomialActivation)
        module.outside = share
    by_name = {one.what: one.accuracy for one in scores}
    network.report = ApproximationReport(
        tuple(
            replace(row, outside=ranges[module][0], observed=ranges[module][1])
            for module, row in found.items()
        ),
        pools,
        epochs,
        agreement(logits, teacher, task),
        by_name.get("x_train"),
        by_name.get("validation"),
        task,
    )
    put_back(network)
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
