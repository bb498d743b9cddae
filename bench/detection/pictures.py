"""Pictures of the papers' tables: samples, coverage, sensitivity on the way up, shares of weights.

As VerIDeep's Figures 7, 9, 11, 13 (samples), 6 (coverage), 5 (sensitivity) and 14 (shares of weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.detection.bags import BOX, bags
from bench.detection.draws import SAMPLES
from bench.detection.subjects import SUBJECTS, images, trained
from securedl.network.graph import Array
from securedl.verify.ascent import verideep_samples
from securedl.verify.samples import natural_samples
from securedl.verify.selection import active_neurons, manc
from securedl.verify.sensitivity import Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN, CLIMBED = 3, 16
#: Rows of the picture of samples, below what they start from.
SEARCHED = ("VerIDeep", "SecureDL", "tie")
STEPS, QUICK_STEPS = (0, 10, 30, 100, 300, 1000), (0, 2)
SHARES_SUBJECT = "faces, perceptron"


def draw(rows: Sequence[dict[str, Any]], folder: Path, quick: bool) -> None:
    """All of them, of the networks that rows are of."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in SUBJECTS if any(row["network"] == name for row in rows)]
    parts: dict[str, dict[str, Array]] = {}
    curves = Figure(figsize=(11, 3.2), layout="constrained")
    coverage, climb, shares = curves.subplots(1, 3)
    for name in names:
        data = images(SUBJECTS[name])
        model = trained(name, data, 1 if quick else None)
        originals = {"original": natural_samples(data.x_test.numpy(), SHOWN, seed=1)}
        parts[name] = originals | bags(name, model, data, quick)
        _coverage(coverage, name, active_neurons(model, parts[name]["VerIDeep"]))
        _climb(climb, name, model, data.x_test[:CLIMBED].numpy(), QUICK_STEPS if quick else STEPS)
    coverage.set(xlabel="samples, by MANC", ylabel="active neurons of the last layer, %", ylim=(0, 101))
    climb.set(xlabel="steps of VerIDeep's search", ylabel="sensitivity, times the start's", xscale="symlog")
    climb.set_yscale("log")
    _shares(shares, rows)
    for axes in (coverage, shares):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    curves.savefig(folder / "detection-curves.png", dpi=80)
    grid = Figure(figsize=(0.9 * SHOWN * len(names), 1.05 * (1 + len(SEARCHED))), layout="constrained")
    places = grid.subplots(1 + len(SEARCHED), SHOWN * len(names), squeeze=False)
    for column, name in enumerate(names):
        for line, method in enumerate(("original", *SEARCHED)):
            for k in range(SHOWN):
                _image(places[line, SHOWN * column + k], parts[name][method][k], method if not k else "")
    grid.savefig(folder / "detection-samples.png", dpi=55)


def _image(axes: Axes, sample: Array, title: str) -> None:
    low, high = min(0.0, sample.min()), max(1.0, sample.max())
    shown = (sample - low) / (high - low)
    axes.imshow(shown[0] if len(shown) == 1 else shown.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=7, loc="left")
    axes.axis("off")


def _coverage(axes: Axes, name: str, active: Any) -> None:
    chosen = manc(active, min(SAMPLES[-1], len(active)))
    covered = 100 * np.logical_or.accumulate(active[chosen]).mean(1)
    axes.plot(range(1, len(covered) + 1), covered, marker=".", label=name)


def _climb(axes: Axes, name: str, model: Any, starts: Array, steps: Sequence[int]) -> None:
    """The sensitivity, a geometric mean over samples, after so many steps."""
    measure = Sensitivity(model, layers="last")
    low, high = BOX
    ways = [verideep_samples(model, starts, low=low, high=high, steps=n) if n else starts for n in steps]
    heights = np.array([measure(way)[0].mean() for way in ways])
    axes.plot(steps, np.exp(heights - heights[0]), marker=".", label=name)


def _shares(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    wanted = {"network": SHARES_SUBJECT, "output": "top-1"}
    for method, way in (
        ("natural", "random"),
        ("VerIDeep", "random"),
        ("VerIDeep", "greedy"),
        ("tie", "greedy"),
    ):
        mine = {**wanted, "method": method, "selection": way}
        found = [
            row for row in rows if all(row[k] == v for k, v in mine.items()) and "% of w" in row["attack"]
        ]
        points = sorted(
            (float(row["attack"].split()[0]), 100 * row["noticed"][5] / row["draws"]) for row in found
        )
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=f"{method}, {way}")
    axes.set(xlabel="% of the perceptron's weights changed", ylabel="noticed with 5 labels, %", xscale="log")
