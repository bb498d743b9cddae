"""Tries to have another network compiled than the model: each comes in as it is, or is refused.

What a network does may hide in hooks, in what it does when it trains, in state that it changes or reads when
it runs, in its precision, in how many samples there are. Each try is compiled, and made polynomial first, and
what the plan computes is compared with the model itself.
"""

from __future__ import annotations

import functools
import random
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

import securedl
from securedl.errors import SecureDLError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
X = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
RIGHT = ""


def square(x: Tensor) -> Tensor:
    return 0.1 * x * x + 0.5 * x + 0.2


class Square(nn.Module):
    def forward(self, x):
        return square(x)


class Free(nn.Module):
    """Two layers and whatever function of them."""

    def __init__(self, function, **parts):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        for name, value in parts.items():
            setattr(self, name, value)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def plain(middle=None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), middle or Square(), nn.Linear(4, 3))


TRIES: dict[str, tuple] = {}


def attempt(make, message: str = RIGHT) -> None:
    """A network under the name of the function that makes it, and what it is refused with, if it is."""
    TRIES[make.__name__] = make, message


def tries(message: str = RIGHT, **functions) -> None:
    """Networks of the two layers, by their functions."""
    for name, function in functions.items():
        TRIES[name] = functools.partial(Free, function), message


# --- hooks -----------------------------------------------------------------------------------------


def hook_on_the_model():
    model = plain()
    model.register_forward_hook(lambda m, i, o: o * 2 + 1)
    return model


def hook_before_the_model():
    model = plain()
    model.register_forward_pre_hook(lambda m, i: (i[0] * 2 + 1,))
    return model


def hooks_on_layers():
    model = plain()
    model[0].register_forward_hook(lambda m, a, k, o: o * 2 + 1, with_kwargs=True, always_call=True)
    model[1].register_forward_hook(lambda m, i, o: o.mul_(2))
    model[3].register_forward_pre_hook(lambda m, a, k: ((a[0] * 3,), k), with_kwargs=True)
    return model


def hooks_on_gradients():
    model = plain()
    model[0].register_full_backward_hook(lambda m, a, b: None)
    model.register_full_backward_pre_hook(lambda m, a: None)
    return model


def hook_that_reads_values():
    model, seen = plain(), []
    model[0].register_forward_hook(lambda m, i, o: seen.append(float(o.mean())))
    return model


def hook_that_keeps_values():
    model, seen = plain(), []
    model[0].register_forward_hook(lambda m, i, o: seen.append(o))
    return model


def hook_that_changes_weights():
    model = plain()

    def clip(layer, given):
        with torch.no_grad():
            layer.weight.copy_(layer.weight.clamp(-0.1, 0.1))

    model[0].register_forward_pre_hook(clip)
    return model


for _make in (hook_on_the_model, hook_before_the_model, hooks_on_layers, hooks_on_gradients):
    attempt(_make)
attempt(hook_that_reads_values, "decides by the values of its data")
attempt(hook_that_keeps_values)
attempt(hook_that_changes_weights, "changes 0.weight when it runs")

# --- what it does when it trains ----------------------------------------------------------------------

tries(
    branch_on_training=lambda m, x: m.b(square(m.a(x))) * (1 if m.training else 2),
    branch_on_a_layers_training=lambda m, x: m.b(square(m.a(x))) * (1 if m.a.training else 2),
    dropout_off=lambda m, x: m.b(square(functional.dropout(m.a(x), 0.5, m.training))),
    dropout_of_nothing=lambda m, x: m.b(square(functional.alpha_dropout(m.a(x), 0.5))),
)
tries("always active", dropout_by_default=lambda m, x: m.b(square(functional.dropout(m.a(x)))))
tries(
    "without running statistics",
    statistics_of_the_batch=lambda m, x: m.b(
        square(functional.batch_norm(m.a(x), None, None, training=True))
    ),
)


