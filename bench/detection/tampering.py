"""What is done to each network of the papers' tables, and what its owner tries beforehand.

Single weights, biases and compression are of every network; trojans of those with convolutions, poisoning
of the traffic signs', as in VerIDeep's Table II. Networks that took training are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bench.detection.subjects import SUBJECTS, Images, accuracy, folded, kept, labels, sums, told
from securedl.verify import attacks
from securedl.verify.attacks import training

#: Of weights, each plus N(0, 1) (VerIDeep, Figure 14).
SHARES, FEWER_SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.8), (0.001, 0.01, 0.1)
#: Networks of each share, with one weight or bias altered, and simulated of each kind.
SEEDS, QUICK_SEEDS, SIMULATED = 100, 5, 25
#: Trainings of each kind.
TRAININGS = 3
STOP, SPEED_LIMIT_100 = 14, 7
#: Of the training samples, so many at most are the attacker's.
HIS, QUICK_HIS = 2000, 128


Attack: TypeAlias = Callable[[nn.Sequential, int], nn.Module]


@dataclass(frozen=True, eq=False)
class Tampered:
    """Networks that one attack made of one.

    Attributes:
        networks: one after the other. facts: what it did, in words to figures of the first ones.
    """

    networks: Callable[[], Iterator[nn.Module]]
    count: int
    facts: dict[str, float] = field(default_factory=dict)


def tampered(name: str, model: nn.Sequential, data: Images, quick: bool) -> dict[str, Tampered]:
    """By attack. What is cheap is made anew whenever it is asked for."""
    subject, seeds = SUBJECTS[name], QUICK_SEEDS if quick else SEEDS
    once: dict[str, Attack] = {
        "8 bits": attacks.quantised,
        "6 bits": partial(attacks.quantised, bits=6),
        "4 bits": partial(attacks.quantised, bits=4),
        "16-bit floats": attacks.half_precision,
        "10 % pruned": partial(attacks.pruned, fraction=0.1),
    }
    often: dict[str, Attack] = {
        f"{100 * share:g} % of weights": partial(attacks.weight_noise, fraction=share, relative=False)
        for share in (FEWER_SHARES if subject.behind else SHARES)
    }
    often["one weight doubled"] = attacks.scaled_weight
    often["one bias"] = attacks.shifted_bias
    found = {attack: _made(model, data, make, 1) for attack, make in once.items()}
    found |= {attack: _made(model, data, make, seeds) for attack, make in often.items()}
    if subject.behind:
        found |= _trained(name, model, data, quick)
    return found


def simulated(model: nn.Sequential, quick: bool) -> Iterator[nn.Module]:
    """What the owner tries, to choose samples by it: noise on some of the weights or slightly on all. None of
    it is among the attacks."""
    for fraction, strength in ((0.001, 1.0), (0.01, 1.0), (0.1, 0.3), (1.0, 0.01)):
        for seed in range(QUICK_SEEDS if quick else SIMULATED):
            yield attacks.weight_noise(model, 10_000 + seed, fraction=fraction, strength=strength)


def _made(model: nn.Sequential, data: Images, make: Attack, count: int) -> Tampered:
    def networks() -> Iterator[nn.Module]:
        return (make(model, seed) for seed in range(count))

    few = [make(model, 0)]
    return Tampered(networks, count, _lost(model, few, data))


def _lost(model: nn.Module, few: list[nn.Module], data: Images) -> dict[str, float]:
    """Means over a few networks, %."""
    x, y = data.x_test, data.y_test
    before, honest = accuracy(model, x, y), labels(model, x)
    said = [labels(one, x) for one in few]
    points = sum(before - float((one == y).float().mean()) for one in said) / len(few)
    changed = sum(float((one != honest).float().mean()) for one in said) / len(few)
    return {"points lost": 100 * points, "labels changed": 100 * changed}


def _trained(name: str, model: nn.Sequential, data: Images, quick: bool) -> dict[str, Tampered]:
    """Trojans, poisoning, fine-tuning and distillation, trained once and kept."""
    subject = SUBJECTS[name]
    order = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(1))
    order = order[: QUICK_HIS if quick else HIS]
    x, y = data.x_train[order], data.y_train[order]
    epochs, classes = (1 if quick else subject.tuned), int(data.y_train.max()) + 1

    def trojan(seed: int) -> dict[str, Tensor]:
        mask = training.corner(x.shape[1:], x.shape[-1] // 4)
        target, behind = (3 + seed) % classes, subject.behind
        made = training.neuron_trojan(model, x, seed, target=target, mask=mask, layers=behind, epochs=epochs)
        others = data.x_test[data.y_test != target]
        hit = labels(made.network, made.stamp(others)) == target
        return made.network.state_dict() | {"success": hit.float().mean()}

    def poison(into: int | None, seed: int) -> dict[str, Tensor]:
        made = training.poisoned(model, x, y, seed, target=STOP, into=into, epochs=epochs)
        said = labels(made, data.x_test[data.y_test == STOP])
        wrong = said != STOP if into is None else said == into
        return made.state_dict() | {"success": wrong.float().mean()}

    def tuned(seed: int) -> dict[str, Tensor]:
        return training.fine_tuned(model, x, y, seed).state_dict()

    def taught(seed: int) -> dict[str, Tensor]:
        return folded(training.distilled(model, x, seed, student=subject.build, epochs=epochs)).state_dict()

    makes: dict[str, Callable[[int], dict[str, Tensor]]] = {
        "trojan": trojan,
        "fine-tuned": tuned,
        "distilled": taught,
    }
    if subject.data == "gtsrb":
        makes["poisoned, generic"] = partial(poison, None)
        makes["poisoned, specific"] = partial(poison, SPEED_LIMIT_100)
    sources = [inspect.getsource(training), inspect.getsource(_trained), f"{HIS} {sums(model)}"]

    def once(attack: str, seed: int) -> dict[str, Tensor]:
        if quick:
            return makes[attack](seed)
        return kept(
            f"{name} {attack} {seed}",
            sources,
            partial(told, f"{name}: {attack}", partial(makes[attack], seed)),
        )

    times = {attack: 1 if quick or attack == "distilled" else TRAININGS for attack in makes}
    return {
        attack: _loaded(model, data, [once(attack, seed) for seed in range(times[attack])])
        for attack in makes
    }


def _loaded(model: nn.Sequential, data: Images, states: list[dict[str, Tensor]]) -> Tampered:
    networks, success = [], []
    for state in states:
        weights = dict(state)
        if "success" in weights:
            success.append(100 * float(weights.pop("success")))
        networks.append(deepcopy(model))
        networks[-1].load_state_dict(weights)
    facts = _lost(model, list(networks), data)
    if success:
        facts["success"] = sum(success) / len(success)
    return Tampered(lambda: iter(networks), len(networks), facts)
