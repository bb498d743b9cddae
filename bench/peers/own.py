"""SecureDL itself, query and weights encrypted.

With activations="client" the network has its own activations, with activations="server" polynomials.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import securedl
from bench.models.measure import Stages, Together, sizes
from bench.models.networks import NETWORKS
from bench.models.training import Task, _kept, polynomial, task, trained
from bench.peers.networks import SHAPES
from bench.peers.rows import Row

#: Calibration samples.
CALIBRATION = 512
#: Of machines side by side: the plan is the fastest in computation, as a peer's.
LINK = securedl.Link(1.0, 10_000.0)
#: Who applies the activations, and for which networks: small ones are tuned in little time.
WHO = {"client": tuple(SHAPES), "server": ("wine", "digits", "cryptonets")}


def rows(name: str) -> Iterator[Row]:
    """Of all ways to run a network."""
    for who, names in WHO.items():
        if name in names:
            yield measured(name, who)


def measured(name: str, activations: str = "client", queries: int = 15) -> Row:
    """One row: the clock and the stages are those of `bench.models`."""
    data = task(NETWORKS[name])
    print(f"{name}: SecureDL: compiling for activations by the {activations}", flush=True)
    model = _model(name, data) if activations == "client" else polynomial(name, data)
    plan = securedl.compile(model, data.x_train[:CALIBRATION], batch=1, activations=activations, link=LINK)
    print(f"{name}: SecureDL: running", flush=True)
    together, asked = Together(plan), data.x_test[:4]
    found, server_ms, stages = _asked(together, plan.batches(plan.checked(asked)), queries)
    with torch.no_grad():
        wanted = model.double()(torch.from_numpy(asked).double()).numpy()
    found, size = found[: len(wanted)], sizes(plan)
    return Row(
        name,
        "SecureDL",
        f'activations="{activations}"',
        "query, weights",
        server_ms=server_ms,
        wall_ms=stages["server"],
        client_ms=stages["client"],
        error=float(np.abs(found - wanted).max() / np.ptp(wanted)),
        query_bytes=size["query_bytes"],
        answer_bytes=size["answer_bytes"],
        key_bytes=size["key_bytes"],
        weight_bytes=size["upload_bytes"] - size["key_bytes"],
        repeats=queries,
        settings=f"N = {plan.program.params.ring}, {size['trips']} trips",
        extra={"load_ms": stages["load"], "dump_ms": stages["dump"], "prepare_s": together.prepared_s},
    )


def _asked(
    together: Together, batches: list[NDArray[Any]], queries: int
) -> tuple[NDArray[np.float64], float, dict[str, float]]:
    """Logits of the batches, the server's ms and all stages: medians of queries after a first one."""
    together.stages = clock = _ProcessorStages()
    answers, totals = [], []
    for number in range(queries + 1):
        began = time.process_time()
        answers.append(together.ask(batches[number % len(batches)]))
        totals.append(1e3 * (time.process_time() - began))
    servers = [total - client for total, client in zip(totals, clock.seen["client"], strict=True)]
    return np.concatenate(answers[: len(batches)]), statistics.median(servers[1:]), clock.medians()


class _ProcessorStages(Stages):
    """Of the processor, as those of the peers; the server's, which are not counted here, stay on the wall."""

    @contextmanager
    def __call__(self, *names: str) -> Iterator[None]:
        began = time.process_time()
        yield
        ms = 1e3 * (time.process_time() - began)
        for name in names:
            self._now[name] = self._now.get(name, 0.0) + ms


def _model(name: str, data: Task) -> nn.Module:
    """Trained, if `bench.models` has done so; otherwise random: times do not depend on it."""
    if _kept(f"{name}-{NETWORKS[name].epochs}").exists():
        return trained(name, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETWORKS[name].build().eval()