def norm_that_never_leaves_training():
    class Norm(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(True)

    return nn.Sequential(nn.Linear(4, 4), Norm(4), Square(), nn.Linear(4, 3))


def norm_without_statistics():
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    return nn.Sequential(nn.Linear(4, 4), norm, Square(), nn.Linear(4, 3))


attempt(norm_that_never_leaves_training, "changes 1.running_mean")
attempt(norm_without_statistics, "without running statistics")

# --- weights that are made of others ------------------------------------------------------------------


def pruned():
    model = plain()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def pruned_and_changed():
    model = pruned()
    model(X)
    with torch.no_grad():
        model[0].weight_orig.mul_(3)
    return model


def pruned_for_good():
    model = plain()
    prune.random_structured(model[0], "weight", 0.5, dim=0)
    prune.remove(model[0], "weight")
    return model


def weight_norm():
    model = plain()
    parametrizations.weight_norm(model[0])
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(2)
    return model


def old_weight_norm():
    model = plain()
    nn.utils.weight_norm(model[0])
    with torch.no_grad():
        model[0].weight_g.mul_(2)
    return model


def spectral_norm():
    model = plain()
    parametrizations.spectral_norm(model[0])
    nn.utils.spectral_norm(model[3])
    model(X)
    return model


def _parametrized(function):
    class Made(nn.Module):
        def forward(self, weight):
            return function(self, weight)

    model = plain()
    parametrize.register_parametrization(model[0], "weight", Made())
    return model


def weights_by_a_function():
    return _parametrized(lambda m, w: w.triu() + w.triu(1).T)


def weights_of_training():
    return _parametrized(lambda m, w: w * 2 if m.training else w)


def weights_with_noise():
    return _parametrized(lambda m, w: w + torch.randn_like(w))


def weights_in_other_orders():
    model = plain()
    model[0].weight = nn.Parameter(torch.randn(4, 4).t())
    model[3].weight = nn.Parameter(torch.randn(4, 6)[:, ::2].t())
    return model


for _make in (pruned, pruned_and_changed, pruned_for_good, weight_norm, old_weight_norm, spectral_norm):
    attempt(_make)
for _make in (weights_by_a_function, weights_of_training, weights_in_other_orders):
    attempt(_make)
attempt(weights_with_noise, "gives other values at each call")

# --- modules -------------------------------------------------------------------------------------------


def module_used_three_times():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, Square(), layer, Square(), layer)


