"""Pass 4: ring, primes and refresh points together, by dynamic programming over the cost model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from securedl.compiler.cost import COEFFICIENT_PRICES, CoefficientPrices, SlotsCost
from securedl.compiler.layout import LayerLayout, Layouts
from securedl.errors import CompileError
from securedl.he.params import Parameters
from securedl.plan.normalised import Normalised
from securedl.plan.signature import Cost, Link


@dataclass(frozen=True)
class Operation:
    """One step that spends levels: the affine map of a layer, or its polynomial."""

    layer: int
    kind: str
    levels: int

    @property
    def name(self) -> str:
        """For messages and the summary."""
        return f"{self.kind} {self.layer + 1}"


@dataclass(frozen=True)
class Segments:
    """Where segments start (indices of operations; the first is 0), and what all of it costs.

    Attributes:
        layouts: of each layer, as its place in its segment lets it be.
    """

    operations: tuple[Operation, ...]
    starts: tuple[int, ...]
    cost: Cost
    layouts: tuple[LayerLayout, ...]

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
) -> Segments | None:
    """The cheapest refresh points for these parameters, or None when no choice fits.

    Args:
        refreshes: exactly so many, or None for whatever is cheapest.
    """
    ops, cost_of = operations(network), SlotsCost(params, link, prices)
    limit = len(ops) - 1 if refreshes is None else refreshes
    # best[count][j]: cheapest way to run operations j.. from a fresh ciphertext with `count` refreshes.
    table: list[dict[int, tuple[Cost, tuple[int, ...]]]] = []
    for count in range(limit + 1):
        table.append({})
        for j in range(len(ops) - 1, -1, -1):
            if not _may_refresh(ops[j], layouts) and j > 0:
                continue
            options: list[tuple[Cost, tuple[int, ...]]] = []
            for end in range(j + 1, len(ops) + 1):
                spent = sum(op.levels for op in ops[j:end])
                if spent > params.levels:
                    break
                segment = segment_cost(cost_of, network, layouts, ops, j, end, spent, encrypted)
                if end == len(ops):
                    if count == 0:
                        options.append((segment, (j,)))
                elif count and end in table[count - 1]:
                    rest, starts = table[count - 1][end]
                    options.append((segment + rest, (j, *starts)))
            if options:
                table[count][j] = min(options, key=lambda option: option[0].total_ms)
    counts = range(limit + 1) if refreshes is None else [refreshes]
    found = [table[count][0] for count in counts if 0 in table[count]]
    if not found:
        return None
    cost, starts = min(found, key=lambda option: option[0].total_ms)
    chosen = [
        layout
        for start, end in zip(starts, [*starts[1:], len(ops)], strict=True)
        for layout in segment_layouts(ops, start, end, layouts)
    ]
    return Segments(ops, starts, cost, tuple(chosen))


def segment_layouts(
    ops: tuple[Operation, ...], start: int, end: int, layouts: tuple[Layouts, ...]
) -> Iterator[LayerLayout]:
    """Of the affine maps among operations start..end: the client lays what the first of them reads, for a
    polynomial before it moves nothing, and gets what the last operation gives.
    """
    laid = True
    for number in range(start, end):
        if ops[number].kind == "affine":
            yield layouts[ops[number].layer].at(laid, number + 1 == end)
            laid = False


def _may_refresh(op: Operation, layouts: tuple[Layouts, ...]) -> bool:
    """One register only: before powers are taken, not after."""
    return op.kind == "activation" or layouts[op.layer].sources == 1


def segment_cost(
    cost_of: SlotsCost,
    network: Normalised,
    layouts: tuple[Layouts, ...],
    ops: tuple[Operation, ...],
    start: int,
    end: int,
    level: int,
    encrypted: bool,
) -> Cost:
    """Fresh ciphertexts in, operations start..end, ciphertexts at level 0 back to the client."""
    reads, gives = layouts[ops[start].layer].tiles
    inputs = reads if ops[start].kind == "affine" else gives
    total = cost_of.transfer(inputs, level, fresh=True)
    affine = segment_layouts(ops, start, end, layouts)
    for op in ops[start:end]:
        if op.kind == "affine":
            total += Cost(cost_of.affine_ms(next(affine), level, encrypted))
        else:
            products = network.layers[op.layer].form.products
            total += Cost(cost_of.products_ms(products, layouts[op.layer].tiles[1], level))
        level -= op.levels
    total += cost_of.transfer(layouts[ops[end - 1].layer].tiles[1], 0, fresh=False)
    return total + Cost(link_ms=cost_of.link.rtt_ms)


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
