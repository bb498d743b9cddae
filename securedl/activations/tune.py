"""Fine-tune a network of polynomials on labels and the original's logits, inside the fitted intervals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from securedl.errors import InputError
from securedl.network.polynomial import PolynomialActivation


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune; `approximate` documents each field."""

    learning_rate: float
    batch_size: int
    range_penalty: float
    distillation: float
    temperature: float


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learnt from.

    Attributes:
        x: samples. y: targets (`targets.as_targets`), None without. teacher: the original's logits [samples,
            ...].
        task: what the answers are; None where nobody said: the teacher's answers are then learnt as numbers.
    """

    x: Tensor
    y: Tensor | None
    teacher: Tensor
    task: str | None = "classes"


@torch.enable_grad()
def tune(
    model: nn.Module,
    lessons: Lessons,
    recipe: Recipe,
    epochs: int,
    generator: torch.Generator,
    tick: Callable[[float], None],
) -> None:
    """Adam with a cosine schedule to zero, in evaluation mode: batch norm keeps its statistics.

    Args:
        model: changed in place. generator: of the shuffles. tick: called after each epoch with its mean loss.

    Raises:
        InputError: the loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not epochs or not parameters:
        return
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate)
    batches = -(-len(lessons.x) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    device = parameters[0].device
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(lessons.x), generator=generator), recipe.batch_size):
            optimiser.zero_grad()
            with _excess(model if recipe.range_penalty else nn.Identity()) as excess:
                logits = model(lessons.x[chosen].to(device))
            loss = _loss(logits, lessons, chosen, recipe) + recipe.range_penalty * sum(excess)
            if not torch.isfinite(loss):
                raise InputError(
                    "fine-tuning diverged: lower learning_rate or degree, and standardise the inputs"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        tick(total / len(lessons.x))
    optimiser.zero_grad()


def _loss(logits: Tensor, lessons: Lessons, chosen: Tensor, recipe: Recipe) -> Tensor:
    """(1 - d) · loss on targets + d · loss on the original's answers.

    Cross-entropy and T² KL at temperature T (Hinton et al., 2015) for classes, both on sigmoids for labels,
    and mean squares in units of the variance for numbers.
    """
    loss = torch.zeros((), dtype=logits.dtype, device=logits.device)
    d = recipe.distillation
    if lessons.y is not None and d < 1:
        loss = loss + (1 - d) * _on_targets(logits, lessons.y, chosen, lessons.task)
    if d > 0:
        loss = loss + d * _on_teacher(logits, lessons.teacher, chosen, lessons.task, recipe.temperature)
    return loss


def _on_targets(logits: Tensor, y: Tensor, chosen: Tensor, task: str | None) -> Tensor:
    truth = y[chosen].to(logits.device)
    if task == "classes":
        return functional.cross_entropy(logits, truth)
    if task in ("binary", "multilabel"):
        return functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype))
    return (logits - truth.to(logits.dtype)).square().mean() / _variance(y).to(logits)


def _on_teacher(
    logits: Tensor, teacher: Tensor, chosen: Tensor, task: str | None, temperature: float
) -> Tensor:
    want = teacher[chosen].to(logits.device)
    if task is None and logits.ndim == 2 and logits.shape[1] > 1:  # classes or numbers, who knows: both
        parts = (
            _on_teacher(logits, teacher, chosen, known, temperature) for known in ("classes", "regression")
        )
        return torch.stack(list(parts)).sum()
    if task == "classes":
        found, want = (functional.log_softmax(some / temperature, 1) for some in (logits, want))
        gap = functional.kl_div(found, want, reduction="batchmean", log_target=True)
        return temperature**2 * gap
    if task in ("binary", "multilabel"):
        soft = torch.sigmoid(want / temperature)
        return temperature**2 * functional.binary_cross_entropy_with_logits(logits / temperature, soft)
    return (logits - want).square().mean() / _variance(teacher).to(logits)


def _variance(values: Tensor) -> Tensor:
    return (values - values.mean(0)).square().mean().clamp_min(1e-12)


@contextlib.contextmanager
def _excess(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects mean max(|u| - 1, 0)² of each polynomial's normalised input in the forward passes inside."""
    found: list[Tensor] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, PolynomialActivation)
        found.append(functional.softshrink(module.normalised(inputs[0]), 1.0).square().mean())

    polynomials = [m for m in model.modules() if isinstance(m, PolynomialActivation)]
    hooks = [m.register_forward_pre_hook(record) for m in polynomials]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
