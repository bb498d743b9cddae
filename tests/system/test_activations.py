"""Sigmoid, tanh and ReLU networks of degrees 2 and 3 through a server and a client."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.he


@pytest.mark.parametrize(("activation", "degree"), [("sigmoid", 2), ("tanh", 2), ("tanh", 3), ("relu", 3)])
def test_encrypted_is_plain(network, local, folder, activation: str, degree: int) -> None:
    net = network((6, 8, 3), activation, degree)
    x = np.random.default_rng(9).uniform(-1, 1, (40, 6))
    with local(folder, net.owner(), f"{activation}{degree}") as client:
        client.upload()
        answer = client.predict(x)
    assert answer.logits.shape == (40, 3)
    assert net.close(x, answer.logits)
    sure = net.sure(x)
    assert sure.any()
    np.testing.assert_array_equal(answer.labels[sure], net.logits(x).argmax(axis=1)[sure])
    assert answer.report.passed, answer.report.summary()
    assert answer.report.probes >= 8
