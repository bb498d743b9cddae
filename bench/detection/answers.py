"""What tampering with one answer is noticed: through a server's own sockets, on ciphertexts, without any key.

    python -m bench.detection answers [--quick] [--runs N] [--honest N] [--json FILE]

A server adds to one value of one sample, at a refresh or in the answer, as little as changes that sample's
label. It is told the sample's lane, the value and how much: no real one could know them. Beside it answers of
an honest server are counted, over several keys, with samples that fill the plan's box among them, and what
raised an alarm.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import protocol
import securedl
from bench.detection.records import added
from bench.detection.watching import Watching
from bench.models.networks import NETWORKS
from bench.models.training import polynomial, task, trained
from protocol.executor import Evaluation, Here
from protocol.models import LoadedModel
from securedl.demo.data import HIDDEN, load_split, train_network
from securedl.files import write_atomically
from securedl.he.record import Record
from securedl.network.graph import Array
from securedl.plan.network import within_headroom
from securedl.plan.plan import Plan
from securedl.verify.statistics import wilson_interval

RUNS, HONEST, KEYS = 1000, 20_000, 20
#: What compares answers.
CHECKS = ("recomputed", "projected")
#: The largest change that is tried of a value that reaches 1.
LARGEST = 24.0
#: The network of images, how many of them calibrate it, and with how many it is tried (if none overflows).
CNN, CALIBRATION, IMAGES = "cryptonets", 512, 1000
#: Doublings and halvings after which a change is known to a millionth of it.
STEPS = 40


class Push(NamedTuple):
    """Added to what is sent at a checkpoint: to one value [lane, feature], so much."""

    point: int
    lane: int
    feature: int
    amount: float


@dataclass
class Pushing(Here):
    """An honest executor, but for one value of a query: `push`, if any, and it is forgotten."""

    plan: Plan
    push: Push | None = None
    _honest: Here = field(default_factory=Here)

    def begin(self, model: LoadedModel, alive: Callable[[], bool]) -> Evaluation:
        """See `Here`."""
        push, self.push = self.push, None
        return _Pushed(self._honest.begin(model, alive), self.plan, push)


@dataclass
class _Pushed(Evaluation):
    honest: Evaluation
    plan: Plan
    push: Push | None
    point: int = 0

    def step(self, tiles: Iterable[Record] | None) -> list[Record]:
        found = self.honest.step(tiles)
        self.point += 1
        if self.push is not None and self.push.point == self.point:
            tile, values = place(self.plan, self.push)
            found[tile] = added(self.plan.program.params, found[tile], values)
        return found

    def close(self) -> None:
        self.honest.close()


def place(plan: Plan, push: Push) -> tuple[int, Array]:
    """A tile of a checkpoint, and slots [n] or coefficients [N] that change this value alone."""
    layout, port = plan.signature.checkpoints[push.point].sent, plan.signature.sent[push.point - 1]
    assert layout is not None
    params = plan.program.params
    length = params.ring if port.coefficients else params.slots
    # Every place has a number of its own, and the sums that layouts leave to the client are of a few.
    for tile in range(port.tiles):
        ones = np.zeros((port.tiles, length))
        low, high = 0, length
        while high - low > 1:
            middle = (low + high) // 2
            ones[:], ones[tile, low:middle] = 0.0, 1.0
            reached = plan.signature.values(push.point, ones)[push.lane, push.feature] > 0
            low, high = (low, middle) if reached else (middle, high)
        ones[:], ones[tile, low] = 0.0, 1.0
        if plan.signature.values(push.point, ones)[push.lane, push.feature] > 0:
            return tile, ones[tile] * push.amount
    raise AssertionError("no place has this value")


def answered(plan: Plan, flat: Array, push: Push | None = None) -> Array:
    """Logits [batch, outputs] of samples [batch, features] in the clear, with a push."""
    points, talk, point = plan.signature.checkpoints, plan.signature.converse(flat), 1
    sent = next(talk)
    while True:
        *_, (received, _) = plan.network.inside(point, sent, points)
        if push is not None and push.point == point:
            received = received.copy()
            received[push.lane, push.feature] += push.amount
        try:
            tap = point < len(points) - 1 and points[point].back is None
            sent, point = received if tap else talk.send(received), point + 1
        except StopIteration as end:
            logits: Array = end.value
            return logits


def smallest(plan: Plan, flat: Array, lane: int, random: np.random.Generator) -> Push:
    """A push at a random value that changes a lane's label, as small as can be."""
    honest = answered(plan, flat)[lane].argmax()

    def changes(push: Push) -> bool:
        logits = answered(plan, flat, push)[lane]
        return bool(np.isfinite(logits).all() and logits.argmax() != honest)

    points = plan.signature.checkpoints
    asked = [k for k in range(1, len(points)) if k == len(points) - 1 or points[k].back is not None]
    while True:
        point = int(random.choice(asked))  # what a tap shows changes no label
        layout = plan.signature.checkpoints[point].sent
        assert layout is not None
        feature = int(random.integers(plan.signature.values(point, np.zeros(_shape(plan, point))).shape[1]))
        sign = float(random.choice([-1.0, 1.0]))
        amount = LARGEST
        if not changes(Push(point, lane, feature, sign * amount)):
            continue
        low = 0.0
        for _ in range(STEPS):
            middle = (low + amount) / 2
            low, amount = (
                (low, middle) if changes(Push(point, lane, feature, sign * middle)) else (middle, amount)
            )
        return Push(point, lane, feature, sign * amount * (1 + 1e-6))


