"""What a server can do to ciphertexts: a process of its own, without any key, against an owner."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import securedl
from bench.detection.attacks import ATTACKS, LARGE, Attack, fixed
from bench.detection.ciphertexts import (
    DEEP,
    ONE_BATCH,
    TWO_BATCHES,
    Tally,
    compiled,
    pushes,
    rates,
    seen,
)
from bench.detection.hostile import Order
from bench.detection.target import Target, against
from securedl.client.projected import projections
from securedl.demo.data import HIDDEN, Split, load_split, train_network
from securedl.errors import AlarmError
from securedl.verify import placement

pytestmark = pytest.mark.he

#: Of each attack: whatever is noticed at all is noticed always.
CALLS = 2


@pytest.fixture(scope="module")
def split() -> Split:
    torch.set_num_threads(1)
    return load_split("wine")


@pytest.fixture(scope="module")
def target(split: Split) -> Iterator[Target]:
    """Two layers before a refresh and one behind it, 64 samples a query."""
    plan, older = (compiled(split, HIDDEN["wine"], seed, batch=64, ring=8192) for seed in (0, 1))
    assert len(plan.program.refreshes) == 1
    with against(plan, split.x_test, older) as target:
        yield target


@pytest.fixture(scope="module")
def alone(split: Split) -> Iterator[Target]:
    """A sample a query."""
    with against(compiled(split, HIDDEN["wine"], batch=1, ring=8192), split.x_test) as target:
        yield target


@pytest.fixture(scope="module")
def rounds(split: Split) -> Iterator[Target]:
    """A sample a query, and the activations the client's."""
    models = [train_network(split, HIDDEN["wine"], seed) for seed in (0, 1)]
    plan, older = (securedl.compile(m, split.x_train, batch=1, activations="client") for m in models)
    with against(plan, split.x_test, older) as target:
        yield target


def check(found: Tally, attack: Attack, calls: int) -> None:
    """An alarm for each call; none where nothing is changed; its end where the protocol is broken."""
    assert found.unseen == 0
    assert found.refused == (calls if attack.structural else 0)
    if attack.harmless:
        assert found.noticed == 0
        assert found.worst <= 1
    elif not attack.structural:
        assert found.noticed == calls
        assert found.worst > 1


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_where_every_answer_is_compared(target: Target, attack: Attack) -> None:
    check(seen(target, attack, CALLS, TWO_BATCHES, "every"), attack, CALLS)


#: On each of the lanes of a call, or none of them: whichever hold probes.
ON_ALL = [a for a in ATTACKS if not a.name.startswith(("one ", "the same, one "))]


@pytest.mark.slow
@pytest.mark.parametrize("attack", ON_ALL, ids=[attack.name for attack in ON_ALL])
def test_where_probes_are_compared(target: Target, attack: Attack) -> None:
    """What changes all answers, or a whole batch of them, cannot miss the probe in it."""
    check(seen(target, attack, CALLS, TWO_BATCHES, "probes"), attack, CALLS)


#: A plan whose layers are computed one by one has no steps in slots and no lanes, and what is cut to four
#: bytes no residue above its prime.
NOT_IN_ROUNDS = ("5 %", "a layer", "an activation", "one lane", "one slot", "messages: a residue")
IN_ROUNDS = [a for a in ATTACKS if not a.name.startswith(NOT_IN_ROUNDS)]


@pytest.mark.parametrize("attack", IN_ROUNDS, ids=[attack.name for attack in IN_ROUNDS])
def test_where_activations_are_the_clients(rounds: Target, attack: Attack) -> None:
    check(seen(rounds, attack, CALLS, (2, 0), "every"), attack, CALLS)


@pytest.fixture(scope="module")
def tapped(split: Split) -> Iterator[Target]:
    """No refresh: every matrix's result is shown, and combinations see all of it."""
    options: dict[str, Any] = {"ring": 16384, "refreshes": 0, "checked_by": "client"}
    plan, older = (compiled(split, HIDDEN["wine"], seed, batch=64, **options) for seed in (0, 1))
    assert [len(plan.program.taps), len(plan.program.refreshes)] == [len(HIDDEN["wine"]), 0]
    with against(plan, split.x_test, older) as target:
        yield target


