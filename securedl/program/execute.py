"""Run a program on an evaluator. A generator: it yields what must be refreshed and is sent it back fresh."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from securedl.he.interface import Arithmetic, Handle
from securedl.program.program import AddWeight, Matvec, Multiply, Program


class Weights(Protocol):
    """Weights by index, in the evaluator's own form."""

    def __getitem__(self, index: int) -> Handle:
        """The handle of one weight."""


@dataclass(frozen=True)
class RefreshRequest:
    """Tiles at level 0 that the client is asked to encrypt afresh; `index` counts from 0."""

    index: int
    tiles: list[Handle]


#: Inputs and weights of one giant step, and its rotation in slots.
Group = tuple[list[Handle], list[Handle], int]
Execution = Generator[RefreshRequest, list[Handle], list[Handle]]


def execute(program: Program, evaluator: Arithmetic, weights: Weights, query: list[Handle]) -> Execution:
    """Evaluate `program` on the tiles of one query.

    Yields:
        RefreshRequest: send() the fresh tiles, at the level and scale the program names.

    Returns:
        The output's tiles at level 0.
    """
    registers: dict[int, list[Handle]] = {0: query}
    last_use = _last_uses(program)
    refreshes = 0
    for number, step in enumerate(program.steps):
        if isinstance(step, Matvec):
            result = matvec(program, step, evaluator, weights, [registers[s] for s in step.sources])
        elif isinstance(step, Multiply):
            result = _multiply(evaluator, step, registers[step.left], registers[step.right])
        elif isinstance(step, AddWeight):
            tiles = registers[step.source]
            result = [evaluator.add(t, weights[step.first + i]) for i, t in enumerate(tiles)]
        else:
            lowest = [evaluator.mod_switch(tile, 0) for tile in registers[step.source]]
            result = yield RefreshRequest(refreshes, lowest)
            refreshes += 1
        registers[step.out] = result
        for register in [r for r, last in last_use.items() if last == number]:
            del registers[register]
    return [evaluator.mod_switch(tile, 0) for tile in registers[program.output]]


def _last_uses(program: Program) -> dict[int, int]:
    """The last step that reads each register, so that memory is given back early."""
    uses: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        if isinstance(step, Matvec):
            read: Sequence[int] = step.sources
        else:
            read = (step.left, step.right) if isinstance(step, Multiply) else (step.source,)
        uses.update(dict.fromkeys(read, number))
    uses.pop(program.output, None)
    return uses


def _multiply(evaluator: Arithmetic, step: Multiply, left: list[Handle], right: list[Handle]) -> list[Handle]:
    # An evaluator may multiply, relinearise and rescale in a call of its own, with fewer transforms.
    own = getattr(evaluator, "multiply_rescale", None)
    out = []
    for a, b in zip(left, right, strict=True):
        low = evaluator.mod_switch(a, step.level)
        other = low if a is b else evaluator.mod_switch(b, step.level)
        if own:
            out.append(own(low, other))
        else:
            product = evaluator.square(low) if a is b else evaluator.multiply(low, other)
            out.append(evaluator.rescale(evaluator.relinearise(product)))
    return out


def matvec(
    program: Program, step: Matvec, evaluator: Arithmetic, weights: Weights, sources: list[list[Handle]]
) -> list[Handle]:
    """Baby-step giant-step product, one relinearisation and rescale for each giant step."""
    babies = _baby_steps(program, step, evaluator, sources)
    index = step.first
    groups: dict[int, list[Group]] = {}
    for output, i, terms in step.groups():
        xs = [babies[s, tile, j] for s, tile, j in terms]
        ws = [weights[index + k] for k in range(len(terms))]
        index += len(terms)
        groups.setdefault(output, []).append((xs, ws, i * step.giant * program.batch))
    # An evaluator may do the giant steps of one tile in a call of its own, with fewer divisions.
    own = getattr(evaluator, "giant_steps", None)
    results = []
    for output in range(step.tiles):
        total = own(groups[output]) if own else _giant_steps(evaluator, groups[output])
        for fold in step.folds:
            (turned,) = evaluator.rotate(total, [fold * program.batch])
            total = evaluator.add(total, turned)
        results.append(evaluator.add(total, weights[index + output]))
    return results


def _giant_steps(evaluator: Arithmetic, groups: list[Group]) -> Handle:
    """Σ over groups (xs, ws, slots) of rescale(relinearise(Σ x·w)) rotated left."""
    total: Handle = None
    for xs, ws, slots in groups:
        part = evaluator.rescale(evaluator.relinearise(evaluator.dot(xs, ws)))
        (turned,) = evaluator.rotate(part, [slots])
        total = turned if total is None else evaluator.add(total, turned)
    return total


def _baby_steps(
    program: Program, step: Matvec, evaluator: Arithmetic, sources: list[list[Handle]]
) -> dict[tuple[int, int, int], Handle]:
    """Each input tile, rotated by every baby step that some diagonal needs."""
    needed: dict[tuple[int, int], set[int]] = {}
    for block in step.blocks:
        needed.setdefault((block.source, block.tile), set()).update(k % step.giant for k in block.diagonals)
    babies = {}
    for (source, tile), steps in needed.items():
        low = evaluator.mod_switch(sources[source][tile], step.level)
        ordered = sorted(steps)
        turned = evaluator.rotate(low, [j * program.batch for j in ordered])
        babies.update({(source, tile, j): handle for j, handle in zip(ordered, turned, strict=True)})
    return babies