def weights_of_another_layer():
    model = nn.Sequential(nn.Linear(4, 4), Square(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    return model


def call_that_does_more():
    class Louder(nn.Linear):
        def __call__(self, x):
            return super().__call__(x) * 2 + 1

    return nn.Sequential(Louder(4, 4), Square(), nn.Linear(4, 3))


def model_whose_call_does_more():
    class Louder(nn.Sequential):
        def __call__(self, x):
            return super().__call__(x) * 2 + 1

    return Louder(*plain())


def forward_of_its_own():
    model = plain()
    old = model.forward
    model.forward = lambda x: old(x) * 2 + 1
    return model


def layer_with_a_forward_of_its_own():
    model = plain()
    old = model[0].forward
    model[0].forward = lambda x: old(x) * 2 + 1
    return model


def in_parallel():
    return nn.DataParallel(plain())


def compiled_by_torch():
    return torch.compile(plain(), backend="eager")


for _make in (
    module_used_three_times, weights_of_another_layer, call_that_does_more, forward_of_its_own,
    layer_with_a_forward_of_its_own, in_parallel, compiled_by_torch,
    model_whose_call_does_more,
):  # fmt: skip
    attempt(_make)


def modules_that_swap():
    def forward(m, x):
        m.a, m.c = m.c, m.a
        return m.b(square(m.a(x)))

    return Free(forward, c=nn.Linear(4, 4))


attempt(modules_that_swap, "other answers")

# --- state ------------------------------------------------------------------------------------------------


def _with_buffer(function, value=0.0):
    model = Free(function)
    model.register_buffer("count", torch.tensor(value))
    return model


def buffer_changed_after_it_was_made():
    model = _with_buffer(lambda m, x: m.b(square(m.a(x))) * m.count, 1.0)
    model.count.fill_(3.0)
    return model


def buffer_that_counts():
    def count(m, x):
        m.count += 1
        return m.b(square(m.a(x))) * m.count

    return _with_buffer(count)


def buffer_made_anew():
    def count(m, x):
        m.count = m.count + 1
        return m.b(square(m.a(x))) * m.count

    return _with_buffer(count)


def _calls(rule):
    def forward(m, x):
        m.calls += 1
        return m.b(square(m.a(x))) * rule(m.calls)

    return Free(forward, calls=0)


def number_that_counts():
    return _calls(lambda calls: calls)


def every_second_call():
    return _calls(lambda calls: 1 + calls % 2)


def what_the_last_call_left():
    def forward(m, x):
        h = m.a(x)
        h = h if m.last is None or m.last.shape != h.shape else h + m.last
        m.last = h.detach()
        return m.b(square(h))

    return Free(forward, last=None)


def weights_kept_from_the_first_call():
    def forward(m, x):
        if m.kept is None:
            m.kept = m.a.weight * 2
        return m.b(square(functional.linear(x, m.kept)))

    return Free(forward, kept=None)


def weights_that_shrink():
    def forward(m, x):
        with torch.no_grad():
            m.a.weight.mul_(0.9)
        return m.b(square(m.a(x)))

    return Free(forward)


def data_that_shrinks():
    def forward(m, x):
        m.a.weight.data.mul_(0.9)
        return m.b(square(m.a(x)))

    return Free(forward)


attempt(buffer_changed_after_it_was_made)
attempt(buffer_that_counts, "changes count")
attempt(buffer_made_anew, "changes count")
attempt(number_that_counts, "at each call")
attempt(every_second_call, "at each call")
attempt(what_the_last_call_left, "other answers")
attempt(weights_kept_from_the_first_call)
attempt(weights_that_shrink, "changes a.weight")
attempt(data_that_shrinks, ".data")
tries(
    "gives other values at each call",
    noise=lambda m, x: m.b(square(m.a(x) + torch.randn(4))),
    noise_after_a_seed=lambda m, x: (torch.manual_seed(0), m.b(square(m.a(x) + torch.randn(4))))[1],
)
tries(
    "at each call",
    python_noise=lambda m, x: m.b(square(m.a(x))) * random.random(),
    numpy_noise=lambda m, x: m.b(square(m.a(x))) * np.random.rand(),
)

# --- in place ---------------------------------------------------------------------------------------------


def _in_place(change):
    def forward(m, x):
        h = m.a(x)
        new = change(h, x)
        return m.b(square(h if new is None else new))

    return functools.partial(Free, forward)


def _slices(h, x):
    h[:, 0] = h[:, 1] * 2
    h[:, 3] = 0


def _mask(h, x):
    h[h < 0] = 0


def _through_a_view(h, x):
    h[:, 1:3].add_(5)


def _old_view(h, x):
    old = h.view(-1, 2, 2)
    h += 1
    return old.reshape(-1, 4)


def _into_zeros(h, x):
    made = torch.zeros(x.shape[0], 4)
    made[:, 1:] = h[:, 1:]
    made[:, 0].copy_(x[:, 2])
    return made


def _data(h, x):
    h.data.mul_(3)


def _detached(h, x):
    h.detach().mul_(3)


for _change, _message in (
    (_slices, RIGHT), (_through_a_view, RIGHT), (_old_view, RIGHT), (_into_zeros, RIGHT), (_detached, RIGHT),
    (_mask, "index_put"), (_data, ".data"),
):  # fmt: skip
    TRIES[f"in_place{_change.__name__}"] = _in_place(_change), _message
tries(changed_samples=lambda m, x: m.b(square(m.a(x.clone().mul_(2)))))
tries("changes x", samples_in_place=lambda m, x: m.b(square(m.a(x.mul_(2)))))

# --- numbers of samples, and samples among others -----------------------------------------------------------

tries(
    ones_for_each=lambda m, x: m.b(square(m.a(x + torch.ones(x.shape[0], 4)))),
    twice_and_back=lambda m, x: m.b(square(m.a(torch.cat([x, x]))))[x.shape[0] :],
    beside_itself=lambda m, x: m.b(square(m.a(torch.stack([x, 2 * x])))).sum(0),
)
tries(
    "samples",
    times_their_number=lambda m, x: m.b(square(m.a(x))) * x.shape[0],
    divided_by_their_number=lambda m, x: m.b(square(m.a(x))) / len(x),
    more_than_ten=lambda m, x: m.b(square(m.a(x))) * (2 if x.shape[0] > 10 else 1),
    one_alone=lambda m, x: m.b(square(m.a(x))) * (2 if x.shape[0] == 1 else 1),
    odd_numbers=lambda m, x: m.b(square(m.a(x))) * (1 + x.shape[0] % 2),
    many_elements=lambda m, x: m.b(square(m.a(x))) * (2 if x.numel() > 64 else 1),
    a_number_for_each=lambda m, x: m.b(square(m.a(x + torch.arange(x.shape[0])[:, None]))),
    less_their_mean=lambda m, x: m.b(square(m.a(x - x.mean(0)))),
    their_sum_unless_it_fails=lambda m, x: m.b(square(m.a(x))) * _number_or_one(x),
    the_first_for_all=lambda m, x: m.b(square(m.a(x + x[:1]))),
    the_one_before=lambda m, x: m.b(square(m.a(x.roll(1, 0)))),
    the_sum_so_far=lambda m, x: m.b(square(m.a(x.cumsum(0)))),
    halves=lambda m, x: torch.cat([m.b(square(m.a(c))) * (k + 1) for k, c in enumerate(x.chunk(2))]),
    threes=lambda m, x: torch.cat([m.b(square(m.a(c))) * (k + 1) for k, c in enumerate(x.split(3))]),
)

# --- precision, and how it is run ---------------------------------------------------------------------------

tries(
    precision_of_samples=lambda m, x: m.b(square(m.a(x))) * (2 if x.dtype == torch.float32 else 1),
    through_double=lambda m, x: m.b(square(m.a(x)).double().float()),
    without_gradients=lambda m, x: m.b(square(_without_gradients(m.a, x))),
    strides=lambda m, x: m.b(square(m.a(x))) * x.stride(0),
)
tries("rounds", through_half=lambda m, x: m.b(square(m.a(x)).half().float()))
tries("rounds", through_integers=lambda m, x: m.b(square(m.a(x)).int().float()))
tries(
    "gradients",
    gradients_or_not=lambda m, x: m.b(square(m.a(x))) * (2 if m.a(x).requires_grad else 1),
    gradients_enabled=lambda m, x: m.b(square(m.a(x))) * (2 if torch.is_grad_enabled() else 1),
)
tries(
    "differs from the model",
    type_of_samples=lambda m, x: m.b(square(m.a(x))) * (2 if type(x) is torch.Tensor else 1),
    while_exported=lambda m, x: m.b(square(m.a(x))) * (1 if torch.compiler.is_exporting() else 2),
)
tries(
    "decides by the values", choice_by_weights=lambda m, x: m.b(m.a(x)) * (2 if m.a.weight.sum() > 0 else 3)
)


def _without_gradients(layer, x):
    with torch.no_grad():
        return layer(x)


def _number_or_one(x):
    try:
        return 2 + abs(float(x.sum()))
    except Exception:
        return 1


def answers(model: nn.Module) -> np.ndarray:
    """What a model does with the first samples, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(X[:32].clone()).double().numpy()


def outside(model: nn.Module):
    """All that a caller could see changed."""
    return {
        path: (module.training, sorted(module.__dict__), len(module._forward_hooks), list(module._modules))
        for path, module in model.named_modules()
    }


def test_there_are_many():
    assert len(TRIES) >= 80


@pytest.mark.parametrize("name", TRIES)
def test_it_comes_in_as_it_is_or_is_refused(name):
    make, message = TRIES[name]
    torch.manual_seed(3)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d) and module.track_running_stats:
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.4, 1.6)
    model.train()
    before = outside(model), {key: value.clone() for key, value in model.state_dict().items()}
    for made in (lambda: model, lambda: securedl.approximate(model, X)):
        if message:
            with pytest.raises(SecureDLError, match=re.escape(message)):
                securedl.compile(made(), X, batch=4)
            continue
        network = made()
        plan = securedl.compile(network, X, batch=4)
        assert model.training
        after = outside(model), model.state_dict()
        assert before[0] == after[0]
        assert all(torch.equal(value, after[1][key]) for key, value in before[1].items())
        found = plan.simulate(X[:32], noise_seed=None)
        want = answers(network)
        model.train()
        assert np.abs(found - want).max() < 1e-4 * np.ptp(want)


def test_no_hook_of_all_modules_is_missed():
    model = plain()
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, i, o: o * 2 if isinstance(m, nn.Linear) else None
    )
    try:
        plan = securedl.compile(model, X, batch=4)
        want = answers(model)
    finally:
        handle.remove()
    assert np.abs(plan.simulate(X[:32], noise_seed=None) - want).max() < 1e-4 * np.ptp(want)
    assert np.abs(want - answers(model)).max() > 0.1


def test_what_is_done_to_the_model_later_does_not_reach_the_plan():
    model = plain()
    network = securedl.approximate(model, X)
    plan = securedl.compile(network, X, batch=4)
    want = answers(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    assert np.abs(plan.simulate(X[:32], noise_seed=None) - want).max() < 1e-4 * np.ptp(want)
