"""What type checkers make of the public names. Never run: test_surface.py gives it to mypy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn
from typing_extensions import assert_type

import protocol
import securedl
from securedl.activations.replace import PolynomialNetwork
from securedl.verify.report import Report


def user(model: nn.Module, x: Any) -> None:
    """A whole use, as in the README."""
    assert_type(securedl.from_sklearn(x), nn.Sequential)
    assert_type(securedl.from_onnx("model.onnx", sample_shape=(1, 28, 28)), fx.GraphModule)
    poly = securedl.approximate(model, x)
    assert_type(poly, PolynomialNetwork)
    link = securedl.Link(rtt_ms=20, mbit_s=100)
    assert_type(link, securedl.Link)
    plan = securedl.compile(poly, x, link=link)
    assert_type(plan, securedl.Plan)
    assert_type(securedl.load_plan("plan"), securedl.Plan)
    assert_type(plan.simulate(x), NDArray[np.float64])
    owner = securedl.Owner(plan)
    assert_type(owner, securedl.Owner)
    assert_type(securedl.Owner.load("owner", passphrase="secret"), securedl.Owner)
    with protocol.Client("127.0.0.1:7443", owner) as client:
        assert_type(client, protocol.Client)
        answer = client.predict(x, probes=securedl.Probes(8))
        assert_type(answer, securedl.Answer)
        assert_type(client.predict(x), securedl.Answer)
    assert_type(answer.logits, NDArray[np.float64])
    assert_type(answer.report, Report)
    assert_type(answer.timings, dict[str, float])
    assert_type(securedl.__version__, str)


async def service(owner: securedl.Owner, x: Any) -> None:
    """The same on an event loop."""
    async with protocol.AsyncClient("127.0.0.1:7443", owner) as client:
        assert_type(client, protocol.AsyncClient)
        assert_type(await client.predict(x), securedl.Answer)
        parts = client.predict_batches(x)
        async for part in parts:
            assert_type(part.passed, bool)
        assert_type(parts.answer, securedl.Answer)


def oracle(answer: securedl.Answer) -> None:
    """A wrong claim is noticed: strict mypy calls an ignore without an error an error."""
    assert_type(answer, securedl.Plan)  # type: ignore[assert-type]
    answer.logit  # type: ignore[attr-defined]  # noqa: B018