BEHIND = fixed("what a tap shows is not what is computed on", Order("Behind"))
#: Refreshes that are not there, and changes that are told by what is recomputed: some are too small for
#: combinations, others are more than is allowed behind a tap.
NOT_TAPPED = ("refreshed", "the client's own", "messages: ", "all values of", "one value of")
ON_TAPS = [BEHIND, *(a for a in ATTACKS if not a.name.startswith(NOT_TAPPED))]
QUICK = ("nothing", "what a tap", "a layer", "an activation", "answer of", "crafted refresh: s")


@pytest.mark.parametrize("how", ["recomputed", "projected"])
@pytest.mark.parametrize(
    "attack",
    [pytest.param(a, id=a.name, marks=[pytest.mark.slow] * (not a.name.startswith(QUICK))) for a in ON_TAPS],
)
def test_where_taps_are_compared(tapped: Target, attack: Attack, how: str) -> None:
    verification = tapped.owner.verification
    drawn = projections(tapped.plan, tapped.plan.network, verification.tolerances)
    assert None not in drawn
    verification.projected = drawn if how == "projected" else None
    check(seen(tapped, attack, CALLS, TWO_BATCHES, "every"), attack, CALLS)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.name == "all values negated"])
def test_such_attacks_change_labels(target: Target, attack: Attack) -> None:
    """What is noticed is real: nothing looks, and labels are others."""
    found = seen(target, attack, CALLS, TWO_BATCHES, "none")
    assert found.unseen > found.labels / 2


def test_a_batch_without_a_probe_left(target: Target) -> None:
    """Each batch has one probe. One batch is tampered with at its refresh; the other's alone is compared."""
    attack = fixed("one query of two", Order("Offset", {"amount": LARGE}, share=(1, 2)))
    found = seen(target, attack, 4, (126, 1), "probes")
    assert (found.noticed, found.refused) == (4, 0)


def test_a_server_that_goes_away_escapes_no_alarm(target: Target) -> None:
    """It tampers at a refresh and ends the call before the answer: the owner asks no more."""
    ledger = target.owner.verification.ledger
    order, before = Order("Offset", {"amount": LARGE}, frames="the end in place of the answer"), ledger.alarms
    with pytest.raises(AlarmError, match=r"differ at the refresh 1.*then the call ended"):
        target.ask(order, target.samples, "every", 8)
    assert ledger.alarms == before + 1
    with pytest.raises(AlarmError):
        target.client.predict(target.shaped(target.samples))


# --- pushes that find their victims by what is encrypted ---------------------------------------------


@pytest.fixture(scope="module")
def levels(split: Split) -> Iterator[Target]:
    """Five levels and no refresh."""
    plan = compiled(split, HIDDEN["wine"], batch=64, ring=16384, refreshes=0)
    with against(plan, split.x_test) as target:
        yield target


def test_pushes_by_what_is_encrypted(split: Split, levels: Target) -> None:
    """By norm and at a known sample: they change labels, and none unseen."""
    *_, by_norm, at_sample = pushes(levels, split)
    for attack in (by_norm, at_sample):
        assert seen(levels, attack, 3, ONE_BATCH, "none").unseen > 0, attack.name
        found = seen(levels, attack, 3, ONE_BATCH, "every")
        assert (found.noticed, found.refused, found.unseen) == (3, 0, 0), attack.name