def _shape(plan: Plan, point: int) -> tuple[int, int]:
    port, params = plan.signature.sent[point - 1], plan.program.params
    return port.tiles, params.ring if port.coefficients else params.slots


@dataclass(frozen=True)
class Found:
    """Noticed of so many runs, and alarms among so many honest answers.

    Attributes:
        claimed: runs of which a report by combinations would say that it sees them; `combined` are noticed by
            these. worst, worst_combined: the largest honest deviations over what is allowed.
    """

    name: str
    noticed: int
    runs: int
    claimed: int
    combined: int
    smallest: float
    alarms: int
    honest: int
    keys: int
    worst: float
    worst_combined: float

    def __str__(self) -> str:
        low, high = (100 * one for one in wilson_interval(self.noticed, self.runs, 0.99))
        return (
            f"{self.name:40} {self.noticed:5} of {self.runs} noticed [{low:.1f}, {high:.1f}] %, by "
            f"combinations {self.combined} of {self.claimed} claimed; smallest push {self.smallest:.1e}; "
            f"{self.alarms} alarms in {self.honest} honest answers of {self.keys} keys, worst "
            f"{self.worst:.2f} x tolerance, of combinations {self.worst_combined:.2f}"
        )


def plans(quick: bool) -> Iterator[tuple[str, Plan, NDArray[Any]]]:
    """Name, plan and test samples: tables, by whom activations are, batches of one and of many, with taps."""
    torch.set_num_threads(1)
    for data in ("wine",) if quick else HIDDEN:
        split = load_split(data)
        model = train_network(split, HIDDEN[data])
        squares = securedl.approximate(
            model, split.x_train, split.y_train, degree=2, epochs=20, progress=False
        )
        for by, network in (("server", squares), ("client", model)):
            for batch in (1, 64):
                plan = securedl.compile(network, split.x_train, batch=batch, activations=by)
                yield f"{data}, activations={by!r}, batch {batch}", plan, split.x_test
        plan = securedl.compile(squares, split.x_train, batch=64, checked_by="client")
        yield f"{data}, taps, batch 64", plan, split.x_test
        if not quick:
            plan = securedl.compile(squares, split.x_train, batch=64, ring=4096)
            yield f"{data}, ring 4096, batch 64", plan, split.x_test
    if not quick:
        yield from _cnn()


