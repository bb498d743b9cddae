"""Networks that end in a Sigmoid or Softmax and something after it: labels as due, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import securedl
from securedl.errors import InputError

X = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))


class Ends(nn.Module):
    def __init__(self, end, outputs=1):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.end = nn.Linear(4, outputs), end

    def forward(self, x):
        return self.end(self.layer(x))


IDLE = {
    "nothing": lambda p: p,
    "select": lambda p: p[:, 0],
    "ellipsis": lambda p: p[..., 0],
    "casts": lambda p: p.double().float(),
    "copies": lambda p: p.clone().contiguous().detach(),
    "clamp": lambda p: p.clamp(1e-7, 1 - 1e-7),
    "clip and reshape": lambda p: torch.clip(p, min=1e-6).reshape(-1),
    "dropout": lambda p: functional.dropout(p, 0.1, False),
    "permute": lambda p: p.permute(0, 1),
    "times one": lambda p: p * 1.0,
    "unbind": lambda p: p.unbind(1)[0],
    "narrow": lambda p: p.narrow(1, 0, 1).squeeze(1),
}


@pytest.mark.parametrize("sigmoid", [torch.sigmoid, torch.special.expit])
@pytest.mark.parametrize("name", IDLE)
def test_a_sigmoid_before_moves_and_copies_is_left_to_the_client(name, sigmoid):
    model = Ends(lambda h: IDLE[name](sigmoid(h)))
    poly = securedl.approximate(model, X)
    assert not poly.replacements
    plan = securedl.compile(poly, X, batch=4)
    assert plan.task == "binary"
    output = plan.signature.output
    assert output.head.kind == "sigmoid"
    with torch.no_grad():
        want = model(X).numpy()
        logits = torch.logit(model(X).double()).numpy()
    assert plan.simulate(X).shape == want.shape
    assert np.abs(plan.simulate(X) - want).max() < 1e-4
    assert (output.labels(logits) == (want > 0.5).reshape(100)).all()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda h: torch.sigmoid(h) * 2, "sigmoid and mul"),
        (lambda h: 1 - torch.sigmoid(h), "sigmoid and rsub"),
        (lambda h: torch.sigmoid(h).clamp(0.1, 0.9)[:, 0], "sigmoid and clamp"),
        (lambda h: functional.hardsigmoid(h).clone(), "hardsigmoid"),
    ],
)
@pytest.mark.parametrize("task", [None, "binary"])
def test_signs_of_probabilities_are_no_labels(end, words, task):
    with pytest.raises(InputError, match=f"ends in {words}.*, so that its answers are no logits"):
        securedl.approximate(Ends(end), X, task=task)


def test_numbers_made_of_a_sigmoid_are_a_regression():
    poly = securedl.approximate(Ends(lambda h: torch.sigmoid(h) * 100), X, task="regression")
    assert [one.function for one in poly.replacements] == ["sigmoid"]
    assert securedl.compile(poly, X, batch=4).task == "regression"


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (lambda h: torch.softmax(h, 1).double(), True),
        (lambda h: functional.log_softmax(h, dim=-1).clone(), True),
        (lambda h: torch.softmax(h, 1)[:, 1], False),
        (lambda h: torch.softmax(h, 1).flip(1), False),
    ],
)
def test_a_softmax_before_moves_is_no_end(end, left):
    model = Ends(end, 3)
    if not left:
        with pytest.raises(securedl.errors.UnsupportedLayerError, match="Softmax inside a network"):
            securedl.approximate(model, X)
        return
    plan = securedl.compile(securedl.approximate(model, X), X, batch=4)
    with torch.no_grad():
        assert np.abs(plan.simulate(X) - model(X).numpy()).max() < 1e-4
