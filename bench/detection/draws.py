"""What samples notice of tampered networks, over many draws of them from their bags.

Every answer is computed once: which sample of a bag notices which network is a matrix, and a draw looks some
of it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from securedl.network.graph import Array
from securedl.verify.outputs import LOGITS, OUTPUTS, differing
from securedl.verify.selection import active_neurons, cover, covered_weights, manc

SAMPLES = (1, 2, 3, 5, 8, 10)
FORMS = (*OUTPUTS, LOGITS)
#: Draws of a figure, and of the halves of a bag that whatever is not random chooses from: of a whole bag it
#: would choose the same each time.
DRAWS, HALVES = 10_000, 200
#: Weights that are covered, of all; a weight is where this change of it moves a logit by that much.
COVERED, CHANGE, MOVES = 20_000, 0.05, 0.01

Hits: TypeAlias = NDArray[np.bool_]
"""Which sample notices which network, [networks, bag]."""
Orders: TypeAlias = NDArray[np.int64]
"""Samples in the order in which they are asked, [any number, 10]."""


@torch.no_grad()
def answers(network: nn.Module, bags: Mapping[str, Array]) -> dict[str, Array]:
    """Logits [bag, classes] by method, in single precision: alike for alike weights."""
    return {method: network(torch.from_numpy(bag).float()).numpy() for method, bag in bags.items()}


def hits(
    honest: Mapping[str, Array], networks: Iterable[nn.Module], bags: Mapping[str, Array], tolerance: float
) -> tuple[dict[tuple[str, str], Hits], int]:
    """By method and form of output; and how many networks were left out, since no logit of any sample of any
    bag is off by more than the tolerance, so that nothing here could notice them."""
    found: dict[tuple[str, str], list[NDArray[np.bool_]]] = {
        (method, form): [] for method in bags for form in FORMS
    }
    left_out = 0
    for network in networks:
        logits = answers(network, bags)
        rows = {
            (method, form): differing(
                form, honest[method], logits[method], **({"tolerance": tolerance} if form == LOGITS else {})
            )
            for method, form in found
        }
        if not any(rows[method, LOGITS].any() for method in bags):
            left_out += 1
            continue
        for key, row in rows.items():
            found[key].append(row)
    return {key: np.array(rows, dtype=np.bool_) for key, rows in found.items()}, left_out


def orders(
    model: nn.Module, method: str, bag: Array, simulated: Hits, random: np.random.Generator, draws: int
) -> Iterator[tuple[str, Orders]]:
    """Ten samples, or half a bag: at random by any method; sensitive ones also as VerIDeep does (MANC), by
    weights covered and, with ties, greedily against simulated tampering."""
    most = min(SAMPLES[-1], len(bag) // 2)
    yield "random", np.argsort(random.random((draws, len(bag))), axis=1)[:, :most]
    halves = np.argsort(random.random((HALVES, len(bag))), axis=1)[:, : len(bag) // 2]

    def chosen(choose: Callable[[Hits, int], Orders], marks: Hits) -> Orders:
        return np.stack([half[choose(marks[half], most)] for half in halves])

    if method in ("VerIDeep", "SecureDL"):
        yield "MANC", chosen(manc, active_neurons(model, bag))
        weights = covered_weights(model, bag, change=CHANGE, tolerance=MOVES)
        some = random.permutation(weights.shape[1])[:COVERED]
        yield "weights", chosen(cover, weights[:, some])
    if method in ("VerIDeep", "SecureDL", "tie"):
        yield "greedy", chosen(cover, simulated.T)


def noticed(hits: Hits, order: Orders, draws: int, seed: int) -> dict[int, int]:
    """Of so many draws of a network and an order, by number of samples: those where one of them notices."""
    random = np.random.default_rng(seed)
    networks = random.integers(len(hits), size=draws)
    rows = np.arange(draws) % len(order)
    seen = np.logical_or.accumulate(hits[networks[:, None], order[rows]], axis=1).sum(0)
    return {n: int(seen[n - 1]) for n in SAMPLES if n <= len(seen)}
