"""What a client process of the benchmark does, and what it saw."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS = ((16, 32, 32, 4), (24, 48, 3))
#: The precision that every plan promises, as a share of the logit range.
PRECISION = 2.0**-10
MOST_SAMPLES, PROBES = 48, 8


@dataclass
class Calls:
    """What one client saw; latencies in ms.

    Attributes:
        wrong: samples with a wrong logit or label. lost: samples without an answer.
        worst_error: largest deviation of a logit, as a share of what the plan promises.
        queries, bytes: of the answers' own counts; what was asked again after a restart is not in them.
        asked_again: pauses before something was asked again.
    """

    client: int
    latencies: list[float] = field(default_factory=list)
    samples: int = 0
    probes: int = 0
    queries: int = 0
    bytes: int = 0
    wrong: int = 0
    lost: int = 0
    alarms: int = 0
    asked_again: int = 0
    worst_error: float = 0.0
    failure: str = ""

    @property
    def ms_a_sample(self) -> float:
        """Over all calls."""
        return sum(self.latencies) / max(self.samples, 1)


def prepare(folder: Path, index: int) -> None:
    """Compile a network; its plan, samples and due logits go to `folder`."""
    import torch
    from torch import nn

    import securedl

    sizes = NETWORKS[index]
    x = np.random.default_rng(index).uniform(-1, 1, (300, sizes[0]))
    torch.manual_seed(index)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    model = securedl.approximate(nn.Sequential(*layers[:-1]).double(), x, degree=2)
    securedl.compile(model, x, batch=32, ring=8192).save(folder / f"plan{index}")
    with torch.no_grad():
        np.savez(folder / f"due{index}.npz", x=x, logits=model(torch.as_tensor(x)).numpy())


def client(folder: Path, address: str, token: str, number: int, ready: Any, until: Any, results: Any) -> None:
    """One client process: upload, say so, predict until the time that `until` holds."""
    calls = Calls(number)
    try:
        _predict(folder, address, token, calls, ready, until)
    except Exception as error:  # any is a finding, and the parent must hear of it
        calls.failure = f"client {number}: {type(error).__name__}: {error}"
        ready.release()
    results.put(calls)


def _predict(folder: Path, address: str, token: str, calls: Calls, ready: Any, until: Any) -> None:
    import logging

    import protocol
    import securedl
    from protocol.expect import Expectations

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            calls.asked_again += "asking again" in record.getMessage()

    logging.getLogger("protocol.client").addHandler(Count())
    index = calls.client % len(NETWORKS)
    owner = securedl.Owner(securedl.load_plan(folder / f"plan{index}"))
    owner.verification.prepare()
    query = sum(Expectations.of(owner.program).traffic(1).values())
    due = np.load(folder / f"due{index}.npz")
    allowed = PRECISION * np.ptp(due["logits"])
    rng = np.random.default_rng([7, calls.client])
    with protocol.Client(address, owner, token=token) as connection:
        connection.upload()
        ready.release()
        while until.value == 0:
            time.sleep(0.01)
        while time.time() < until.value:
            chosen = rng.choice(len(due["x"]), rng.integers(1, MOST_SAMPLES + 1), replace=False)
            began = time.perf_counter()
            answer = connection.predict(due["x"][chosen], probes=PROBES)
            calls.latencies.append(1e3 * (time.perf_counter() - began))
            calls.bytes += sum(answer.traffic.values())
            calls.queries += sum(answer.traffic.values()) // query
            _check(calls, answer, due["logits"][chosen], allowed)


def _check(calls: Calls, answer: Any, logits: np.ndarray, allowed: float) -> None:
    calls.samples += len(logits)
    calls.probes += answer.report.probes
    calls.lost += len(logits) - int(np.isfinite(answer.logits).all(axis=1).sum())
    error = np.abs(answer.logits - logits).max(axis=1)
    calls.worst_error = max(calls.worst_error, float(error.max() / allowed))
    best = np.sort(logits, axis=1)
    sure = best[:, -1] - best[:, -2] > 2 * allowed
    mislabelled = sure & (answer.labels != logits.argmax(axis=1))
    calls.wrong += int(np.count_nonzero(~(error <= allowed) | mislabelled))
    calls.alarms += not answer.report.passed