def test_a_push_is_what_was_meant(split: Split, levels: Target) -> None:
    """What is computed on ciphertexts is the polynomial that it is named for."""
    plan, flat = levels.plan, levels.samples[:20]
    slots = np.array([plan.signature.slots(0, plan.signature.query(np.tile(x, (64, 1))))[0][0] for x in flat])
    queries = slots.reshape(20, -1, 64)[:, :, 0]  # all lanes are alike
    *_, by_norm, at_sample = pushes(levels, split)
    for attack in (by_norm, at_sample):
        order = attack.order(levels, np.random.default_rng(0), flat)
        told = order.options
        (label,) = {int(at) // 64 % 4 for at in np.flatnonzero(told["target"])}
        if attack is by_norm:
            inside = told["slope"] * (queries**2).sum(axis=1) + told["start"]
            size = np.polynomial.chebyshev.chebval(inside, [0] * 2 ** told["doublings"] + [1])
        else:
            size = (queries @ np.reshape(told["direction"], (-1, 64))[:, 0]) ** 2 ** told["squarings"]
        answer = levels.ask(order, flat, "none", 0)
        assert answer is not None
        pushed = answer.logits - plan.reference(flat)
        expected = max(told["target"]) * size * plan.signature.output_scale[label]
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(pushed[:, label], expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(np.delete(pushed, label, axis=1), 0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("batch", "call"), [(64, ONE_BATCH), (1, (1, 1))])
def test_no_label_is_pushed_unseen(batch: int, call: tuple[int, int]) -> None:
    """Digits, seven levels; 200 calls each."""
    split, changed = load_split("digits"), 0
    plan = compiled(split, DEEP, batch=batch, ring=16384, refreshes=0)
    with against(plan, split.x_test) as target:
        for attack in pushes(target, split):
            changed += seen(target, attack, 20, call, "none").unseen
            assert seen(target, attack, 200, call, "every").unseen == 0, attack.name
    assert changed > 0


# --- what probes alone notice ------------------------------------------------------------------------


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes are placed alike in each run of the test."""
    drawn = random.Random(0)
    monkeypatch.setattr(placement.secrets, "SystemRandom", lambda: drawn)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("repeatable")
def test_probes_notice_as_often_as_reports_say_by_lanes(target: Target) -> None:
    for rate in rates(target, "lanes of a query", 200, ONE_BATCH, one_by_one=False):
        assert rate.right, str(rate)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("repeatable")
def test_probes_notice_as_often_as_reports_say_by_queries(alone: Target) -> None:
    for rate in rates(alone, "queries of a call", 200, (16, 4), one_by_one=True):
        assert rate.right, str(rate)


@pytest.mark.usefixtures("repeatable")
def test_probes_notice_about_as_often_as_reports_say(target: Target) -> None:
    """40 calls, a tenth of whose answers is altered: 7 of 64 lanes, of which 4 hold probes."""
    (rate,) = rates(target, "lanes", 40, ONE_BATCH, one_by_one=False, shares=(0.1,))
    assert rate.chance == pytest.approx(1 - (57 * 56 * 55 * 54) / (64 * 63 * 62 * 61), abs=0.01)
    assert rate.right, str(rate)


# --- what the server sees ----------------------------------------------------------------------------


def recorded(target: Target, order: Order, samples: int, probes: int, verify: str, path: Path) -> list[dict]:
    """All that crosses the link in a call, message by message, on the server's side."""
    answer = target.ask(replace(order, record=str(path)), target.samples[:samples], verify, probes)
    assert answer is not None
    alarmed = order.move != "Honest" and verify != "none"
    assert answer.report.passed is not alarmed
    Order().write(target.orders)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("probes", [0, 4])
@pytest.mark.parametrize("which", ["target", "alone", "tapped"])
def test_a_server_sees_no_difference(request, which: str, probes: int, tmp_path: Path) -> None:
    """Honest, cheated and alarmed sessions: sizes, counts, order and headers of all messages are the same,
    and no ciphertext comes twice.
    """
    target, samples = request.getfixturevalue(which), 6 if which == "alone" else 100
    cheat = Order("Offset", {"amount": LARGE})
    sessions = {
        "honest": (Order(), "every"),
        "honest, not looked at": (Order(), "none"),
        "cheated, not looked at": (cheat, "none"),
        "alarmed at the first refresh": (cheat, "every"),
        "alarmed at the answer": (Order("Offset", {"amount": LARGE, "point": -1}), "every"),
        "out of range": (Order("Offset", {"part": 0.9}), "every"),
    }
    if probes:
        sessions |= {"probed": (Order(), "probes"), "alarmed by a probe": (cheat, "probes")}
    seeds, first = set[str](), list[dict]()
    for number, (name, (order, verify)) in enumerate(sessions.items()):
        data = samples + probes * (verify == "none")  # then there are no probes
        lines = recorded(target, order, data, probes, verify, tmp_path / f"{number}")
        fresh = [line.pop("seed") for line in lines if line.get("seed")]
        assert len(fresh) == sum(line["way"] == "in" for line in lines) - 1
        assert len(seeds | set(fresh)) == len(seeds) + len(fresh), name
        seeds |= set(fresh)
        first = first or lines
        assert lines == first, name
