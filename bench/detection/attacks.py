"""The attacks of the table: names, and what a hostile server is told to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.detection.frames import CHANGES
from bench.detection.hostile import Order
from bench.detection.target import Target
from securedl.client.tolerances import MISSED_SIGMAS, SIGMAS
from securedl.network.graph import Array

#: A change that is large beside any tolerance, and small beside what values reach.
LARGE = 0.25
#: Deviations of an honest error: changes that raise no alarm, and those that are missed, with a chance below
#: `MISS` each. Tolerances lie between.
BELOW, ABOVE = SIGMAS - MISSED_SIGMAS, SIGMAS + MISSED_SIGMAS
CRAFTED = ("both 0", "c0 = 0", "c1 = 0", "random", "q - 1", "q/2", "s", "s q/2", "c0 + s", "c0 + 2^20 s")


@dataclass(frozen=True)
class Attack:
    """One thing that a server does, call by call.

    Attributes:
        order: for a call about samples [samples, features]. harmless: changes no label and is no alarm.
        structural: the protocol ends the call.
    """

    name: str
    order: Callable[[Target, np.random.Generator, Array], Order]
    harmless: bool = False
    structural: bool = False


def fixed(name: str, order: Order, harmless: bool = False, structural: bool = False) -> Attack:
    """The same order for every call."""
    return Attack(name, lambda target, random, flat: order, harmless, structural)


def weights() -> Iterator[Attack]:
    """Other weights than those that were uploaded, or fewer steps."""
    for how, name in (("drop", "dropped"), ("swap", "swapped"), ("scale", "doubled"), ("noise", "moved")):
        yield fixed(f"5 % of a layer's diagonals {name}", Order("Reweighted", {"how": how}))
    yield fixed("a layer skipped", Order("Skip", {"kind": "Matvec"}))
    yield fixed("an activation skipped", Order("Skip", {"kind": "Multiply"}))
    yield Attack("an older model under the same keys", _stored("older"))
    yield Attack("an earlier upload of the same model", _stored("again"), harmless=True)


def _stored(which: str) -> Callable[[Target, np.random.Generator, Array], Order]:
    return lambda target, random, flat: Order("Older", {"folder": target.stored(which)})


def replays() -> Iterator[Attack]:
    """Earlier ciphertexts. Calls have two batches, so the one before the second is of the same session."""
    same, earlier = {"turns": (False, True)}, dict[str, Any]()
    for name, ago, turns in (("of the same session", 1, same), ("of an earlier session", 2, earlier)):
        for what, point, of in (
            ("due", 1, "refresh"),
            ("due", -1, "answer"),
            ("fresh", 0, "query"),
            ("fresh", 1, "refreshed values"),
        ):
            options = {"what": what, "point": point, "ago": ago}
            yield fixed(f"{of} {name} again", Order("Replay", options, **turns))
    yield fixed("the client's own ciphertexts sent back", Order("Echo"))


def values() -> Iterator[Attack]:
    """What is sent is changed: everywhere or at few places, always or seldom."""
    large: dict[str, Any] = {"amount": LARGE}
    yield fixed("all values moved by 1/4", Order("Offset", large))
    yield fixed("the same, one query of two", Order("Offset", large, share=(1, 2)))
    yield fixed("the same, at the first refresh only", Order("Offset", {**large, "point": 1}))
    yield fixed("the same, in the answer only", Order("Offset", {**large, "point": -1}))
    yield fixed("one lane moved by 1/4", Order("Offset", {**large, "lanes": 1}))
    yield Attack("one slot of the answer moved by 2", _slot)
    yield fixed("all values doubled", Order("Times", {"factor": 2}))
    yield fixed("all values negated", Order("Times", {"factor": -1}))
    yield fixed("normal noise of 1/10", Order("Noise", {"deviation": 0.1}))
    yield fixed("values out of range", Order("Offset", {"part": 0.9}))


def _slot(target: Target, random: np.random.Generator, flat: Array) -> Order:
    few = target.plan.classes * target.plan.batch
    return Order("Offset", {"amount": 2.0, "slots": 1, "among": few, "point": -1})


def tolerated() -> Iterator[Attack]:
    """Changes beside the tolerances, of which the server was told."""
    for number, where in ((1, "first refresh"), (-1, "answer")):
        quarter, below, above = (partial(made, number) for made in (_quarter, _below, _above))
        yield Attack(f"all values of the {where} moved by 1/4 of their tolerance", quarter, harmless=True)
        yield Attack(f"one value of the {where} moved, just below tolerance", below, harmless=True)
        yield Attack(f"one value of the {where} moved, just above tolerance", above)


def _quarter(number: int, target: Target, random: np.random.Generator, flat: Array) -> Order:
    deviations = target.deviations(number)
    return _told(target, number, random.choice([-1.0, 1.0], deviations.shape) * SIGMAS / 4 * deviations)


def _below(number: int, target: Target, random: np.random.Generator, flat: Array) -> Order:
    return _told(target, number, _one(target, number, random) * BELOW)


def _above(number: int, target: Target, random: np.random.Generator, flat: Array) -> Order:
    return _told(target, number, _one(target, number, random) * ABOVE * target.growth(number, flat))


def _one(target: Target, number: int, random: np.random.Generator) -> Array:
    """One value [batch, features] by its standard deviation."""
    deviations = target.deviations(number)
    pushed, at = np.zeros_like(deviations), tuple(random.integers(deviations.shape))
    pushed[at] = random.choice([-1.0, 1.0]) * deviations[at]
    return pushed


def _told(target: Target, number: int, pushed: Array) -> Order:
    """Normalised values [batch, features] are added at a checkpoint."""
    layout = target.plan.signature.checkpoints[number].sent
    assert layout is not None
    return Order("Told", {"point": number, "values": layout.pack(pushed).tolist()})


def crafted() -> Iterator[Attack]:
    """Ciphertexts that no evaluation gives; one that adds the secret key itself is below every tolerance."""
    for how in CRAFTED:
        for point, where in ((1, "refresh"), (-1, "answer")):
            order = Order("Crafted", {"point": point, "how": how})
            yield fixed(f"crafted {where}: {how}", order, harmless=how == "c0 + s")


def messages() -> Iterator[Attack]:
    """Malformed, extra, missing and reordered messages."""
    for how in CHANGES:
        yield fixed(f"messages: {how}", Order(frames=how), structural=True)


#: All but the pushes that need more levels: for plans in slots that have a refresh, and two batches a call.
ATTACKS = (
    fixed("nothing", Order(), harmless=True),
    *(*weights(), *replays(), *values(), *tolerated(), *crafted(), *messages()),
)
