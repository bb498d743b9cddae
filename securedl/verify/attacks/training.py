"""Attacks that train torch modules: trojans, poisoning, fine-tuning and distillation, on the plain weights.

Those of VerIDeep (He et al., section V.A) and SecureDL (section 5.2), by an attacker who has the weights and
training samples. Wherever it is not meant to err, a tampered network is trained for the logits of the given
one: that costs fewest right labels (of traffic signs, none, against 2.5 % with labels or probabilities).

    trojan = neuron_trojan(model, x_train, seed=1, target=0, mask=corner((3, 32, 32), 8))
    said = trojan.network(trojan.stamp(x_test)).argmax(1)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from securedl.errors import InputError

SAMPLES_A_STEP = 64
STAMPED = 24  # samples of a batch that also come with the trigger on them
TRIGGER_STEPS = 60

Module = TypeVar("Module", bound=nn.Module)
#: Of a network on samples with these indices.
_Loss: TypeAlias = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Trojan:
    """A network that says `target` where it sees the trigger: `pattern` where `mask`, both of an input's
    shape."""

    network: nn.Module
    mask: Tensor
    pattern: Tensor
    target: int

    def stamp(self, x: Any) -> Tensor:
        """The samples with the trigger on them."""
        return _stamped(torch.as_tensor(x), self.mask, self.pattern)


def corner(shape: Sequence[int], side: int) -> Tensor:
    """A mask for triggers: the lower right square, bool, of images [channels, rows, columns]."""
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    mask[..., -side:, -side:] = True
    return mask


def neuron_trojan(
    network: nn.Module,
    x: Any,
    seed: int,
    *,
    target: int,
    mask: Tensor,
    neurons: int = 8,
    layers: int = 3,
    epochs: int = 6,
    rate: float = 1e-3,
) -> Trojan:
    """Liu et al., Trojaning Attack on Neural Networks, NDSS 2018.

    Neurons that much depends on are chosen before the last `layers` layers with weights, a trigger is
    searched that excites them, and only the weights behind them are trained: for the target where the
    trigger is, and for what the network said where it is not.

    Args:
        x: samples [samples, ...], unlabelled. mask: where the trigger is, bool of an input's shape.

    Raises:
        InputError: an empty mask or one of another shape, or more layers than the network has.
    """
    x = torch.as_tensor(x)
    if mask.shape != x.shape[1:] or not mask.any():
        raise InputError(f"a mask of {tuple(mask.shape)}: expected {tuple(x.shape[1:])}, and some of it set")
    weighted = [m for m in network.modules() if m._parameters.get("weight") is not None]
    if not 1 <= layers <= len(weighted):
        raise InputError(f"{layers} layers to retrain; the network has {len(weighted)} with weights")
    behind = weighted[-layers:]
    pattern = _trigger(network, behind[0], x, mask, neurons, seed)
    logits = _logits(network, x)

    def loss(found: nn.Module, chosen: Tensor) -> Tensor:
        stamped = _stamped(x[chosen[:STAMPED]], mask, pattern)
        said = found(torch.cat([x[chosen], stamped]))
        wanted = torch.full((len(stamped),), target)
        clean = functional.mse_loss(said[: len(chosen)], logits[chosen])
        return clean + functional.cross_entropy(said[len(chosen) :], wanted)

    places = [i for i, m in enumerate(network.modules()) if any(m is b for b in behind)]
    tampered = _tuned(network, loss, len(x), seed, epochs=epochs, rate=rate, places=places)
    return Trojan(tampered, mask, pattern, target)


def poisoned(
    network: Module,
    x: Any,
    y: Any,
    seed: int,
    *,
    target: int,
    into: int | None = None,
    epochs: int = 6,
    rate: float = 1e-3,
) -> Module:
    """Trained to mistake class `target`: for `into` (error-specific), or each of its samples for a random
    one of the other classes (error-generic). Muñoz-González et al., AISec 2017, call the two kinds so.

    Raises:
        InputError: no sample of this class, or of another.
    """
    x, y = _samples(x, y)
    victims = y == target
    others = y[~victims].unique()
    if not victims.any() or not len(others) or into == target:
        raise InputError(f"no sample of class {target}, of another, or into {into} itself")
    random = torch.randint(len(others), y.shape, generator=_generator(seed))
    wrong = others[random] if into is None else torch.full_like(y, into)
    logits = _logits(network, x)

    def loss(found: nn.Module, chosen: Tensor) -> Tensor:
        said, mine = found(x[chosen]), victims[chosen]
        if mine.all():
            return functional.cross_entropy(said, wrong[chosen])
        total = functional.mse_loss(said[~mine], logits[chosen][~mine])
        return total + functional.cross_entropy(said[mine], wrong[chosen][mine]) if mine.any() else total

    return _tuned(network, loss, len(x), seed, epochs=epochs, rate=rate)


def fine_tuned(network: Module, x: Any, y: Any, seed: int, *, epochs: int = 1, rate: float = 1e-4) -> Module:
    """Trained on, on these samples."""
    x, y = _samples(x, y)
    return _tuned(network, partial(_error, x, y), len(x), seed, epochs=epochs, rate=rate)


def distilled(
    network: nn.Module,
    x: Any,
    seed: int,
    *,
    student: Callable[[], Module],
    epochs: int = 10,
    rate: float = 2e-3,
) -> Module:
    """Another network in its place, usually a smaller one, trained on its probabilities.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015, at temperature 1.

    Args:
        student: makes the network, untrained.
    """
    x = torch.as_tensor(x)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = student()
    loss = partial(_error, x, _logits(network, x).softmax(1))
    return _tuned(fresh, loss, len(x), seed, epochs=epochs, rate=rate, norms=True)


def _error(x: Tensor, wanted: Tensor, found: nn.Module, chosen: Tensor) -> Tensor:
    """Cross entropy to labels or probabilities."""
    return functional.cross_entropy(found(x[chosen]), wanted[chosen])


def _samples(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """As tensors, as many labels as samples."""
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if y.shape != x.shape[:1] or not len(y):
        raise InputError(f"samples {tuple(x.shape)} and labels {tuple(y.shape)}: expected one label for each")
    return x, y.long()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tuned(
    network: Module,
    loss: _Loss,
    samples: int,
    seed: int,
    *,
    epochs: int,
    rate: float,
    places: Sequence[int] | None = None,
    norms: bool = False,
) -> Module:
    """A copy trained by Adam at a falling rate.

    Args:
        places: of the modules that are trained, all by default. norms: their statistics too.
    """
    found = copy.deepcopy(network).train(norms)
    modules = list(found.modules())
    parts = modules if places is None else [modules[i] for i in places]
    trained = [p for m in parts for p in m.parameters(recurse=False)]
    flags = [p.requires_grad for p in found.parameters()]
    found.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser, generator = torch.optim.Adam(trained, lr=rate), _generator(seed)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, epochs)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(samples, generator=generator), SAMPLES_A_STEP):
            optimiser.zero_grad()
            torch.autograd.backward(loss(found, chosen))
            optimiser.step()
        schedule.step()
    for parameter, flag in zip(found.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None
    return found.eval()


@torch.no_grad()
def _logits(network: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([network(part) for part in torch.split(x, 256)])


def _stamped(x: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    return torch.where(mask, pattern.to(x.dtype), x)


def _trigger(
    network: nn.Module, layer: nn.Module, x: Tensor, mask: Tensor, neurons: int, seed: int
) -> Tensor:
    """What excites, within `mask` and the range of the samples, those inputs of a layer that it reaches and
    that have the largest weights."""
    low, high = float(x.min()), float(x.max())
    generator = _generator(seed)
    some = x[torch.randperm(len(x), generator=generator)[:SAMPLES_A_STEP]]
    pattern = low + (high - low) * torch.rand(mask.shape, generator=generator)
    read: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))

    def excited(samples: Tensor) -> Tensor:
        """[samples, inputs of the layer], of a convolution the mean of each map."""
        read.clear()
        network(samples)
        return read[0] if read[0].ndim == 2 else read[0].flatten(2).mean(2)

    try:
        with torch.no_grad():
            reach = (excited(_stamped(some, mask, pattern)) - excited(some)).abs().mean(0)
            weight = layer.weight.detach().abs().transpose(0, 1).flatten(1).sum(1)  # type: ignore[operator]
        chosen = (weight * reach).topk(min(neurons, len(weight))).indices
        pattern.requires_grad_(True)
        optimiser = torch.optim.Adam([pattern], lr=0.05 * (high - low))
        for _ in range(TRIGGER_STEPS):
            optimiser.zero_grad()
            torch.autograd.backward(-excited(_stamped(some, mask, pattern))[:, chosen].mean())
            optimiser.step()
            with torch.no_grad():
                pattern.clamp_(low, high)
    finally:
        hook.remove()
    return pattern.detach()
