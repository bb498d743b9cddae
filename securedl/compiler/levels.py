"""Pass 4: ring, primes and refresh points together, by dynamic programming over the cost model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from securedl.compiler.cost import COEFFICIENT_PRICES, EXPECTED_QUERIES, CoefficientPrices, SlotsCost
from securedl.compiler.layout import LayerLayout, Layouts
from securedl.compiler.segments import Operation, SegmentCosts
from securedl.errors import CompileError
from securedl.he.params import Parameters
from securedl.plan.normalised import Normalised
from securedl.plan.signature import Cost, Link


@dataclass(frozen=True)
class Segments:
    """Where segments start (indices of operations; the first is 0), and what all of it costs.

    Attributes:
        layouts: of each layer, as its place in its segment lets it be. once: milliseconds of preparing and
            uploading their weights. taps: whether the client is shown pre-activations inside of segments.
    """

    operations: tuple[Operation, ...]
    starts: tuple[int, ...]
    cost: Cost
    layouts: tuple[LayerLayout, ...]
    once: float = 0.0
    taps: bool = False

    def start_level(self, start: int) -> int:
        """Level of a fresh ciphertext at `start`: what its segment spends."""
        later = [s for s in self.starts if s > start]
        return sum(op.levels for op in self.operations[start : later[0] if later else None])


def operations(network: Normalised) -> tuple[Operation, ...]:
    """Everything that spends levels, in order."""
    found = []
    for index, layer in enumerate(network.layers):
        found.append(Operation(index, "affine", 1))
        depth = layer.form.levels
        if depth:
            found.append(Operation(index, "activation", depth))
    return tuple(found)


def place_refreshes(
    params: Parameters,
    network: Normalised,
    layouts: tuple[Layouts, ...],
    encrypted: bool,
    link: Link,
    refreshes: int | None,
    prices: CoefficientPrices = COEFFICIENT_PRICES,
    queries: int = EXPECTED_QUERIES,
    taps: bool = False,
) -> Segments | None:
    """The cheapest refresh points for these parameters, or None when no choice fits.

    Args:
        refreshes: exactly so many, or None for whatever is cheapest.
        queries: that share the price of preparing and uploading the weights. taps: see `Segments`.
    """
    ops = operations(network)
    segments = SegmentCosts(SlotsCost(params, link, prices), network, ops, layouts, encrypted, queries, taps)
    limit = len(ops) - 1 if refreshes is None else refreshes
    # best[count][j]: cheapest way to run operations j.. from a fresh ciphertext with `count` refreshes.
    table: list[dict[int, _Option]] = []
    for count in range(limit + 1):
        table.append({})
        for j in range(len(ops) - 1, -1, -1):
            if not _may_refresh(ops[j], layouts) and j > 0:
                continue
            options: list[_Option] = []
            for end in range(j + 1, len(ops) + 1):
                spent = sum(op.levels for op in ops[j:end])
                if spent > params.levels:
                    break
                segment = segments.between(j, end)
                if end == len(ops):
                    if count == 0:
                        options.append(_Option(segment.cost, segment.once, queries, (j,)))
                elif count and end in table[count - 1]:
                    rest = table[count - 1][end]
                    both = segment.cost + rest.cost, segment.once + rest.once
                    options.append(_Option(*both, queries, (j, *rest.starts)))
            if options:
                table[count][j] = min(options, key=_Option.ms)
    counts = range(limit + 1) if refreshes is None else [refreshes]
    found = [table[count][0] for count in counts if 0 in table[count]]
    if not found:
        return None
    cost, once, _, starts = min(found, key=_Option.ms)
    ends = zip(starts, [*starts[1:], len(ops)], strict=True)
    chosen = [layout for start, end in ends for layout in segments.between(start, end).layouts]
    return Segments(ops, starts, cost, tuple(chosen), once, taps)


class _Option(NamedTuple):
    """Operations to the end, as far as segments start at `starts`; costs as in `Segments`."""

    cost: Cost
    once: float
    queries: int
    starts: tuple[int, ...]

    def ms(self) -> float:
        """All that a query pays."""
        return self.cost.total_ms + self.once / self.queries


def _may_refresh(op: Operation, layouts: tuple[Layouts, ...]) -> bool:
    """One register only: before powers are taken, not after."""
    return op.kind == "activation" or layouts[op.layer].sources == 1


def no_place(params: Parameters, network: Normalised, refreshes: int | None) -> CompileError:
    """The error for a chain on which nothing fits."""
    ops = operations(network)
    depth = sum(op.levels for op in ops)
    count = "any number of" if refreshes is None else f"exactly {refreshes}"
    places = sum(
        op.kind == "activation" or network.layers[op.layer - 1].form.registers == 1 for op in ops[1:]
    )
    return CompileError(
        f"the network needs {depth} levels; ring {params.ring} offers at most {params.levels} at a time, "
        f"and no plan with {count} refreshes fits (there are {places} places for one). Use a larger "
        "ring, or let the planner choose the refreshes"
    )
