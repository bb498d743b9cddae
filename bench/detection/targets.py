"""What the tables were to show, and what they miss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bench.detection.draws import SAMPLES
from bench.detection.figures import paper

Row = dict[str, Any]
#: Attacks that change so little that no method is held to anything.
SLIGHT = ("one weight doubled", "one bias", "16-bit floats")


@dataclass(frozen=True)
class Target:
    """At least so many % noticed with so many samples, in the rows that `of` picks.

    Attributes:
        least: by row; None where it has no target.
    """

    text: str
    of: Callable[[Row], bool]
    samples: tuple[int, ...]
    least: Callable[[Row, int], float | None]


def _is(**wanted: str | tuple[str, ...]) -> Callable[[Row], bool]:
    return lambda row: all(
        row[key] in (value if isinstance(value, tuple) else (value,)) for key, value in wanted.items()
    )


def _near_paper(row: Row, samples: int) -> float | None:
    theirs = paper(row["network"], row["attack"], row["output"], samples)
    return None if theirs is None else theirs - 3.0


_GREEDY = {"method": "VerIDeep", "selection": "greedy", "output": "top-1"}
TARGETS = (
    Target(
        "all logits or probabilities of two decimals: 100 % with one sample",
        lambda row: (
            _is(method=("VerIDeep", "SecureDL"), selection="greedy", output=("logits", "p-dec-2"))(row)
            and row["attack"] not in SLIGHT
        ),
        (1,),
        lambda row, _: 100.0,
    ),
    Target(
        "VerIDeep's greedily, labels: 8 bits within 3 points of Table VI from two samples on",
        _is(network="CIFAR-10, CNN", attack="8 bits", **_GREEDY),
        SAMPLES[1:],
        _near_paper,
    ),
    Target(
        "VerIDeep's greedily, labels: 1 % of the perceptron's weights above 95 % with five",
        _is(network="faces, perceptron", attack="1 % of weights", **_GREEDY),
        (5,),
        lambda row, _: 95.0,
    ),
    Target(
        "VerIDeep's greedily, labels: generic poisoning of signs 97 % with three",
        _is(network="signs, CNN", attack="poisoned, generic", **_GREEDY),
        (3,),
        lambda row, _: 97.0,
    ),
    Target(
        "ties, labels: trojans and 8 bits 99 % with three",
        _is(attack=("trojan", "8 bits"), method="tie", output="top-1"),
        (3,),
        lambda row, _: 99.0,
    ),
    Target(
        "SecureDL's greedily, labels: 97 % with three",
        lambda row: (
            _is(method="SecureDL", selection="greedy", output="top-1")(row) and row["attack"] not in SLIGHT
        ),
        (3,),
        lambda row, _: 97.0,
    ),
)


def missed(rows: Iterable[Row]) -> list[str]:
    """A line for each figure that is below its target, those of SecureDL below VerIDeep's among them."""
    every, lines = list(rows), []
    for target in TARGETS:
        picked = [row for row in every if target.of(row)]
        for row in picked:
            for n in target.samples:
                least, share = target.least(row, n), _share(row, n)
                if least is not None and share is not None and share < least:
                    lines.append(f"{target.text}: {_name(row)}, {n}: {share:.2f} %, {least:.2f} wanted")
    return lines + _below_verideep(every)


def _below_verideep(rows: list[Row]) -> list[str]:
    """Labels, chosen alike: by more than the draws' own error."""
    theirs = {
        (row["network"], row["attack"], row["selection"]): row
        for row in rows
        if row["method"] == "VerIDeep" and row["output"] == "top-1"
    }
    lines = []
    for row in rows:
        other = theirs.get((row["network"], row["attack"], row["selection"]))
        if row["method"] != "SecureDL" or row["output"] != "top-1" or other is None:
            continue
        for n in row["noticed"]:
            (_, high), (low, _) = row["interval"][n], other["interval"][n]
            if high < low:
                lines.append(
                    f"SecureDL's above VerIDeep's: {_name(row)}, {n}: {_share(row, n):.2f} % and "
                    f"{_share(other, n):.2f}"
                )
    return lines


def _share(row: Row, samples: int) -> float | None:
    noticed = row["noticed"].get(samples)
    return None if noticed is None else 100.0 * noticed / row["draws"]


def _name(row: Row) -> str:
    return ", ".join(str(row[key]) for key in ("network", "attack", "method", "selection", "output"))
