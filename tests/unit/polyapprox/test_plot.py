"""The picture holds what it says: curves, marks, labels; no display and no pyplot."""

import subprocess
import sys

import numpy as np
import pytest

from polyapprox import FitError, least_squares, plot, remez


def test_panels_labels_and_marks(tmp_path):
    fits = [least_squares("relu", 2, (-3, 4)), remez("relu", 2, (-3, 4))]
    path = tmp_path / "relu.png"
    figure = plot("relu", fits, samples=np.random.default_rng(0).normal(size=300), path=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    top, bottom, density = figure.axes
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert labels == ["relu", "least squares, degree 2", "minimax, degree 2"]
    assert f"max {fits[0].max_error:.3g}" in bottom.get_legend().get_texts()[0].get_text()
    assert bottom.get_xlabel() == "x"
    assert bottom.get_title() == "dot: largest error; dotted: its bound"
    # Curves that coincide all show: a wide one, a solid one on it, a dashed one on both.
    wide, solid, dashed = top.lines
    assert wide.get_linewidth() > 2 * solid.get_linewidth()
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert top.get_ylabel()
    assert bottom.get_ylabel()
    assert density.get_ylabel()
    assert min(axes.yaxis.label.get_fontsize() for axes in figure.axes) >= 12
    marks = [line for line in bottom.lines if line.get_marker() == "o"]
    for mark, fit in zip(marks, fits, strict=True):
        assert abs(mark.get_ydata()[0]) == pytest.approx(fit.max_error, rel=1e-4)


def test_one_fit_without_samples():
    assert len(plot(np.sin, least_squares(np.sin, 3, (-2, 2))).axes) == 2


def test_nothing_to_plot():
    with pytest.raises(FitError, match="nothing to plot"):
        plot("relu", [])


def test_matplotlib_is_loaded_only_to_draw():
    code = (
        "import sys, polyapprox; polyapprox.least_squares('relu', 2);"
        "print(sorted({'matplotlib', 'torch', 'securedl', 'protocol'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