def _cnn() -> Iterator[tuple[str, Plan, NDArray[Any]]]:
    """CryptoNets' network of MNIST, as bench.models has it."""
    data = task(NETWORKS[CNN])
    for by in ("server", "client"):
        model = polynomial(CNN, data, None) if by == "server" else trained(CNN, data, None)
        plan = securedl.compile(model, data.x_train[:CALIBRATION], batch=1, activations=by)
        x = data.x_test[:IMAGES]
        yield (
            f"MNIST CNN, activations={by!r}, batch 1",
            plan,
            np.delete(x, plan.screened(x, "skip").skipped, 0),
        )


def detected(name: str, plan: Plan, x: NDArray[Any], runs: int, honest: int, keys: int) -> Found:
    """All of one plan."""
    random, noticed, least = np.random.default_rng(0), 0, np.inf
    alarms, answers, claimed, combined, worst = 0, 0, 0, 0, [0.0, 0.0]
    samples = plan.checked(x)
    with tempfile.TemporaryDirectory() as folder:
        executor = Pushing(plan)
        server = protocol.Server(f"{folder}/store", f"unix:{folder}/server", executor=executor)
        with server:
            for key in range(keys):
                owner = Watching(securedl.Owner(plan))
                with protocol.Client(f"unix:{folder}/server", owner) as client:
                    client.upload()
                    mine = range(key, runs, keys)
                    for _ in mine:
                        flat = samples[random.choice(len(samples), plan.batch)]
                        lane = int(random.integers(plan.batch))
                        push = executor.push = smallest(plan, flat, lane, random)
                        least = min(least, abs(push.amount))
                        client.predict(_shaped(plan, flat), probes=0, after_alarm="continue")
                        noticed += owner.worst("recomputed") > 1
                        claims = owner.claims(push.point, abs(push.amount))
                        claimed += claims
                        combined += claims and owner.worst("projected") > 1
                    while answers < honest * (key + 1) / keys:
                        wide = _wide(plan, random, max(plan.batch, 32))
                        flat = np.concatenate([samples[random.choice(len(samples), len(wide))], wide])
                        report = client.predict(_shaped(plan, flat), probes=0, after_alarm="continue").report
                        alarms, answers = alarms + (not report.passed), answers + len(flat)
                        worst = [max(one, owner.worst(name)) for one, name in zip(worst, CHECKS, strict=True)]
                    client.remove()
    return Found(name, noticed, runs, claimed, combined, least, alarms, answers, keys, *worst)


def _shaped(plan: Plan, flat: Array) -> Array:
    return flat.reshape(len(flat), *plan.input_shape)


def _wide(plan: Plan, random: np.random.Generator, count: int) -> Array:
    """Samples anywhere in the plan's box, half of them at its corners, that do not overflow."""
    low, high = plan.signature.box
    box = random.uniform(-1, 1, (count, len(low)))
    box[::2] = np.sign(box[::2])
    flat = (low + high) / 2 + box * (high - low) / 2
    inside = within_headroom(plan.network, flat, plan.program.scheme.value_limit)
    flat[~inside] = plan.samples[: (~inside).sum()]
    return flat


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument("--runs", type=int, help=f"pushes a plan ({RUNS})")
    parser.add_argument("--honest", type=int, help=f"honest answers a plan ({HONEST})")


def main(chosen: argparse.Namespace) -> int:
    """The table; 1 where too little was noticed, or an honest server accused."""
    runs = chosen.runs or (20 if chosen.quick else RUNS)
    honest = chosen.honest or (200 if chosen.quick else HONEST)
    keys, rows = 2 if chosen.quick else KEYS, list[Found]()
    for name, plan, x in plans(chosen.quick):
        print(f"{name}: {runs} pushes", file=sys.stderr, flush=True)
        rows.append(detected(name, plan, x, runs, honest, keys))
        print(rows[-1], flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps([vars(row) for row in rows], indent=1).encode())
    seen = (row.noticed >= 0.999 * row.runs and row.combined >= 0.999 * row.claimed for row in rows)
    return int(not all(seen) or any(row.alarms for row in rows))
