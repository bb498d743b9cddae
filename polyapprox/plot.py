"""A fit and its error, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polyapprox.activations import Activation, FloatArray, as_activation
from polyapprox.approximation import Approximation
from polyapprox.domain import Target, checked_samples
from polyapprox.errors import FitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 2001
# Fits that coincide with each other or with the function all show: below solid lines, dashed ones.
_DASHES: tuple[Any, ...] = ("solid", (0, (4, 3)))
# Okabe and Ito's palette: told apart by readers with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def plot(
    function: Target,
    approximations: Approximation | Sequence[Approximation],
    samples: npt.ArrayLike | None = None,
    path: str | PathLike[str] | None = None,
) -> Figure:
    """Two panels over the widest domain: `function` with its fits, and below it each f - p.

    The largest error of each fit on its own domain is marked by a dot, its bound by dotted lines.
    `samples` (any shape) adds their density behind the fits. `path` also writes the picture, its format
    told by the ending (png, svg, pdf). Returns the matplotlib Figure, which no window or pyplot state
    holds. FitError: no approximation given.
    """
    from matplotlib.figure import Figure

    fits = [approximations] if isinstance(approximations, Approximation) else list(approximations)
    if not fits:
        raise FitError("there is nothing to plot; give at least one approximation")
    target = as_activation(function)
    lo = min(fit.domain[0] for fit in fits)
    hi = max(fit.domain[1] for fit in fits)
    figure = Figure(figsize=(9, 8.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    if samples is not None:
        _draw_density(top, checked_samples(samples), (lo, hi))
    x = np.linspace(lo, hi, _POINTS)
    top.plot(x, target(x), color="black", linewidth=5, alpha=0.55, label=target.name)
    for index, fit in enumerate(fits):
        _draw_fit(top, bottom, target, fit, index)
    bottom.axhline(0, color="black", linewidth=0.8)
    top.set_title(f"{target.name} on [{lo:g}, {hi:g}]", fontsize=15)
    top.set_ylabel("value", fontsize=13)
    bottom.set_title("dot: largest error; dotted: its bound", fontsize=12)
    bottom.set_ylabel("error  f(x) − p(x)", fontsize=13)
    bottom.set_xlabel("x", fontsize=13)
    for axes in (top, bottom):
        axes.tick_params(labelsize=12)
        axes.grid(alpha=0.3)
        axes.set_xlim(lo, hi)
    top.legend(fontsize=12)
    # Below the panel: error curves fill it from side to side and leave no corner free.
    bottom.legend(fontsize=12, loc="upper center", bbox_to_anchor=(0.5, -0.22), frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _draw_fit(top: Axes, bottom: Axes, target: Activation, fit: Approximation, index: int) -> None:
    colour, dashes = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
    x = _with_kinks(np.linspace(*fit.domain, _POINTS), target, fit.domain)
    error = target(x) - fit(x)
    peak = int(np.abs(error).argmax())
    label = f"{fit.method or 'fit'}, degree {fit.degree}"
    top.plot(x, fit(x), color=colour, linewidth=2, linestyle=dashes, label=label)
    bound = "max" if fit.certified else "max (sampled)"
    bottom.plot(
        x,
        error,
        color=colour,
        linewidth=2,
        linestyle=dashes,
        label=f"{label}: {bound} {fit.max_error:.3g}, rms {fit.rms_error:.3g}",
    )
    bottom.plot(x[peak], error[peak], "o", color=colour, markersize=8, clip_on=False, zorder=5)
    for side in (-fit.max_error, fit.max_error):
        bottom.hlines(side, *fit.domain, colors=colour, linestyles="dotted", linewidth=1.5)


def _with_kinks(x: FloatArray, target: Activation, domain: tuple[float, float]) -> FloatArray:
    inside = [kink for kink in target.kinks if domain[0] < kink < domain[1]]
    return np.union1d(x, inside)


def _draw_density(axes: Axes, samples: FloatArray, domain: tuple[float, float]) -> None:
    behind = axes.twinx()
    behind.hist(samples, bins=80, range=domain, density=True, color="0.8")
    behind.set_ylabel("density of samples (grey)", fontsize=13)
    behind.tick_params(labelsize=12)
    # The histogram's axes lie on top by default; the curves must stay readable.
    behind.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
