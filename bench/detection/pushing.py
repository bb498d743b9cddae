"""Pushes by what is encrypted, aimed with more knowledge than a server has: layouts, ranges, tolerances."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev

from bench.detection.attacks import Attack
from bench.detection.hostile import Order
from bench.detection.target import Target
from securedl.he.variance import SIGMAS
from securedl.network.graph import Array
from securedl.plan.plan import Plan

#: Where it is small, a push that hides reaches this part of a tolerance. Where it is large, one that does not
#: is so many times as large as the values themselves, in the middle of its victims.
HIDDEN_PART, OPEN = 0.4, 2.0
#: A known victim's logit is pushed so many times as far as its label needs.
MARGIN = 1.2


def norm_push(target: Target, small: Array, name: str, hides: bool = True) -> Attack:
    """A · T_k(‖x‖²) on a random class's logit of every lane.

    Args:
        small: squared norms among which |T_k| is at most 1. hides: whether the push is below tolerance there;
            else it is larger.
    """
    plan, doublings = target.plan, target.plan.program.query.level - 3
    there = squared_norms(plan, target.samples)
    low, high = 0.95 * small.min(), 1.05 * small.max()
    slope, start = 2 / (high - low), -(high + low) / (high - low)
    sizes = np.abs(chebyshev.chebval(slope * there + start, [0] * 2**doublings + [1]))
    allowed = SIGMAS * float(np.median(target.deviations(-1)))
    amount = HIDDEN_PART * allowed if hides else OPEN / float(np.median(sizes[sizes > 1]))

    def order(target: Target, random: np.random.Generator, flat: Array) -> Order:
        goal = _class(plan, int(random.integers(plan.classes)), amount)
        options = {"slope": slope, "start": start, "doublings": doublings}
        return Order("NormPush", {"point": 1, "target": goal, **options})

    return Attack(name, order)


def victim_push(target: Target, name: str) -> Attack:
    """k (u · x)^(2^m) on the logit of a known sample's second class; the first sample of a call is it."""
    plan, squarings = target.plan, target.plan.program.query.level - 2

    def order(target: Target, random: np.random.Generator, flat: Array) -> Order:
        victim, logits = flat[:1], plan.reference(flat[:1])[0]
        first, second = np.argsort(logits)[[-1, -2]]
        margin = (logits[first] - logits[second]) / plan.signature.output_scale[second]
        slots = _query(plan, victim)[0].reshape(-1, plan.batch)
        direction = slots / (slots**2).sum(axis=0)
        goal = _class(plan, int(second), MARGIN * float(margin))
        options = {"direction": direction.ravel().tolist(), "squarings": squarings}
        return Order("VictimPush", {"point": 1, "target": goal, **options})

    return Attack(name, order)


def _query(plan: Plan, flat: Array) -> Array:
    """Slots [tiles, n] of a query with the first sample in every lane."""
    layout = plan.signature.checkpoints[0].back
    assert layout is not None
    return layout.pack(plan.signature.query(np.repeat(flat[:1], plan.batch, axis=0)))


def squared_norms(plan: Plan, flat: Array) -> Array:
    """Σ of squares of a lane's slots, copies among them, of each sample."""
    slots = np.array([_query(plan, one[None])[0].reshape(-1, plan.batch)[:, 0] for one in flat])
    return np.asarray((slots**2).sum(axis=1))


def _class(plan: Plan, label: int, amount: float) -> list[float]:
    """Slots [n] of the answer that push one logit of every lane."""
    layout, values = plan.signature.checkpoints[-1].sent, np.zeros((plan.batch, plan.classes))
    assert layout is not None
    values[:, label] = amount
    slots: list[float] = layout.pack(values)[0].tolist()
    return slots
