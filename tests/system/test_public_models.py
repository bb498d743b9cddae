"""Networks in the styles of the public ones, encrypted on a server: the answers are the network's own."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import securedl

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "network"))
from public_models import MODELS, made  # found by path, not by package

#: The others take 4 s to 20 s each.
QUICK = {"tabular", "tied autoencoder", "two heads", "inception", "graph", "wide and deep", "normalising"}
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name, public in MODELS.items()
    if public.encrypted
]


@pytest.mark.parametrize("name", NAMES)
def test_encrypted_answers_are_the_networks(name, local, folder):
    model, x = made(name)
    poly = securedl.approximate(model, x)
    plan = securedl.compile(poly, x, batch=4)
    with local(folder, securedl.Owner(plan)) as client:
        client.upload()
        answer = client.predict(x[:8])
    assert answer.report.passed
    exact = copy.deepcopy(poly).double()
    with torch.no_grad():
        want, range_ = exact(x[:8].double()).numpy(), np.ptp(exact(x.double()).numpy())
    head = plan.signature.output.head
    found = answer.probabilities if head.kind in ("softmax", "sigmoid") else head(answer.logits)
    assert found.shape == (8, *MODELS[name].answer)
    assert np.abs(found - want).max() < 2.0**-10 * range_  # what every plan promises
