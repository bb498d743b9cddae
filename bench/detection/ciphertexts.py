"""What a server can do to ciphertexts, and what notices it: a real server process, without any key.

    python -m bench.detection ciphertexts [--quick] [--runs N] [--json FILE]

Every attack answers so many calls three times over: where nothing is compared, where probes are, and where
every answer is. Of each, calls with an alarm are counted, and labels that are another in calls without one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

import securedl
from bench.detection.attacks import ATTACKS, Attack, fixed
from bench.detection.hostile import Order
from bench.detection.pushing import norm_push, squared_norms, victim_push
from bench.detection.target import Target, against
from securedl.client.inference import VERIFY
from securedl.demo.data import HIDDEN, Split, load_split, train_network
from securedl.files import write_atomically
from securedl.plan.plan import Plan

#: Calls of each attack under each `verify`; of pushes where every answer is compared, and of what probes
#: alone notice.
RUNS, PUSHED = 20, 200
#: Samples and probes of a call: two batches of 64, or one.
TWO_BATCHES, ONE_BATCH = (120, 8), (60, 4)
#: Hidden layers of a network whose plan without a refresh has seven levels.
DEEP = (32, 32, 32)
CONFIDENCE = 0.99
#: Shares of answers that are tampered with, where only probes are compared: by so much in every slot, which
#: stays in range where a client adds many of them.
SHARES, SMALL = (0.01, 0.1, 0.5), 1e-3


@dataclass(frozen=True)
class Tally:
    """What came of so many calls.

    Attributes:
        noticed: those with an alarm. refused: calls that a ProtocolError ended. unseen: labels that were
            another in calls without an alarm, of so many `labels` in all. worst: deviation over its
            tolerance. chances: of the last report, by the share of answers tampered with.
    """

    calls: int
    noticed: int
    refused: int
    unseen: int
    labels: int
    worst: float
    chances: dict[float, float]


@dataclass(frozen=True)
class Row:
    """One attack under each `verify`."""

    name: str
    harmless: bool
    structural: bool
    seen: dict[str, Tally]

    @property
    def right(self) -> bool:
        """Nothing harmless is an alarm, what breaks the protocol is refused, and no label is changed unseen
        where every answer is compared.
        """
        accused = self.harmless and any(one.noticed or one.unseen for one in self.seen.values())
        passed = self.structural and any(one.refused < one.calls for one in self.seen.values())
        return not (accused or passed or self.seen["every"].unseen)

    def __str__(self) -> str:
        none, cells = self.seen["none"], []
        for verify in ("probes", "every"):
            one = self.seen[verify]
            ended = f"{one.refused} of {one.calls} refused"
            cells.append(ended if self.structural else f"{one.noticed} of {one.calls}; {one.unseen}")
        changed = f"{100 * none.unseen / none.labels:.1f} %" if none.labels else "no answer"
        return f"| {self.name} | {changed} | {' | '.join(cells)} |"


HEADING = (
    '| what the server does | labels changed | `verify="probes"`: calls noticed; labels changed unseen | '
    '`verify="every"`: the same |\n| --- | ---: | ---: | ---: |'
)


def measured(target: Target, attack: Attack, runs: int, call: tuple[int, int], every: int = 0) -> Row:
    """One attack, so many calls under each `verify` (or `every`, under that), of these samples and probes."""
    found = {
        verify: seen(target, attack, every or runs if verify == "every" else runs, call, verify)
        for verify in VERIFY
    }
    return Row(attack.name, attack.harmless, attack.structural, found)


def seen(target: Target, attack: Attack, runs: int, call: tuple[int, int], verify: str) -> Tally:
    """The same under one `verify`, after an honest call that can be replayed."""
    earlier = np.resize(target.plan.samples, (call[0], *target.plan.samples.shape[1:]))
    target.ask(Order(), earlier, "none", 0)
    random, noticed, refused, unseen, labels = np.random.default_rng(0), 0, 0, 0, 0
    worst, chances = 0.0, dict[float, float]()
    for _ in range(runs):
        flat = target.samples[random.choice(len(target.samples), call[0])]
        answer = target.ask(attack.order(target, random, flat), flat, verify, call[1])
        if answer is None:
            refused += 1
            continue
        chances, worst = dict(answer.report.detection), max(worst, answer.report.worst_ratio)
        labels += len(flat)
        looked = verify != "none" and not answer.report.passed
        noticed += looked
        unseen += 0 if looked else int((answer.labels != target.labels(flat)).sum())
    return Tally(runs, noticed, refused, unseen, labels, worst, chances)


@dataclass(frozen=True)
class Rate:
    """How often probes alone noticed tampering with a share of the answers, and how often they had to."""

    name: str
    share: float
    noticed: int
    runs: int
    chance: float

    @property
    def interval(self) -> tuple[int, int]:
        """Calls that a chance as reported makes of so many, with `CONFIDENCE`."""
        low, high = stats.binom.interval(CONFIDENCE, self.runs, self.chance)
        return int(low), int(high)

    @property
    def right(self) -> bool:
        """Whether they are."""
        low, high = self.interval
        return low <= self.noticed <= high

    def __str__(self) -> str:
        low, high = self.interval
        cells = (f"{100 * self.share:.0f} %", f"{100 * self.chance:.1f} %", f"{low} to {high}")
        return f"| {self.name} | {' | '.join(cells)} | {self.noticed} of {self.runs} |"


RATES_HEADING = (
    "| where only probes are compared | answers tampered with | chance in the report | calls that this "
    "chance makes (99 %) | noticed |\n| --- | ---: | ---: | ---: | ---: |"
)


def rates(
    target: Target,
    name: str,
    runs: int,
    call: tuple[int, int],
    one_by_one: bool,
    shares: Sequence[float] = SHARES,
) -> Iterator[Rate]:
    """Tampering with some of the answers, of which reports give a chance: queries of a call, or lanes of one
    query.
    """
    total, honest = sum(call), seen(target, fixed(name, Order()), 1, call, "probes")
    for share in shares:
        few, options = math.ceil(share * total - 1e-9), {"amount": SMALL}
        by_query = Order("Offset", options, share=(few, total))
        order = by_query if one_by_one else Order("Offset", {**options, "lanes": few})
        found = seen(target, fixed(name, order), runs, call, "probes")
        yield Rate(name, share, found.noticed, runs, honest.chances[share])


def compiled(split: Split, hidden: tuple[int, ...], seed: int = 0, **options: Any) -> Plan:
    """A network trained on a part of a table, with squares, and how it is to run."""
    model = train_network(split, hidden, seed)
    x, y = split.x_train, split.y_train
    return securedl.compile(securedl.approximate(model, x, y, epochs=20, progress=False), x, **options)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument("--runs", type=int, help=f"calls of each attack ({RUNS}), or push ({PUSHED})")


def rows(quick: bool, wanted: int | None) -> Iterator[Row | Rate]:
    """All of them, as they are measured."""
    few = 4 if quick else None
    runs, pushed = wanted or few or RUNS, wanted or few or PUSHED
    data = "wine" if quick else "digits"
    split = load_split(data)
    plan, older = (compiled(split, HIDDEN[data], seed, batch=64, ring=8192) for seed in (0, 1))
    with against(plan, split.x_test, older) as target:
        for attack in ATTACKS:
            print(f"{attack.name}: {3 * runs} calls", file=sys.stderr, flush=True)
            yield measured(target, attack, runs, TWO_BATCHES)
    for batch, call in ((64, ONE_BATCH), (1, (1, 1))):
        plan = compiled(split, DEEP, batch=batch, ring=16384, refreshes=0)
        with against(plan, split.x_test) as target:
            for attack in pushes(target, split):
                name = f"{attack.name}, batch {batch}"
                print(f"{name}: {2 * runs + pushed} calls", file=sys.stderr, flush=True)
                yield measured(target, Attack(name, attack.order), runs, call, pushed)
    for batch, call in ((64, ONE_BATCH), (1, (16, 4))):
        name = "lanes of a query" if batch > 1 else "queries of a call"
        with against(compiled(split, HIDDEN[data], batch=batch, ring=8192), split.x_test) as target:
            print(f"{name}: {len(SHARES) * pushed} calls", file=sys.stderr, flush=True)
            yield from rates(target, name, pushed, call, batch == 1)


def pushes(target: Target, split: Split) -> Iterator[Attack]:
    """By norm and at a known sample."""
    fingerprint = target.owner.verification.probes.fingerprint
    sensitive = fingerprint.samples[np.array(fingerprint.kinds) == "sensitive"]
    around, norms = squared_norms(target.plan, sensitive), np.sort(squared_norms(target.plan, split.x_train))
    lower = norms[: len(norms) // 2]
    yield norm_push(target, lower, "a push by norm, hidden from half of the data")
    yield norm_push(target, around, "a push by norm, hidden from sensitive probes")
    yield norm_push(target, lower, "a push by norm, not hidden", hides=False)
    yield victim_push(target, "a push at a known sample")


def main(chosen: argparse.Namespace) -> int:
    """The tables; 1 where something is not as it should be (see `right`)."""
    torch.set_num_threads(1)
    found, heading = list[Row | Rate](), ""
    for row in rows(chosen.quick, chosen.runs):
        found.append(row)
        wanted = HEADING if isinstance(row, Row) else RATES_HEADING
        if wanted != heading:
            print(heading := wanted, flush=True)
        print(row if row.right else f"{row} NOT AS IT SHOULD BE", flush=True)
        if chosen.json is not None:
            write_atomically(chosen.json, json.dumps([asdict(one) for one in found], indent=1).encode())
    return int(not all(row.right for row in found))
