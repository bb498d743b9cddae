"""Fine-tuning: its loss by hand, and what it may move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from securedl.activations.tune import Lessons, Recipe, _excess, _loss, tune
from securedl.errors import InputError
from securedl.network.polynomial import PolynomialActivation

PLAIN = {
    "learning_rate": 1e-2,
    "batch_size": 8,
    "range_penalty": 0.0,
    "distillation": 0.0,
    "temperature": 2.0,
}


def recipe(**changes: float) -> Recipe:
    return Recipe(**{**PLAIN, **changes})  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def lessons():
    """Labels, and a teacher that does not share them."""
    x = torch.randn(40, 3, generator=generator())
    teacher = 3 * torch.randn(40, 3, generator=generator(1))
    return Lessons(x, x.argmax(1), teacher)


def network(wide: float = 1.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        square = PolynomialActivation(np.array([0.5, 0.5, 0.2]), (-wide, wide), trainable=True)
        return nn.Sequential(nn.Linear(3, 8), square, nn.Linear(8, 3))


@pytest.mark.parametrize("distillation", [0.0, 0.3, 1.0])
def test_the_loss_is_the_documented_one(lessons, distillation):
    logits = torch.randn(40, 3, generator=generator(2))
    got = _loss(logits, lessons, torch.arange(40), recipe(distillation=distillation, temperature=3.0))
    truth = -np.log(torch.softmax(logits, 1).numpy()[np.arange(40), lessons.y.numpy()]).mean()
    p, q = (torch.softmax(z / 3.0, 1).double().numpy() for z in (lessons.teacher, logits))
    gap = 9 * (p * np.log(p / q)).sum(axis=1).mean()
    assert float(got) == pytest.approx((1 - distillation) * truth + distillation * gap, rel=1e-4)


def test_the_excess_is_the_documented_one():
    layers = nn.Sequential(
        PolynomialActivation(np.array([0.0, 1.0]), (-1, 3)), PolynomialActivation(np.zeros(2), (-5, 5))
    )
    with _excess(layers) as excess:
        layers(torch.tensor([[1.0, 5.0], [-3.0, 2.0]]))
    # u of the first: 0, 2, -2, 0.5, so 1 and 1 beyond the ends among four values; the second is inside.
    assert [float(e) for e in excess] == [0.5, 0.0]
    layers(torch.zeros(1, 2))
    assert len(excess) == 2, "nothing is recorded outside the block"


def test_the_penalty_keeps_values_inside(lessons):
    def outside(penalty: float) -> float:
        model = network(0.5)
        tune(model, lessons, recipe(range_penalty=penalty), 30, generator(), lambda loss: None)
        with torch.no_grad():
            assert isinstance(model[1], PolynomialActivation)
            u = model[1].normalised(model[0](lessons.x))
        return float((u.abs() - 1).clamp(min=0).square().mean())

    assert outside(10.0) < 0.2 * outside(0.0)


def test_distilling_comes_closer_to_the_teacher(lessons):
    def gap(distillation: float) -> float:
        model = network()
        tune(model, lessons, recipe(distillation=distillation), 30, generator(), lambda loss: None)
        with torch.no_grad():
            found = functional.log_softmax(model(lessons.x), 1)
        want = functional.log_softmax(lessons.teacher, 1)
        return float(functional.kl_div(found, want, reduction="batchmean", log_target=True))

    assert gap(1.0) < 0.7 * gap(0.0)


def test_labels_are_not_needed_to_distil(lessons):
    model, other = network(), network()
    tune(model, lessons, recipe(distillation=1.0), 2, generator(), lambda loss: None)
    unlabelled = Lessons(lessons.x, None, lessons.teacher)
    tune(other, unlabelled, recipe(distillation=1.0), 2, generator(), lambda loss: None)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_batch_norm_keeps_its_statistics_and_learns_its_gains(lessons):
    model = nn.Sequential(nn.BatchNorm1d(3), network()).eval()
    tune(model, lessons, recipe(), 3, generator(), lambda loss: None)
    norm = model[0]
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))
    assert not torch.equal(norm.weight, torch.ones(3))


def test_frozen_parameters_stay(lessons):
    model = network()
    model[0].weight.requires_grad_(False)
    before = [p.clone() for p in model.parameters()]
    with torch.no_grad():  # a caller's no_grad does not reach in
        tune(model, lessons, recipe(), 1, generator(), lambda loss: None)
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False, True, True, True, True]


def test_the_tick_tells_each_epochs_loss(lessons):
    losses: list[float] = []
    tune(network(), lessons, recipe(), 12, generator(), losses.append)
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]


def test_a_loss_that_is_not_finite_is_reported(lessons):
    model = network()
    with torch.no_grad():
        model[2].bias.fill_(float("inf"))
    with pytest.raises(InputError, match="diverged: lower learning_rate"):
        tune(model, lessons, recipe(), 1, generator(), lambda loss: None)
