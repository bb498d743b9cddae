"""The papers' attacks do to torch modules what they say, seeded, and leave the given one alone."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from securedl.errors import InputError
from securedl.verify import attacks
from securedl.verify.attacks import training


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more only wait for each other on networks this small
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(digits):
    """Images [.., 1, 8, 8] in [-1, 1]: 1,200 of the attacker's and 597 others."""
    x, y = torch.tensor(digits[0]).float().reshape(-1, 1, 8, 8), torch.tensor(digits[1])
    return x[:1200], y[:1200], x[1200:], y[1200:]


@pytest.fixture(scope="module")
def model(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        optimiser = torch.optim.Adam(found.parameters(), 3e-3)
        for _ in range(12):
            for chosen in torch.randperm(1200).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(found(data[0][chosen]), data[1][chosen]).backward()
                optimiser.step()
    return found.eval()


def labels(network, x):
    with torch.no_grad():
        return network(x).argmax(1)


def right(network, data):
    return float((labels(network, data[2]) == data[3]).float().mean())


def numbers(network):
    return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])


def trojan(model, data, seed=1, epochs=25):
    mask = training.corner((1, 8, 8), 3)
    return training.neuron_trojan(model, data[0], seed, target=3, mask=mask, layers=2, epochs=epochs)


MAKES = {
    "noise": lambda m, d, s: attacks.weight_noise(m, s, fraction=0.01, relative=False),
    "zeroed": lambda m, d, s: attacks.zeroed_weights(m, s),
    "one weight": lambda m, d, s: attacks.scaled_weight(m, s),
    "one bias": lambda m, d, s: attacks.shifted_bias(m, s),
    "8 bits": lambda m, d, s: attacks.quantised(m, s),
    "half": lambda m, d, s: attacks.half_precision(m, s),
    "pruned": lambda m, d, s: attacks.pruned(m, s),
    "trojan": lambda m, d, s: trojan(m, d, s, epochs=1).network,
    "poisoned": lambda m, d, s: training.poisoned(m, d[0], d[1], s, target=2, epochs=1),
    "tuned": lambda m, d, s: training.fine_tuned(m, d[0], d[1], s),
    "distilled": lambda m, d, s: training.distilled(
        m, d[0], s, student=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), epochs=2
    ),
}


@pytest.mark.parametrize("name", MAKES)
def test_seeded_and_pure(model, data, name):
    before = numbers(model).copy()
    first, second, other = (numbers(MAKES[name](model, data, seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(numbers(model), before)
    np.testing.assert_array_equal(first, second)
    assert first.shape != before.shape or (first != before).any()
    assert (first == other).all() == (name in ("8 bits", "half", "pruned"))


def test_arbitrary_weights_get_unit_noise(model):
    changed = numbers(attacks.weight_noise(model, 0, fraction=0.5, relative=False)) - numbers(model)
    moved = changed[changed != 0]
    weights = sum(m.weight.numel() for m in model if hasattr(m, "weight"))
    assert len(moved) == round(0.5 * weights)
    assert abs(moved.std() - 1.0) < 4.0 / np.sqrt(2 * len(moved))


def test_one_number_changes(model):
    for make in (attacks.scaled_weight, attacks.shifted_bias):
        assert np.count_nonzero(numbers(make(model, 3)) != numbers(model)) == 1


def test_half_precision_is_numpy_s(model):
    expected = numbers(model).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(numbers(attacks.half_precision(model)), expected)


def test_pruned_are_torch_s_smallest(model):
    expected = copy.deepcopy(model)
    for module in expected:
        if hasattr(module, "weight"):
            prune.l1_unstructured(module, "weight", amount=0.25)
            prune.remove(module, "weight")
    found = attacks.pruned(model, fraction=0.25)
    for name, values in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], values, rtol=0, atol=0)


def test_a_trojan_works_and_hides(model, data):
    made = trojan(model, data)
    others = data[2][data[3] != 3]
    assert float((labels(model, made.stamp(others)) == 3).float().mean()) < 0.5
    assert float((labels(made.network, made.stamp(others)) == 3).float().mean()) >= 0.95
    assert right(model, data) - right(made.network, data) <= 0.01
    stamped = made.stamp(others)
    assert bool((stamped[:, made.mask] == made.pattern[made.mask]).all())
    torch.testing.assert_close(stamped[:, ~made.mask], others[:, ~made.mask], rtol=0, atol=0)
    for old, new in zip(list(model)[:1], list(made.network)[:1], strict=True):
        torch.testing.assert_close(old.weight, new.weight, rtol=0, atol=0)


@pytest.mark.parametrize("into", [None, 7])
def test_poisoning_takes_one_class(model, data, into):
    made = training.poisoned(model, data[0], data[1], 0, target=2, into=into, epochs=25)
    victims = data[3] == 2
    said = labels(made, data[2][victims])
    success = (said != 2) if into is None else (said == into)
    assert float(success.float().mean()) >= 0.85
    kept = labels(made, data[2][~victims]) == data[3][~victims]
    before = labels(model, data[2][~victims]) == data[3][~victims]
    assert float(before.float().mean() - kept.float().mean()) <= 0.02


def test_a_student_learns(model, data):
    def student():
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10)
        )

    made = training.distilled(model, data[0], 0, student=student, epochs=10)
    assert not made.training
    assert float((labels(made, data[2]) == labels(model, data[2])).float().mean()) > 0.85


def test_what_does_not_fit(model, data):
    x, y = data[:2]
    with pytest.raises(InputError, match="a mask of"):
        training.neuron_trojan(model, x, 0, target=1, mask=training.corner((1, 4, 4), 2))
    with pytest.raises(InputError, match="4 layers"):
        training.neuron_trojan(model, x, 0, target=1, mask=training.corner((1, 8, 8), 2), layers=4)
    with pytest.raises(InputError, match="no sample of class 11"):
        training.poisoned(model, x, y, 0, target=11)
    with pytest.raises(InputError, match="one label for each"):
        training.fine_tuned(model, x, y[:5], 0)
    with pytest.raises(InputError, match="2 at least"):
        attacks.quantised(model, bits=1)
    with pytest.raises(InputError, match="no weights"):
        attacks.quantised(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match="bias"):
        attacks.shifted_bias(nn.Linear(2, 2, bias=False), 0)


def test_attacks_on_numbers_need_no_torch():
    code = "import sys, securedl.verify.attacks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
