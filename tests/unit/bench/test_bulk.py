"""bench.bulk: every sample is answered, by one call or several at once, and the shares add up."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import securedl
from bench.bulk import HEAD, LINK, SHARES, asked, best, line, processor_s


@pytest.mark.parametrize("streams", [1, 2])
def test_all_samples_are_answered(streams: int) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).uniform(-1, 1, (100, 4)).astype(np.float32)
    model = securedl.approximate(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), x, degree=2)
    plan = securedl.compile(model, x, batch=32, link=LINK)
    row = asked("small", "server", plan, model, x, 1, streams)
    assert row.samples == 100
    assert row.same >= 98  # two logits may be nearly equal
    assert row.per_s > 0
    assert sum(row.shares.values()) == pytest.approx(1)
    assert set(row.shares) == set(SHARES)
    assert row.server_busy > 0
    assert len(line(row)) == len(HEAD)
    slower = replace(row, per_s=row.per_s / 2)
    assert best([slower, row, slower]) == [row]
    assert best([row, replace(slower, network="other")])[1].network == "other"


def test_processor_time_is_that_of_the_process() -> None:
    assert processor_s(os.getpid()) == pytest.approx(sum(os.times()[:2]), abs=0.1)
